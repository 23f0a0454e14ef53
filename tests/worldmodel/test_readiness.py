import dataclasses
from pathlib import Path

import numpy as np
from toy_logs import sliding_mass, write_log

from worldmodel.episode import Episode
from worldmodel.readiness import Readiness, readiness


def of(tmp_path: Path, episodes: list[Episode]) -> Readiness:
    return readiness(write_log(tmp_path / "logs", episodes))


def text(lines: list[str]) -> str:
    return "\n".join(lines)


def test_good_logs_raise_no_caution(tmp_path):
    report = of(tmp_path, sliding_mass(60))
    assert report.cautions == []
    assert report.facts[0] == "60 episodes of 4 to 4 s, 2,400 steps at 10 Hz (4:00)"
    assert "floor_friction 0." in text(report.teaches) and "would be extrapolation" in text(report.teaches)
    assert "never fall" in text(report.teaches)
    assert "What these logs can teach:" in report.lines()


def test_what_physics_the_logs_cover(tmp_path):
    episodes = sliding_mass(10)
    for i, episode in enumerate(episodes):
        same = {"gravity": 9.81, "box_width_m": 0.1, "latency_steps": 0.0, "motor_strength": 0.9 + 0.01 * i}
        episode.physics = {"floor_friction": 1.5 if i in (3, 4) else 0.5 + 0.1 * (i % 2), **same}
        if i in (5, 6):
            del episode.physics["box_width_m"]
        if i == 0:
            episode.physics = {}
    lines = of(tmp_path, episodes).teaches
    teaches = text(lines)
    assert "floor_friction 0.5 to 1.5 (3 values, known in 9 of 10 episodes, none between 0.6 and 1.5)" in teaches
    assert "no log below 0.5 or above 1.5, dreams of that would be extrapolation" in teaches
    assert "box_width_m 0.1 (known in 7 of 10 episodes), gravity 9.81 (known in 9 of 10 episodes)" in teaches
    (constant,) = [line for line in lines if "no change of it" in line]
    assert "latency" not in constant  # it can: commands are late before they reach the model
    (acting,) = [line for line in lines if "motor_strength" in line]
    assert "latency_steps" in acting and "whatever the logs hold" in acting


def test_unlabelled_logs_without_reward(tmp_path):
    episodes = sliding_mass(10, label=False)
    for episode in episodes:
        episode.reward[:] = 0
        episode.info["reward"] = "none"
    teaches = text(of(tmp_path, episodes).teaches)
    assert "no reward: a world model only" in teaches and "no physics is labelled" in teaches


def test_dead_and_saturated_channels_and_commands(tmp_path):
    episodes = sliding_mass(60)
    for episode in episodes:
        np.clip(episode.observation["vector"][:, 1], -0.3, 0.3, out=episode.observation["vector"][:, 1])
        episode.observation["vector"][:, 0] = 2.0
        episode.reward[:] = 1
    cautions = text(of(tmp_path, episodes).cautions)
    assert "nothing to learn in channel 0" in cautions
    assert "channel 1 is at its lowest, -0.3, in" in cautions and "channel 1 is at its highest, 0.3" in cautions
    assert "the reward is 1 in every row" in cautions


def test_angles_held_samples_drift_and_few_data(tmp_path):
    episodes = sliding_mass(30, steps=40)
    for i, episode in enumerate(episodes):
        angle = 0.3 * np.arange(41) + i
        episode.observation["vector"][:, 0] = np.pi - (np.pi - angle) % (2 * np.pi)
        episode.observation["vector"][:, 1] = 0.2 * i + 0.01 * np.sin(np.arange(41))
    cautions = text(of(tmp_path / "a", episodes).cautions)
    assert "channel 0 jumps by a turn" in cautions and "angle: sin_cos" in cautions
    assert "channel 1 lies 2." in cautions and "standard deviations higher in the last third" in cautions
    held = sliding_mass(4, steps=40)
    for episode in held:
        episode.observation["vector"] = episode.observation["vector"][np.arange(41) // 4]
    cautions = text(of(tmp_path / "b", held).cautions)
    assert "% of the rows repeat the row before" in cautions and "about 4 times lower" in cautions
    assert "160 steps in 4 episodes are few" in cautions


def test_falls_are_counted(tmp_path):
    episodes = [dataclasses.replace(episode, terminated=i < 2) for i, episode in enumerate(sliding_mass(10))]
    report = of(tmp_path, episodes)
    assert "2 of 10 episodes end the task (terminated)" in report.facts
    assert "2 falls are few" in text(report.teaches)
