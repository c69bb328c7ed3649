"""Precision as defined by the original body parts system.

The fraction of correct ones among detections with a score above 0.5 and a box area above 1000
pixels. A detection is correct if the highest IoU of its box with a ground-truth box is above 0.5,
and so is the IoU of all channels together with that person (the sum of intersections over the sum
of unions); a channel is where its probability is at least 0.6. Missed people have no effect.

``official`` does not check whether a person was matched before: duplicates are correct. ``strict``
does: in descending score each detection is matched to the unmatched person of highest box IoU.

Channels that are unknown for a person are left out. Detections are not counted if they match nobody
and more than half of the box lies in a crowd or on ignored pixels, or the image is not exhaustive;
nor if they match a person without known channels. Single pixels are ignored as in
`instances.overlaps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..people import Person
from .instances import UNKNOWN, TruePerson, TruePicture

MIN_SCORE = 0.5
MIN_BOX_AREA = 1000.0  # pixels
MIN_IOU = 0.5  # of boxes, and of channels
CHANNEL_THRESHOLD = 0.6


@dataclass(frozen=True, eq=False)
class FoundChannels:
    """A detection with independently thresholded channels.

    Args:
        box: (4,), XYXY absolute.
        score: 0..1.
        x0, y0: column and row of the masks' first pixel in the image.
        masks: (C, h, w) bool, [0] the silhouette; they may overlap.
    """

    box: np.ndarray
    score: float
    x0: int
    y0: int
    masks: np.ndarray

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) of the masks in the image."""
        _, height, width = self.masks.shape
        return slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)


def found_channels(person: Person) -> FoundChannels:
    """A predicted person's channels at `CHANNEL_THRESHOLD`. The person must have part masks."""
    return FoundChannels(person.box, person.score, *person.channel_masks(CHANNEL_THRESHOLD))


class OriginalPrecision:
    """Accumulates images one at a time and computes the precision.

    Four integers are stored; those of other processes can be pickled and merged.
    """

    def __init__(self) -> None:
        self._counted = {"official": 0, "strict": 0}
        self._right = {"official": 0, "strict": 0}

    def add(self, picture: TruePicture, people: Sequence[FoundChannels]) -> None:
        """Add an image; its people's K classes are the detections' channels 1..K."""
        people = sorted(
            (p for p in people if p.score > MIN_SCORE and _area(p.box) > MIN_BOX_AREA),
            key=lambda p: -p.score,
        )
        boxes = np.array([p.box for p in picture.people], dtype=float).reshape(-1, 4)
        free = np.ones(len(boxes), dtype=bool)
        for person in people:
            iou = _box_iou(person.box, boxes)
            self._count("official", picture, person, iou)
            taken = self._count("strict", picture, person, np.where(free, iou, 0.0))
            if taken is not None:
                free[taken] = False

    def _count(
        self, kind: str, picture: TruePicture, person: FoundChannels, iou: np.ndarray
    ) -> int | None:
        """Count a detection, given its IoU with each box. Returns the index of the match."""
        best = int(iou.argmax()) if iou.size and iou.max() > MIN_IOU else None
        if best is None:
            self._counted[kind] += not _excused(picture, person)
        elif picture.people[best].known.any():
            self._counted[kind] += 1
            overlap = channel_iou(picture, picture.people[best], person)
            self._right[kind] += overlap > MIN_IOU
        return best

    def merge(self, other: OriginalPrecision) -> None:
        """Add the counts of another `OriginalPrecision`."""
        for mine, theirs in ((self._counted, other._counted), (self._right, other._right)):
            for kind in mine:
                mine[kind] += theirs[kind]

    def result(self) -> dict[str, float]:
        """``precision_official`` and ``precision_strict`` in percent, nan without detections."""
        return {
            f"precision_{kind}": 100 * self._right[kind] / counted if counted else float("nan")
            for kind, counted in self._counted.items()
        }


def channel_iou(picture: TruePicture, person: TruePerson, found: FoundChannels) -> float:
    """IoU of all known channels together; 0 if all are empty."""
    crop = person.crop
    channels = np.flatnonzero(person.known)
    true = np.stack([crop.body if c == 0 else crop.labels == c for c in channels])
    predicted = found.masks[channels]
    if picture.ignore is not None:
        true = true & ~picture.ignore[crop.slices]
        predicted = predicted & ~picture.ignore[found.slices]
    here, there = _common(found.slices, crop.slices)
    shared = predicted[(slice(None), *here)]
    nothing_known = (crop.labels == UNKNOWN) & ~crop.body
    excluded = np.count_nonzero(shared & nothing_known[there])
    intersection = np.count_nonzero(shared & true[(slice(None), *there)])
    union = np.count_nonzero(predicted) - excluded + np.count_nonzero(true) - intersection
    return intersection / union if union else 0.0


def _common(
    a: tuple[slice, slice], b: tuple[slice, slice]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The intersection of two windows of the image, in the pixel coordinates of each."""
    start = [max(s.start, t.start) for s, t in zip(a, b, strict=True)]
    stop = [max(min(s.stop, t.stop), first) for s, t, first in zip(a, b, start, strict=True)]

    def within(window: Iterable[slice]) -> tuple[slice, slice]:
        rows, columns = (
            slice(first - s.start, last - s.start)
            for s, first, last in zip(window, start, stop, strict=True)
        )
        return rows, columns

    return within(a), within(b)


def _excused(picture: TruePicture, person: FoundChannels) -> bool:
    if not picture.exhaustive:
        return True
    regions = [region for region in (picture.ignore, picture.crowd) if region is not None]
    if not regions:
        return False
    x0, y0, x1, y1 = np.maximum(np.round(person.box), 0).astype(int)
    inside = np.logical_or.reduce([region[y0:y1, x0:x1] for region in regions])
    return np.count_nonzero(inside) > 0.5 * _area(person.box)


def _area(box: np.ndarray) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def _box_iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N,) IoU of an XYXY box with (N, 4) others."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    areas = np.array([_area(b) for b in boxes])
    union = areas + _area(box) - intersection
    return np.divide(intersection, union, out=np.zeros(len(boxes)), where=union > 0)
