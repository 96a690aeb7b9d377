"""A jointed body in three dimensions: where the joints of a random pose are.

Camera frame: x to the right, y down, z away from the viewer; the body is about 1 high. A part's
frame has the columns left, up and forward, from the person's point of view.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

FACING_VIEWER = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
# Ranges in degrees for an arm: how far it is raised, how far it is turned to the front, the elbow's
# bend; then how far the forearm turns up and inward from straight ahead.
_ARMS = (
    ((3, 22), (-20, 60), (2, 35), 0.0, 0.2),  # hanging
    ((28, 55), (-45, -8), (80, 120), -0.3, 1.3),  # akimbo
    ((100, 170), (-10, 70), (0, 70), 0.9, 0.4),  # raised
    ((50, 100), (50, 105), (0, 60), 0.6, 0.3),  # reaching
    ((10, 40), (20, 80), (80, 130), 0.6, 0.8),  # folded
    ((60, 110), (-25, 35), (0, 90), 0.7, 0.1),  # out
    ((10, 50), (75, 90), (20, 95), 0.2, 0.2),  # swinging
)


class Body(NamedTuple):
    """A posed person.

    Attributes:
        joints: `[3]` each, in body heights, the pelvis at the origin.
        pelvis: Frame `[3, 3]`; likewise the next two.
        chest: Chest of the trunk.
        head: Head of the head.
        head_size: Its size, 1 for most adults.
        girth: Thickness of trunk and limbs, about 1.
    """

    joints: dict[str, Vector]
    pelvis: Matrix
    chest: Matrix
    head: Matrix
    head_size: float
    girth: float


def draw_body(rng: np.random.Generator, easy: bool = False) -> Body:
    """A person of random build in a random pose, seen from a random side."""
    child = rng.random() < 0.15
    build = rng.normal(1.0, 0.05, 7).clip(0.88, 1.12) * np.where(child, 0.9, 1.0)
    torso, shoulders, hips, upper_arm, forearm, thigh, shin = build * (
        *(0.285, 0.112, 0.058),
        *(0.165, 0.145, 0.24, 0.235),
    )
    pose = _draw_pose(rng, easy)
    pelvis = _draw_view(rng, easy)
    chest = pelvis @ turn(*pose["trunk"])
    head = chest @ turn(*rng.normal((5, 0, 0), (12, 25, 8)))
    head_size = 1.35 if child else float(rng.normal(1.0, 0.05))
    joints = {"pelvis": np.zeros(3), "neck": chest[:, 1] * torso}
    joints["head"] = joints["neck"] + chest[:, 1] * 0.03 + head[:, 1] * 0.078 * head_size
    for number, (side, sign) in enumerate((("left", 1.0), ("right", -1.0))):
        left, up, forward = chest.T
        raised, turned, bend, upward, inward = pose["arms"][number]
        outward = left * sign * _cos(turned) + forward * _sin(turned)
        upper = -up * _cos(raised) + outward * _sin(raised)
        plane = _across(forward + up * upward - left * sign * inward, upper)
        lower = upper * _cos(bend) + plane * _sin(bend)
        shoulder = joints["neck"] + left * sign * shoulders - up * 0.022
        elbow = shoulder + upper * upper_arm
        wrist = elbow + lower * forearm
        joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
        joints[f"{side}_hand"] = wrist + lower * 0.045

        left, up, forward = pelvis.T
        flex, spread, knee_bend = (pose[name][number] for name in ("flex", "spread", "knee"))
        bone = (forward * _sin(flex) - up * _cos(flex)) * _cos(spread) + left * sign * _sin(spread)
        back = _across(-forward * _cos(flex) - up * _sin(flex), bone)
        hip = left * sign * hips - up * 0.01
        knee = hip + bone * thigh
        calf = bone * _cos(knee_bend) + back * _sin(knee_bend)
        ahead = bone * _sin(knee_bend) - back * _cos(knee_bend)
        ankle = knee + calf * shin
        joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
        joints[f"{side}_heel"] = ankle + calf * 0.022 - ahead * 0.022
        joints[f"{side}_toe"] = ankle + calf * 0.035 + (ahead + left * sign * 0.15) * 0.085
    return Body(joints, pelvis, chest, head, head_size, float(rng.uniform(0.88, 1.3)))


def turn(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Matrix:
    """Rotation of a part relative to its parent, in degrees: forward, to the left, sideways."""
    (cp, cy, cr), (sp, sy, sr) = ([f(angle) for angle in (pitch, yaw, roll)] for f in (_cos, _sin))
    about_left = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_up = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_forward = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_up @ about_left @ about_forward


def _draw_view(rng: np.random.Generator, easy: bool) -> Matrix:
    """The pelvis's frame: mostly seen from the front or from behind, rarely lying."""
    about = 0.0 if easy or rng.random() < 0.65 else 180.0
    yaw = rng.normal(about, 25 if easy else 45)
    roll = rng.normal(0, 90) if rng.random() < 0.05 and not easy else rng.normal(0, 7)
    return turn(roll=roll) @ FACING_VIEWER @ turn(pitch=rng.normal(6, 9)) @ turn(yaw=yaw)


def _draw_pose(rng: np.random.Generator, easy: bool) -> dict[str, Any]:
    """Angles in degrees, within the range of real joints; number 0 is left, 1 right."""
    kinds = ("stand", "walk", "star", "run", "sit", "squat", "free")
    chances = (0.5, 0.3, 0.2, 0, 0, 0, 0) if easy else (0.3, 0.18, 0.08, 0.1, 0.14, 0.06, 0.14)
    kind = str(rng.choice(kinds, p=chances))
    trunk = rng.normal((4, 0, 0), (6, 10, 6))
    flex, spread = rng.normal(2, 6, 2), rng.normal(6, 4, 2).clip(-2, 30)
    knee = abs(rng.normal(0, 8, 2))
    swing = 0.15
    if kind in ("walk", "run"):
        stride = rng.uniform(12, 28) if kind == "walk" else rng.uniform(25, 60)
        flex = np.array([1, -0.6]) * stride
        knee = rng.uniform((0, 0.5), (0.8, 1.8)) * stride
        if rng.random() < 0.5:
            flex, knee = flex[::-1], knee[::-1]
        trunk[0] += 6 if kind == "walk" else 14
        swing = 0.6
    elif kind == "sit":
        flex, knee = rng.normal(85, 10, 2), rng.normal(85, 18, 2).clip(20, 125)
        spread = rng.normal(10, 8, 2).clip(-4, 40)
    elif kind == "squat":
        flex, knee = rng.normal(85, 15, 2), rng.normal(110, 12, 2).clip(60, 135)
        spread = rng.normal(20, 8, 2).clip(0, 45)
        trunk[0] += 22
    elif kind == "star":
        spread = rng.uniform(15, 42, 2)
    elif kind == "free":
        flex, spread, knee = (
            rng.uniform(-20, 100, 2),
            rng.uniform(-4, 45, 2),
            rng.uniform(0, 120, 2),
        )
        trunk += rng.normal((5, 0, 0), (20, 0, 12))
    arms = [_draw_arm(rng, swing, star=kind == "star") for _ in range(2)]
    if rng.random() < 0.25:  # both alike
        arms[1] = arms[0]
    return {"trunk": trunk, "flex": flex, "spread": spread, "knee": knee, "arms": arms}


def _draw_arm(rng: np.random.Generator, swing: float, star: bool) -> tuple[float, ...]:
    """Raised, turned to the front and bent by so many degrees, and the elbow's plane."""
    if star:
        chosen = _ARMS[2 if rng.random() < 0.5 else 5]
    else:
        chosen = _ARMS[6 if rng.random() < swing else rng.integers(6)]
    raised, turned, bend = (rng.uniform(*limits) for limits in chosen[:3])
    if chosen is _ARMS[6] and rng.random() < 0.5:
        turned = -turned
    return raised, turned, bend, rng.normal(chosen[3], 0.3), rng.normal(chosen[4], 0.2)


def _cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def _sin(degrees: float) -> float:
    return math.sin(math.radians(degrees))


def _across(direction: Vector, axis: Vector) -> Vector:
    """The part of a direction at right angles to a unit axis, with length 1."""
    rest = direction - axis * float(direction @ axis)
    length = math.sqrt(float(rest @ rest))
    return rest / length if length > 1e-6 else _across(np.array([0.3, 0.5, 0.8]), axis)
