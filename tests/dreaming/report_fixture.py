"""A made-up night with plausible numbers, for the report's tests and for looking at the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dreaming.audit_report import AuditReport, ChannelError, ErrorCurve, Falls, ScenarioAudit
from dreaming.report.data import Cell, Channel, Logs, OpenLoop, Outcome, Refused, Report, Spent, Training, Video
from dreaming.report.video import side_by_side

N = 48
# scenario, world, in the logs, failures in % and losses in %: demonstrator, before, after
WORLDS = [
    ("nominal", "floor_friction 0.3", True, (0, 0), (8, 0), (4, 0)),
    ("nominal", "floor_friction 0.2", True, (2, 0), (15, 0), (6, 0)),
    ("nominal", "floor_friction 0.6", True, (0, 0), (6, 0), (8, 0)),
    ("slippery", "floor_friction 0.12", False, (73, 4), (81, 10), (23, 0)),
    ("slippery", "floor_friction 0.08", False, (94, 27), (96, 33), (46, 8)),
    ("slippery", "floor_friction 0.05", False, (100, 65), (100, 69), (71, 21)),
    ("payload", "payload_kg 0.3", False, (2, 0), (10, 0), (6, 0)),
    ("payload", "payload_kg 1.5", False, (31, 0), (42, 0), (17, 0)),
    ("push", "push_m_s 0.4", False, (56, 6), (62, 8), (35, 4)),
    ("slope", "slope_deg 4", False, (12, 2), (21, 2), (19, 2)),
    ("slope", "slope_deg -4", False, (10, 0), (19, 4), (25, 4)),
    ("latency", "latency_steps 2", False, (19, 0), (38, 2), (12, 0)),
]
HORIZON = list(range(1, 26))
CHANNELS = [
    "finger_x_m",
    "finger_vx_m_s",
    "box_x_m",
    "box_y_m",
    "box_vx_m_s",
    "box_cos_yaw",
    "box_yaw_rate_rad_s",
    "contact",
]


def make_report(audited: bool = True) -> Report:
    rng = np.random.default_rng(0)
    steps = np.array(HORIZON, float)
    return Report(
        task="push-box",
        started="2026-11-21T22:03:11",
        finished="2026-11-22T05:58:40",
        hours=8.0,
        machine="2 CPU cores, no GPU, Linux",
        version="0.1.0",
        command="dream --run runs/push-box --hours 8 --scenario edge-cases",
        audited=audited,
        stopped="the 8 hours were over",
        survival=[_cell(*world) for world in WORLDS] if audited else [],
        open_loop=OpenLoop(
            horizon=HORIZON,
            model=list(0.05 + 0.052 * steps**0.75),
            persistence=list(0.21 * steps**0.58),
            channels=[
                Channel(name, "", list(scale * 0.06 * steps**0.7), list(scale * 0.2 * steps**0.6))
                for name, scale in zip(CHANNELS, rng.uniform(0.02, 0.9, len(CHANNELS)), strict=True)
            ],
        ),
        audit=make_audit(simulator=audited),
        refused=[Refused("weak-motors", "the logs never vary motor_strength: record some that do")],
        training=Training(
            world_model=[
                {
                    "step": k,
                    "seconds": 300 + k * 0.6,
                    "loss": {"observation": 9 * k**-0.5, "kl": 1 + 20 / k, "reward": 1.2},
                }
                for k in range(100, 9000, 100)
            ],
            dream=[
                {
                    "step": k,
                    "seconds": 5700 + k * 1.1,
                    "imagined_return": float(34 - 22 * np.exp(-k / 4000) + rng.normal(0, 0.8)),
                    "actor_entropy": float(1.9 * np.exp(-k / 9000) + rng.normal(0, 0.02)),
                    "critic_loss": float(1.2 + 3 * np.exp(-k / 2000) + rng.normal(0, 0.05)),
                }
                for k in range(50, 20000, 100)
            ],
            selection=[
                {
                    "seconds": 5700 + 2400 * i,
                    "scores": {
                        "logged": 0.9 + 0.004 * i,
                        "slippery": 0.08 + 0.45 * (1 - 0.75**i),
                        "payload": 0.73 + 0.015 * i,
                        "push": 0.38 + 0.03 * i,
                        "latency": 0.62 + 0.27 * (1 - 0.7**i),
                    },
                    "kept": i in (0, 1, 2, 4, 7),
                }
                for i in range(10)
            ]
            if audited
            else [],
        ),
        spent=Spent(
            simulator_steps={"logs": 120_000, "learning": 0, "selection": 184_320, "audit": 61_440, "survival": 149_760}
            if audited
            else {"logs": 0, "learning": 0},
            imagined_steps=29_664_000,
            robot_hours_dreamt=29_664_000 / 20 / 3600,
            seconds={
                "logs": 290,
                "world model": 5400,
                "imitation": 480,
                "dream": 20_400,
                "audit": 900,
                "survival": 760,
            },
        ),
        videos=[
            Video("report/dream_slippery.mp4", "slippery, floor friction 0.05: the dream loses the box over the edge."),
            Video("report/dream_payload.mp4", "payload 1.5 kg: dream and truth agree to 3 mm after 40 steps."),
        ],
        logs=Logs(1500, 120_000, {"floor_friction": [0.15, 0.8], "box_mass_kg": [0.5, 0.5]}),
        warnings=["2 batches held a gradient that was not finite; they were skipped."],
    )


def make_audit(simulator: bool) -> AuditReport:
    growth = {"nominal": 1.0, "slippery": 1.35, "payload": 1.1, "push": 1.6, "slope": 1.2, "latency": 2.1}
    scenarios = [_audited(name, 24, times, simulator) for name, times in growth.items()]
    return AuditReport(
        simulator=simulator,
        note="same start, commands and physics in PyBullet" if simulator else "not audited in a simulator",
        overall=_audited("overall", 24 * len(growth), 1.3, simulator),
        scenarios=scenarios,
        simulator_steps=61_440 if simulator else 0,
        sensitivity_eps=0.01 if simulator else None,
        replicas=2 if simulator else 0,
    )


def _audited(name: str, dreams: int, times: float, simulator: bool) -> ScenarioAudit:
    horizon = list(range(1, 51))
    steps = np.array(horizon, float)
    compared = [dreams - dreams * (h > 35) // 8 for h in horizon]
    dream, still, kicked = 0.04 * times * steps**0.75, 0.19 * steps**0.52, 0.012 + 0.0004 * steps**1.6
    trusted = bool(dream[-1] < still[-1])
    verdict = "below" if trusted else "no better than"
    hits, missed, alarms = dreams // 6, dreams // 12, dreams // 24
    return ScenarioAudit(
        scenario=name,
        dreams=dreams,
        horizon=horizon,
        compared=compared,
        error=_curve(dream),
        persistence=_curve(still),
        sensitivity=_curve(kicked) if simulator else None,
        channels=[
            ChannelError(channel, list(0.3 * dream * (1 + k / 9)), list(0.3 * still * (1 + k / 9)))
            for k, channel in enumerate(CHANNELS)
        ],
        falls=[Falls(50, hits, alarms, missed, dreams - hits - alarms - missed, None, None, 0.7)],
        falls_within_trust=Falls(31, hits, 0, missed, dreams - hits - missed, 1.0, None, 0.8) if simulator else None,
        reward_bias_per_step=0.012 * times,
        reward_bias_per_dream=0.4 * times,
        true_reward_per_step=0.61,
        trusted=trusted,
        reason=f"50 steps ahead the dream's error is {dream[-1]:.2g}, {verdict} standing still ({still[-1]:.2g}) "
        f"({compared[-1]} of {dreams} dreams)",
    )


def _curve(values: np.ndarray) -> ErrorCurve:
    return ErrorCurve(list(values), list(1.25 * values))


def make_run(run: Path, audited: bool = True) -> Path:
    report = make_report(audited)
    for video in report.videos:
        dream, truth = ([_scene(t, slip) for t in range(60)] for slip in (1.0, 0.8))
        side_by_side(run / video.file, dream[:48], truth, hz=20, title=video.caption, dream_end="box over the edge")
    report.save(run)
    return run


def _cell(scenario, label, in_logs, demonstrator, before, after) -> Cell:
    return Cell(scenario, label, in_logs, _outcome(*before), _outcome(*after), _outcome(*demonstrator))


def _outcome(failed: int, lost: int) -> Outcome:
    return Outcome(N, round(N * failed / 100), round(N * lost / 100), 62.0 - 0.5 * failed, 4 + 0.2 * failed)


def _scene(t: int, slip: float) -> np.ndarray:
    frame = np.full((180, 240, 3), (214, 210, 202), np.uint8)
    frame[110:] = (150, 120, 90)
    x = int(20 + 3.2 * t * slip)
    frame[86:118, x : x + 32] = (200, 70, 50)
    frame[98:106, max(0, x - 18) : x] = (60, 100, 190)
    return frame
