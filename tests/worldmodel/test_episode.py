import dataclasses

import numpy as np
import pytest

from configs import UserError
from worldmodel.episode import Episode


def episode(steps: int = 4) -> Episode:
    return Episode(
        observation={
            "vector": np.zeros((steps + 1, 3), np.float32),
            "image": np.zeros((steps + 1, 8, 8, 3), np.uint8),
        },
        action=np.zeros((steps, 2), np.float32),
        applied_action=np.zeros((steps, 2), np.float32),
        demonstrated=np.zeros((steps, 2), np.float32),
        reward=np.zeros(steps, np.float32),
        push=np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
    )


def test_a_sound_episode_passes_and_knows_its_length():
    sound = episode(4)
    assert sound.check("episode 3") is sound
    assert sound.length == 4


@pytest.mark.parametrize("array", ["vector", "action", "applied_action", "demonstrated", "reward", "push"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_episode_array_and_first_row(array, value):
    broken = episode()
    target = broken.observation[array] if array in broken.observation else getattr(broken, array)
    target[2:4] = value
    with pytest.raises(UserError, match=rf"episode 7: .*{array} is (nan|inf) in row 2"):
        broken.check("episode 7")


def test_where_nothing_else_is_said_what_was_done_was_meant():
    sound = episode()
    parts = {f.name: getattr(sound, f.name) for f in dataclasses.fields(sound) if f.name != "demonstrated"}
    assert Episode(**parts).demonstrated is sound.action


def test_nan_names_the_column():
    broken = episode()
    broken.action[1, 1] = np.nan
    with pytest.raises(UserError, match="row 1, column 1"):
        broken.check()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": np.zeros((0, 2), np.float32)}, "empty"),
        ({"action": np.zeros(4, np.float32)}, r"action has shape \(4,\), expected \(T, A\)"),
        ({"applied_action": np.zeros((4, 3), np.float32)}, r"applied_action has shape \(4, 3\), expected \(4, 2\)"),
        ({"demonstrated": np.zeros((4, 3), np.float32)}, r"demonstrated has shape \(4, 3\), expected \(4, 2\)"),
        ({"reward": np.zeros(5, np.float32)}, r"reward has shape \(5,\), expected \(4,\)"),
        ({"push": np.zeros((4, 1), np.float32)}, r"push has shape \(4, 1\)"),
        ({"observation": {"vector": np.zeros((4, 3), np.float32)}}, "vector has 4 rows, expected 5"),
        ({"observation": {"vector": np.zeros(5, np.float32)}}, r"vector has shape \(5,\)"),
        ({"observation": {"state": np.zeros((5, 3), np.float32)}}, 'lacks "vector" \\(it has state\\)'),
        ({"reward": np.array(["a"] * 4)}, "reward holds <U1, expected numbers"),
        ({"physics": {"floor_friction": np.nan}}, "floor_friction is nan"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(episode(), **changes).check("episode 0")
