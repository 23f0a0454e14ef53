"""Tables of text as they are met in the wild, one by one against the same numbers written plainly."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_logs import cart, imported, write_csv

from configs import UserError
from worldmodel.logs.delimited import CUT_SHORT, read_table
from worldmodel.logs.table_text import dialect_of, looks_like_a_table

PLAIN = "time,x,v,force\n0.0,1.5,-2.0,3e-1\n0.1,1.25,-3.0,0.5\n0.2,1.0,-4.0,-1\n"
NUMBERS = np.array([[0.0, 1.5, -2.0, 0.3], [0.1, 1.25, -3.0, 0.5], [0.2, 1.0, -4.0, -1.0]])
WRITTEN = {
    "plain": PLAIN,
    "spaces after commas": PLAIN.replace(",", ", "),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", " | "),
    "columns of spaces": PLAIN.replace(",", "     ").replace("\n", "  \n  "),
    "decimal commas": PLAIN.replace(",", ";").replace(".", ","),
    "quoted": '"' + PLAIN.replace(",", '","').replace("\n", '"\n"')[:-1],
    "windows": "\ufeff" + PLAIN.replace("\n", "\r\n"),
    "no newline at the end": PLAIN.rstrip("\n"),
    "comments and blank lines": "# from robot 7\n\n" + PLAIN.replace("\n", "\n\n# pause\n", 2),
    "header in a comment": "# written by hand\n# " + PLAIN,
    "units below the header": PLAIN.replace("\n", "\ns,m,m/s,N\n", 1),
    "comma at the end of each line": PLAIN.replace("\n", ",\n"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_same_numbers_however_written(tmp_path, kind):
    path = tmp_path / "log.csv"
    path.write_bytes(WRITTEN[kind].encode())
    raw = read_table(path, "log.csv")
    assert [name.split(" [")[0] for name in raw.columns] == ["time", "x", "v", "force"]
    np.testing.assert_array_equal(np.stack(list(raw.columns.values()), 1), NUMBERS)
    assert not +raw.repairs


def test_without_a_header_columns_are_numbered(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(PLAIN.split("\n", 1)[1])
    assert list(read_table(path, "log.txt").columns) == [f"column_{i}" for i in range(4)]


def test_what_was_not_logged_is_nan_and_text_stays_text(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('t,x,floor,on\n0,,"ice, wet",true\n1,nan,grass,False\n2,3,ice,\n')
    columns = read_table(path, "log.csv").columns
    np.testing.assert_array_equal(columns["x"], [np.nan, np.nan, 3.0])
    assert columns["floor"].tolist() == ["ice, wet", "grass", "ice"]
    np.testing.assert_array_equal(columns["on"], [1.0, 0.0, np.nan])


def test_a_column_that_turns_out_to_be_text_late_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("worldmodel.logs.delimited.CHUNK", 2)
    path = tmp_path / "log.csv"
    path.write_text("t,id\n0,007\n1,008\n2,x9\n")
    assert read_table(path, "log.csv").columns["id"].tolist() == ["007", "008", "x9"]


def test_a_row_that_was_cut_short_is_left_out_and_counted(tmp_path):
    path = write_csv(tmp_path / "log.csv", cart(50))
    path.write_text(path.read_text()[:-40])  # as when the power went
    raw = read_table(path, "log.csv")
    assert len(raw.columns["time"]) == 49 and raw.repairs == {CUT_SHORT: 1}


def test_names_that_repeat_or_lack_are_told_apart(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("t,x, x ,\n0,1,2,3\n1,2,3,4\n")
    assert dialect_of(path).names[:3] == ["t", "x", "x_2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"# only\n# comments\n", "holds no rows, only comments"),
        (b"t,x\n", "holds a header and no rows"),
        (b"t,x\n" + b"0,1\n0,1,2\n" * 20, "20 of 40 rows have not the 2 cells of the first"),
        (b"\x00\x01" * 50, "no table of text"),
        (b"t,x\n0,1\n" + b"9" * (1 << 21), "line 3 is longer than 1,048,576 characters"),
        (b",".join(b"c%d" % i for i in range(11_000)) + b"\n" + b",".join([b"1"] * 11_000) + b"\n", "11,000 columns"),
        (b",".join(b"c%d" % i for i in range(60_000)) + b"\n1,2\n", "first line is longer than 262,144 characters"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, words):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"log\.csv.*{words}"):
        read_table(path, "log.csv")


def test_prose_is_no_table(tmp_path):
    path = tmp_path / "README.txt"
    path.write_text("This robot has two joints.\nIt was built in 2022, in Bremen.\n")
    assert not looks_like_a_table(path)
    write_csv(tmp_path / "log", cart())
    assert looks_like_a_table(tmp_path / "log")


def test_a_folder_is_an_episode_a_file(tmp_path):
    for i in range(3):
        write_csv(tmp_path / "raw" / "day" / f"{i}.csv", cart(seed=i))
    (tmp_path / "raw" / "README.txt").write_text("Three runs of the cart, as they were logged.\nNothing else.\n")
    (tmp_path / "raw" / "link.csv").symlink_to("/etc/passwd")
    reader = imported(tmp_path / "raw", tmp_path / "logs")
    assert [record["info"]["source"] for record in reader.episodes] == [f"day/{i}.csv" for i in range(3)]
    assert [record["length"] for record in reader.episodes] == [20, 20, 20]
    np.testing.assert_allclose(reader.episode(1).observation["vector"][:, 0], cart(seed=1)["x"], atol=1e-6)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_columns_of_one_length_or_a_plain_error(tmp_path, content):
    columns_or_a_plain_error(tmp_path / "log.csv", content)


def columns_or_a_plain_error(path, content):
    path.write_bytes(content)
    try:
        columns = read_table(path, "log.csv").columns
    except UserError as error:
        assert "log.csv" in str(error)
    else:
        assert len({len(column) for column in columns.values()}) == 1
    assert path.read_bytes() == content


cells = st.one_of(st.floats().map(repr), st.integers().map(str), st.text("ab\",;' \n#\t1.e-", max_size=6))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=8), st.sampled_from(",;\t "))
def test_any_cells_give_columns_of_one_length_or_a_plain_error(tmp_path, rows, separator):
    columns_or_a_plain_error(tmp_path / "log.csv", "\n".join(separator.join(row) for row in rows).encode())
