"""People on a picture: parts in the schema's colours, outlines, skeletons.

Pictures are BGR uint8 (H, W, 3); what is passed in is never modified. Smaller people are drawn in
front of larger ones. The person's right side of the skeleton is drawn in orange, the left in cyan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .people import People
from .records import decode_mask, mask_box
from .schema import BODY, SIDES, KeypointSchema, PartSchema

# Below this a joint is left out, as Detectron2's Visualizer does by default.
JOINT_THRESHOLD = 0.05

_RIGHT_COLOR = (0, 130, 255)
_LEFT_COLOR = (255, 220, 0)
_MIDDLE_COLOR = (255, 255, 255)
_DARK = (30, 30, 30)
_LIGHT = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.4
_HATCH_PERIOD = 8  # pixels from one stripe of an ignored region to the next
_SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV's line drawing takes


@dataclass
class _Figure:
    """What both kinds of people come down to. Masks are crops whose first pixel is ``origin``."""

    box: Sequence[float]  # XYXY
    origin: tuple[int, int]  # column, row
    silhouette: np.ndarray | None  # (h, w) bool
    labels: np.ndarray | None  # (h, w) uint8, index into the palette
    ignored: np.ndarray | None  # (h, w) bool, hatched
    joints: np.ndarray  # (K, 2), continuous
    visibility: np.ndarray  # (K,): 0 left out, 1 hollow, 2 filled
    note: str = ""

    @property
    def area(self) -> float:
        """Of the silhouette in pixels, else of the box."""
        if self.silhouette is not None:
            return float(np.count_nonzero(self.silhouette))
        return self.box_area

    @property
    def box_area(self) -> float:
        x0, y0, x1, y1 = self.box
        return float(max(x1 - x0, 0) * max(y1 - y0, 0))

    def region(self, plane: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The view of an (H, W, ...) plane that the crop ``mask`` covers."""
        x, y = self.origin
        return plane[y : y + mask.shape[0], x : x + mask.shape[1]]


def draw_people(
    image_bgr: np.ndarray,
    people: People,
    *,
    parts: bool = True,
    skeleton: bool = True,
    boxes: bool = False,
    alpha: float = 0.5,
    joint_threshold: float = JOINT_THRESHOLD,
) -> np.ndarray:
    """Draw predictions.

    Args:
        image_bgr: (H, W, 3) uint8, the picture that ``people`` were found in.
        people: what to draw; use `People.confident` first.
        parts: paint the part masks.
        skeleton: draw joints and bones.
        boxes: draw boxes and scores.
        alpha: how much the parts cover the picture, 0..1.
        joint_threshold: joints of a smaller score are left out.

    Returns:
        A new (H, W, 3) uint8 picture.

    Raises:
        ValueError: the picture is not (H, W, 3) uint8 of the size the people were found in.
    """
    _check_image(image_bgr)
    if image_bgr.shape[:2] != people.image_size:
        raise ValueError(f"image: expected {people.image_size}, found {image_bgr.shape[:2]}")
    figures = []
    for person in people:
        if skeleton and person.keypoints is not None:
            joints = person.keypoints[:, :2]
            visibility = np.where(person.keypoints[:, 2] >= joint_threshold, 2, 0)
        else:
            joints = np.zeros((len(people.keypoint_schema), 2))
            visibility = np.zeros(len(joints))
        figure = _Figure(
            box=person.box,
            origin=(0, 0),
            silhouette=None,
            labels=None,
            ignored=None,
            joints=joints,
            visibility=visibility,
            note=f"{person.score:.2f}" if boxes else "",
        )
        if parts and person.part_probs is not None:
            x0, y0, figure.labels, figure.silhouette = person.crop()
            figure.origin = (x0, y0)
        figures.append(figure)
    return _draw(image_bgr, figures, people.part_schema, people.keypoint_schema, boxes, alpha)


def draw_annotations(
    image_bgr: np.ndarray,
    annotations: Sequence[Mapping[str, Any]],
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    *,
    boxes: bool = True,
    alpha: float = 0.5,
) -> np.ndarray:
    """Draw the annotations of one picture, in the records' form.

    Joints labelled as hidden (v = 1) are hollow, visible ones (v = 2) filled. Crowds and a person's
    ignored pixels are hatched. Where only the union of two sided parts is known, it has the mean of
    their colours. A line above the person names the channels that are unknown, derived or unsided.

    Args:
        image_bgr: (H, W, 3) uint8.
        annotations: as in `Records.annotations`, masks of the picture's size.
        part_schema, keypoint_schema: those of the records.
        boxes: draw boxes.
        alpha: how much the parts cover the picture, 0..1.

    Returns:
        A new (H, W, 3) uint8 picture.
    """
    _check_image(image_bgr)
    figures = [_annotation_figure(a, part_schema, image_bgr.shape[:2]) for a in annotations]
    return _draw(image_bgr, figures, part_schema, keypoint_schema, boxes, alpha)


def legend(part_schema: PartSchema, height: int) -> np.ndarray:
    """The schema's colours and names, one below the other.

    Returns:
        A (height, width, 3) uint8 picture as wide as its text needs, to be put beside a drawing.

    Raises:
        ValueError: there are more channels than rows of pixels.
    """
    row = min(height // len(part_schema.channels), 24)
    if row == 0:
        raise ValueError(f"expected a height of {len(part_schema.channels)} at least: {height}")
    scale = row / 45
    widths = [cv2.getTextSize(name, _FONT, scale, 1)[0][0] for name in part_schema.channels]
    strip = np.full((height, max(widths) + 3 * row, 3), 255, dtype=np.uint8)
    for i, (name, color) in enumerate(zip(part_schema.channels, part_schema.colors, strict=True)):
        top = i * row
        swatch = strip[top + row // 6 : top + row - row // 6, row // 2 : row * 3 // 2]
        swatch[:] = color[::-1]
        _text(strip, name, (row * 2, top + row * 2 // 3), _DARK, scale)
    return strip


def grid(images: Sequence[np.ndarray], columns: int, cell: tuple[int, int]) -> np.ndarray:
    """A page of pictures, row by row, each shrunk or enlarged to fit its cell, its shape kept.

    Args:
        images: (h, w, 3) uint8, of any sizes.
        columns: cells in a row, at least 1.
        cell: (height, width) of a cell in pixels.

    Returns:
        (rows * cell height, columns * cell width, 3) uint8; what no picture covers is dark.
    """
    height, width = cell
    rows = -(-len(images) // columns)
    page = np.full((rows * height, columns * width, 3), _DARK, dtype=np.uint8)
    for i, image in enumerate(images):
        _check_image(image)
        factor = min(height / image.shape[0], width / image.shape[1])
        h, w = (max(round(n * factor), 1) for n in image.shape[:2])
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        top = i // columns * height + (height - h) // 2
        left = i % columns * width + (width - w) // 2
        page[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=method)
    return page


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, found {image.shape} {image.dtype}")


def _annotation_figure(
    annotation: Mapping[str, Any], schema: PartSchema, shape: tuple[int, int]
) -> _Figure:
    x, y, w, h = annotation["bbox"]
    joints = np.asarray(annotation["keypoints"], dtype=float).reshape(-1, 3)
    figure = _Figure(
        box=(x, y, x + w, y + h),
        origin=(0, 0),
        silhouette=None,
        labels=None,
        ignored=None,
        joints=joints[:, :2] + 0.5,
        visibility=joints[:, 2],
    )
    body = decode_mask(annotation["segmentation"]) if "segmentation" in annotation else None
    if annotation["iscrowd"]:
        figure.ignored, figure.note = body, "ignored"
        return figure

    names = [*schema.channels, *schema.unions]
    labels = np.zeros(shape, dtype=np.uint8)
    masks = {**annotation.get("unsided", {}), **annotation["part_segmentation"]}
    for name, rle in masks.items():
        labels[decode_mask(rle)] = names.index(name)
    silhouette = labels > 0 if body is None else body
    box = mask_box(silhouette)
    if box is not None:
        x0, y0, x1, y1 = box
        figure.origin = (x0, y0)
        figure.labels = labels[y0:y1, x0:x1]
        figure.silhouette = silhouette[y0:y1, x0:x1]
        if "ignore_segmentation" in annotation:
            figure.ignored = decode_mask(annotation["ignore_segmentation"])[y0:y1, x0:x1]
    figure.note = _state_note(annotation["part_state"], schema)
    return figure


def _state_note(states: Mapping[str, str], schema: PartSchema) -> str:
    unsided = [name for name in schema.unions if name in states]
    unknown = [
        name
        for name in schema.channels
        if name not in states and not any(schema.index(name) in schema.unions[u] for u in unsided)
    ]
    derived = [name for name, state in states.items() if state == "derived"]
    if set(unknown) >= set(schema.parts) and schema.parts:
        unknown = ["all parts", *([BODY] if BODY in unknown else [])]
    groups = {"unknown": unknown, "unsided": unsided, "derived": derived}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in groups.items() if names)


def _draw(
    image: np.ndarray,
    figures: list[_Figure],
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    boxes: bool,
    alpha: float,
) -> np.ndarray:
    figures = sorted(figures, key=lambda figure: -figure.area)
    drawn = _paint_parts(image, figures, part_schema, alpha)
    for figure in figures:
        if figure.ignored is not None:
            _hatch(figure.region(drawn, figure.ignored), figure.ignored)
        width = _line_width(figure)
        if boxes:
            corners = [_fixed_point(figure.box[i], figure.box[i + 1]) for i in (0, 2)]
            cv2.rectangle(drawn, *corners, _LIGHT, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        _draw_skeleton(drawn, figure, keypoint_schema, width)
    for figure in figures:  # last, so that no figure hides another's words
        _draw_note(drawn, figure)
    return drawn


def _paint_parts(
    image: np.ndarray, figures: list[_Figure], schema: PartSchema, alpha: float
) -> np.ndarray:
    """A copy of the picture with the masks blended in once, whoever is in front, and outlined."""
    owner = np.zeros(image.shape[:2], dtype=np.int32)
    labels = np.zeros(image.shape[:2], dtype=np.uint8)
    for i, figure in enumerate(figures, start=1):
        if figure.silhouette is not None:
            mask = figure.silhouette
            figure.region(owner, mask)[mask] = i
            figure.region(labels, mask)[mask] = figure.labels[mask]
    drawn = image.copy()
    painted = (owner > 0).astype(np.uint8)
    if painted.any():
        colors = cv2.applyColorMap(labels, _palette(schema))
        cv2.copyTo(cv2.addWeighted(colors, alpha, image, 1 - alpha, 0), painted, drawn)
        drawn[_edges(labels)] = _DARK
        drawn[_edges(owner)] = _LIGHT
    return drawn


def _palette(schema: PartSchema) -> np.ndarray:
    """(256, 1, 3) BGR: the channels' colours, then those of the unions."""
    palette = np.zeros((256, 1, 3), dtype=np.uint8)
    rgb = [*schema.colors]
    rgb += [np.mean([schema.colors[i] for i in pair], axis=0) for pair in schema.unions.values()]
    palette[: len(rgb), 0] = np.asarray(rgb)[:, ::-1]
    return palette


def _edges(plane: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels that differ from the one below or to the right of them."""
    edges = np.zeros(plane.shape, dtype=bool)
    edges[:, :-1] |= plane[:, :-1] != plane[:, 1:]
    edges[:-1] |= plane[:-1] != plane[1:]
    return edges


def _hatch(region: np.ndarray, mask: np.ndarray) -> None:
    """Dark and light diagonal stripes on the masked pixels of an (h, w, 3) view."""
    rows, columns = np.indices(mask.shape, sparse=True)
    phase = (rows + columns) % _HATCH_PERIOD
    region[mask & (phase == 0)] = _DARK
    region[mask & (phase == 1)] = _LIGHT


def _line_width(figure: _Figure) -> int:
    """One pixel for a person of about 80 pixels, and in proportion."""
    return int(np.clip(round(figure.box_area**0.5 / 80), 1, 6))


def _fixed_point(x: float, y: float) -> tuple[int, int]:
    """Continuous coordinates as OpenCV's line drawing takes them: pixel indices, fixed-point."""
    return tuple(round((float(v) - 0.5) * (1 << _SUBPIXEL_BITS)) for v in (x, y))


def _draw_skeleton(image: np.ndarray, figure: _Figure, schema: KeypointSchema, width: int) -> None:
    points = {k: _fixed_point(*figure.joints[k]) for k in np.flatnonzero(figure.visibility)}
    bones = [(a, b) for a, b in schema.bones if a in points and b in points]
    # All dark rims first, so that no rim cuts a neighbouring bone.
    for grow, rim in ((2, True), (0, False)):
        for a, b in bones:
            color = _DARK if rim else _side_color(schema.keypoints[a], schema.keypoints[b])
            cv2.line(image, points[a], points[b], color, width + grow, cv2.LINE_AA, _SUBPIXEL_BITS)
    radius = (width + 1) << _SUBPIXEL_BITS
    for k, point in points.items():
        color = _side_color(schema.keypoints[k])
        middle, edge = (_DARK, color) if figure.visibility[k] == 1 else (color, _DARK)
        cv2.circle(image, point, radius, middle, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
        cv2.circle(image, point, radius, edge, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _side_color(*joints: str) -> tuple[int, int, int]:
    """That of the one side which the names mention; of both or none: the middle's."""
    sides = {side for side in SIDES for name in joints if name.startswith(side + "_")}
    colors = {"right": _RIGHT_COLOR, "left": _LEFT_COLOR}
    return colors[sides.pop()] if len(sides) == 1 else _MIDDLE_COLOR


def _draw_note(image: np.ndarray, figure: _Figure) -> None:
    """The note on a dark ground above the box, moved into the picture where it would leave it."""
    if not figure.note:
        return
    (width, height), below = cv2.getTextSize(figure.note, _FONT, _FONT_SCALE, 1)
    x = int(np.clip(figure.box[0], 0, max(image.shape[1] - width, 0)))
    y = int(np.clip(figure.box[1] - below, height, image.shape[0] - below))
    image[max(y - height - 1, 0) : y + below, x : x + width] = _DARK
    _text(image, figure.note, (x, y), _LIGHT, _FONT_SCALE)


def _text(
    image: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int], scale: float
) -> None:
    cv2.putText(image, text, at, _FONT, scale, color, 1, cv2.LINE_AA)
