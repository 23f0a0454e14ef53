import numpy as np
import pytest

from worldmodel.context import ContextSpec

NO_PUSH = np.zeros(0)


def test_values_are_centred_and_scaled_by_the_logs_range():
    spec = ContextSpec.from_logs([{"floor_friction": 0.2}, {"floor_friction": 0.8}], NO_PUSH)
    for friction, expected in ((0.2, -1.0), (0.5, 0.0), (0.8, 1.0), (0.05, -1.5)):
        values, known = spec.encode({"floor_friction": friction})
        assert values == pytest.approx([expected]) and known.tolist() == [1.0]


def test_what_the_logs_never_vary_is_no_context():
    logs = [{"floor_friction": 0.3, "payload_kg": 0.0}, {"floor_friction": 0.4, "payload_kg": 0.0}]
    assert ContextSpec.from_logs(logs, NO_PUSH).names == ("floor_friction",)
    assert len(ContextSpec.from_logs([], NO_PUSH)) == 0


def test_an_unlabelled_factor_is_unknown_not_zero():
    spec = ContextSpec.from_logs([{"floor_friction": 0.2}, {"floor_friction": 0.8}, {}], NO_PUSH)
    values, known = spec.encode({})
    assert values.tolist() == [0.0] and known.tolist() == [0.0]


def test_partly_labelled_logs_know_what_they_label():
    logs = [{"floor_friction": 0.2, "slope_deg": 1.0}, {"floor_friction": 0.8, "slope_deg": 3.0}]
    spec = ContextSpec.from_logs(logs, NO_PUSH)
    values, known = spec.encode({"slope_deg": 3.0})
    assert dict(zip(spec.names, known.tolist(), strict=True)) == {"floor_friction": 0.0, "slope_deg": 1.0}
    assert values[spec.names.index("slope_deg")] == 1.0


def test_factors_of_the_streams_and_of_the_light_are_no_context():
    names = ("motor_strength", "latency_steps", "sensor_noise", "light_red", "push_m_s")
    physics: list[dict[str, float]] = [{name: value for name in names} for value in (0.0, 1.0)]
    assert ContextSpec.from_logs(physics, NO_PUSH).names == ()
    assert ContextSpec.from_logs(physics, NO_PUSH, images=True).names == ("light_red",)


def test_pushes_are_a_context_that_is_known_where_anything_is():
    spec = ContextSpec.from_logs([{"floor_friction": 0.2}, {"floor_friction": 0.8}], np.array([0.0, -0.5, 0.25]))
    assert spec.names == ("floor_friction", "push")
    assert spec.range_of("push") == (-0.5, 0.5)
    assert spec.encode({"floor_friction": 0.5})[1].tolist() == [1.0, 1.0]
    assert spec.encode({})[1].tolist() == [0.0, 0.0]


def test_range_of_gives_the_logs_range_back():
    spec = ContextSpec.from_logs([{"floor_friction": 0.2}, {"floor_friction": 0.8}], NO_PUSH)
    assert spec.range_of("floor_friction") == pytest.approx((0.2, 0.8))


def test_many_are_encoded_as_one_by_one():
    spec = ContextSpec(("floor_friction", "push", "tyre_wear"), (0.3, 0.0, 1.0), (0.2, 0.5, 4.0))
    labels = [{"floor_friction": 0.1, "tyre_wear": 2.0}, {"floor_friction": 0.35}]

    def label(name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.array([one.get(name, 0.0) for one in labels]), np.array([name in one for one in labels])

    values, known = spec.encode_all(2, label)
    for i, one in enumerate(labels):
        each = spec.encode(one)
        assert (values[i].tolist(), known[i].tolist()) == (each[0].tolist(), each[1].tolist())
