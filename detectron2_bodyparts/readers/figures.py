"""Render synthetic people from a seed, with exact parts and keypoints.

A person is a 3D skeleton with a pose, a heading and clothes, drawn limb by limb from far to near;
exactly the visible pixels are labelled. Front and back views differ in face, hair, neckline and
shirt front, so that left and right can be learnt.

    >>> from detectron2_bodyparts.readers.figures import render
    >>> render(0).image.shape
    (240, 320, 3)

Three coordinate frames are used. Body: x to the person's left, y down, z forward, origin between
the hips, unit the person's height. View: x to the right, y down, z towards the viewer. Image: pixel
indices (the centre of the first pixel is 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np

from ..schema import COCO_17, SIDES

_LIMBS = ("upper_arm", "lower_arm", "upper_leg", "lower_leg")
FINE_PARTS = ("head", "neck", "torso", *(f"{side}_{limb}" for limb in _LIMBS for side in SIDES))

_OCCLUDER = len(FINE_PARTS) + 1  # in a layer, after the parts' numbers

# People of whom less is visible are not drawn, so that every person in an image is labelled.
MIN_VISIBLE_PIXELS = 40
MIN_VISIBLE_SHARE = 0.25  # of the body inside the image
MIN_VISIBLE_TRUNK_SHARE = 0.35  # of head and torso, which tell front from back
_PLACING_TRIES = 6
# As in photographs, most people face the camera. At one half, a network trained from scratch takes
# long to learn sides: position says nothing about them until it can tell front from back.
_FRONT_SHARE = 0.65

# Fractions of the person's height, after the segment lengths of Drillis and Contini (1966) as given
# in Winter, "Biomechanics and Motor Control of Human Movement", figure 4.1; shoulders and hips are
# narrower than there by the radius of the limbs drawn around them.
_TORSO, _NECK, _SHOULDER, _HIP = 0.288, 0.052, 0.105, 0.065
_UPPER_ARM, _FOREARM, _HAND = 0.186, 0.146, 0.06
_THIGH, _SHIN, _FOOT = 0.245, 0.246, 0.1
_HEAD = np.array([0.06, 0.075, 0.066])  # half axes

# Positions on the head, in its half axes.
_HEAD_JOINTS = {
    "nose": (0.0, 0.15, 1.0),
    "left_eye": (0.38, -0.1, 0.9),
    "right_eye": (-0.38, -0.1, 0.9),
    "left_ear": (1.02, 0.05, 0.0),
    "right_ear": (-1.02, 0.05, 0.0),
}
_HIDDEN_DEPTH = -0.4  # the head hides keypoints of its own further back than this (half axes)

# The parts whose pixels show a keypoint: those that meet there.
_SHOWN_BY = {
    "shoulder": ("torso", "upper_arm"),
    "elbow": ("upper_arm", "lower_arm"),
    "wrist": ("lower_arm",),
    "hip": ("torso", "upper_leg"),
    "knee": ("upper_leg", "lower_leg"),
    "ankle": ("lower_leg",),
}

# Angles in degrees. Swing is forward, spread is away from the body; elbow and knee are relative to
# the preceding limb; stride swings the two sides in opposite directions.
_STANDING: dict[str, tuple[float, float]] = {
    "lean": (-4, 8),
    "stride": (0, 0),
    "arm_swing": (-15, 15),
    "arm_spread": (6, 24),
    "elbow_swing": (0, 35),
    "elbow_spread": (-8, 8),
    "leg_swing": (-5, 5),
    "leg_spread": (1, 12),
    "knee": (0, 8),
}
_POSES: tuple[dict[str, tuple[float, float]], ...] = (
    {},
    {"stride": (15, 35), "knee": (0, 40), "elbow_swing": (10, 60)},
    {"arm_spread": (60, 165), "elbow_spread": (-20, 70), "elbow_swing": (-10, 30)},
    {"arm_spread": (20, 165), "elbow_spread": (-30, 100), "leg_spread": (5, 30)},
    {"arm_spread": (38, 55), "elbow_spread": (-110, -80), "leg_spread": (5, 20)},
    {"arm_swing": (0, 40), "elbow_swing": (60, 120), "elbow_spread": (-50, 0)},
    {"leg_swing": (55, 95), "leg_spread": (10, 35), "knee": (70, 110), "elbow_swing": (10, 80)},
    {"lean": (20, 50), "arm_swing": (-10, 70), "knee": (5, 40), "leg_swing": (5, 30)},
)

# BGR
_SKINS = ((188, 205, 240), (150, 180, 228), (115, 150, 205), (75, 105, 165), (45, 65, 105))
_HAIRS = ((25, 22, 20), (35, 50, 75), (50, 80, 130), (95, 165, 215), (40, 70, 160), (165, 165, 165))


@dataclass(frozen=True)
class SyntheticConfig:
    """What is rendered.

    Args:
        image_size: (H, W) of the images.
        people: minimum and maximum number of people to place in an image; those for whom no
            position is found that leaves enough of everyone visible are left out.
        heights: minimum and maximum height of a standing person, as a fraction of H.
    """

    image_size: tuple[int, int] = (240, 320)
    people: tuple[int, int] = (1, 4)
    heights: tuple[float, float] = (0.4, 1.0)


@dataclass
class SyntheticPerson:
    """A rendered person.

    Attributes:
        body: boolean (H, W), the visible pixels.
        parts: every name of ``FINE_PARTS`` -> boolean (H, W), the visible pixels; they do not
            overlap and their union is the body. Hands are lower arms, feet lower legs.
        keypoints: (17, 3), x, y in pixel indices and v, in COCO-17's order. v: 2 visible, 1 hidden,
            0 outside the image (then x and y are 0).
        facing: which side of the trunk is visible.
    """

    body: np.ndarray
    parts: dict[str, np.ndarray]
    keypoints: np.ndarray
    facing: Literal["front", "back"]


@dataclass
class SyntheticPicture:
    """A rendered image: ``image`` is (H, W, 3) BGR uint8, ``people`` are ordered far to near."""

    image: np.ndarray
    people: list[SyntheticPerson]


def render(seed: int, config: SyntheticConfig = SyntheticConfig()) -> SyntheticPicture:  # noqa: B008
    """Render an image.

    The same seed and config give the same arrays, with the same versions of NumPy and OpenCV.
    """
    rng = np.random.default_rng(seed)
    image = _draw_background(rng, config.image_size).color[..., :3].copy()
    layers = _place_people(rng, config)
    owner = np.zeros(config.image_size, dtype=np.uint8)
    for number, layer in enumerate(layers, start=1):
        image *= 1 - layer.color[..., 3:]
        image += layer.color[..., :3]
        owner[layer.part > 0] = number
    people = [
        layer.seen_through(owner == number)
        for number, layer in enumerate(layers, start=1)
        if isinstance(layer, _PersonLayer)
    ]
    return SyntheticPicture(_photograph(rng, image), people)


def _number(part: str) -> int:
    return FINE_PARTS.index(part) + 1


@dataclass
class _Shape:
    """A shape and its surroundings, as (h, w) arrays over ``window`` of the image.

    ``along`` and ``across``: pixels down its axis and to the right of it; ``bulge``: ``across``
    relative to the half width, -1..1; ``distance``: to the outline in pixels, negative inside.
    """

    window: tuple[slice, slice]
    along: np.ndarray
    across: np.ndarray
    bulge: np.ndarray
    distance: np.ndarray


class _Layer:
    """A canvas: ``color`` (H, W, 4) is BGR 0..255 premultiplied by alpha, and alpha; ``part``
    (H, W) is 0 where nothing is drawn, else 1 + the index in ``FINE_PARTS``, or ``_OCCLUDER``."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.color = np.zeros((*size, 4), dtype=np.float32)
        self.part = np.zeros(size, dtype=np.uint8)

    def paint(self, shape: _Shape, color: np.ndarray, part: int) -> None:
        """Paint a shape in ``color``, (3,) or (h, w, 3), darker towards its edges."""
        light = (1 - 0.3 * np.square(shape.bulge)) * np.where(shape.distance > -1, 0.75, 1)
        alpha = np.clip(0.5 - shape.distance, 0, 1)[..., None]
        sheet = self.color[shape.window]
        sheet *= 1 - alpha
        sheet[..., :3] += alpha * color * light[..., None]
        sheet[..., 3:] += alpha
        self.part[shape.window][shape.distance < 0] = part

    def _axis(
        self, points: np.ndarray, margin: float, direction: np.ndarray
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The window around (n, 2) points; pixels along and across ``direction`` from the first."""
        height, width = self.part.shape
        low = np.floor(points.min(axis=0) - margin - 1).astype(int)
        high = np.ceil(points.max(axis=0) + margin + 2).astype(int)
        (x0, y0), (x1, y1) = (np.clip(corner, 0, (width, height)) for corner in (low, high))
        x = np.arange(x0, x1, dtype=np.float32) - float(points[0, 0])
        y = np.arange(y0, y1, dtype=np.float32)[:, None] - float(points[0, 1])
        dx, dy = _unit(direction).tolist()
        return (slice(y0, y1), slice(x0, x1)), x * dx + y * dy, x * dy - y * dx

    def capsule(self, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> _Shape:
        """A limb with round ends, from ``a`` to ``b`` (x, y)."""
        margin = max(radius_a, radius_b)
        window, along, across = self._axis(np.stack([a, b]), margin, b - a)
        length = float(np.hypot(*(b - a)))
        on_axis = np.clip(along, 0, length)
        radius = float(radius_a) + float(radius_b - radius_a) / max(length, 1e-3) * on_axis
        distance = np.hypot(along - on_axis, across) - radius
        return _Shape(window, along, across, np.clip(across / radius, -1, 1), distance)

    def hull(self, points: np.ndarray, rounding: float, direction: np.ndarray) -> _Shape:
        """The convex hull of (n, 2) points, grown by ``rounding`` pixels, with round corners."""
        window, along, across = self._axis(points, rounding, direction)
        down = _unit(direction)
        local = (points - points[0]) @ np.stack([down, (down[1], -down[0])], axis=1)
        corners = cv2.convexHull(local.astype(np.float32))[:, 0]
        edges = np.roll(corners, -1, axis=0) - corners
        edges /= np.linalg.norm(edges, axis=1, keepdims=True) + 1e-6
        # A soft maximum over the distances to the edges rounds the corners.
        softness = max(rounding, 1.0) / 3
        total = np.zeros_like(along)
        for corner, edge in zip(corners.tolist(), edges.tolist(), strict=True):
            outside = (along - corner[0]) * edge[1] - (across - corner[1]) * edge[0]
            total += np.exp(np.clip(outside / softness, -60, 60))
        distance = softness * np.log(total) - rounding
        half = float(np.abs(local[:, 1]).max()) + rounding
        return _Shape(window, along, across, np.clip(across / half, -1, 1), distance)

    def ellipse(self, center: np.ndarray, down: np.ndarray, wide: float, long: float) -> _Shape:
        """An ellipse with half axes ``wide`` and ``long``, the latter along ``down`` (x, y)."""
        window, along, across = self._axis(center[None], max(wide, long), down)
        distance = (np.hypot(along / long, across / wide) - 1) * min(wide, long)
        return _Shape(window, along, across, np.clip(across / wide, -1, 1), distance)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The (2,) vector scaled to length 1; (0, 1), straight down, if it has no length."""
    length = np.hypot(*vector)
    return vector / length if length > 1e-6 else np.array([0.0, 1.0])


def _random_color(rng: np.random.Generator, saturation: float) -> np.ndarray:
    return np.clip(rng.uniform(25, 230) + rng.normal(0, saturation, 3), 5, 250)


def _random_cloth(rng: np.random.Generator) -> np.ndarray:
    """A (32, 32, 3) tile in two colours; its first pixel serves as the main colour."""
    first, second = _random_color(rng, 50), _random_color(rng, 50)
    rows, columns = np.mgrid[:32, :32]
    half = int(rng.choice([2, 4, 8]))
    patterns = (
        np.zeros((32, 32)),
        rows // half % 2,
        columns // half % 2,
        (rows // half % 2 + columns // half % 2) / 2,
        (rows % 8 > 4) & (columns % 8 > 4),
        rng.uniform(0, 0.6, (32, 32)),
    )
    mix = patterns[rng.integers(len(patterns))][..., None]
    return (first + (second - first) * mix).astype(np.float32)


def _weave(cloth: np.ndarray, shape: _Shape, height: float) -> np.ndarray:
    """An (n, m, 3) tile repeated over a shape, 128 of its pixels per ``height``."""
    rows, columns = (np.floor(v * (128 / height)).astype(int) for v in (shape.along, shape.across))
    return cloth[rows % cloth.shape[0], columns % cloth.shape[1]]


def _rotation(axis: int, degrees: float) -> np.ndarray:
    """The (3, 3) matrix of a right-handed rotation about an axis."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(np.radians(degrees))
    matrix[j, i] = np.sin(np.radians(degrees))
    matrix[i, j] = -matrix[j, i]
    return matrix


def _limb_direction(sign: float, swing: float, spread: float) -> np.ndarray:
    """A limb's (3,) unit vector in the body frame; at 0, 0 it hangs down. Angles in degrees."""
    a, b = np.radians((swing, spread))
    return np.array([sign * np.sin(b), np.cos(a) * np.cos(b), np.sin(a) * np.cos(b)])


def _random_skeleton(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A pose: keypoints and other named points in the body frame; the head's (3, 3) rotation."""
    ranges = {**_STANDING, **_POSES[rng.integers(len(_POSES))]}
    lean = _rotation(0, -rng.uniform(*ranges["lean"])) @ _rotation(2, rng.normal(0, 4))
    stride = rng.uniform(*ranges["stride"]) * rng.choice([-1, 1])
    points = {"hips": np.zeros(3), "neck": lean @ (0, -_TORSO, 0)}
    for side, sign in (("right", -1.0), ("left", 1.0)):
        angle = {name: rng.uniform(*limits) for name, limits in ranges.items()}
        arm = angle["arm_swing"] - sign * stride, angle["arm_spread"]
        forearm = arm[0] + angle["elbow_swing"], arm[1] + angle["elbow_spread"]
        leg = angle["leg_swing"] + sign * stride, angle["leg_spread"]
        shin = leg[0] - angle["knee"], leg[1] / 2
        points[f"{side}_shoulder"] = points["neck"] + lean @ (sign * _SHOULDER, 0, 0)
        points[f"{side}_hip"] = np.array([sign * _HIP, 0, 0])
        for start, end, length, angles in (
            ("shoulder", "elbow", _UPPER_ARM, arm),
            ("elbow", "wrist", _FOREARM, forearm),
            ("wrist", "hand", _HAND, forearm),
            ("hip", "knee", _THIGH, leg),
            ("knee", "ankle", _SHIN, shin),
            ("ankle", "toe", _FOOT, (shin[0] + 75, 15)),
        ):
            step = length * _limb_direction(sign, *angles)
            points[f"{side}_{end}"] = points[f"{side}_{start}"] + step
    head = lean @ _rotation(1, rng.uniform(-20, 20)) @ _rotation(0, rng.uniform(-12, 12))
    points["head"] = points["neck"] + lean @ (0, -_NECK - 0.7 * _HEAD[1], 0)
    points["crown_back"] = points["head"] + head @ (0, 0, -0.03)
    points["hair_end"] = points["head"] + head @ (0, rng.uniform(0.09, 0.19), -0.05)
    for name, place in _HEAD_JOINTS.items():
        points[name] = points["head"] + head @ (_HEAD * place)
    return points, head


class _PersonLayer(_Layer):
    """One person on a layer of their own.

    Args:
        rng: determines pose, heading, appearance and position.
        size: (H, W) of the image.
        height: pixels from sole to crown when standing straight.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], height: float) -> None:
        super().__init__(size)
        self.height = height
        self.facing: Literal["front", "back"] = "front" if rng.random() < _FRONT_SHARE else "back"
        yaw = float(np.clip(rng.normal(0, 25), -50, 50)) + 180 * (self.facing == "back")
        self._heading = _rotation(1, yaw)
        tilt = _rotation(2, rng.normal(0, 6)) @ _rotation(0, -rng.uniform(4, 16))
        points, head = _random_skeleton(rng)
        self._head_view = tilt @ self._heading @ head
        # Depth without the camera's tilt, which would put all legs behind all arms.
        self._depth = {name: float(self._heading[2] @ p) for name, p in points.items()}
        flat = {name: (tilt @ self._heading @ p)[:2] * height for name, p in points.items()}
        offset = self._random_place(rng, np.array(list(flat.values())))
        self._xy = {name: xy + offset for name, xy in flat.items()}
        self._draw(rng)

    def seen_through(self, visible: np.ndarray) -> SyntheticPerson:
        """The person as labelled; ``visible``: boolean (H, W), the pixels not hidden by others."""
        parts = {name: visible & (self.part == _number(name)) for name in FINE_PARTS}
        keypoints = np.zeros((len(COCO_17), 3))
        for row, joint in zip(keypoints, COCO_17.keypoints, strict=True):
            at = tuple(np.rint(self._xy[joint][::-1]).astype(int))
            if not (0 <= at[0] < visible.shape[0] and 0 <= at[1] < visible.shape[1]):
                continue
            if joint in _HEAD_JOINTS:
                turned_away = (self._head_view @ _HEAD_JOINTS[joint])[2] < _HIDDEN_DEPTH
                seen = parts["head"][at] and not turned_away
            else:
                side, place = joint.split("_")
                names = [p if p == "torso" else f"{side}_{p}" for p in _SHOWN_BY[place]]
                seen = any(parts[name][at] for name in names)
            row[:] = *self._xy[joint], 2 if seen else 1
        return SyntheticPerson(visible, parts, keypoints, self.facing)

    def _random_place(self, rng: np.random.Generator, points: np.ndarray) -> np.ndarray:
        """(x, y) offset of the person's (n, 2) points. The nearer, the lower; sometimes the image
        border cuts off the legs or a side, never the top of the head."""
        rows, columns = self.part.shape
        (_, top), (_, bottom) = points.min(axis=0), points.max(axis=0)
        lowest = 0.6 * rows + 0.38 * self.height + rng.uniform(-0.1, 0.02) * rows
        if rng.random() < 0.25:
            lowest += rng.uniform(0, 0.5) * self.height
        y = max(lowest - bottom, 2 * _HEAD[1] * self.height - top)
        return np.array([rng.uniform(0.06, 0.94) * columns, y])

    def _draw(self, rng: np.random.Generator) -> None:
        skin = np.array([[_SKINS[rng.integers(len(_SKINS))]]]) * rng.uniform(0.92, 1.06)
        # With hair of the skin's colour a face would look like the back of a head.
        hairs = [h for h in _HAIRS if np.abs(skin - h).max() > 70]
        hair = np.array([[hairs[rng.integers(len(hairs))]]], dtype=float)
        shirt, trousers = _random_cloth(rng), _random_cloth(rng)
        shoes = _random_color(rng, 30)[None, None]
        sleeve = rng.choice([0.55, 1.0, 2.0])  # where it ends: upper arm 0..1, forearm 1..2
        leg = rng.choice([0.8, 1.95], p=[0.3, 0.7])
        build = rng.uniform(0.9, 1.2)
        strokes: list[tuple[float, Callable[[], None]]] = []

        def limb(
            start: str,
            end: str,
            radii: tuple[float, float],
            cloth: np.ndarray,
            part: str,
            bare_from: float = np.inf,
            nearer: float = 0.0,
        ) -> None:
            def stroke() -> None:
                a, b = self._xy[start], self._xy[end]
                shape = self.capsule(a, b, *(r * build * self.height for r in radii))
                color = _weave(cloth, shape, self.height)
                color[shape.along / max(np.hypot(*(b - a)), 1e-3) > bare_from] = skin[0]
                self.paint(shape, color, _number(part))

            strokes.append(((self._depth[start] + self._depth[end]) / 2 + nearer, stroke))

        for s in SIDES:
            upper, lower = f"{s}_upper_arm", f"{s}_lower_arm"
            limb(f"{s}_shoulder", f"{s}_elbow", (0.034, 0.027), shirt, upper, sleeve, 0.012)
            limb(f"{s}_elbow", f"{s}_wrist", (0.027, 0.019), shirt, lower, sleeve - 1, 0.014)
            limb(f"{s}_wrist", f"{s}_hand", (0.02, 0.022), skin, lower, nearer=0.013)
            upper, lower = f"{s}_upper_leg", f"{s}_lower_leg"
            limb(f"{s}_hip", f"{s}_knee", (0.056, 0.04), trousers, upper, leg, -0.02)
            limb(f"{s}_knee", f"{s}_ankle", (0.04, 0.026), trousers, lower, leg - 1, -0.022)
            limb(f"{s}_ankle", f"{s}_toe", (0.028, 0.024), shoes, lower, nearer=-0.015)
            limb(f"{s}_ear", f"{s}_ear", (0.014, 0.014), skin, "head", nearer=0.01)
        limb("neck", "head", (0.032, 0.03), skin, "neck", nearer=-0.03)
        if rng.random() < 0.4:
            limb("crown_back", "hair_end", (0.05, 0.042), hair, "head")
        strokes.append((self._depth["head"], partial(self._draw_head, skin, hair)))
        torso = partial(self._draw_torso, rng, build, shirt, trousers, skin)
        strokes.append(((self._depth["neck"] + self._depth["hips"]) / 2, torso))
        for _, stroke in sorted(strokes, key=lambda s: s[0]):
            stroke()

    def _draw_head(self, skin: np.ndarray, hair: np.ndarray) -> None:
        """An ellipsoid, each pixel coloured by the point of the head that it shows."""
        down = self._head_view[:2, 1]
        wide, long = _HEAD[:2] * self.height
        shape = self.ellipse(self._xy["head"], down, wide, long)
        (dx, dy), right, low = _unit(down), shape.across / wide, shape.along / long
        nearer = np.sqrt(np.maximum(1 - right**2 - low**2, 0))
        view = np.stack([right * dy + low * dx, low * dy - right * dx, nearer], axis=-1)
        x, y, z = np.moveaxis(view @ self._head_view, -1, 0)
        x = np.abs(x)
        from_eye = np.where(z > 0, np.hypot(x - 0.38, y + 0.1), 1)
        color = np.tile(skin, (*x.shape, 1))
        color[(z > 0) & (x < 0.1) & (np.abs(y - 0.14) < 0.14)] *= 0.75  # nose
        color[(z > 0) & (x < 0.32) & (np.abs(y - 0.52) < 0.08)] = (50, 50, 160)  # mouth
        color[from_eye < 0.2] = 235
        color[from_eye < 0.13] = 25
        color[(y < -0.45) | ((z < 0.1) & (y < 0.5))] = hair[0]
        self.paint(shape, color, _number("head"))

    def _draw_torso(
        self,
        rng: np.random.Generator,
        build: float,
        shirt: np.ndarray,
        trousers: np.ndarray,
        skin: np.ndarray,
    ) -> None:
        """Shirt and waistband. The shirt's front and back differ in one of four styles."""
        top, bottom = self._xy["neck"], self._xy["hips"]
        shoulders = np.array([0.9 * self._xy[f"{s}_shoulder"] + 0.1 * top for s in SIDES])
        hips = np.array([self._xy[f"{s}_hip"] for s in SIDES])
        collar = top + 0.35 * (shoulders - top) + 0.08 * (top - bottom)
        rounding = 0.034 * build * self.height
        shape = self.hull(np.stack([top, *shoulders, *hips, *collar]), rounding, bottom - top)

        # Each pixel's position around the trunk, a cylinder of radius 1, and down it from the neck.
        view = np.stack([shape.bulge, np.sqrt(1 - shape.bulge**2)], axis=-1)
        x, z = np.moveaxis(view @ self._heading[::2, ::2], -1, 0)
        x, front = np.abs(x), z > 0
        down = shape.along / max(float(np.hypot(*(bottom - top))), 1.0)
        color = _weave(shirt, shape, self.height)
        cloth = _random_cloth(rng)
        other = _weave(cloth, shape, self.height)
        style = rng.integers(4)
        if style == 0:  # buttons; a collar
            color[front & (x < 0.07) & (down * 9 % 1 < 0.5)] = 240 * (shirt[0, 0].mean() < 128)
            color[~front & (down < 0.02)] = cloth[0, 0]
        elif style == 1:  # an open jacket; a seam
            np.copyto(color, other, where=(front & (x < 0.3))[..., None])
            color[~front & (x < 0.04)] *= 0.6
        elif style == 2:  # a print; nothing
            printed = front & (x < 0.45) & (np.abs(down - 0.4) < 0.15)
            np.copyto(color, other, where=printed[..., None])
        else:  # a rucksack's straps; the rucksack
            color[front & (np.abs(x - 0.5) < 0.1) & (down < 0.6)] = cloth[0, 0]
            sack = ~front & (x < 0.6) & (np.abs(down - 0.35) < 0.35)
            np.copyto(color, other * 0.8, where=sack[..., None])
        color[front & (down < rng.uniform(0.1, 0.3) * (1 - x / 0.45))] = skin[0]
        color[down > rng.uniform(0.82, 1.1)] = trousers[0, 0]
        self.paint(shape, color, _number("torso"))


def _place_people(rng: np.random.Generator, config: SyntheticConfig) -> list[_Layer]:
    """People from far to near, with occluders behind, between or in front of them."""
    size = config.image_size
    people: list[_PersonLayer] = []
    for _ in range(rng.integers(config.people[0], config.people[1] + 1)):
        for _ in range(_PLACING_TRIES):
            person = _PersonLayer(rng, size, size[0] * rng.uniform(*config.heights))
            trial = sorted([*people, person], key=lambda layer: layer.height)
            if _all_visible(trial):
                people = trial
                break
    layers: list[_Layer] = list(people)
    for _ in range(rng.integers(3)):
        position = rng.integers(len(layers) + 1)
        with_occluder = [*layers[:position], _draw_occluder(rng, size), *layers[position:]]
        if _all_visible(with_occluder):
            layers = with_occluder
    return layers


def _all_visible(layers: Sequence[_Layer]) -> bool:
    """Whether enough of every person is visible behind the nearer layers."""
    free = np.ones_like(layers[0].part, dtype=bool)
    for layer in reversed(layers):
        if isinstance(layer, _PersonLayer):
            body = layer.part > 0
            trunk = (layer.part == _number("head")) | (layer.part == _number("torso"))
            if (
                np.count_nonzero(body & free) < MIN_VISIBLE_PIXELS
                or np.count_nonzero(body & free) < MIN_VISIBLE_SHARE * np.count_nonzero(body)
                or np.count_nonzero(trunk & free)
                < MIN_VISIBLE_TRUNK_SHARE * np.count_nonzero(trunk)
            ):
                return False
        free &= layer.part == 0
    return True


def _draw_occluder(rng: np.random.Generator, size: tuple[int, int]) -> _Layer:
    """A pole or a box."""
    rows, columns = size
    layer = _Layer(size)
    x, down = rng.uniform(0, columns), np.array([rng.normal(0, 0.05), 1.0])
    if rng.random() < 0.5:
        radius = rng.uniform(0.01, 0.025) * columns
        top = np.array([x, -radius])
        shape = layer.capsule(top, top + down * 1.1 * rows, radius, radius)
    else:
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        half = rng.uniform(0.05, 0.14, 2) * columns
        shape = layer.hull((x, rng.uniform(0.7, 1) * rows) + half * corners, 1.0, down)
    layer.paint(shape, _weave(_random_cloth(rng), shape, rows), _OCCLUDER)
    return layer


def _draw_background(rng: np.random.Generator, size: tuple[int, int]) -> _Layer:
    """A wall and a floor, objects, and limbs that belong to nobody."""
    rows, columns = size
    layer = _Layer(size)
    layer.color[..., 3] = 1
    image = np.empty((rows, columns, 3), dtype=np.float32)
    horizon = int(rows * rng.uniform(0.35, 0.7))
    for plane in (image[:horizon], image[horizon:]):
        ramp = np.linspace(0, 0.5, len(plane))[:, None, None]
        plane[:] = (1 - ramp) * _random_color(rng, 20) + ramp * _random_color(rng, 20)
    for cells in (4, 40):
        noise = rng.normal(0, rng.uniform(2, 14), (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(4, 16)):
        points = rng.uniform((0, 0), (columns, rows)) + rng.normal(0, 0.08 * columns, (4, 2))
        first, second, *_ = points = points.astype(int).tolist()
        color, kind = _random_color(rng, 40), rng.integers(4)
        if kind == 0:
            cv2.fillPoly(image, [np.array(points)], color)
        elif kind < 3:
            cv2.rectangle(image, first, second, color, (-1, 2)[kind - 1])
        else:
            cv2.line(image, first, second, color, int(rng.integers(1, 5)), cv2.LINE_AA)
    layer.color[..., :3] = image
    for _ in range(rng.integers(8)):
        a, radius = rng.uniform((0, 0), (columns, rows)), rng.uniform(0.01, 0.04) * rows
        shape = layer.capsule(a, a + rng.normal(0, 4 * radius, 2), radius, 0.8 * radius)
        skin = np.array(_SKINS[rng.integers(len(_SKINS))])
        cloth = _weave(_random_cloth(rng), shape, rows)
        layer.paint(shape, cloth if rng.random() < 0.5 else skin, 0)
    return layer


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Apply lighting, blur, noise and JPEG compression: float BGR (H, W, 3) -> uint8."""
    side = rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, image.shape[1])[:, None]
    light = (1 + side) * rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
    image = cv2.GaussianBlur(image * light.astype(np.float32), (0, 0), rng.uniform(0.3, 0.8))
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 7))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96)))
    return cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
