import pytest

from configs import UserError, load_yaml, packaged, packaged_names


def test_a_mapping_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\ny: [2, ü]\n", encoding="utf-8")
    assert load_yaml(tmp_path / "a.yaml") == {"x": 1, "y": [2, "ü"]}


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert load_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x: [1, 2\ny: 3", r"a\.yaml line 2 is not valid YAML"),
        (b"- 1\n- 2\n", r"must hold a mapping \(name: value\), not a list"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"x: !!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, content, words):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_yaml(tmp_path / "a.yaml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="that folder holds no YAML file"):
        load_yaml(tmp_path / "b.yaml")
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(UserError, match=r"that folder holds a\.yaml"):
        load_yaml(tmp_path / "b.yaml")
    with pytest.raises(UserError, match="nor does its folder"):
        load_yaml(tmp_path / "nowhere" / "b.yaml")
    with pytest.raises(UserError, match="is a folder; give a YAML file"):
        load_yaml(tmp_path)


def test_packaged_files_are_found_by_name():
    assert "warthog" in packaged_names("logs")
    assert packaged("logs", "warthog")["task"] == "warthog"
    with pytest.raises(UserError, match='configs/logs: "warthgo" is unknown; did you mean "warthog"'):
        packaged("logs", "warthgo")
    with pytest.raises(UserError, match="there are none"):
        packaged("nothing", "a")


@pytest.mark.parametrize("name", ["../logs/warthog", "/etc/passwd", ""])
def test_a_name_is_not_a_path(name):
    with pytest.raises(UserError, match="is unknown"):
        packaged("logs", name)


def test_every_packaged_file_is_a_mapping(root):
    for path in (root / "configs").rglob("*.yaml"):
        assert load_yaml(path), path
