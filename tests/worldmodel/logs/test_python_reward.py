"""A reward that is a function of the user's own: what it gets, what it may not give, and whose code is never run."""

import numpy as np
import pytest
import yaml
from raw_logs import CART, cart, write_csv
from told import told

from configs import UserError
from worldmodel.cli import train
from worldmodel.logs.describe import describe
from worldmodel.logs.importing import as_log_folder
from worldmodel.storage import LogReader

GOOD = """import numpy as np

def reward(observation, action):
    pay = np.where(observation["x_m"] > 0, observation["v_m_s"], -1.0)
    observation["x_m"] *= np.nan  # its own copy
    return pay - action["force_N"] ** 2
"""


@pytest.fixture
def data(tmp_path):
    """Two recordings."""
    for k in range(2):
        write_csv(tmp_path / "data" / f"run{k}.csv", cart(seed=k))
    return tmp_path / "data"


@pytest.fixture
def own(tmp_path):
    """A mapping of the user's own, with the reward beside it; called with the file's text."""

    def write(text, folder=tmp_path / "mine"):
        folder.mkdir(exist_ok=True)
        (folder / "reward.py").write_text(text)
        (folder / "mapping.yaml").write_text(yaml.safe_dump({**CART, "reward": {"python": "reward.py"}}))
        return folder / "mapping.yaml"

    return write


def test_it_sees_what_followed_the_command_by_name(data, own, tmp_path):
    mapping = own(GOOD)
    for number, arguments in enumerate([(mapping,), (mapping, str(tmp_path / "mine" / "reward.py"))]):
        reader = LogReader(as_log_folder(data, tmp_path / f"logs{number}", *arguments))
        for k in range(2):
            logged, episode = cart(seed=k), reader.episode(k)
            pay = np.where(logged["x"][1:] > 0, logged["v"][1:], -1.0) - logged["force"][:-1] ** 2
            np.testing.assert_allclose(episode.reward, pay, atol=1e-6)
            assert np.isfinite(episode.observation["vector"]).all() and "reward" not in episode.info
    assert not (tmp_path / "mine" / "__pycache__").exists()


DEF = "def reward(observation, action):\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            DEF + "    return 1.0",
            r"reward\.py, line 1: in episode 0 \(.*run0\.csv\), reward returns the shape \(\), expected \(20,\)",
        ),
        (
            "\n" + DEF + "    return action['force_N'][1:]",
            r"line 2: in episode 0 \(.*run0.csv.*shape \(19,\), expected \(20,\)",
        ),
        (
            DEF + "    return 1 / (observation['x_m'] * 0)",
            r"line 1: in episode 0 \(.*run0.csv\), reward is \S+ in row 0 \(v_m_s ",
        ),
        (DEF + "    return 0 * action['force_N'] + 2", r"line 1: reward is 2 in every row of every episode of .*data"),
        (
            DEF + "    a = 1\n    return observation['y']",
            r"line 3: KeyError: 'y'; observation has v_m_s, x_m, action force_N",
        ),
        (
            DEF + "    return ['a'] * 20",
            r"line 1: TypeError: it returns <U1, expected numbers \(in episode 0 .*run0.csv\)\)",
        ),
        (DEF + "    exit()", r"line 2: SystemExit.*\(in episode 0 .*run0.csv"),
        ("import numpy\n1 / 0", r"reward\.py, line 2: ZeroDivisionError"),
        ("x = 1\ndef reward(:\n", r"reward\.py, line 2: invalid syntax"),
        ("def pay(observation, action): return 1", r"reward\.py defines no function reward; write: def reward\("),
    ],
)
def test_what_it_may_not_be_is_refused_with_its_place(data, own, tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        as_log_folder(data, tmp_path / "logs", own(text))
    assert not (tmp_path / "logs").exists()


def test_it_is_checked_on_every_episode(data, own, tmp_path):
    """The second recording alone is further out than 0.4 m."""
    write_csv(data / "run1.csv", cart() | {"x": np.linspace(0, 1, 21)})
    text = DEF + "    import numpy as np\n    return np.log(0.4 - observation['x_m'])"
    with pytest.raises(
        UserError, match=r"line 1: in episode 1 \(.*run1\.csv\), reward is -inf in row 7 \(v_m_s .*x_m 0\.4"
    ):
        as_log_folder(data, tmp_path / "logs", own(text))


def test_an_edited_function_is_another_reward(data, own, tmp_path):
    as_log_folder(data, tmp_path / "logs", own(GOOD))
    as_log_folder(data, tmp_path / "logs", own(GOOD, tmp_path / "moved"))  # the same from elsewhere
    with pytest.raises(UserError, match="under another mapping"):
        as_log_folder(data, tmp_path / "logs", own(GOOD.replace("-1.0", "-2.0")))


# -- code of others ---------------------------------------------------------------------------------------------------


def test_code_that_lies_with_the_logs_is_never_run(data, own, tmp_path, capsys):
    trap = tmp_path / "it-ran"
    mapping = own(f"open({str(trap)!r}, 'w')\n" + GOOD, data)
    words = r"mapping\.yaml lies with the logs and asks to run .*reward\.py: code that comes with logs is not run"
    for given in (None, mapping, data / "." / "mapping.yaml"):
        with pytest.raises(UserError, match=words):
            as_log_folder(data, tmp_path / "logs", given)
        with pytest.raises(UserError, match=words):
            list(describe(data, given))
    done = told(capsys, train, ("--data", data, "--run", tmp_path / "run", "--steps", 1))
    assert done.code != 0 and "code that comes with logs is not run" in done.err
    assert not trap.exists()
    as_log_folder(data, tmp_path / "logs", None, str(data / "reward.py"))  # named by the user, who knows it
    assert trap.exists()


def test_nor_code_beside_a_single_file(data, own, tmp_path):
    own(GOOD, data).rename(data / "run0.yaml")
    with pytest.raises(UserError, match=r"run0\.yaml lies with the logs"):
        as_log_folder(data / "run0.csv", tmp_path / "logs")
    as_log_folder(data / "run0.csv", tmp_path / "logs", data / "run0.yaml")  # given, and beside a file of the user's


def test_on_the_command_line_an_expression_will_do_and_imported_logs_are_left_alone(data, own, tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(CART))
    logs = as_log_folder(data, tmp_path / "logs", plain, "-(x_m**2)")
    np.testing.assert_allclose(LogReader(logs).episode(0).reward, -(cart()["x"][1:] ** 2), atol=1e-6)
    with pytest.raises(UserError, match="whose reward is set; --reward is for an import"):
        as_log_folder(logs, tmp_path / "again", None, "x_m")
