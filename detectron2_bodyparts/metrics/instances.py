"""People as compared by the parsing metrics: label maps on crops, and the overlaps of pairs.

People are processed as crops. One joint histogram of the labels in the overlap of two crops gives
the intersections of all parts and of the silhouettes at once; no array has the size of the image
except the caller's own.

K is the number of part classes; class 0 is the background (in `TruePerson.known`: the silhouette).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ..people import Crop
from ..records import Records, decode_mask
from ..schema import BODY, PartSchema

UNKNOWN = 255  # in ground-truth label maps, as in common datasets


@dataclass(frozen=True, eq=False)
class TruePerson:
    """A ground-truth person.

    Args:
        crop: their label map and silhouette. `UNKNOWN` inside the silhouette is none of the known
            classes, but may be any other; outside it nothing is known of the pixel. If the
            silhouette itself is unknown (``known[0]`` is false), ``body`` is where the person may
            be.
        known: (K + 1,) bool; [0] the silhouette, [c] class c. A known class without pixels is known
            to be absent.
        box: (4,) float, XYXY absolute.
    """

    crop: Crop
    known: np.ndarray
    box: np.ndarray


@dataclass(frozen=True, eq=False)
class FoundPerson:
    """A predicted person.

    Args:
        crop: their label map, 0..K, and silhouette.
        score: 0..1.
    """

    crop: Crop
    score: float


@dataclass(frozen=True, eq=False)
class TruePicture:
    """The ground truth of an image.

    Args:
        image_id: unique; all integers or all strings within a dataset.
        image_size: (H, W).
        people: the labelled people.
        ignore: (H, W) bool, pixels that are not evaluated, or None.
        crowd: (H, W) bool, where there may be unlabelled people, or None.
        exhaustive: false if there may be unlabelled people anywhere.
        label_map: (H, W) uint8 of 0..K or `UNKNOWN`, if the dataset labels whole images; None: the
            people, painted in their order.
    """

    image_id: int | str
    image_size: tuple[int, int]
    people: Sequence[TruePerson]
    ignore: np.ndarray | None = None
    crowd: np.ndarray | None = None
    exhaustive: bool = True
    label_map: np.ndarray | None = None


class Overlaps(NamedTuple):
    """Overlaps of D predicted people with G ground-truth people, counting evaluated pixels only.

    ``iou``: (D, G, K + 1), IoU of each class over the whole image, [0] of the background; nan if
    the class is in neither of the two, or unknown for the ground-truth person.
    ``body_iou``: (D, G), IoU of the silhouettes, nan if the ground-truth one is unknown.
    ``found``, ``true``: (D, K + 1) and (G, K + 1), pixels of each class in prediction and ground
    truth, [0] of the silhouette (in the ground truth 0 if it is unknown).
    ``excused``: (D, K + 1), fraction of a predicted class, [0] of the silhouette, that lies where
    it cannot be judged: on crowds and ignored pixels together (all of it if the image is not
    exhaustive) or, if that is more, on one person for whom the class is unknown there (ignored
    pixels excluded).
    ``excused_parts``: (D,), the same for all parts together; the person is then one for whom no
    class is known.
    """

    iou: np.ndarray
    body_iou: np.ndarray
    found: np.ndarray
    true: np.ndarray
    excused: np.ndarray
    excused_parts: np.ndarray


def overlaps(picture: TruePicture, people: Sequence[FoundPerson], num_classes: int) -> Overlaps:
    """Compare all predicted people of an image with all ground-truth people.

    Ignored pixels are removed from both. Pixels where nothing is known of a ground-truth person
    (`UNKNOWN` outside their silhouette) do not count in comparisons with this person. At pixels
    where only the class is unknown, background does not count and a known class is wrong.

    Args:
        picture: the ground truth.
        people: the predicted people, in any order.
        num_classes: K, at most 250.
    """
    counts = _count(picture, people, num_classes)
    found, true = counts.found[:, counts.parts], counts.true[:, counts.parts]
    body_found = counts.found[:, counts.body].sum(axis=1)
    body_true = np.where(counts.known[:, 0], counts.true[:, counts.silhouette].sum(axis=1), 0)
    excused, excused_parts = _excused(picture, people, counts)
    return Overlaps(
        _class_iou(counts),
        _body_iou(counts, body_found, body_true),
        np.column_stack([body_found, found]),
        np.column_stack([body_true, true]),
        excused,
        excused_parts,
    )


@dataclass(frozen=True, eq=False)
class _Counts:
    """Pixel counts by code. 0: outside; 1..K: a part; K + 1: silhouette without part; and in the
    ground truth K + 2: nothing is known, K + 3: silhouette of unknown class.

    ``found``, ``true``: (D, K + 2), (G, K + 4), without ignored pixels; ``joint``: (D, G, K + 2,
    K + 4), the same for each pair. ``codes``: the D crops, including ignored pixels.
    """

    pixels: int
    known: np.ndarray
    codes: Sequence[np.ndarray]
    found: np.ndarray
    true: np.ndarray
    joint: np.ndarray

    @property
    def parts(self) -> slice:
        return slice(1, self.nothing - 1)

    @property
    def body(self) -> slice:
        return slice(1, self.nothing)

    @property
    def silhouette(self) -> list[int]:
        """The codes of a ground-truth person's body."""
        return [*range(1, self.nothing), self.no_class]

    @property
    def nothing(self) -> int:
        return self.joint.shape[2]

    @property
    def no_class(self) -> int:
        return self.joint.shape[2] + 1


def _count(picture: TruePicture, people: Sequence[FoundPerson], num_classes: int) -> _Counts:
    codes = [_codes(p.crop, num_classes) for p in people]
    found = [_without(c, p.crop, picture.ignore) for c, p in zip(codes, people, strict=True)]
    true = [_without(_codes(p.crop, num_classes), p.crop, picture.ignore) for p in picture.people]
    pixels = picture.image_size[0] * picture.image_size[1]
    if picture.ignore is not None:
        pixels -= np.count_nonzero(picture.ignore)
    return _Counts(
        pixels,
        np.array([p.known for p in picture.people], dtype=bool).reshape(-1, num_classes + 1),
        codes,
        _histograms(found, num_classes + 2),
        _histograms(true, num_classes + 4),
        _joint_histograms(
            [(p.crop, c) for p, c in zip(people, found, strict=True)],
            [(p.crop, c) for p, c in zip(picture.people, true, strict=True)],
            (num_classes + 2, num_classes + 4),
        ),
    )


def _class_iou(counts: _Counts) -> np.ndarray:
    """(D, G, K + 1) IoUs, [0] of the background."""
    joint, parts = counts.joint, counts.parts
    intersection = np.diagonal(joint, axis1=2, axis2=3)[..., parts]
    found = counts.found[:, None, parts] - joint[:, :, parts, counts.nothing]
    union = found + counts.true[:, parts] - intersection

    # Background is the rest of the image: its intersection is where neither has a part, its union
    # where not both have one.
    found = found - joint[:, :, parts, counts.no_class]
    counted = counts.pixels - counts.true[:, [counts.nothing, counts.no_class]].sum(axis=1)
    both = joint[:, :, parts, parts].sum(axis=(2, 3))
    neither = counted - found.sum(axis=2) - counts.true[:, parts].sum(axis=1) + both
    return np.concatenate(
        [
            _ratio(neither, counted - both)[..., None],
            _ratio(intersection, np.where(counts.known[:, 1:], union, 0)),
        ],
        axis=2,
    )


def _body_iou(counts: _Counts, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(D, G) IoUs, from the silhouettes' areas (D,) and (G,)."""
    on_codes = counts.joint[:, :, counts.body].sum(axis=2)
    intersection = on_codes[..., counts.silhouette].sum(axis=2)
    union = found[:, None] - on_codes[..., counts.nothing] + true - intersection
    return _ratio(intersection, np.where(counts.known[:, 0], union, 0))


def _excused(
    picture: TruePicture, people: Sequence[FoundPerson], counts: _Counts
) -> tuple[np.ndarray, np.ndarray]:
    """`Overlaps.excused` and `Overlaps.excused_parts`."""
    joint, known, parts, body = counts.joint, counts.known, counts.parts, counts.body
    areas = _histograms(counts.codes, counts.nothing)
    regions = _in_regions(picture, people, counts.codes, areas)
    hidden = joint[..., counts.nothing]
    unknown_class = joint[..., counts.no_class]
    on_body = joint[:, :, body][..., counts.silhouette].sum(axis=(2, 3))
    on_person = joint[:, :, parts, 1:].sum(axis=(2, 3))
    anything_known = known[:, 1:].any(axis=1)

    def share(codes: slice, unjudged: np.ndarray) -> np.ndarray:
        """The excused fraction of these codes together; ``unjudged``: (D, G) pixels per person."""
        most = np.maximum(regions[:, codes].sum(axis=1), unjudged.max(axis=1, initial=0))
        return np.nan_to_num(_ratio(most, areas[:, codes].sum(axis=1)))

    shares = [share(body, hidden[..., body].sum(axis=2) + np.where(known[:, 0], 0, on_body))]
    for c in range(1, known.shape[1]):
        unjudged = hidden[..., c] + np.where(known[:, c], 0, unknown_class[..., c])
        shares.append(share(slice(c, c + 1), unjudged))
    of_parts = np.where(anything_known, hidden[..., parts].sum(axis=2), on_person)
    return np.stack(shares, axis=1), share(parts, of_parts)


def _codes(crop: Crop, num_classes: int) -> np.ndarray:
    codes = crop.labels.copy()
    codes[crop.body & (codes == 0)] = num_classes + 1
    unknown = crop.labels == UNKNOWN
    if unknown.any():
        codes[unknown] = num_classes + 2 + crop.body[unknown]
    return codes


def _without(codes: np.ndarray, crop: Crop, ignore: np.ndarray | None) -> np.ndarray:
    return codes if ignore is None else codes * ~ignore[crop.slices]


def _histograms(codes: Sequence[np.ndarray], length: int) -> np.ndarray:
    """(N, length) int64 counts of each code."""
    counts = [np.bincount(c.ravel(), minlength=length) for c in codes]
    return np.array(counts, dtype=np.int64).reshape(-1, length)


def _joint_histograms(
    found: Sequence[tuple[Crop, np.ndarray]],
    true: Sequence[tuple[Crop, np.ndarray]],
    shape: tuple[int, int],
) -> np.ndarray:
    """(D, G, *shape) int64: for each pair of people, pixel counts of each pair of codes."""
    joint = np.zeros((len(found), len(true), *shape), dtype=np.int64)
    for d, (crop, codes) in enumerate(found):
        # A pair of codes as one integer: 250 classes fit into 16 bits.
        rows = codes.astype(np.uint16) * shape[1]
        for g, (other, other_codes) in enumerate(true):
            x0, y0 = max(crop.x0, other.x0), max(crop.y0, other.y0)
            x1 = min(crop.x0 + codes.shape[1], other.x0 + other_codes.shape[1])
            y1 = min(crop.y0 + codes.shape[0], other.y0 + other_codes.shape[0])
            if x0 >= x1 or y0 >= y1:
                continue
            pairs = rows[y0 - crop.y0 : y1 - crop.y0, x0 - crop.x0 : x1 - crop.x0]
            pairs = (
                pairs + other_codes[y0 - other.y0 : y1 - other.y0, x0 - other.x0 : x1 - other.x0]
            )
            counts = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1])
            joint[d, g] = counts.reshape(shape)
    return joint


def _in_regions(
    picture: TruePicture,
    people: Sequence[FoundPerson],
    codes: Sequence[np.ndarray],
    areas: np.ndarray,
) -> np.ndarray:
    """Pixel counts by code of each predicted person, in crowds or ignored regions."""
    if not picture.exhaustive:
        return areas
    regions = [region for region in (picture.ignore, picture.crowd) if region is not None]
    if not regions:
        return np.zeros_like(areas)
    inside = [
        c[np.logical_or.reduce([region[p.crop.slices] for region in regions])]
        for p, c in zip(people, codes, strict=True)
    ]
    return _histograms(inside, areas.shape[1])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, nan where ``whole`` is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def true_pictures(records: Records) -> Iterator[TruePicture]:
    """The ground truth of all images, in file order; see `true_picture`."""
    groups = records.by_image()
    for image in records.images:
        yield true_picture(image, groups[image["id"]], records.part_schema)


def true_picture(
    image: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], schema: PartSchema
) -> TruePicture:
    """The ground truth of an image of the records, from its annotations.

    Crowds become ``crowd``. If a part is unknown, unlabelled pixels of the silhouette (of the box,
    if the silhouette is unknown) become `UNKNOWN`. At pixels of ``ignore_segmentation`` nothing is
    known of this person.
    """
    size = (image["height"], image["width"])
    crowds = [a["segmentation"] for a in annotations if a["iscrowd"]]
    return TruePicture(
        image["id"],
        size,
        [true_person(a, schema, size) for a in annotations if not a["iscrowd"]],
        crowd=decode_mask(mask_util.merge(crowds)) if crowds else None,
        exhaustive=image["exhaustive"],
    )


def true_person(
    annotation: Mapping[str, Any], schema: PartSchema, image_size: tuple[int, int]
) -> TruePerson:
    """Convert an annotation that is not a crowd to `TruePerson`; see `true_picture`."""
    x, y, w, h = annotation["bbox"]
    states = annotation["part_state"]
    known = np.array([channel in states for channel in schema.channels])
    ignored = annotation.get("ignore_segmentation")
    window = None if known[0] else (x, y, x + w, y + h)
    masks = {BODY: annotation["segmentation"]} if known[0] else {}
    masks |= annotation["part_segmentation"]
    crop, (void,) = _crop(masks, [ignored], schema, image_size, window)
    if not known[0]:
        crop.body[:] = True
    if not known[1:].all():
        crop.labels[crop.body & (crop.labels == 0)] = UNKNOWN
    crop.labels[void] = UNKNOWN
    crop.body[void] = False
    return TruePerson(crop, known, np.array([x, y, x + w, y + h], dtype=float))


def found_person(
    prediction: Mapping[str, Any], schema: PartSchema, image_size: tuple[int, int]
) -> FoundPerson:
    """Convert a prediction of `People.to_annotations` to `FoundPerson`.

    Overlaps between parts are resolved by the schema's paint order; the silhouette includes all
    parts.
    """
    masks = {BODY: prediction["segmentation"]} if "segmentation" in prediction else {}
    masks |= prediction.get("part_segmentation", {})
    crop, _ = _crop(masks, [], schema, image_size, None)
    return FoundPerson(crop, float(prediction["score"]))


def _crop(
    masks: Mapping[str, Mapping[str, Any]],
    others: Sequence[Mapping[str, Any] | None],
    schema: PartSchema,
    image_size: tuple[int, int],
    window: tuple[float, float, float, float] | None,
) -> tuple[Crop, list[np.ndarray]]:
    """The crop around the masks, the others and the window (XYXY), and the others' pixels in it."""
    rles = [*masks.values(), *(rle for rle in others if rle is not None)]
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (mask_util.toBbox(r) for r in rles) if w > 0]
    if window is not None:
        boxes.append(window)
    if not boxes:
        empty = np.zeros((0, 0), dtype=bool)
        return Crop(0, 0, empty.astype(np.uint8), empty), [empty for _ in others]
    x0, y0 = (max(int(np.floor(min(box[i] for box in boxes))), 0) for i in (0, 1))
    x1, y1 = (min(int(np.ceil(max(box[i] for box in boxes))), image_size[3 - i]) for i in (2, 3))

    def pixels(rle: Mapping[str, Any] | None) -> np.ndarray:
        if rle is None:
            return np.zeros((y1 - y0, x1 - x0), dtype=bool)
        return decode_mask(rle)[y0:y1, x0:x1]

    labels = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    for part in schema.paint_order:
        if part in masks:
            labels[pixels(masks[part])] = schema.index(part)
    body = pixels(masks.get(BODY)) | (labels > 0)
    return Crop(x0, y0, labels, body), [pixels(rle) for rle in others]
