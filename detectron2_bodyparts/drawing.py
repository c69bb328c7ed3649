"""Draw people: parts in the schema's colours, outlines, skeletons.

Images are BGR uint8 (H, W, 3); inputs are not modified, except by `paint_state`. Smaller people are
drawn in front of larger ones. The person's right side of the skeleton is orange, the left cyan.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np

from .people import People
from .records import decode_mask, mask_box
from .schema import BODY, SIDES, KeypointSchema, PartSchema

# Keypoints below this score are not drawn; Detectron2's Visualizer has the same default.
JOINT_THRESHOLD = 0.05

# The states of a person's channel: see `channel_states`.
CHANNEL_STATES = ("known", "derived", "unsided", "empty", "unknown")

_RIGHT_COLOR = (0, 130, 255)
_LEFT_COLOR = (255, 220, 0)
_MIDDLE_COLOR = (255, 255, 255)
_DARK = (30, 30, 30)
_LIGHT = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.4
_STRIPE_WIDTH = 4  # columns per stripe where the side is unknown
_HATCH_PERIOD = 8  # pixels between the stripes of an ignore region
_SQUARE_SIDES = (3, 9)  # minimum and maximum side, in pixels, of the square for a channel's state
_CAPTION_HEIGHT = 16
_WARNING_COLOR = (40, 170, 250)
_BODY_BIT, _IGNORE_BIT = 64, 128  # next to six bits of part index, as in `structures`
_SUBPIXEL_BITS = 4  # fractional bits of the fixed-point coordinates for OpenCV's line drawing

_LegendRow = tuple[str, Callable[[np.ndarray], None]]  # text, and a function painting its swatch


@dataclass
class _Figure:
    """A person to draw, predicted or annotated. Masks are crops that begin at ``origin``."""

    box: Sequence[float]  # XYXY
    origin: tuple[int, int]  # column, row
    silhouette: np.ndarray | None  # (h, w) bool
    labels: np.ndarray | None  # (h, w) uint8, index into the palette
    ignored: np.ndarray | None  # (h, w) bool, hatched
    joints: np.ndarray  # (K, 2), continuous
    visibility: np.ndarray  # (K,): 0 not drawn, 1 hollow, 2 filled
    note: str = ""
    states: dict[str, str] = field(default_factory=dict)  # channel -> state, drawn above the box

    @property
    def area(self) -> float:
        """The silhouette's area in pixels, or else the box's."""
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
    """Draw predictions, with their track IDs if there are any.

    Args:
        image_bgr: (H, W, 3) uint8, the image in which ``people`` were detected.
        people: the people to draw; apply `People.confident` first.
        parts: paint the part masks.
        skeleton: draw keypoints and bones.
        boxes: draw boxes and scores.
        alpha: opacity of the parts, 0..1.
        joint_threshold: keypoints with a lower score are not drawn.

    Returns:
        A new (H, W, 3) uint8 image.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, or not of the size of ``people.image_size``.
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
        words = [] if person.id is None else [f"#{person.id}"]
        if boxes:
            words.append(f"{person.score:.2f}")
        figure = _Figure(
            box=person.box,
            origin=(0, 0),
            silhouette=None,
            labels=None,
            ignored=None,
            joints=joints,
            visibility=visibility,
            note=" ".join(words),
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
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Draw the annotations of one image, in the format of the records.

    Occluded keypoints (v = 1) are hollow, visible ones (v = 2) filled. Crowds and a person's
    ignored pixels are hatched. Where only the union of two sided parts is known, it has stripes in
    both colours. A strip above each person has one square per channel, in the schema's order, which
    shows the channel's state as `paint_state` does.

    Args:
        image_bgr: (h, w, 3) uint8: the image, or a resized copy of it.
        annotations: as in `Records.annotations`, with masks of the image's size.
        part_schema, keypoint_schema: those of the records.
        boxes: draw boxes.
        alpha: opacity of the parts, 0..1.
        size: (H, W) of the image if ``image_bgr`` is a resized copy.

    Returns:
        A new (h, w, 3) uint8 image.
    """
    _check_image(image_bgr)
    shape = image_bgr.shape[:2]
    size = shape if size is None else size
    figures = [_annotation_figure(a, part_schema, size, shape) for a in annotations]
    return _draw(image_bgr, figures, part_schema, keypoint_schema, boxes, alpha)


def channel_states(annotation: Mapping[str, Any], schema: PartSchema) -> dict[str, str]:
    """What is known of each channel of a person, one of ``CHANNEL_STATES``:

    ``known``, ``derived``: it has a mask, labelled or derived from other labels. ``empty``: it is
    known or derived, without a mask. ``unsided``: only its union with the channel of the other side
    is known. ``unknown``: nothing is known.

    Args:
        annotation: a person's annotation, as in `Records.annotations`.
        schema: that of the records.

    Returns:
        channel -> state, in the schema's order.
    """
    given, masks = annotation["part_state"], annotation["part_segmentation"]
    unsided = {i for union, pair in schema.unions.items() if union in given for i in pair}
    states = {}
    for i, channel in enumerate(schema.channels):
        if channel in given:
            has_mask = channel in masks or (channel == BODY and "segmentation" in annotation)
            states[channel] = given[channel] if has_mask else "empty"
        else:
            states[channel] = "unsided" if i in unsided else "unknown"
    return states


def paint_state(
    region: np.ndarray, state: str, color: Sequence[int], other: Sequence[int] | None = None
) -> None:
    """Paint a channel's state into a rectangular view of an image.

    Known channels are filled, derived ones half filled (lower left), unsided ones striped in the
    colours of both sides, unknown ones hollow; those known to be empty are a horizontal bar.

    Args:
        region: (h, w, 3) uint8, modified in place.
        state: one of ``CHANNEL_STATES``.
        color: the channel's colour, BGR.
        other: the colour of its counterpart on the other side; needed for ``unsided`` only.
    """
    height, width = region.shape[:2]
    if state == "empty":
        region[height * 2 // 5 : height - height * 2 // 5] = color
        return
    region[[0, -1]] = color
    region[:, [0, -1]] = color
    if state == "known":
        region[:] = color
    elif state == "derived":
        # Sawteeth on a bar, one triangle on a square.
        rows, columns = np.indices((height, width), sparse=True)
        region[columns % height <= rows] = color
    elif state == "unsided":
        region[:] = np.where(_stripes((height, width))[..., None], color, other)


def side_colors(
    schema: PartSchema, channel: str
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """BGR of the channel and of its counterpart; an unsided channel is its own counterpart."""
    index = schema.index(channel)
    return tuple(schema.colors[i][::-1] for i in (index, schema.flip_permutation[index]))


def annotation_cell(
    image_bgr: np.ndarray | None,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    cell: tuple[int, int],
    *,
    fault: str = "",
) -> np.ndarray:
    """Draw an image's annotations in one cell of a page, with the end of its file name below.

    The name is on a warning colour if the image is not exhaustively labelled.

    Args:
        image_bgr: (H, W, 3) uint8, or None for an empty cell.
        image: the image's entry in `Records.images`.
        annotations: its annotations.
        part_schema, keypoint_schema: those of the records.
        cell: (height, width) in pixels, large enough for the caption and an image.
        fault: message written into the cell, wrapped.

    Returns:
        (*cell, 3) uint8.
    """
    height, width = cell
    page = np.full((height, width, 3), _DARK, dtype=np.uint8)
    if image_bgr is not None:
        small = _fit(image_bgr, (height - _CAPTION_HEIGHT, width))
        size = (image["height"], image["width"])
        drawn = draw_annotations(small, annotations, part_schema, keypoint_schema, size=size)
        top = (height - _CAPTION_HEIGHT - drawn.shape[0]) // 2
        left = (width - drawn.shape[1]) // 2
        page[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    for i, line in enumerate(textwrap.wrap(fault, width // 7)):
        _text(page, line, (6, 20 + 16 * i), _WARNING_COLOR, _FONT_SCALE)

    caption = page[height - _CAPTION_HEIGHT :]
    warning = "" if image["exhaustive"] else "not exhaustive"
    caption[:] = _WARNING_COLOR if warning else _DARK
    color = _DARK if warning else _LIGHT
    left = width - 4 - _text_width(warning)
    _text(caption, warning, (left, _CAPTION_HEIGHT - 5), color, _FONT_SCALE)
    name = image["file_name"]
    while _text_width(name) > left - 8 and len(name) > 1:
        name = name[1:]  # the end distinguishes images, not the folder
    _text(caption, name, (4, _CAPTION_HEIGHT - 5), color, _FONT_SCALE)
    return page


def legend(part_schema: PartSchema, height: int) -> np.ndarray:
    """A legend with the schema's colours and names, one per row.

    Returns:
        A (height, width, 3) uint8 image as wide as its text, to be placed beside a drawing.

    Raises:
        ValueError: there are more rows than pixels in ``height``.
    """
    return _legend(_channel_rows(part_schema), height)


def annotation_legend(part_schema: PartSchema, height: int) -> np.ndarray:
    """`legend` plus rows for unions, states, keypoints and ignore regions.

    Returns, raises: as `legend`.
    """
    schema = part_schema
    rows = _channel_rows(schema)
    for union, (right, _) in schema.unions.items():
        color, other = side_colors(schema, schema.channels[right])
        paint = partial(paint_state, state="unsided", color=color, other=other)
        rows.append((f"{union}, side unknown", paint))
    for state, words in (
        ("known", "known"),
        ("derived", "derived"),
        ("empty", "known to be empty"),
        ("unknown", "unknown"),
    ):
        rows.append((words, partial(paint_state, state=state, color=_DARK)))
    joints = {"right joint": _RIGHT_COLOR, "left joint": _LEFT_COLOR}
    rows += [(name, partial(_legend_joint, color=color)) for name, color in joints.items()]
    rows.append(("hidden joint", partial(_legend_joint, color=_RIGHT_COLOR, hidden=True)))
    rows.append(("ignored", lambda region: _hatch(region, np.ones(region.shape[:2], dtype=bool))))
    return _legend(rows, height)


def grid(images: Sequence[np.ndarray], columns: int, cell: tuple[int, int]) -> np.ndarray:
    """Arrange images row by row on a page, each resized to fit its cell, keeping its aspect ratio.

    Args:
        images: (h, w, 3) uint8, of any sizes.
        columns: cells per row, at least 1.
        cell: (height, width) of a cell in pixels.

    Returns:
        (rows * cell height, columns * cell width, 3) uint8; uncovered pixels are dark.
    """
    height, width = cell
    rows = -(-len(images) // columns)
    page = np.full((rows * height, columns * width, 3), _DARK, dtype=np.uint8)
    for i, image in enumerate(images):
        _check_image(image)
        small = _fit(image, cell)
        h, w = small.shape[:2]
        top = i // columns * height + (height - h) // 2
        left = i % columns * width + (width - w) // 2
        page[top : top + h, left : left + w] = small
    return page


def _fit(image: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The image resized to fit into (height, width), keeping its aspect ratio up to rounding."""
    factor = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
    h, w = (max(round(n * factor), 1) for n in image.shape[:2])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (w, h), interpolation=method)


def _channel_rows(schema: PartSchema) -> list[_LegendRow]:
    colors = (color[::-1] for color in schema.colors)
    painters = (partial(paint_state, state="known", color=color) for color in colors)
    return list(zip(schema.channels, painters, strict=True))


def _legend(rows: Sequence[_LegendRow], height: int) -> np.ndarray:
    row = min(height // len(rows), 24)
    if row == 0:
        raise ValueError(f"expected a height of {len(rows)} at least: {height}")
    scale = row / 45
    widths = [_text_width(name, scale) for name, _ in rows]
    strip = np.full((height, max(widths) + 3 * row, 3), 255, dtype=np.uint8)
    for i, (name, paint) in enumerate(rows):
        top = i * row
        paint(strip[top + row // 6 : top + row - row // 6, row // 2 : row * 3 // 2])
        _text(strip, name, (row * 2, top + row * 2 // 3), _DARK, scale)
    return strip


def _legend_joint(region: np.ndarray, color: tuple[int, int, int], hidden: bool = False) -> None:
    height, width = region.shape[:2]
    canvas = region.copy()  # OpenCV's drawing needs contiguous memory, which a view may not have
    if not hidden:
        cv2.line(canvas, (0, height // 2), (width, height // 2), color, max(height // 6, 1))
    _joint(canvas, _fixed_point(width / 2, height / 2), height / 4, color, hidden)
    region[:] = canvas


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, found {image.shape} {image.dtype}")


def _annotation_figure(
    annotation: Mapping[str, Any],
    schema: PartSchema,
    size: tuple[int, int],
    shape: tuple[int, int],
) -> _Figure:
    """``size`` is the (H, W) of the annotation, ``shape`` that of the image to draw on."""
    scale = np.array([shape[1] / size[1], shape[0] / size[0]])
    x, y, w, h = annotation["bbox"]
    joints = np.asarray(annotation["keypoints"], dtype=float).reshape(-1, 3)
    figure = _Figure(
        box=(*(scale * (x, y)), *(scale * (x + w, y + h))),
        origin=(0, 0),
        silhouette=None,
        labels=None,
        ignored=None,
        joints=(joints[:, :2] + 0.5) * scale,
        visibility=joints[:, 2],
    )
    # Six bits of part index, body and ignore in one plane, so that only one must be resized.
    plane = np.zeros(size, dtype=np.uint8)
    if annotation["iscrowd"]:
        figure.note = "ignored"
        if "segmentation" in annotation:
            plane[decode_mask(annotation["segmentation"])] = _IGNORE_BIT
    else:
        figure.states = channel_states(annotation, schema)
        names = [*schema.channels, *schema.unions]
        masks = {**annotation.get("unsided", {}), **annotation["part_segmentation"]}
        for name, rle in masks.items():
            plane[decode_mask(rle)] = names.index(name)
        if "segmentation" in annotation:
            plane[decode_mask(annotation["segmentation"])] |= _BODY_BIT
        else:
            plane[plane > 0] |= _BODY_BIT
        if "ignore_segmentation" in annotation:
            plane[decode_mask(annotation["ignore_segmentation"])] |= _IGNORE_BIT
    if size != shape:
        plane = cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    box = mask_box(plane > 0)
    if box is not None:
        x0, y0, x1, y1 = box
        plane = plane[y0:y1, x0:x1]
        figure.origin = (x0, y0)
        figure.ignored = (plane & _IGNORE_BIT) > 0
        if not annotation["iscrowd"]:
            figure.silhouette = (plane & _BODY_BIT) > 0
            figure.labels = plane & (_BODY_BIT - 1)
    return figure


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
    for figure in figures:  # last, so that no figure covers another's text
        _draw_note(drawn, figure)
        _draw_states(drawn, figure, part_schema)
    return drawn


def _paint_parts(
    image: np.ndarray, figures: list[_Figure], schema: PartSchema, alpha: float
) -> np.ndarray:
    """A copy of the image with the masks outlined and blended in; the front person wins."""
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
        sided = labels.copy()
        for union, pair in enumerate(schema.unions.values(), start=len(schema.channels)):
            np.copyto(sided, np.where(_stripes(labels.shape), *pair), "unsafe", labels == union)
        colors = cv2.applyColorMap(sided, _palette(schema))
        cv2.copyTo(cv2.addWeighted(colors, alpha, image, 1 - alpha, 0), painted, drawn)
        drawn[_edges(labels)] = _DARK
        drawn[_edges(owner)] = _LIGHT
    return drawn


def _palette(schema: PartSchema) -> np.ndarray:
    """(256, 1, 3) uint8 BGR: the channels' colours."""
    palette = np.zeros((256, 1, 3), dtype=np.uint8)
    palette[: len(schema.colors), 0] = np.asarray(schema.colors)[:, ::-1]
    return palette


def _stripes(shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: wide diagonal stripes over half of the pixels."""
    rows, columns = np.indices(shape, sparse=True)
    return (rows + columns) // _STRIPE_WIDTH % 2 == 0


def _edges(plane: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that differ from the one below or to the right."""
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
    """One pixel per 80 pixels of the person's size (square root of the box area), 1 to 6."""
    return int(np.clip(round(figure.box_area**0.5 / 80), 1, 6))


def _fixed_point(x: float, y: float) -> tuple[int, int]:
    """Convert continuous coordinates to OpenCV's: pixel indices in fixed point."""
    return tuple(round((float(v) - 0.5) * (1 << _SUBPIXEL_BITS)) for v in (x, y))


def _draw_skeleton(image: np.ndarray, figure: _Figure, schema: KeypointSchema, width: int) -> None:
    points = {k: _fixed_point(*figure.joints[k]) for k in np.flatnonzero(figure.visibility)}
    bones = [(a, b) for a, b in schema.bones if a in points and b in points]
    # All dark rims first, so that no rim crosses a neighbouring bone. Thin bones have none: it
    # would hide the limb.
    for grow, rim in ((2, True), (0, False)) if width > 1 else ((0, False),):
        for a, b in bones:
            color = _DARK if rim else _side_color(schema.keypoints[a], schema.keypoints[b])
            cv2.line(image, points[a], points[b], color, width + grow, cv2.LINE_AA, _SUBPIXEL_BITS)
    for k, point in points.items():
        color = _side_color(schema.keypoints[k])
        _joint(image, point, width + 1, color, hidden=figure.visibility[k] == 1)


def _joint(
    image: np.ndarray,
    point: tuple[int, int],
    radius: float,
    color: tuple[int, int, int],
    hidden: bool,
) -> None:
    """Draw a disc, hollow if hidden. ``point`` is in fixed point, ``radius`` in pixels."""
    middle, edge = (_DARK, color) if hidden else (color, _DARK)
    radius = round(radius * (1 << _SUBPIXEL_BITS))
    cv2.circle(image, point, radius, middle, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    cv2.circle(image, point, radius, edge, 1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _side_color(*joints: str) -> tuple[int, int, int]:
    """The colour of the only side in the names, or the middle colour for both or none."""
    sides = {side for side in SIDES for name in joints if name.startswith(side + "_")}
    colors = {"right": _RIGHT_COLOR, "left": _LEFT_COLOR}
    return colors[sides.pop()] if len(sides) == 1 else _MIDDLE_COLOR


def _draw_note(image: np.ndarray, figure: _Figure) -> None:
    """Draw the note on a dark background above the box, shifted to lie inside the image."""
    if not figure.note:
        return
    (width, height), below = cv2.getTextSize(figure.note, _FONT, _FONT_SCALE, 1)
    x = int(np.clip(figure.box[0], 0, max(image.shape[1] - width, 0)))
    y = int(np.clip(figure.box[1] - below, height, image.shape[0] - below))
    image[max(y - height - 1, 0) : y + below, x : x + width] = _DARK
    _text(image, figure.note, (x, y), _LIGHT, _FONT_SCALE)


def _draw_states(image: np.ndarray, figure: _Figure, schema: PartSchema) -> None:
    """Draw the strip of channel states above the box, shifted to lie inside the image."""
    if not figure.states:
        return
    side = int(np.clip((figure.box[2] - figure.box[0]) / len(figure.states), *_SQUARE_SIDES))
    strip = np.full((side + 2, len(figure.states) * (side + 1) + 1, 3), 255, dtype=np.uint8)
    for i, (channel, state) in enumerate(figure.states.items()):
        left = i * (side + 1) + 1
        square = strip[1 : side + 1, left : left + side]
        paint_state(square, state, *side_colors(schema, channel))
    height, width = strip.shape[:2]
    x = int(np.clip(figure.box[0], 0, max(image.shape[1] - width, 0)))
    y = int(np.clip(figure.box[1] - height, 0, max(image.shape[0] - height, 0)))
    room = image[y : y + height, x : x + width]
    room[:] = strip[: room.shape[0], : room.shape[1]]


def _text_width(text: str, scale: float = _FONT_SCALE) -> int:
    return cv2.getTextSize(text, _FONT, scale, 1)[0][0]


def _text(
    image: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int], scale: float
) -> None:
    cv2.putText(image, text, at, _FONT, scale, color, 1, cv2.LINE_AA)
