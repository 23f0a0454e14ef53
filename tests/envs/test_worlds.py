"""Many worlds as columns are the same worlds as one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.physics import FACTORS, Change, Physics
from envs.worlds import Worlds

ICE = Change(1.5, {"floor_friction": 0.05}, for_s=1.0)
PUSH = Change(0.4, {"push_m_s": 0.7})
SOME = [
    Physics(),
    Physics(floor_friction=0.1, payload_kg=2.0).changing([ICE, PUSH]),
    Physics.of_log({"slope_deg": 3.0, "tyre_wear": 0.4}),
    Physics(push_m_s=0.5, push_start_s=0.2, push_every_s=0.3),
]


def test_one_by_one_they_are_what_they_were_made_of():
    worlds = Worlds.of(SOME)
    assert len(worlds) == 4
    assert list(worlds) == SOME
    assert Worlds.of(worlds) is worlds
    assert list(worlds[1:3]) == SOME[1:3]
    assert list(worlds[np.array([3, 0, 3])]) == [SOME[3], SOME[0], SOME[3]]
    assert list(worlds.joined(Worlds.of(SOME[:1]))) == [*SOME, SOME[0]]
    assert worlds == Worlds.of(SOME) != Worlds.of(SOME[::-1])
    assert list(Worlds.of([])) == []


def test_logs_are_read_as_one_by_one():
    labels = [{"floor_friction": 0.2, "tyre_wear": 0.1}, {}]
    nominal = Physics(gravity_m_s2=9.8)
    assert list(Worlds.of_logs(labels, nominal)) == [Physics.of_log(one, nominal) for one in labels]


def test_columns_are_read_and_written():
    worlds = Worlds.of(SOME)
    for name in FACTORS:
        assert worlds.column(name).tolist() == [getattr(world, name) for world in SOME]
    worlds.column("payload_kg")[:] = 4.0
    assert worlds[2] == SOME[2].replace(payload_kg=4.0)


def test_labels_say_who_states_them():
    values, stated = Worlds.of(SOME).label("tyre_wear")
    assert (values[2], stated.tolist()) == (0.4, [False, False, True, False])
    values, stated = Worlds.of(SOME).label("floor_friction")
    assert (values[1], stated.tolist()) == (0.1, [True] * 4)


def test_other_factors_and_changes_leave_the_rest_and_the_given_worlds_alone():
    worlds = Worlds.of(SOME)
    found = worlds.with_factors({"slope_deg": np.arange(4.0)}, lambda i: [ICE] * i)
    assert list(found) == [world.replace(slope_deg=float(i)).changing([ICE] * i) for i, world in enumerate(SOME)]
    assert list(worlds) == SOME
    assert list(worlds.with_factors({}, None)) == SOME


def test_worlds_are_put_into_rows():
    worlds = Worlds.of([*SOME])
    worlds.put(np.array([0, 2]), Worlds.of([SOME[1], SOME[3]]))
    assert list(worlds) == [SOME[1], SOME[1], SOME[3], SOME[3]]


@given(
    st.lists(
        st.builds(
            Physics,
            push_m_s=st.sampled_from([0.0, -0.5, 1.0]),
            push_start_s=st.floats(0, 3),
            push_every_s=st.sampled_from([0.0, 0.01, 0.1, 0.37]) | st.floats(0, 2),
            changes=st.sampled_from([(), (ICE,), (PUSH,), (ICE, PUSH)]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([10.0, 20.0, 62.5]),
    st.data(),
)
def test_pushes_come_when_the_simulators_clock_has_them(worlds, hz, data):
    first = np.array(data.draw(st.lists(st.integers(0, 60), min_size=len(worlds), max_size=len(worlds))))
    found = Worlds.of(worlds).pushes(first, 12, hz)
    assert found.tolist() == [
        [w.push_at(int(f) + t, hz) for t in range(12)] for w, f in zip(worlds, first, strict=True)
    ]


def test_a_world_with_other_values_is_checked_as_a_new_one():
    with pytest.raises(TypeError, match="floor_frictoin is no factor"):
        Physics().replace(floor_frictoin=0.1)
    assert Physics().replace(payload_kg=2) == Physics(payload_kg=2.0)
    assert type(Physics().replace(payload_kg=2).payload_kg) is float
    for value in (float("nan"), 11.0, True):
        with pytest.raises(Exception, match="floor_friction"):
            Physics().replace(floor_friction=value)
    with pytest.raises(Exception, match="whole number"):
        Physics().replace(latency_steps=1.5)
