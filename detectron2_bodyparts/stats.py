"""Dataset statistics: how often each channel and keypoint is known, and how large people are.

Areas are computed from run lengths without decoding masks, so a large dataset takes seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util

from .drawing import CHANNEL_STATES, channel_states, paint_state, side_colors
from .records import RecordError, Records
from .schema import BODY, KeypointSchema, PartSchema

JOINT_STATES = ("unlabelled", "hidden", "visible")  # COCO's v = 0, 1, 2

_QUARTILES = (25, 50, 75)
_HEIGHTS = (16, 32, 64, 128, 256, 512)  # upper edges of the histogram's bins, in pixels
_CROWDED = 10  # images with at least this many people share a bar

# Layout of the chart, in pixels.
_ROW = 22
_NAME_WIDTH = 130
_BAR_WIDTH = 460
_RANGE_WIDTH = 300
_GAP = 48
_LEAST_JOINT_ROWS = 15  # room for the histograms beside the keypoints
_INK = (30, 30, 30)
_PALE = (215, 215, 215)
_JOINT_COLORS = {"visible": (150, 100, 50), "hidden": (215, 190, 160)}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.42
_PERCENT = [f"{p} %" for p in range(0, 101, 20)]

_Painter = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Statistics:
    """Statistics of records; ``str()`` gives a table. Ignore regions are not counted as people.

    Args:
        part_schema, keypoint_schema: those of the records.
        pictures, not_exhaustive, ignore_regions: counts.
        states: (channel, one of ``CHANNEL_STATES``) -> number of people.
        areas: channel or union -> (M,) pixels, of the M people with a mask of it.
        shares: part or union -> fractions of the body's area, 0..1, of people with both masks.
        people_per_picture: (pictures,) int.
        box_heights: (people,) pixels.
        visibility: (people, K) uint8, v of each keypoint.
    """

    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    pictures: int
    not_exhaustive: int
    ignore_regions: int
    states: Counter[tuple[str, str]]
    areas: dict[str, np.ndarray]
    shares: dict[str, np.ndarray]
    people_per_picture: np.ndarray
    box_heights: np.ndarray
    visibility: np.ndarray

    @property
    def people(self) -> int:
        """Number of people."""
        return len(self.box_heights)

    @property
    def names(self) -> list[str]:
        """The channels, then the unions that have masks."""
        unions = [union for union in self.part_schema.unions if union in self.areas]
        return [*self.part_schema.channels, *unions]

    def state_counts(self, channel: str) -> list[int]:
        """Number of people with the channel in each of ``CHANNEL_STATES``."""
        return [self.states[channel, state] for state in CHANNEL_STATES]

    def joint_counts(self) -> np.ndarray:
        """(K, 3): number of people with each keypoint in each of ``JOINT_STATES``."""
        return np.stack([(self.visibility == v).sum(axis=0) for v in range(3)], axis=1)

    def visible_joints(self) -> np.ndarray:
        """(people,): number of visible keypoints (v = 2)."""
        return (self.visibility == 2).sum(axis=1)

    def histograms(self) -> dict[str, tuple[list[str], np.ndarray]]:
        """Title -> labels of the bars, and their (bars,) counts."""
        joints = len(self.keypoint_schema)
        return {
            "pictures by number of people": (
                [*map(str, range(_CROWDED)), f"{_CROWDED}+"],
                _counts(np.minimum(self.people_per_picture, _CROWDED), _CROWDED + 1),
            ),
            "people by height of the box, pixels": (
                [*(f"<{h}" for h in _HEIGHTS), f"{_HEIGHTS[-1]}+"],
                _counts(np.digitize(self.box_heights, _HEIGHTS), len(_HEIGHTS) + 1),
            ),
            "people by number of visible joints": (
                [*map(str, range(joints + 1))],
                _counts(self.visible_joints(), joints + 1),
            ),
        }

    def __str__(self) -> str:
        with_people = np.count_nonzero(self.people_per_picture)
        lines = [
            f"pictures        {self.pictures:8d}"
            f"  ({with_people} with people, {self.not_exhaustive} not exhaustive)",
            f"people          {self.people:8d}",
            f"ignore regions  {self.ignore_regions:8d}",
        ]
        if self.people:
            lines += ["", *self._number_lines(), "", *self._channel_lines()]
            lines += ["", *self._joint_lines()]
        return "\n".join(lines)

    def _number_lines(self) -> list[str]:
        lines = [f"{'':<20}{'25 %':>9}{'median':>9}{'75 %':>9}{'most':>9}"]
        for name, values in (
            ("people a picture", self.people_per_picture),
            ("box height, pixels", self.box_heights),
            ("visible joints", self.visible_joints()),
        ):
            numbers = [*np.percentile(values, _QUARTILES), values.max()]
            lines.append(f"{name:<20}" + "".join(f"{n:9.1f}" for n in numbers))
        return lines

    def _channel_lines(self) -> list[str]:
        states = "".join(f"{state:>9}" for state in CHANNEL_STATES)
        areas, shares = "area, pixels: quartiles", "% of the body: quartiles"
        lines = [f"{'% of people':<20}{states}{areas:>27}{shares:>27}"]
        for name in self.names:
            line = f"{name:<20}"
            if name in self.part_schema.channels:
                percents = (100 * n / self.people for n in self.state_counts(name))
                line += "".join(f"{p:9.1f}" for p in percents)
            line = line.ljust(20 + len(states))
            if name in self.areas:
                line += "".join(f"{q:9.0f}" for q in np.percentile(self.areas[name], _QUARTILES))
            if name in self.shares:
                percents = 100 * np.percentile(self.shares[name], _QUARTILES)
                line += "".join(f"{p:9.1f}" for p in percents)
            lines.append(line.rstrip())
        return lines

    def _joint_lines(self) -> list[str]:
        lines = [f"{'% of people':<20}" + "".join(f"{s:>12}" for s in JOINT_STATES[::-1])]
        percents = 100 * self.joint_counts() / self.people
        for name, row in zip(self.keypoint_schema.keypoints, percents, strict=True):
            lines.append(f"{name:<20}" + "".join(f"{p:12.1f}" for p in row[::-1]))
        return lines


def _counts(values: np.ndarray, bins: int) -> np.ndarray:
    return np.bincount(values, minlength=bins)


def collect(records: Records) -> Statistics:
    """Compute the statistics in one pass over the annotations.

    Raises:
        RecordError: an annotation has another number of keypoints than its schema.
    """
    schema, joints = records.part_schema, records.keypoint_schema
    per_picture = dict.fromkeys((image["id"] for image in records.images), 0)
    states: Counter[tuple[str, str]] = Counter()
    areas: dict[str, list[int]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    heights, visibility = [], []
    for annotation in records.annotations:
        if annotation["iscrowd"]:
            continue
        if len(annotation["keypoints"]) != 3 * len(joints):
            raise RecordError(
                f"annotation {annotation['id']}: expected {3 * len(joints)} numbers of joints,"
                f" found {len(annotation['keypoints'])}"
            )
        per_picture[annotation["image_id"]] += 1
        heights.append(annotation["bbox"][3])
        visibility.append(annotation["keypoints"][2::3])
        states.update(channel_states(annotation, schema).items())
        sizes = _areas(annotation)
        for name, area in sizes.items():
            areas[name].append(area)
            if name != BODY and BODY in sizes:
                shares[name].append(area / sizes[BODY])
    return Statistics(
        part_schema=schema,
        keypoint_schema=joints,
        pictures=len(records.images),
        not_exhaustive=sum(not image["exhaustive"] for image in records.images),
        ignore_regions=len(records.annotations) - len(heights),
        states=states,
        areas={name: np.array(values) for name, values in areas.items()},
        shares={name: np.array(values) for name, values in shares.items()},
        people_per_picture=np.array(list(per_picture.values()), dtype=int),
        box_heights=np.array(heights, dtype=float),
        visibility=np.array(visibility, dtype=np.uint8).reshape(-1, len(joints)),
    )


def _areas(annotation: Mapping[str, Any]) -> dict[str, int]:
    """Areas of a person's masks in pixels, without empty masks."""
    masks = {**annotation["part_segmentation"], **annotation.get("unsided", {})}
    if "segmentation" in annotation:
        masks[BODY] = annotation["segmentation"]
    areas = mask_util.area(list(masks.values()))
    return {name: int(area) for name, area in zip(masks, areas, strict=True) if area}


def draw_chart(statistics: Statistics, title: str) -> np.ndarray:
    """Draw the statistics as a chart.

    At the top, one row per channel: in how many people it is known, derived, unsided, known to be
    empty or unknown, and the quartiles of its fraction of the body and of its area. Below, the
    keypoints' states, and the histograms.

    Args:
        statistics: the statistics to draw.
        title: heading, followed by the number of people.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    names, joints = statistics.names, statistics.keypoint_schema.keypoints
    bars = _GAP + _NAME_WIDTH
    shares = bars + _BAR_WIDTH + _GAP
    pixels = shares + _RANGE_WIDTH + _GAP
    joint_rows = max(len(joints), _LEAST_JOINT_ROWS)
    shape = ((len(names) + joint_rows + 8) * _ROW, pixels + _RANGE_WIDTH + _GAP, 3)
    chart = np.full(shape, 255, dtype=np.uint8)
    numbers = f"{statistics.people} people in {statistics.pictures} pictures"
    _text(chart, f"{title}: {numbers}", _GAP, _ROW // 2, scale=0.6)

    top = 3 * _ROW
    _key(chart, bars, top - _ROW, {s: _state_painter(s, _INK, _PALE) for s in CHANNEL_STATES})
    _text(chart, "% of the body: quartiles", shares, top - _ROW)
    _text(chart, "area, pixels: quartiles", pixels, top - _ROW)
    largest = max((np.percentile(a, _QUARTILES[-1]) for a in statistics.areas.values()), default=1)
    decades = max(int(np.ceil(np.log10(largest))), 1)
    powers = ["1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M"][: decades + 1]
    _scale(chart, bars, top, len(names), _BAR_WIDTH, _PERCENT)
    _scale(chart, shares, top, len(names), _RANGE_WIDTH, _PERCENT)
    _scale(chart, pixels, top, len(names), _RANGE_WIDTH, powers)
    for name in names:
        _text(chart, name, _GAP, top)
        if name in statistics.part_schema.channels:
            colors = side_colors(statistics.part_schema, name)
            painters = [_state_painter(state, *colors) for state in CHANNEL_STATES]
            _stacked_bar(chart, bars, top, statistics.state_counts(name), painters)
        paint = _name_painter(statistics.part_schema, name)
        if name in statistics.shares:
            _range(chart, shares, top, statistics.shares[name], paint)
        if name in statistics.areas:
            _range(chart, pixels, top, np.log10(statistics.areas[name]) / decades, paint)
        top += _ROW

    top += 3 * _ROW
    joint_painters = [
        _state_painter("unknown", _PALE),
        _state_painter("known", _JOINT_COLORS["hidden"]),
        _state_painter("known", _JOINT_COLORS["visible"]),
    ]
    by_state = dict(zip(JOINT_STATES[::-1], joint_painters[::-1], strict=True))
    _key(chart, bars, top - _ROW, by_state)
    _scale(chart, bars, top, len(joints), _BAR_WIDTH, _PERCENT)
    for i, (name, counts) in enumerate(zip(joints, statistics.joint_counts(), strict=True)):
        _text(chart, name, _GAP, top + i * _ROW)
        _stacked_bar(chart, bars, top + i * _ROW, counts[::-1], joint_painters[::-1])
    height = (joint_rows + 2) * _ROW // 3
    for i, (heading, (labels, counts)) in enumerate(statistics.histograms().items()):
        width = pixels + _RANGE_WIDTH - shares
        _histogram(chart, shares, top - _ROW + i * height, width, height, heading, labels, counts)
    return chart


def _state_painter(
    state: str, color: Sequence[int], other: Sequence[int] | None = None
) -> _Painter:
    return partial(paint_state, state=state, color=color, other=other)


def _name_painter(schema: PartSchema, name: str) -> _Painter:
    """The function that fills the bars of a channel or union."""
    if name in schema.unions:
        right, _ = schema.unions[name]
        return _state_painter("unsided", *side_colors(schema, schema.channels[right]))
    return _state_painter("known", *side_colors(schema, name))


def _key(chart: np.ndarray, x: int, y: int, painters: Mapping[str, _Painter]) -> None:
    """A swatch and a label for each painter, side by side."""
    for word, paint in painters.items():
        paint(chart[y + 5 : y + _ROW - 5, x : x + _ROW])
        _text(chart, word, x + _ROW + 6, y)
        x += _BAR_WIDTH // len(CHANNEL_STATES)


def _scale(chart: np.ndarray, x: int, y: int, rows: int, width: int, labels: Sequence[str]) -> None:
    """Pale, evenly spaced vertical lines with labels below."""
    for i, label in enumerate(labels):
        at = x + i * width // (len(labels) - 1)
        chart[y : y + rows * _ROW, at] = _PALE
        _text(chart, label, at - _text_width(label) // 2, y + rows * _ROW)


def _stacked_bar(
    chart: np.ndarray, x: int, y: int, counts: Sequence[int], painters: Sequence[_Painter]
) -> None:
    ends = np.cumsum([0, *counts]) * _BAR_WIDTH / max(sum(counts), 1)
    ends = x + np.round(ends).astype(int)
    for start, end, paint in zip(ends[:-1], ends[1:], painters, strict=True):
        if end > start:
            paint(chart[y + 3 : y + _ROW - 3, start:end])


def _range(chart: np.ndarray, x: int, y: int, fractions: np.ndarray, paint: _Painter) -> None:
    """A bar from the lower to the upper quartile of values in 0..1, with the median marked."""
    quartiles = np.percentile(fractions, _QUARTILES)
    low, middle, high = x + np.round(quartiles * _RANGE_WIDTH).astype(int)
    paint(chart[y + 5 : y + _ROW - 5, low : high + 1])
    chart[y + 2 : y + _ROW - 2, middle - 1 : middle + 2] = _INK


def _histogram(
    chart: np.ndarray,
    x: int,
    y: int,
    width: int,
    height: int,
    heading: str,
    labels: Sequence[str],
    counts: np.ndarray,
) -> None:
    """Vertical bars in a rectangle of the chart, with labels below."""
    _text(chart, heading, x, y)
    bottom, full = y + height - _ROW, height - 2 * _ROW - 4
    chart[bottom, x : x + width] = _PALE
    pitch = width // len(labels)
    tallest = max(counts.max(), 1)
    for i, (label, count) in enumerate(zip(labels, counts, strict=True)):
        left = x + i * pitch
        rise = int(np.ceil(full * count / tallest))
        chart[bottom - rise : bottom, left + 3 : left + pitch - 3] = _JOINT_COLORS["visible"]
        _text(chart, label, left + (pitch - _text_width(label)) // 2, bottom)


def _text(chart: np.ndarray, text: str, x: int, y: int, scale: float = _FONT_SCALE) -> None:
    """Write text in the row that begins at ``y``."""
    cv2.putText(chart, text, (x, y + _ROW * 2 // 3), _FONT, scale, _INK, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0]
