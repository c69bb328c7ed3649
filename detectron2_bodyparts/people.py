"""Predictions as returned to the user: people with part masks and keypoints ("joints").

    >>> import numpy as np
    >>> from detectron2_bodyparts.people import People
    >>> from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17
    >>> probs = np.zeros((1, 7, 112, 112), np.float32)
    >>> probs[0, :2] = 1  # a body that is all head
    >>> box = np.array([[2.0, 1.0, 6.0, 4.0]])
    >>> people = People((5, 8), box, np.array([0.9]), probs, None, BODYPARTS_7, COCO_17)
    >>> int(people[0].part("head").sum())
    12

Coordinates are continuous (the centre of the first pixel is 0.5), boxes XYXY absolute. JSON output
follows COCO: boxes XYWH, keypoints as pixel indices (the centre of the first pixel is 0).
Everything is numpy; torch tensors are only accessed through their own methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from .records import PERSON_CATEGORY_ID, compress_segmentation
from .schema import BODY, KeypointSchema, PartSchema

if TYPE_CHECKING:
    import supervision

# A pixel belongs to the body if its probability is at least this.
MASK_THRESHOLD = 0.5


class Crop(NamedTuple):
    """A person's masks, cropped to their box plus its margin, within the image.

    ``x0``, ``y0``: column and row of the crop's first pixel in the image. ``labels``: (h, w)
    uint8, 0 = no part, else the channel index. ``body``: (h, w) bool. Labels lie inside the body.
    """

    x0: int
    y0: int
    labels: np.ndarray
    body: np.ndarray

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) of the crop in the image."""
        height, width = self.body.shape
        return slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)


@dataclass(frozen=True, eq=False, repr=False)
class Person:
    """A detected person, one of `People`.

    Args:
        image_size: (H, W) of the image.
        box: (4,) float32, XYXY absolute.
        score: 0..1.
        part_probs: (C, S, S) probabilities on the box enlarged by ``margin``, or None if the model
            predicts no parts.
        keypoints: (K, 3), continuous x, y and score, or None if the model predicts no keypoints.
        part_schema, keypoint_schema: the names of the C channels and the K keypoints.
        id: track ID in a video, from 1; None if there is none (yet).
        margin: added on every side of the box to get the region of the masks, as a fraction of the
            box's width and height: a box may cut off a foot.

    Methods that need masks or keypoints which the model does not predict raise ``ValueError``.
    """

    image_size: tuple[int, int]
    box: np.ndarray
    score: float
    part_probs: np.ndarray | None
    keypoints: np.ndarray | None
    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    id: int | None = None
    margin: float = 0.0

    def crop(self) -> Crop:
        """The masks cropped to their region, where full-size masks are not needed."""
        return self._crop

    @cached_property
    def _crop(self) -> Crop:
        x0, y0, parts, body = self._unclipped()
        return Crop(x0, y0, parts * body, body)

    def _unclipped(self) -> Crop:
        """As `crop`, but with the parts that lie outside the body, too."""
        x0, y0, columns, rows = self._grid()
        shape = len(rows), len(columns)
        body, labels = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.uint8)
        for band, probs in _pasted(self.part_probs, columns, rows):
            likeliest, none = labels[band], 1 - probs[1:].sum(axis=0)
            surest = np.zeros_like(none)
            for right, left in self.part_schema.kinds:
                kind = probs[right] if right == left else probs[right] + probs[left]
                wins = kind > surest
                np.copyto(likeliest, right, where=wins)
                np.copyto(likeliest, left, where=wins & (probs[left] > probs[right]))
                np.maximum(surest, kind, out=surest)
            body[band] = probs[self.part_schema.index(BODY)] >= MASK_THRESHOLD
            likeliest *= surest >= none
        return Crop(x0, y0, labels, body)

    def _grid(self) -> tuple[int, int, _Samples, _Samples]:
        """First column and row of the masks, and where the columns and rows lie in them."""
        if self.part_probs is None:
            raise ValueError("this prediction has no part masks")
        size = self.part_probs.shape[-1]
        low, high = self.box[:2], self.box[2:]
        more = (high - low) * self.margin
        (x0, columns), (y0, rows) = (
            _interpolation(start, end, length, size)
            for start, end, length in zip(
                low - more, high + more, self.image_size[::-1], strict=True
            )
        )
        return x0, y0, columns, rows

    def channel_masks(self, threshold: float) -> tuple[int, int, np.ndarray]:
        """Every channel thresholded independently: parts may overlap and extend beyond the body.

        Returns:
            Column and row of the masks' first pixel in the image, and (C, h, w) bool.
        """
        x0, y0, columns, rows = self._grid()
        masks = np.zeros((len(self.part_probs), len(rows), len(columns)), dtype=bool)
        for band, probs in _pasted(self.part_probs, columns, rows):
            masks[:, band] = probs >= threshold
        return x0, y0, masks

    @property
    def body(self) -> np.ndarray:
        """The silhouette, (H, W) bool."""
        body = np.zeros(self.image_size, dtype=bool)
        body[self._crop.slices] = self._crop.body
        return body

    def label_map(self) -> np.ndarray:
        """(H, W) uint8: 0 = no part, else the channel index of the most likely part.

        Parts are mutually exclusive, so "no part" has the probability that they leave. A pixel
        first gets the most likely kind of part (sides summed), or none if that is more likely, then
        the more likely side: an arm of uncertain side stays an arm. A coarser `view` that merges
        nothing but sides has the same label map with sides merged. Pixels outside the body have no
        part.
        """
        labels = np.zeros(self.image_size, dtype=np.uint8)
        labels[self._crop.slices] = self._crop.labels
        return labels

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.0f}" for value in self.box)
        return f"Person(score {self.score:.2f}, box [{box}])"

    def part(self, name: str) -> np.ndarray:
        """(H, W) bool mask of a channel: ``body``, or a part as in `label_map`.

        Raises:
            KeyError: the schema has no such channel.
        """
        if name == BODY:
            return self.body
        return self.label_map() == self.part_schema.index(name)

    def joint(self, name: str) -> tuple[float, float, float]:
        """Continuous x, y and the score of a keypoint.

        Raises:
            KeyError: the schema has no such keypoint.
        """
        if self.keypoints is None:
            raise ValueError("this prediction has no joints")
        names = self.keypoint_schema.keypoints
        if name not in names:
            raise KeyError(f"schema {self.keypoint_schema.name} has no joint {name!r}: {names}")
        x, y, score = self.keypoints[names.index(name)]
        return float(x), float(y), float(score)

    def to_json(self) -> dict[str, Any]:
        """The person in plain JSON types, in COCO's results format.

        Returns:
            ``bbox`` XYWH, ``score``; ``id`` if there is one; with masks, ``segmentation`` (the
            body's RLE) and ``part_segmentation`` {part: RLE} without empty parts; with keypoints,
            ``keypoints``, flat [x, y, score] in pixel indices. RLEs have the image's size.
        """
        x0, y0, x1, y1 = (float(v) for v in self.box)
        person: dict[str, Any] = {
            "bbox": [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": float(self.score),
        }
        if self.id is not None:
            person["id"] = self.id
        if self.part_probs is not None:
            crop = self._crop
            person["segmentation"] = _encode_crop(crop.body, crop, self.image_size)
            person["part_segmentation"] = {
                self.part_schema.channels[i]: _encode_crop(crop.labels == i, crop, self.image_size)
                for i in np.unique(crop.labels[crop.labels > 0])
            }
        if self.keypoints is not None:
            indices = self.keypoints.astype(float) - (0.5, 0.5, 0.0)
            person["keypoints"] = [round(v, 4) for v in indices.ravel().tolist()]
        return person


@dataclass(eq=False, repr=False)
class People(Sequence[Person]):
    """The people detected in one image; a sequence of `Person`.

    Args:
        image_size: (H, W) of the image.
        boxes: (N, 4), XYXY absolute; stored as float32.
        scores: (N,), 0..1; stored as float32.
        part_probs: (N, C, S, S) float, probabilities on the boxes enlarged by ``margin``, or None
            if the model predicts no parts.
        keypoints: (N, K, 3), continuous x, y and score, or None if the model predicts no keypoints.
        part_schema, keypoint_schema: the names of the C channels and the K keypoints.
        ids: (N,) track IDs from 1, 0 = none (yet), or None if people are not tracked. See
            `detectron2_bodyparts.tracking`.
        margin: added on every side of a box to get the region of its masks, as a fraction of the
            box's width and height.

    Raises:
        ValueError: an array does not have the shape above.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    part_probs: np.ndarray | None
    keypoints: np.ndarray | None
    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    ids: np.ndarray | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        self.boxes = np.asarray(self.boxes, dtype=np.float32)
        self.scores = np.asarray(self.scores, dtype=np.float32)
        count = len(self.boxes)
        _check_shape("boxes", self.boxes, (count, 4))
        _check_shape("scores", self.scores, (count,))
        if self.part_probs is not None:
            size = self.part_probs.shape[-1] if self.part_probs.ndim == 4 else "S"
            shape = (count, len(self.part_schema.channels), size, size)
            _check_shape("part_probs", self.part_probs, shape)
        if self.keypoints is not None:
            _check_shape("keypoints", self.keypoints, (count, len(self.keypoint_schema), 3))
        if self.ids is not None:
            _check_shape("ids", self.ids, (count,))

    @classmethod
    def from_instances(
        cls, instances: Any, part_schema: PartSchema, keypoint_schema: KeypointSchema
    ) -> People:
        """People from the output of a Detectron2 model.

        Args:
            instances: Detectron2's ``Instances`` with ``pred_boxes``, ``scores`` and, if the model
                predicts them, ``pred_part_masks`` (N, C, S, S), their ``pred_region_margin`` (N,)
                around the box, and ``pred_keypoints`` (N, K, 3).
            part_schema, keypoint_schema: the model's.
        """

        def field(name: str) -> np.ndarray | None:
            return _to_numpy(instances.get(name)) if instances.has(name) else None

        keypoints, margin = field("pred_keypoints"), field("pred_region_margin")
        return cls(
            image_size=instances.image_size,
            boxes=_to_numpy(instances.pred_boxes.tensor),
            scores=_to_numpy(instances.scores),
            part_probs=field("pred_part_masks"),
            # A copy, because Detectron2's COCOEvaluator shifts the model's keypoints in place.
            keypoints=None if keypoints is None else keypoints.copy(),
            part_schema=part_schema,
            keypoint_schema=keypoint_schema,
            margin=0.0 if margin is None else float(margin.max(initial=0.0)),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        height, width = self.image_size
        scores = ", ".join(f"{score:.2f}" for score in self.scores)
        return f"People({len(self)} on {width}x{height} pixels, scores [{scores}])"

    @overload
    def __getitem__(self, index: int) -> Person: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> People: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> Person | People:
        """An integer returns a `Person`; a slice, a boolean mask or indices return `People`."""
        if isinstance(index, (int, np.integer)):
            one, score = Person, float(self.scores[index])
            ids = None if self.ids is None else int(self.ids[index]) or None
        else:
            one, score = People, self.scores[index]
            ids = None if self.ids is None else self.ids[index]
        return one(
            self.image_size,
            self.boxes[index],
            score,
            None if self.part_probs is None else self.part_probs[index],
            None if self.keypoints is None else self.keypoints[index],
            self.part_schema,
            self.keypoint_schema,
            ids,
            self.margin,
        )

    def confident(self, threshold: float) -> People:
        """The people whose score is at least ``threshold``."""
        return self[self.scores >= threshold]

    def view(self, schema: PartSchema) -> People:
        """The same people in a coarser part schema, whose channels are unions of the model's.

        Parts are mutually exclusive, so the probability of a union is the sum of its parts'.
        bodyparts-7 and pascal-person-part are views of bodyparts-11.

        Raises:
            ValueError: a channel of the schema is neither a channel nor a union of the model's.
        """
        if schema == self.part_schema:
            return self
        members = self.part_schema.members
        names = schema.names_in(self.part_schema)
        probs = self.part_probs
        if probs is not None:
            unions = [probs[:, list(members[names[c]])].sum(axis=1) for c in schema.channels]
            probs = np.minimum(np.stack(unions, axis=1), 1)
        return replace(self, part_probs=probs, part_schema=schema)

    def label_map(self) -> np.ndarray:
        """(H, W) uint8: 0 = no part, else the channel index.

        Whole silhouettes are painted in ascending score, so the most confident person is on top.
        Pixels outside all silhouettes have the most confident person's part that is likelier there
        than none: what a silhouette omits as another's may be nobody else's. Each pixel's part
        belongs to the person in `person_map`.
        """
        labels = np.zeros(self.image_size, dtype=np.uint8)
        for _, crop, shown in self._painted():
            np.copyto(labels[crop.slices], crop.labels, where=shown)
        return labels

    def person_map(self) -> np.ndarray:
        """(H, W) int32: 0 = nobody, i + 1 = person i; painted like `label_map`."""
        owners = np.zeros(self.image_size, dtype=np.int32)
        for i, crop, shown in self._painted():
            owners[crop.slices][shown] = i + 1
        return owners

    def _painted(self) -> Iterator[tuple[int, Crop, np.ndarray]]:
        """Each person's index, masks, unclipped, and the pixels to paint: (h, w) bool."""
        covered = np.zeros(self.image_size, dtype=bool)
        # Among equal scores, the first in the list is painted last, that is on top.
        for i in np.argsort(-self.scores, kind="stable")[::-1]:
            crop = self[i]._unclipped()
            inside = covered[crop.slices]
            shown = crop.labels > 0
            shown &= ~inside
            shown |= crop.body
            yield int(i), crop, shown
            inside |= crop.body

    def to_json(self) -> dict[str, Any]:
        """The predictions in plain JSON types.

        Returns:
            ``image_size`` [H, W], the schemas' names, the names of their ``channels`` and
            ``joints``, and ``people`` as returned by `Person.to_json`.
        """
        return {
            "image_size": list(self.image_size),
            "part_schema": self.part_schema.name,
            "channels": list(self.part_schema.channels),
            "keypoint_schema": self.keypoint_schema.name,
            "joints": list(self.keypoint_schema.keypoints),
            "people": [person.to_json() for person in self],
        }

    def to_annotations(
        self, image_id: int, keypoint_schema: KeypointSchema | None = None
    ) -> list[dict[str, Any]]:
        """The people as COCO results: `Person.to_json` with ``image_id`` and ``category_id``.

        Args:
            image_id: ID of the image.
            keypoint_schema: reorder keypoints to a dataset's schema, matched by name, with zeros
                for those that the model lacks. Default: the model's own order.
        """
        ids = {"image_id": image_id, "category_id": PERSON_CATEGORY_ID}
        annotations = [{**ids, **person.to_json()} for person in self]
        if keypoint_schema is not None and self.keypoints is not None:
            for annotation in annotations:
                joints = np.reshape(annotation["keypoints"], (-1, 3))
                joints = keypoint_schema.take(joints, self.keypoint_schema)
                annotation["keypoints"] = joints.ravel().tolist()
        return annotations

    def to_supervision(self, channel: str = BODY) -> supervision.Detections:
        """The people as ``Detections`` of the supervision library, to draw, count and track.

        Args:
            channel: which masks to include: ``body``, or a part as in `Person.label_map`.

        Returns:
            ``xyxy``, ``confidence``, ``class_id`` 0 and, in ``data``, ``class_name`` "person";
            ``mask`` (N, H, W) bool if there are masks; ``tracker_id`` from 0, -1 = none, if people
            are tracked. For keypoints: ``supervision.KeyPoints(people.keypoints[..., :2])``.

        Raises:
            ImportError: supervision is not installed; ``detectron2_bodyparts[video]`` installs it.
            KeyError: the schema has no such channel.
        """
        import supervision

        self.part_schema.index(channel)  # raises even if nobody was detected
        masks = None
        if self.part_probs is not None:
            masks = np.zeros((len(self), *self.image_size), dtype=bool)
            for mask, person in zip(masks, self, strict=True):
                mask[:] = person.part(channel)
        return supervision.Detections(
            xyxy=self.boxes,
            mask=masks,
            confidence=self.scores,
            class_id=np.zeros(len(self), dtype=int),
            tracker_id=None if self.ids is None else self.ids - 1,
            data={"class_name": np.full(len(self), "person")},
        )


def _to_numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _check_shape(name: str, array: np.ndarray, expected: tuple) -> None:
    if array.shape != expected:
        raise ValueError(f"{name}: expected shape {expected}, found {array.shape}")


@dataclass(frozen=True)
class _Samples:
    """Where some pixels of one axis lie between two neighbouring samples of a mask.

    ``low``: (n,) int, the first of the two, counted from 0 = the zero in front of the mask.
    ``share``: (n, 1) float32 in 0..1, the weight of the second.
    """

    low: np.ndarray
    share: np.ndarray

    def __len__(self) -> int:
        return len(self.low)

    def interpolate(self, values: np.ndarray, pixels: slice = slice(None)) -> np.ndarray:
        """(C, S + 2, M), masks' samples between zeros -> (C, n, M) at the pixels."""
        low = self.low[pixels]
        near = values.take(low, axis=1)
        between = values.take(low + 1, axis=1)
        between -= near
        between *= self.share[pixels]
        between += near
        return between


def _interpolation(start: float, end: float, image_length: int, size: int) -> tuple[int, _Samples]:
    """One axis of pasting a mask into its region: bilinear at pixel centres, zero around the mask.

    Pixel x samples the mask at (x + 0.5 - start) * size / (end - start) - 0.5, as Detectron2's
    ``paste_masks_in_image`` does. At the region's edge half the mask's edge value is left, and less
    beyond: pixels outside the region never reach a threshold of 0.5 and are omitted here.

    Returns:
        The first pixel whose centre lies in the region and in the image, and where those from it to
        the last one lie in the mask; none if there is no such pixel.
    """
    start, length = float(start), float(end) - float(start)
    first = max(int(np.ceil(start - 0.5)), 0)
    last = min(int(np.floor(start + length - 0.5)), image_length - 1)
    if length <= 0 or last < first:
        return min(first, image_length), _Samples(np.zeros(0, int), np.zeros((0, 1), np.float32))
    position = (np.arange(first, last + 1) + 0.5 - start) * (size / length) - 0.5
    low = np.floor(position)
    share = (position - low).astype(np.float32)
    return first, _Samples(low.astype(int) + 1, share[:, None])


# Rows of pixels pasted at a time: few enough for all channels to stay in the CPU cache.
_BAND = 64


def _pasted(
    masks: np.ndarray, columns: _Samples, rows: _Samples
) -> Iterator[tuple[slice, np.ndarray]]:
    """Masks at the pixels of their region, one band of rows at a time.

    Not as matrix products, which are no faster: for some 25 ms after one, OpenBLAS's threads wait
    busily for the next, while ONNX Runtime needs the cores for the next image.

    Args:
        masks: (C, S, S).
        columns, rows: of the w and h pixels, from `_interpolation`.

    Yields:
        The slice of the h rows, and (C, rows, w) float32.
    """
    channels, size, _ = masks.shape
    padded = np.zeros((channels, size + 2, size + 2), dtype=np.float32)
    padded[:, 1:-1, 1:-1] = masks.transpose(0, 2, 1)  # both steps then copy whole rows
    narrow = np.ascontiguousarray(columns.interpolate(padded).transpose(0, 2, 1))
    for start in range(0, len(rows), _BAND):
        band = slice(start, start + _BAND)
        yield band, rows.interpolate(narrow, band)


def _encode_crop(mask: np.ndarray, crop: Crop, image_size: tuple[int, int]) -> dict[str, Any]:
    """Compressed whole-image RLE of a boolean (h, w) mask on the crop's pixels.

    Only the crop's columns are scanned for runs: scanning the whole image for every part of every
    person would be slow.
    """
    height, width = image_size
    columns = np.zeros((mask.shape[1], height), dtype=bool)  # RLE runs down the columns
    columns[:, crop.slices[0]] = mask.T
    edges = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False))
    ends = np.concatenate([[0], edges + crop.x0 * height, [height * width]])
    runs = {"size": [height, width], "counts": np.diff(ends).tolist()}
    return compress_segmentation(runs, height, width)
