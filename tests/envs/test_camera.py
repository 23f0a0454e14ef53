"""The camera, and scenes drawn from observations alone."""

from __future__ import annotations

import numpy as np
import pytest

from envs import registry
from envs.experts.push_box import push_box_expert


@pytest.fixture(scope="module")
def env():
    env = registry.make("push-box", camera=True)
    yield env
    env.close()


def walk(env, steps, **factors):
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=4, options={"physics": factors})
    observations = [observation]
    for _ in range(steps):
        observation, *_ = env.step(push_box_expert(observation["vector"], rng))
        observations.append(observation)
    return observations


def test_images_are_real_and_repeat(env):
    first, again = walk(env, 20), walk(env, 20)
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert first[0]["image"].shape == (64, 64, 3) and first[0]["image"].dtype == np.uint8
    changed = np.abs(first[0]["image"].astype(int) - first[-1]["image"]).max(-1) > 20
    assert 5 < changed.sum() < 400  # what moved, and no more


def test_the_camera_does_not_touch_the_motion(env):
    seen = np.array([o["vector"] for o in walk(env, 30)])
    blind = registry.make("push-box")
    observation, _ = blind.reset(seed=4)
    rng = np.random.default_rng(0)
    track = [observation]
    for _ in range(30):
        observation, *_ = blind.step(push_box_expert(observation, rng))
        track.append(observation)
    assert np.array_equal(seen, np.array(track))
    blind.close()


def test_the_whole_table_is_in_a_square_picture(env):
    env.reset(seed=0)
    picture = env.render(128, 128).astype(int)
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (np.ptp(border, axis=-1) < 12).all()  # grey floor all around; table, rim and bodies have colour


def test_drawing_from_the_observation_gives_the_true_scene(env):
    vector = walk(env, 25, box_notch=0.5, payload_kg=0.4)[-1]["vector"]
    true, drawn = env.render(128, 128).astype(int), env.render_vector(vector, 128, 128).astype(int)
    assert (np.abs(true - drawn).max(-1) > 40).mean() < 0.002


def test_drawing_leaves_the_running_episode_alone(env):
    plain = walk(env, 10)[-1]["vector"]
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=4, options={"physics": {}})
    for _ in range(10):
        env.render_vector(np.zeros(18), 32, 32)
        observation, *_ = env.step(push_box_expert(observation["vector"], rng))
    assert np.array_equal(observation["vector"], plain)


def test_a_ghost_is_fainter_than_what_it_shadows(env):
    here, there = (o["vector"] for o in walk(env, 25)[::25])
    solid, ghost = env.render_vector(here, 96, 96).astype(int), env.render_vector(there, 96, 96).astype(int)
    both = env.render_vector(here, 96, 96, ghost_of=there).astype(int)
    assert not np.array_equal(both, solid)
    assert np.abs(both - solid).mean() < np.abs(both - ghost).mean()


def test_dreams_that_make_no_sense_still_draw(env):
    for vector in (np.full(18, np.nan), np.full(18, 1e30), np.full(18, -np.inf)):
        assert env.render_vector(vector, 64, 48).shape == (48, 64, 3)
