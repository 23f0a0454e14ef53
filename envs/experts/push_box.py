"""push-box: a demonstrator made for the nominal floor, a player, and an oracle that is told the floor."""

from __future__ import annotations

import math

import numpy as np

from envs.physics import Physics

FINGER_SPEED_M_S = 0.5

PUSH_SPEED_M_S = 0.48
WALK_SPEED_M_S = 0.25
BELIEVED_DECELERATION_M_S2 = 0.3 * 9.81
CLEARANCE_M = 0.115  # on the way round the box: half of its diagonal, the finger's radius, some air
TOUCHING_M = 0.095  # from the box's middle to a finger that touches it, or is about to
DONE_M = 0.04


def push_box_expert(observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Walks around the box, pushes it briskly and lets go where it would stop on the nominal floor.

    Args:
        observation: (18,) of push-box; nothing in it tells the friction.
    """
    to_goal, box_v = observation[15:17], observation[6:8]
    distance = float(np.linalg.norm(to_goal))
    ahead = to_goal / max(distance, 1e-6)
    coasting = max(0.0, float(box_v @ ahead)) ** 2 / (2.0 * BELIEVED_DECELERATION_M_S2)
    if distance < DONE_M or coasting >= distance - 0.01:
        action = np.zeros(2)  # let go: it is there, or would slide there by itself
    else:
        action = _push(observation, ahead, PUSH_SPEED_M_S, WALK_SPEED_M_S)
    return np.clip(action + rng.normal(0.0, 0.02, 2), -1.0, 1.0).astype(np.float32)


def careful_oracle(observation: np.ndarray, physics: Physics) -> np.ndarray:
    """Told the physics: aims the point at which the box would come to rest, sideways too, and brakes it if need be.

    Its failure rate shows what is feasible on a floor, not what is best.
    """
    to_goal, box_v = observation[15:17], observation[6:8]
    distance, speed = float(np.linalg.norm(to_goal)), float(np.linalg.norm(box_v))
    slope = math.radians(physics.slope_deg)
    uphill = float((box_v if speed > 0.02 else to_goal)[0]) / max(speed if speed > 0.02 else distance, 1e-6)
    deceleration = physics.gravity_m_s2 * (physics.floor_friction * math.cos(slope) + uphill * math.sin(slope))
    deceleration = max(deceleration, 0.05)
    miss = to_goal - box_v * speed / (2.0 * deceleration)  # from where it would come to rest to the goal
    error = float(np.linalg.norm(miss))
    if error < 0.02:
        return np.zeros(2, np.float32)
    ahead = miss / error
    if ahead @ to_goal > 0.0:
        push_speed = min(0.3, 0.03 + 0.75 * math.sqrt(2.0 * deceleration * distance))
    else:
        push_speed = float(box_v @ ahead) + 0.1  # it comes towards the finger: give way, but less than it pushes
    return np.clip(_push(observation, ahead, push_speed, 0.45), -1.0, 1.0).astype(np.float32)


class BoxPlayer:
    """Plays: pushes the box to one place after another, over the edge too, now fast and now slowly."""

    change_rate = 1 / 30  # chance a step that it wants something else
    reach_m = 0.55  # places lie within this of the table's middle, along each axis
    push_speeds_m_s = (0.08, 0.5)
    walk_speeds_m_s = (0.25, 0.5)

    def begin(self, rng: np.random.Generator) -> None:
        self._place = rng.uniform(-self.reach_m, self.reach_m, 2)
        self._push_speed = rng.uniform(*self.push_speeds_m_s)
        self._walk_speed = rng.uniform(*self.walk_speeds_m_s)

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The action (2,) for an observation (18,) of push-box."""
        way = self._place - observation[4:6]
        if rng.random() < self.change_rate or np.linalg.norm(way) < DONE_M:
            self.begin(rng)
            way = self._place - observation[4:6]
        ahead = way / max(float(np.linalg.norm(way)), 1e-6)
        return np.clip(_push(observation, ahead, self._push_speed, self._walk_speed), -1.0, 1.0)


def _push(observation: np.ndarray, ahead: np.ndarray, push_speed: float, walk_speed: float) -> np.ndarray:
    """Returns the action (2,) that pushes the box along `ahead`, or first takes the finger behind it."""
    box_to_finger, box_v = -observation[13:15], observation[6:8]
    left = np.array([-ahead[1], ahead[0]])
    behind, aside = -float(box_to_finger @ ahead), float(box_to_finger @ left)
    if behind <= 0.04 or abs(aside) >= 0.035:
        return (_walk_around(box_to_finger, ahead, walk_speed) + box_v) / FINGER_SPEED_M_S
    if behind > TOUCHING_M:
        push_speed = max(push_speed, float(box_v @ ahead) + 0.1, 0.15)
    return (push_speed * ahead - 6.0 * aside * left) / FINGER_SPEED_M_S


def _walk_around(box_to_finger: np.ndarray, ahead: np.ndarray, speed: float) -> np.ndarray:
    """Returns the velocity (2,) that circles the box, the short way, to the side opposite `ahead`."""
    radius = max(float(np.linalg.norm(box_to_finger)), 1e-6)
    outward = box_to_finger / radius
    tangent = np.array([-outward[1], outward[0]])
    turn = math.atan2(-float(tangent @ ahead), -float(outward @ ahead))  # angle still to go, signed
    if radius <= CLEARANCE_M + 0.05:
        circling = speed * math.copysign(min(1.0, abs(turn) * 2.0), turn)
        return circling * tangent + 4.0 * (CLEARANCE_M - radius) * outward
    if abs(turn) < 1.2:
        target = -ahead * CLEARANCE_M
    else:
        target = CLEARANCE_M * (0.3 * outward + math.copysign(1.0, turn) * tangent)
    way = target - box_to_finger
    return speed * way / np.linalg.norm(way)
