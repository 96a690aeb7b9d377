"""One person: a body in clothes, painted with capsules, and where the keypoints are."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import numpy.typing as npt

from cycledistill_pose.data.synthetic._body import Matrix, Vector, draw_body
from cycledistill_pose.data.synthetic._canvas import Canvas
from cycledistill_pose.skeletons import COCO

_SKIN = np.array(
    [[255, 219, 190], [241, 194, 160], [224, 172, 130], [186, 132, 94], [120, 80, 55]], np.float32
)
_HAIR = np.array(
    [*([28, 22, 20], [60, 40, 28], [110, 74, 42], [176, 132, 74], [216, 190, 130], [165] * 3)],
    np.float32,
)
_LIPS = np.array([120, 50, 50], np.float32)
# Directions from the middle of the head: left, up, forward from the person's point of view.
_FACE = {
    "nose": (0.0, -0.16, 1.0),
    "left_eye": (0.36, 0.1, 0.93),
    "right_eye": (-0.36, 0.1, 0.93),
    "left_ear": (1.0, -0.06, -0.08),
    "right_ear": (-1.0, -0.06, -0.08),
}
_HEAD = np.array([0.06, 0.078, 0.066])  # half of its width, height and depth, in body heights
# How much nearer than its joint a part's surface may be that shows it, in body heights.
_FLESH = {"shoulder": 0.1, "elbow": 0.07, "wrist": 0.055, "hip": 0.125, "knee": 0.09, "ankle": 0.07}


def draw_colour(rng: np.random.Generator) -> Any:
    """A colour of cloth `[3]`."""
    hsv = rng.random(), rng.beta(1.3, 2.0), rng.uniform(0.15, 1.0)
    return 255 * np.array(colorsys.hsv_to_rgb(*hsv), dtype=np.float32)


class Figure:
    """A person at the origin whose larger side is ``height`` px; `move` puts it somewhere.

    Attributes:
        scale: Px of a body height.
        bounds: Left, top, right and bottom of the joints with some flesh about them, px.
    """

    def __init__(self, rng: np.random.Generator, height: float, easy: bool) -> None:
        self.body = draw_body(rng, easy)
        self._distance = rng.uniform(2.2, 6.0)  # of the viewer: nearer parts look larger
        self._offset, self.scale = np.zeros(3), 1.0
        points = np.array([self.place(joint)[:2] for joint in self.body.joints.values()])
        flesh = 0.085 * self.body.head_size
        low, high = points.min(0) - 0.03, points.max(0) + 0.03
        head = self.place(self.body.joints["head"])[:2]
        low, high = np.minimum(low, head - flesh), np.maximum(high, head + flesh)
        self.scale = float(height / max(high[1] - low[1], 0.9 * (high[0] - low[0])))
        self.bounds = np.concatenate([low, high]) * self.scale
        self._dress(rng)

    def _dress(self, rng: np.random.Generator) -> None:
        self._skin = _SKIN[rng.integers(len(_SKIN))] * np.float32(rng.uniform(0.9, 1.05))
        hair = _HAIR[rng.integers(len(_HAIR))] * np.float32(rng.uniform(0.8, 1.15))
        self._hair = draw_colour(rng) if rng.random() < 0.2 else hair  # or a cap
        self._long_hair = rng.random() < 0.3
        self._top, self._trim, self._bottom, self._shoes = (draw_colour(rng) for _ in range(4))
        self._bands = int(rng.integers(3, 8)) if rng.random() < 0.35 else 0
        self._sleeve = rng.choice([0.0, 0.6, 2.0], p=[0.15, 0.4, 0.45])
        self._leg = rng.choice([0.7, 2.0], p=[0.3, 0.7])
        self._skirt = rng.uniform(0.5, 1.0) if rng.random() < 0.15 else 0.0

    def move(self, x: float, y: float, depth: float) -> None:
        """Put the pelvis at this place (px) and depth (px)."""
        self.bounds += np.array([x, y, x, y]) - np.tile(self._offset[:2], 2)
        self._offset = np.array([x, y, depth])

    def place(self, point: Vector) -> Vector:
        """x, y and depth in px of a point of the body."""
        zoom = self._distance / max(self._distance + point[2], 0.3)
        return point * np.array([zoom, zoom, 1.0]) * self.scale + self._offset

    def paint(self, canvas: Canvas, number: int) -> None:
        """Paint this person as the owner ``number`` of its pixels."""
        joints, girth = self.body.joints, self.body.girth
        limb = 0.55 + 0.45 * girth

        def part(ends: Any, radii: Any, colour: Any, **shape: float) -> None:
            a, b = (self.place(joints[p] if isinstance(p, str) else p) for p in ends)
            canvas.capsule(a, b, np.array(radii) * self.scale, colour, number, **shape)

        def cloth(colour: Any, covered: float) -> Any:
            """Cloth over a part of the limb, then skin."""
            if covered >= 1:
                return colour
            return lambda place, *_: np.where(place[..., None] < covered, colour, self._skin)

        for side in ("left", "right"):
            arm = [f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hand")]
            upper, lower = (cloth(self._top, self._sleeve - less) for less in (0, 1.05))
            part(arm[:2], np.array([0.042, 0.037, 0.03]) * limb, upper)
            part(arm[1:3], np.array([0.03, 0.028, 0.02]) * limb, lower)
            part(arm[2:], np.array([0.02, 0.022]) * limb, self._skin)
            leg = [f"{side}_{joint}" for joint in ("hip", "knee", "ankle")]
            upper, lower = (cloth(self._bottom, self._leg - less) for less in (0, 1.05))
            part(leg[:2], np.array([0.06, 0.057, 0.04]) * limb, upper)
            part(leg[1:], np.array([0.038, 0.04, 0.033, 0.026]) * limb, lower)
            part((f"{side}_heel", f"{side}_toe"), (0.027, 0.03, 0.025), self._shoes)
        # The trunk is wider than it is thick: what is seen of it depends on the view.
        frame = self.body.chest
        wide = np.hypot(frame[0, 0], 0.62 * frame[0, 2])
        thick = 0.62 / max(wide, 0.62)
        throat = joints["neck"] - frame[:, 1] * 0.03
        waist = np.array([0.13 / girth, 0.125, 0.105, 0.098, 0.105]) * girth * wide
        part((throat, "pelvis"), waist, self._trunk, flat=2.5, thickness=thick)
        if self._skirt:
            knees = (joints["left_knee"] + joints["right_knee"]) / 2
            hem = (joints["left_knee"] - joints["right_knee"])[:2] @ frame[:2, 0]
            radii = np.array([0.095 * girth * wide, max(0.11, 0.06 + abs(hem) / 2)])
            part(("pelvis", knees * self._skirt), radii, self._bottom, flat=4.0, thickness=thick)
        part((throat, "head"), (0.035, 0.03), self._skin)
        frame, centre, size = self.body.head, joints["head"], self.body.head_size
        up, half = frame[:, 1], _HEAD * size
        ends = [centre + up * sign * (half[1] - half[0]) for sign in (1, -1)]
        part(ends, [half[0]] * 2, self._face, thickness=1.1)
        for name in ("left_ear", "right_ear", "nose"):
            part([self._on_head(_FACE[name])] * 2, [0.011 * size] * 2, self._skin)
        if self._long_hair:
            behind = centre - frame[:, 2] * 0.022
            part(
                (behind + up * 0.02, behind - up * 0.13), np.array([0.066, 0.06]) * size, self._hair
            )

    def _trunk(self, place: Any, nx: Any, ny: Any, nz: Any) -> Any:
        """A shirt, plain or with bands, and trousers below it; an open collar marks the front."""
        cloth = np.where(place[..., None] < 0.9, self._top, self._bottom)
        if self._bands:
            banded = (np.sin(place * (2 * np.pi * self._bands)) > 0) & (place < 0.9)
            cloth = np.where(banded[..., None], self._trim, cloth)
        left, _, forward = _in_frame(self.body.chest, nx, ny, nz)
        collar = (forward > 0.3) & (abs(left) < 0.35 - 1.6 * place)
        buttons = (forward > 0.3) & (abs(left) < 0.06) & (place < 0.9)
        cloth = np.where(buttons[..., None], np.float32(0.6) * self._top, cloth)
        return np.where(collar[..., None], self._skin, cloth)

    def _face(self, place: Any, nx: Any, ny: Any, nz: Any) -> Any:
        """Skin, hair, eyes and mouth by direction."""
        left, up, forward = _in_frame(self.body.head, nx, ny, nz)
        straight = (_HEAD[1] - _HEAD[0]) / _HEAD[1]  # between the round ends normals do not turn
        up = up * (1 - straight) + (1 - 2 * place) * straight
        # Features keep a visible size in small pictures.
        blur = 0.6 / max(_HEAD[0] * self.scale, 3.0)

        def spot(x: float, y: float, a: float, b: float) -> Any:
            inside = ((abs(left) - x) / (a + blur)) ** 2 + ((up - y) / (b + blur)) ** 2 < 1
            return (inside & (forward > 0))[..., None]

        colour = np.where(spot(0.36, 0.1, 0.17, 0.1), np.float32(245), self._skin)
        colour = np.where(spot(0.36, 0.1, 0.07, 0.08), np.float32(20), colour)
        colour = np.where(spot(0.0, -0.55, 0.24, 0.05), _LIPS, colour)
        hair = (forward < 0.02 + 0.98 * np.clip((up - 0.34) / 0.3, 0, 1)) & (up > -0.35)
        return np.where(hair[..., None], self._hair, colour)

    def _on_head(self, direction: tuple[float, float, float]) -> Vector:
        half = _HEAD * self.body.head_size
        return self.body.joints["head"] + self.body.head @ (np.array(direction) * half)

    def keypoints(self, canvas: Canvas, number: int) -> npt.NDArray[np.float64]:
        """COCO's 17 `[17, 3]` of the painted person: x, y and visibility.

        Visibility is 0 for not labelled (out of the picture, or a face seen from behind), 1 for
        hidden and 2 for seen: a pixel next to it shows this person, and no much nearer part.
        """
        found = np.zeros((17, 3))
        for index, name in enumerate(COCO.keypoint_names):
            if name in _FACE:
                point, flesh = self._on_head(_FACE[name]), 0.035
                away = (self.body.head @ np.array(_FACE[name]))[2]
                if away > (0.3 if name.endswith("ear") else 0.05):
                    continue
            else:
                point, flesh = self.body.joints[name], _FLESH[name.split("_")[1]] * self.body.girth
            x, y, depth = self.place(point)
            x, y = round(float(x), 2), round(float(y), 2)
            if not (0 <= x <= canvas.width - 1 and 0 <= y <= canvas.height - 1):
                continue
            row, column = round(y), round(x)
            around = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            near = canvas.depth[around] > depth - flesh * self.scale - 1
            found[index] = x, y, 1 + bool((near & (canvas.owner[around] == number)).any())
        return found


def _in_frame(frame: Matrix, nx: Any, ny: Any, nz: Any) -> Any:
    """Normals of the picture as left, up and forward of a part `[3, h, w]`."""
    return (frame.T @ np.stack([nx, ny, -nz]).reshape(3, -1)).reshape(3, *nx.shape)
