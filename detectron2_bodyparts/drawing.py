"""People on a picture: parts in the schema's colours, outlines, skeletons.

Pictures are BGR uint8 (H, W, 3); what is passed in is never modified. Smaller people are drawn in
front of larger ones. The person's right side of the skeleton is drawn in orange, the left in cyan.
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

# Below this a joint is left out, as Detectron2's Visualizer does by default.
JOINT_THRESHOLD = 0.05

# What a channel of a person can be: see `channel_states`.
CHANNEL_STATES = ("known", "derived", "unsided", "empty", "unknown")

_RIGHT_COLOR = (0, 130, 255)
_LEFT_COLOR = (255, 220, 0)
_MIDDLE_COLOR = (255, 255, 255)
_DARK = (30, 30, 30)
_LIGHT = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.4
_STRIPE_WIDTH = 4  # columns of a stripe where the side is unknown
_HATCH_PERIOD = 8  # pixels from one stripe of an ignored region to the next
_SQUARE_SIDES = (3, 9)  # least and most pixels of a square that shows a channel's state
_CAPTION_HEIGHT = 16
_WARNING_COLOR = (40, 170, 250)
_BODY_BIT, _IGNORE_BIT = 64, 128  # beside six bits of part index, as in `structures`
_SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV's line drawing takes

_LegendRow = tuple[str, Callable[[np.ndarray], None]]  # words, and what paints their swatch


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
    states: dict[str, str] = field(default_factory=dict)  # channel -> state, drawn above the box

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
    """Draw predictions, with their ids where they have any.

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
    """Draw the annotations of one picture, in the records' form.

    Joints labelled as hidden (v = 1) are hollow, visible ones (v = 2) filled. Crowds and a person's
    ignored pixels are hatched. Where only the union of two sided parts is known, it has stripes in
    the colours of both. Above each person a strip has one square a channel, in the schema's order,
    which shows its state as `paint_state` does.

    Args:
        image_bgr: (h, w, 3) uint8: the picture, or an enlarged or shrunk copy of it.
        annotations: as in `Records.annotations`, masks of the picture's size.
        part_schema, keypoint_schema: those of the records.
        boxes: draw boxes.
        alpha: how much the parts cover the picture, 0..1.
        size: (H, W) of the picture where ``image_bgr`` is a copy of another size.

    Returns:
        A new (h, w, 3) uint8 picture.
    """
    _check_image(image_bgr)
    shape = image_bgr.shape[:2]
    size = shape if size is None else size
    figures = [_annotation_figure(a, part_schema, size, shape) for a in annotations]
    return _draw(image_bgr, figures, part_schema, keypoint_schema, boxes, alpha)


def channel_states(annotation: Mapping[str, Any], schema: PartSchema) -> dict[str, str]:
    """What is known of each channel of a person, one of ``CHANNEL_STATES``:

    ``known``, ``derived``: it has a mask, labelled or worked out from something else. ``empty``:
    it is known, or derived, to have none. ``unsided``: only its union with the channel of the
    other side is known. ``unknown``: nothing is.

    Args:
        annotation: a person's, as in `Records.annotations`.
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
    """Show a channel's state on a view of a picture, an upright rectangle.

    Known channels are filled, derived ones half filled (lower left), unsided ones striped in the
    colours of both sides, those known to be empty crossed by a bar, unknown ones hollow.

    Args:
        region: (h, w, 3) uint8, modified.
        state: one of ``CHANNEL_STATES``.
        color: the channel's, BGR.
        other: that of the channel of the other side; only ``unsided`` needs it.
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
        # A saw blade on a bar, one triangle on a square.
        rows, columns = np.indices((height, width), sparse=True)
        region[columns % height <= rows] = color
    elif state == "unsided":
        region[:] = np.where(_stripes((height, width))[..., None], color, other)


def side_colors(
    schema: PartSchema, channel: str
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """BGR of the channel and of its counterpart on the other side; unsided ones are their own."""
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
    """A picture's annotations in one cell of a page, the end of its file's name below.

    The name stands on a warning colour where the picture is not exhaustively labelled.

    Args:
        image_bgr: (H, W, 3) uint8, or None: the cell is then empty.
        image: the picture's entry in `Records.images`.
        annotations: its annotations.
        part_schema, keypoint_schema: those of the records.
        cell: (height, width) in pixels, enough for the name's line and some picture.
        fault: written into the cell, on as many lines as it needs.

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
        name = name[1:]  # its end tells pictures apart, not the folder
    _text(caption, name, (4, _CAPTION_HEIGHT - 5), color, _FONT_SCALE)
    return page


def legend(part_schema: PartSchema, height: int) -> np.ndarray:
    """The schema's colours and names, one below the other.

    Returns:
        A (height, width, 3) uint8 picture as wide as its text needs, to be put beside a drawing.

    Raises:
        ValueError: there are more channels than rows of pixels.
    """
    return _legend(_channel_rows(part_schema), height)


def annotation_legend(part_schema: PartSchema, height: int) -> np.ndarray:
    """What `legend` has, and how unions, states, joints and regions to ignore are drawn.

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
        small = _fit(image, cell)
        h, w = small.shape[:2]
        top = i // columns * height + (height - h) // 2
        left = i % columns * width + (width - w) // 2
        page[top : top + h, left : left + w] = small
    return page


def _fit(image: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The picture as large as fits into (height, width), its shape kept as far as pixels allow."""
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
    canvas = region.copy()  # a view need not be contiguous, as OpenCV's drawing wants it
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
    """``size`` is the (H, W) of the annotation, ``shape`` that of the picture to draw on."""
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
    # Six bits of part index, body and ignore in one plane, so that there is one to resize.
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
    for figure in figures:  # last, so that no figure hides another's words
        _draw_note(drawn, figure)
        _draw_states(drawn, figure, part_schema)
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
    """(H, W) bool: wide diagonal stripes, half of the pixels."""
    rows, columns = np.indices(shape, sparse=True)
    return (rows + columns) // _STRIPE_WIDTH % 2 == 0


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
    # All dark rims first, so that no rim cuts a neighbouring bone. Thin bones have none: it would
    # hide the limb.
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
    """A disc, hollow where hidden. ``point`` is fixed-point, ``radius`` in pixels."""
    middle, edge = (_DARK, color) if hidden else (color, _DARK)
    radius = round(radius * (1 << _SUBPIXEL_BITS))
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


def _draw_states(image: np.ndarray, figure: _Figure, schema: PartSchema) -> None:
    """The strip of the channels' states above the box, moved into the picture like a note."""
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
