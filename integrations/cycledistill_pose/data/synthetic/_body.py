"""A jointed body in three dimensions: proportions, a random pose, where the joints are.

Camera frame: x to the right, y down, z away from the viewer; the body is 1 high. A body part's
frame has the columns left, up and forward, as the person feels them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._pick import pick

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

_POSES = {
    "stand": 0.3,
    "walk": 0.18,
    "run": 0.1,
    "sit": 0.14,
    "squat": 0.06,
    "star": 0.08,
    "free": 0.14,
}
_EASY_POSES = {"stand": 0.5, "walk": 0.3, "star": 0.2}
# For an arm: raised from hanging, turned from sideways to the front, the elbow's bend (ranges in
# degrees), and how far the forearm turns up and inward from straight ahead.
_HABITS: dict[str, tuple[Any, Any, Any, float, float]] = {
    "hang": ((3, 22), (-20, 60), (2, 35), 0.0, 0.2),
    "akimbo": ((28, 55), (-45, -8), (80, 120), -0.3, 1.3),
    "raise": ((100, 170), (-10, 70), (0, 70), 0.9, 0.4),
    "reach": ((50, 100), (50, 105), (0, 60), 0.6, 0.3),
    "fold": ((10, 40), (20, 80), (80, 130), 0.6, 0.8),
    "out": ((60, 110), (-25, 35), (0, 90), 0.7, 0.1),
    "swing": ((10, 50), (75, 90), (20, 95), 0.2, 0.2),
}
_ARMS: dict[str, dict[str, float]] = {
    "stand": {
        "hang": 0.3,
        "akimbo": 0.14,
        "raise": 0.14,
        "reach": 0.12,
        "fold": 0.12,
        "out": 0.12,
        "swing": 0.06,
    },
    "walk": {"hang": 0.3, "raise": 0.05, "reach": 0.05, "fold": 0.1, "out": 0.05, "swing": 0.45},
    "run": {"hang": 0.05, "raise": 0.05, "reach": 0.05, "fold": 0.1, "out": 0.05, "swing": 0.7},
    "sit": {"hang": 0.25, "akimbo": 0.05, "raise": 0.1, "reach": 0.25, "fold": 0.25, "out": 0.1},
    "star": {"raise": 0.5, "out": 0.5},
}

# Columns left, up, forward of somebody who looks at the viewer.
FACING_VIEWER = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])


@dataclass(frozen=True)
class Proportions:
    """Lengths and thicknesses, in body heights."""

    head: float
    torso: float
    shoulders: float
    hips: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    girth: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Proportions:
        """An adult, now and then a child with a larger head and shorter limbs."""
        child = rng.random() < 0.15
        vary = rng.normal(1.0, 0.05, 8).clip(0.88, 1.12)
        limb = 0.88 if child else 1.0
        return Proportions(
            head=(1.35 if child else 1.0) * vary[0],
            torso=0.285 * vary[1],
            shoulders=0.112 * vary[2],
            hips=0.058 * vary[3],
            upper_arm=0.165 * limb * vary[4],
            forearm=0.145 * limb * vary[5],
            thigh=0.24 * limb * vary[6],
            shin=0.235 * limb * vary[7],
            girth=float(rng.uniform(0.88, 1.3)),
        )


@dataclass(frozen=True)
class Body:
    """Joints (in body heights, pelvis at the origin; all `[J, 3]`) and frames of a posed person."""

    proportions: Proportions
    pelvis: Matrix
    chest: Matrix
    head: Matrix
    joints: dict[str, Vector]
    points: Matrix


def turn(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> Matrix:
    """Rotation of a part against its parent; radians; pitch forward, yaw and roll to the left."""
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    cr, sr = math.cos(roll), math.sin(roll)
    about_left = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_up = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_forward = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_up @ about_left @ about_forward


def draw_body(rng: np.random.Generator, easy: bool = False) -> Body:
    """A person of random build in a random pose, seen from a random side.

    Args:
        rng: source of all randomness.
        easy: upright and seen from the front.
    """
    proportions = Proportions.draw(rng)
    pose = _draw_pose(rng, _EASY_POSES if easy else _POSES)
    if easy:
        pose["lies"] = False
    view = rng.random()
    if easy:
        yaw = rng.normal(0, 25)
    elif view < 0.5:
        yaw = rng.normal(0, 35)
    elif view < 0.75:
        yaw = rng.normal(180, 35)
    else:
        yaw = rng.uniform(0, 360)
    tilt = rng.normal(0, 90) if pose["lies"] else rng.normal(0, 7)
    camera = _radians(rng.normal(6, 9))
    in_plane = np.array(
        [
            [math.cos(_radians(tilt)), -math.sin(_radians(tilt)), 0],
            [math.sin(_radians(tilt)), math.cos(_radians(tilt)), 0],
            [0, 0, 1],
        ]
    )
    pelvis = in_plane @ FACING_VIEWER @ turn(pitch=camera) @ turn(yaw=_radians(yaw))
    return _assemble(proportions, pose, pelvis, rng)


def _draw_pose(rng: np.random.Generator, chances: dict[str, float]) -> dict[str, Any]:
    """Angles in degrees, inside of what joints can do; index 0 left, 1 right."""
    kind = pick(rng, chances)
    pose: dict[str, Any] = {
        "lies": rng.random() < 0.05,
        "lean": rng.normal(4, 6),
        "side": rng.normal(0, 6),
        "twist": rng.normal(0, 10),
        "nod": rng.normal(5, 12),
        "look": rng.normal(0, 25),
        "cock": rng.normal(0, 8),
        "hip": [rng.normal(2, 6), rng.normal(2, 6)],
        "spread": list(rng.normal(6, 4, 2).clip(-2, 30)),
        "knee": list(abs(rng.normal(0, 8, 2))),
        "point": list(rng.normal(10, 8, 2)),
    }
    if kind in ("walk", "run"):
        stride = rng.uniform(12, 28) if kind == "walk" else rng.uniform(25, 60)
        first = int(rng.integers(2))
        pose["hip"][first] = stride
        pose["hip"][1 - first] = -stride * 0.6
        pose["knee"][first] = rng.uniform(0, 0.8) * stride
        pose["knee"][1 - first] = rng.uniform(0.5, 1.8) * stride
        pose["lean"] += 6 if kind == "walk" else 14
    elif kind == "sit":
        pose["hip"] = list(rng.normal(85, 10, 2))
        pose["knee"] = list(rng.normal(85, 18, 2).clip(20, 125))
        pose["spread"] = list(rng.normal(10, 8, 2).clip(-4, 40))
    elif kind == "squat":
        pose["hip"] = list(rng.normal(85, 15, 2))
        pose["knee"] = list(rng.normal(110, 12, 2).clip(60, 135))
        pose["spread"] = list(rng.normal(20, 8, 2).clip(0, 45))
        pose["lean"] += 22
    elif kind == "star":
        pose["spread"] = list(rng.uniform(15, 42, 2))
    elif kind == "free":
        pose["hip"] = list(rng.uniform(-20, 100, 2))
        pose["spread"] = list(rng.uniform(-4, 45, 2))
        pose["knee"] = list(rng.uniform(0, 120, 2))
        pose["lean"] += rng.normal(5, 20)
        pose["side"] += rng.normal(0, 12)
    pose["arms"] = [_draw_arm(rng, kind) for _ in range(2)]
    if rng.random() < 0.25:  # both arms alike
        pose["arms"][1] = pose["arms"][0]
    return pose


def _draw_arm(rng: np.random.Generator, kind: str) -> dict[str, float]:
    """Raised from hanging, turned from sideways to the front, and the elbow's bend and plane."""
    habit = pick(rng, _ARMS.get(kind, _ARMS["stand"]))
    raised, forward, bend, up, inward = _HABITS[habit]
    if habit == "swing" and rng.random() < 0.5:
        forward = (-85, -70)
    return {
        "raised": rng.uniform(*raised),
        "forward": rng.uniform(*forward),
        "bend": rng.uniform(*bend),
        "up": up + rng.normal(0, 0.3),
        "inward": inward + rng.normal(0, 0.2),
    }


def _assemble(
    proportions: Proportions, pose: dict[str, Any], pelvis: Matrix, rng: np.random.Generator
) -> Body:
    """Forward kinematics."""
    p = proportions
    chest = pelvis @ turn(_radians(pose["lean"]), _radians(pose["twist"]), _radians(pose["side"]))
    head = chest @ turn(_radians(pose["nod"]), _radians(pose["look"]), _radians(pose["cock"]))
    joints = {"pelvis": np.zeros(3)}
    joints["neck"] = chest[:, 1] * p.torso
    joints["head"] = joints["neck"] + chest[:, 1] * 0.03 + head[:, 1] * 0.078 * p.head
    for side, name in ((1.0, "left"), (-1.0, "right")):
        index = 0 if side > 0 else 1
        left, up, forward = chest.T
        arm = pose["arms"][index]
        shoulder = joints["neck"] + left * side * p.shoulders - up * 0.022
        raised, round_ = _radians(arm["raised"]), _radians(arm["forward"])
        outward = left * side * math.cos(round_) + forward * math.sin(round_)
        upper = -up * math.cos(raised) + outward * math.sin(raised)
        plane = _across(forward + up * arm["up"] - left * side * arm["inward"], upper)
        lower = _bent(upper, plane, arm["bend"])
        elbow = shoulder + upper * p.upper_arm
        wrist = elbow + lower * p.forearm
        joints |= {f"{name}_shoulder": shoulder, f"{name}_elbow": elbow, f"{name}_wrist": wrist}
        joints[f"{name}_hand"] = wrist + _bent(lower, plane, rng.normal(0, 15)) * 0.05

        left, up, forward = pelvis.T
        hip = left * side * p.hips - up * 0.01
        flex, spread = _radians(pose["hip"][index]), _radians(pose["spread"][index])
        thigh = (forward * math.sin(flex) - up * math.cos(flex)) * math.cos(spread)
        thigh = thigh + left * side * math.sin(spread)
        plane = _across(-forward * math.cos(flex) - up * math.sin(flex), thigh)
        shin = _bent(thigh, plane, pose["knee"][index])
        toes = _bent(thigh, plane, pose["knee"][index] - 90 + pose["point"][index])
        knee = hip + thigh * p.thigh
        ankle = knee + shin * p.shin
        joints |= {f"{name}_hip": hip, f"{name}_knee": knee, f"{name}_ankle": ankle}
        joints[f"{name}_heel"] = ankle + shin * 0.022 - toes * 0.022
        joints[f"{name}_toe"] = ankle + shin * 0.03 + (toes + left * side * 0.15) * 0.085
    return Body(proportions, pelvis, chest, head, joints, np.array(list(joints.values())))


def _radians(degrees: float) -> float:
    return float(degrees) * math.pi / 180


def _across(direction: Vector, axis: Vector) -> Vector:
    """The unit part of a direction that is at right angles to a unit axis."""
    rest: Vector = direction - axis * float(direction @ axis)
    length = math.sqrt(float(rest @ rest))
    if length < 1e-6:
        return _across(np.array([0.3, 0.5, 0.8]), axis)
    return rest / length


def _bent(axis: Vector, plane: Vector, degrees: float) -> Vector:
    angle = _radians(degrees)
    return axis * math.cos(angle) + plane * math.sin(angle)
