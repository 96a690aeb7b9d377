"""One person: body, clothes, and how both are painted from the far parts to the near ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cycledistill_pose.data.synthetic._body import Body, Vector, draw_body
from cycledistill_pose.data.synthetic._canvas import Canvas
from cycledistill_pose.data.synthetic._head import FACE, HeadPlane, ear, paint_head
from cycledistill_pose.data.synthetic._look import Look, Material
from cycledistill_pose.data.synthetic._parts import BENEATH, part_number
from cycledistill_pose.data.synthetic._tubes import Tube

Thing = Tube | Callable[[Canvas], None]


class Keypoint(NamedTuple):
    """A keypoint in the picture, and the parts that show it when they are on top there.

    ``unknown`` are faces seen from behind; ``far`` are sides that the trunk hides.
    """

    x: float
    y: float
    parts: tuple[int, ...]
    unknown: bool
    far: bool


class _Part(NamedTuple):
    name: str
    depth: float
    thing: Callable[[int], Thing]


class Figure:
    """A person placed in a picture.

    Args:
        body: joints and frames.
        look: clothes.
        scale: px of a body height.
        x: px of the pelvis.
        y: px of the pelvis.
        distance: of the viewer, in body heights; nearer parts look larger.
    """

    def __init__(
        self, body: Body, look: Look, scale: float, x: float, y: float, distance: float
    ) -> None:
        self.body, self.look, self.scale = body, look, scale
        self.x, self.y, self.distance = x, y, distance
        centre = body.joints["head"]
        size = body.proportions.head * scale * self._zoom(centre)
        self.head = HeadPlane(self.place(centre), body.head, size)

    @staticmethod
    def draw(rng: np.random.Generator, height: float, easy: bool = False) -> Figure:
        """Somebody at the origin whose larger side is ``height`` px."""
        body, look = draw_body(rng, easy), Look.draw(rng)
        figure = Figure(body, look, 1.0, 0.0, 0.0, float(rng.uniform(2.2, 6.0)))
        left, top, right, bottom = figure.bounds()
        scale = height / max(bottom - top, (right - left) * 0.9)
        return Figure(body, look, scale, 0.0, 0.0, figure.distance)

    def moved(self, x: float, y: float) -> Figure:
        """The same person with the pelvis somewhere else."""
        return Figure(self.body, self.look, self.scale, x, y, self.distance)

    def _zoom(self, point: Vector) -> float:
        return float(self.distance / max(self.distance + point[2], 0.3))

    def place(self, point: Vector) -> tuple[float, float]:
        """Px of a point of the body."""
        zoom = self._zoom(point) * self.scale
        return self.x + float(point[0]) * zoom, self.y + float(point[1]) * zoom

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the joints with some flesh about them."""
        points = self.body.points
        zoom = self.distance / np.maximum(self.distance + points[:, 2:], 0.3) * self.scale
        points = points[:, :2] * zoom + np.array([self.x, self.y])
        flesh = 0.03 * self.scale
        head_x, head_y = self.head.centre
        reach = 0.085 * self.body.proportions.head * self.scale
        low = np.minimum(points.min(0) - flesh, [head_x - reach, head_y - reach])
        high = np.maximum(points.max(0) + flesh, [head_x + reach, head_y + reach])
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def keypoints(self, number: int) -> Iterator[Keypoint]:
        """The 17 keypoints of COCO, of the person painted with this number."""
        for name, direction in FACE.items():
            x, y, z = self.head.place(direction)
            away = z > (0.3 if name.endswith("ear") else 0.05)
            yield Keypoint(x, y, (part_number(number, "head"),), away, False)
        sides = {"shoulder": self.body.chest[2, 0], "hip": self.body.pelvis[2, 0]}
        for joint, parts in BENEATH.items():
            for side, sign in (("left", 1.0), ("right", -1.0)):
                x, y = self.place(self.body.joints[f"{side}_{joint}"])
                numbers = tuple(part_number(number, part.format(side)) for part in parts)
                yield Keypoint(x, y, numbers, False, sign * sides.get(joint, 0.0) > 0.7)

    def things(self, number: int) -> list[Thing]:
        """All parts to be painted, the farthest first, for the person of this number."""
        parts = sorted(self._parts(), key=lambda part: -part.depth)
        return [part.thing(part_number(number, part.name)) for part in parts]

    def _parts(self) -> Iterator[_Part]:
        yield from self._middle()
        for side in ("left", "right"):
            yield from self._arm(side)
            yield from self._leg(side)

    def _tube(
        self,
        name: str,
        start: Vector,
        end: Vector,
        widths: Any,
        material: Material,
        nearer: float = 0.0,
        weight: float = 0.5,
        **options: Any,
    ) -> _Part:
        """A tube between two points of the body; half widths in body heights."""
        first, last, steps = self._zoom(start), self._zoom(end), len(widths) - 1
        scaled = [
            width * self.scale * (first + (last - first) * step / steps)
            for step, width in enumerate(widths)
        ]

        def thing(owner: int) -> Tube:
            ends = self.place(start), self.place(end)
            return Tube(*ends, scaled, material, owner, self.scale, **options)

        depth = float(start[2] * (1 - weight) + end[2] * weight) - nearer
        return _Part(name, depth, thing)

    def _middle(self) -> Iterator[_Part]:
        body, look, p = self.body, self.look, self.body.proportions
        joints = body.joints
        neck, pelvis, chest = joints["neck"], joints["pelvis"], body.chest
        left, up, forward = chest.T
        # Half widths of an elliptic trunk as seen from this side.
        side_on = abs(float(left[2]))
        wide = np.array([0.045, p.shoulders * 0.93, p.shoulders, 0.1, 0.085, 0.09, 0.1, 0.098])
        deep = np.array([0.04, 0.055, 0.075, 0.076, 0.068, 0.07, 0.078, 0.075]) * p.girth
        wide[3:] *= 0.5 + 0.5 * p.girth
        widths = np.sqrt((wide**2) * (1 - side_on**2) + (deep * side_on) ** 2)
        fine = np.interp(np.linspace(0, 7, 22), np.arange(8), widths)
        top, bottom = neck + up * 0.005, pelvis - body.pelvis[:, 1] * 0.035
        yield self._tube(
            *("torso", top, bottom, fine, look.top),
            caps=(0.5, 0.35),
            cover=0.92 if look.skirt == 0 else 0.75,
            beyond=look.bottom,
            decorate=self._front_of_torso,
        )
        nape = neck - up * 0.02
        throat = joints["head"] - body.head[:, 1] * 0.03
        girth = 0.034 * (0.6 + 0.4 * p.girth)
        yield self._tube("neck", nape, throat, [girth * 1.2, girth], look.skin, nearer=-0.03)
        depth = float(joints["head"][2]) - 0.03
        yield _Part("head", depth, lambda owner: partial(self._paint_head, owner=owner))
        for name in ("left_ear", "right_ear"):
            behind = self.head.place(FACE[name])[2] > 0
            if behind or (look.hair_length < 1 and look.hat is None):
                nearer = -0.001 if behind else 0.001
                yield _Part("head", depth - nearer, partial(ear, self.head, look, name=name))
        if look.hair_length > 0:
            size = p.head
            root = joints["head"] - body.head[:, 2] * 0.03 * size
            tip = (
                joints["head"]
                - body.head[:, 2] * 0.055 * size
                - body.chest[:, 1] * (0.07 + 0.11 * look.hair_length)
            )
            widths = np.array([0.06, 0.064, 0.06, 0.045]) * size
            nearer = -0.02 if float(body.head[2, 2]) < 0 else 0.09
            yield self._tube("mane", root, tip, widths, look.hair, nearer=nearer, caps=(1, 0.5))
        if look.backpack is not None:
            back = neck - up * 0.05 - forward * 0.1
            low = neck - up * 0.2 - forward * 0.11
            breadth = 0.085 * np.sqrt(1 - side_on**2) + 0.055 * side_on
            widths = breadth * np.array([0.9, 1.0, 1.0, 1.0])
            yield self._tube("backpack", back, low, widths, look.backpack, caps=(0.5, 0.4))
        if look.skirt > 0:
            knees = (joints["left_knee"] + joints["right_knee"]) / 2
            hem = pelvis + (knees - pelvis) * look.skirt
            spread = float(np.linalg.norm(joints["left_knee"] - joints["right_knee"])) / 2
            width = 0.06 + 0.05 * look.skirt + spread * min(look.skirt, 1)
            waist = float(fine[-6])
            widths = np.linspace(waist, max(width, waist), 4)
            start = pelvis + body.pelvis[:, 1] * 0.03
            yield self._tube(
                *("skirt", start, hem, widths, look.bottom), nearer=0.05, caps=(0.4, 0.15)
            )

    def _paint_head(self, canvas: Canvas, owner: int) -> None:
        paint_head(canvas, self.head, self.look, owner)

    def _front_of_torso(self, colour: Any, where: Any, nx: Any, ny: Any, nz: Any) -> Any:
        """Collar, print and zip, which only the front of a trunk has."""
        left, _, forward = self.body.chest.T
        ahead = nx * forward[0] + ny * forward[1] - nz * forward[2]
        sideways = nx * left[0] + ny * left[1] - nz * left[2]
        if self.look.open_collar:
            collar = (ahead > 0) & (where < 0.24 - 0.6 * np.abs(sideways))
            colour = np.where(collar[:, None], self.look.skin.first, colour)
        if self.look.print is not None:
            badge = (ahead > 0.3) & (np.abs(sideways) < 0.45) & (np.abs(where - 0.42) < 0.14)
            colour = np.where(badge[:, None], self.look.print.first, colour)
        if self.look.zipped:
            zipper = (ahead > 0.2) & (np.abs(sideways) < 0.07) & (where < 0.9)
            colour = np.where(zipper[:, None], colour * 0.4, colour)
        if self.look.backpack is not None:
            straps = (ahead > 0) & (np.abs(np.abs(sideways) - 0.52) < 0.1) & (where < 0.65)
            colour = np.where(straps[:, None], self.look.backpack.first * 0.8, colour)
        return colour

    def _arm(self, side: str) -> Iterator[_Part]:
        look, joints = self.look, self.body.joints
        shoulder, elbow = joints[f"{side}_shoulder"], joints[f"{side}_elbow"]
        wrist, hand = joints[f"{side}_wrist"], joints[f"{side}_hand"]
        stout = 0.55 + 0.45 * self.body.proportions.girth
        sleeve = look.sleeve
        upper = np.array([0.034, 0.033, 0.028, 0.025]) * stout * (1.12 if sleeve > 0 else 1.0)
        lower = np.array([0.025, 0.026, 0.021, 0.017]) * stout * (1.15 if sleeve > 1 else 1.0)
        yield self._tube(
            *(f"{side}_upper_arm", shoulder, elbow, upper, look.top),
            weight=0.75,
            joined=True,
            cover=min(sleeve, 1.6),
            beyond=look.skin,
        )
        yield self._tube(
            *(f"{side}_forearm", elbow, wrist, lower, look.top),
            nearer=0.004,
            joined=True,
            cover=sleeve - 1 if sleeve < 2 else 0.95,
            beyond=look.skin,
        )
        palm = np.array([0.016, 0.022, 0.019]) * stout
        yield self._tube(f"{side}_hand", wrist, hand, palm, look.skin, 0.01, joined=True)

    def _leg(self, side: str) -> Iterator[_Part]:
        look, joints = self.look, self.body.joints
        hip, knee = joints[f"{side}_hip"], joints[f"{side}_knee"]
        ankle = joints[f"{side}_ankle"]
        heel, toe = joints[f"{side}_heel"], joints[f"{side}_toe"]
        stout = 0.55 + 0.45 * self.body.proportions.girth
        loose = 1.1 if look.leg > 1 else 1.0
        upper = np.array([0.06, 0.057, 0.048, 0.039]) * stout * (1.06 if look.leg > 0 else 1.0)
        lower = np.array([0.038, 0.041, 0.035, 0.027, 0.024]) * stout * loose
        yield self._tube(
            *(f"{side}_thigh", hip, knee, upper, look.bottom),
            nearer=-0.03,
            weight=0.7,
            joined=True,
            cover=min(look.leg, 1.6),
            beyond=look.skin,
        )
        yield self._tube(
            *(f"{side}_shin", knee, ankle, lower, look.bottom),
            nearer=-0.01,
            joined=True,
            cover=look.leg - 1 if look.leg < 2 else 0.95,
            beyond=look.skin,
        )
        shoe = np.array([0.027, 0.03, 0.03, 0.024]) * (0.7 + 0.3 * stout)
        yield self._tube(f"{side}_foot", heel, toe, shoe, look.shoes, 0.012, joined=True)
