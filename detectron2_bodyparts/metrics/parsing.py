"""The human parsing metrics: mIoU, APr, APp, PCP and APh.

Results are comparable with those published for CIHP, MHP and PASCAL-Person-Part. AP is the area
under the precision envelope (as in PASCAL VOC since 2010: every recall step) of the detections of
all images, in descending score; ties in the order of image ids, then of people.

* ``mIoU``: one confusion matrix over all pixels, background included; classes that are in neither
  ground truth nor predictions, or unknown for everyone, are left out of the mean. People are
  painted in ascending score, the first of equal scores on top; those below ``paint_threshold`` are
  not painted (published code: 0.3 for CIHP, 0.05 for MHP v2).
* ``APr``: regions. An instance is one class of one person. It is a true positive at t if its
  highest IoU with that class of a ground-truth person of the image is above t. Mean over the
  classes with ground truth.
* ``APp``: people by their parts. The similarity of two people is the mean over classes, background
  included, of the IoU over the whole image, without classes that are in neither. A person is a true
  positive at t if the similarity to the most similar ground-truth person is above t and no more
  confident one was matched to that person at t. People scoring below `MIN_SCORE` are left out.
* ``PCP``: for each ground-truth person matched in this way at t, the fraction of their classes with
  an IoU above t; 0 for the others; mean over ground-truth people.
* ``APh``: silhouettes, mean over the IoUs 0.50:0.05:0.95.

``_50`` is at t = 0.5, ``_vol`` the mean over 0.1, 0.2 ... 0.9.

APr and APh come in two variants. ``official`` counts as the published scripts do: they do not check
whether an instance was matched before, so duplicates are true positives, and recall may exceed 1
and AP 100. ``strict`` is one to one: in descending score each instance is matched to the unmatched
one of highest IoU above t. Unlike in the published scripts, images without predictions count, a
class without ground truth has no AP (they count it as 0, or fail), and people without any part,
predicted or not, are left out of APp and PCP (some scripts count predicted ones as wrong).

Unknown is not wrong:

* mIoU: pixels do not count where the label is unknown (`instances.UNKNOWN`), ignored, or, in
  crowds and in images that are not exhaustive, outside the silhouettes of labelled people.
* APr, APp, PCP: a class that is unknown for a ground-truth person is not an instance and is left
  out of similarity and fraction. People for whom no class is known are no ground truth at all.
* APr, APp, APh: an unmatched detection at t of which more than t of the area lies in a crowd, on
  ignored pixels or on a person for whom it is unknown is neither a true nor a false positive, as in
  COCO. In an image that is not exhaustive there are no false positives.
* Single pixels: see `instances.overlaps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..records import Records
from .coco_ap import check_predictions
from .instances import (
    UNKNOWN,
    FoundPerson,
    Overlaps,
    TruePicture,
    found_person,
    overlaps,
    true_pictures,
)

# Quotients of integers, not steps of 0.1, so that an IoU of 3 / 10 is not above 0.3.
PART_THRESHOLDS = np.arange(1, 10) / 10
SILHOUETTE_THRESHOLDS = np.arange(10, 20) / 20
MIN_SCORE = 0.001  # for APp, as in the published scripts
CIHP_PAINT_THRESHOLD = 0.3
MHP_PAINT_THRESHOLD = 0.05

_RIGHT, _WRONG, _NONE = 1, 0, -1  # verdicts; none: no detection, or it cannot be judged


class _Verdicts(NamedTuple):
    """What is stored of an image with D predictions, K classes and T thresholds (verdicts: int8).

    ``regions``, ``regions_strict``: (D, T, K). ``people``: (D, T). ``silhouettes``,
    ``silhouettes_strict``: (D, T', 1). ``scores``: (D,). ``truths``: (K + 1,), ground-truth
    instances of each class, [0] of silhouettes. ``parts``: (G,), number of classes of each
    ground-truth person with parts; ``parts_right``: (G, T), how many of them are correct.
    """

    scores: np.ndarray
    regions: np.ndarray
    regions_strict: np.ndarray
    people: np.ndarray
    silhouettes: np.ndarray
    silhouettes_strict: np.ndarray
    truths: np.ndarray
    parts: np.ndarray
    parts_right: np.ndarray


class ParsingMetrics:
    """Accumulates images one at a time and computes the parsing metrics.

        >>> metrics = ParsingMetrics(("head", "torso"), paint_threshold=0.3)
        >>> for picture, people in pictures:  # TruePicture, [FoundPerson, ...]
        ...     metrics.add(picture, people)
        >>> metrics.result()["APp_50"]

    A few hundred bytes are stored per person. Metrics of several processes can be pickled and
    merged in any order, with exactly the results of one process.
    """

    def __init__(self, classes: Sequence[str], *, paint_threshold: float) -> None:
        """
        Args:
            classes: the names of the K part classes, at most 250, without background: class c of
                a label map is ``classes[c - 1]``. For a schema, its ``parts``.
            paint_threshold: people with a lower score are not painted for mIoU.

        Raises:
            ValueError: there are no classes, or too many.
        """
        if not 1 <= len(classes) <= 250:
            raise ValueError(f"expected 1 to 250 classes, found {len(classes)}")
        self.classes = tuple(classes)
        self.paint_threshold = paint_threshold
        labels = len(self.classes) + 1
        self._confusion = np.zeros((labels, labels), dtype=np.int64)  # truth, prediction
        self._known = np.zeros(labels, dtype=bool)  # for anyone; [0] is the silhouette
        self._has_people = False
        self._pictures: dict[int | str, _Verdicts] = {}

    def add(self, picture: TruePicture, people: Sequence[FoundPerson]) -> None:
        """Add an image. One without predictions is added with no people.

        Raises:
            ValueError: the image was added before.
        """
        if picture.image_id in self._pictures:
            raise ValueError(f"image {picture.image_id} was added before")
        self._pictures[picture.image_id] = _judge(picture, people, len(self.classes))
        self._confusion += _confusion(picture, people, len(self.classes), self.paint_threshold)
        for person in picture.people:
            self._known |= person.known
            self._has_people = True

    def merge(self, other: ParsingMetrics) -> None:
        """Add the images of other metrics.

        Raises:
            ValueError: its settings differ, or an image is in both.
        """
        for name in ("classes", "paint_threshold"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"{name}: expected {mine}, found {theirs}")
        common = self._pictures.keys() & other._pictures.keys()
        if common:
            raise ValueError(f"images are in both: {sorted(common)[:3]}")
        self._confusion += other._confusion
        self._known |= other._known
        self._has_people |= other._has_people
        self._pictures.update(other._pictures)

    def result(self) -> dict[str, float]:
        """The metrics in percent, nan without ground truth.

        Returns:
            ``mIoU``, ``IoU-background``, ``IoU-<class>``, ``mIoU_paint_threshold`` (the setting);
            ``APp_50``, ``APp_vol``, ``PCP_50``; ``APh_official``, ``APh_strict``; and for both
            variants ``APr_50_official``, ``APr_vol_official`` and the same for each class,
            ``APr_50_official-<class>`` ...
        """
        pictures = [self._pictures[image_id] for image_id in sorted(self._pictures)]
        scores = _joined(pictures, "scores", ())
        # Stable, so that people of equal score stay in the order of image ids, then of people.
        order = np.argsort(-scores, kind="stable")
        results = self._iou_figures()

        def verdicts(field: str, *shape: int) -> np.ndarray:
            return _joined(pictures, field, shape)[order]

        num_classes = len(self.classes)
        parts_t, body_t = len(PART_THRESHOLDS), len(SILHOUETTE_THRESHOLDS)
        truths = sum((p.truths for p in pictures), np.zeros(num_classes + 1, dtype=np.int64))
        for kind, suffix in (("official", ""), ("strict", "_strict")):
            regions = verdicts("regions" + suffix, parts_t, num_classes)
            by_class = np.stack(
                [_average_precision(regions[..., c], truths[c + 1]) for c in range(num_classes)]
            )
            results |= _fifty_and_vol("APr", _nanmean(by_class, axis=0), f"_{kind}")
            for name, values in zip(self.classes, by_class, strict=True):
                results |= _fifty_and_vol("APr", values, f"_{kind}-{name}")
            silhouettes = verdicts("silhouettes" + suffix, body_t, 1)[..., 0]
            results[f"APh_{kind}"] = float(np.mean(_average_precision(silhouettes, truths[0])))

        parts = _joined(pictures, "parts", ())
        people = verdicts("people", parts_t)
        results |= _fifty_and_vol("APp", _average_precision(people, len(parts)))
        shares = _joined(pictures, "parts_right", (parts_t,)) / parts[:, None]
        results["PCP_50"] = 100 * float(_nanmean(shares[:, PART_THRESHOLDS == 0.5][:, 0], axis=0))
        return results

    def _iou_figures(self) -> dict[str, float]:
        right = np.diag(self._confusion)
        union = self._confusion.sum(axis=0) + self._confusion.sum(axis=1) - right
        judged = self._known | (self._confusion.sum(axis=1) > 0)
        judged[0] = True  # the background
        judged |= not self._has_people
        iou = np.full(len(right), np.nan)
        np.divide(100 * right, union, out=iou, where=judged & (union > 0))
        names = ("background", *self.classes)
        return {
            "mIoU": float(_nanmean(iou, axis=0)) if judged[1:].any() else float("nan"),
            "mIoU_paint_threshold": self.paint_threshold,
            **{f"IoU-{name}": float(value) for name, value in zip(names, iou, strict=True)},
        }


def evaluate_parsing(
    records: Records, predictions: Sequence[Mapping[str, Any]], *, paint_threshold: float
) -> dict[str, float]:
    """Compute the parsing metrics of predictions in the records' schema.

    Args:
        records: the ground truth; see `instances.true_pictures`.
        predictions: as for `coco_ap.evaluate_ap`; people without masks are left out.
        paint_threshold: as for `ParsingMetrics`.

    Returns:
        As `ParsingMetrics.result`.

    Raises:
        ValueError: as `coco_ap.check_predictions`.
    """
    metrics = ParsingMetrics(records.part_schema.parts, paint_threshold=paint_threshold)
    for picture, people in _pictures(records, predictions):
        metrics.add(picture, people)
    return metrics.result()


def confusion_matrix(
    records: Records, predictions: Sequence[Mapping[str, Any]], *, paint_threshold: float
) -> np.ndarray:
    """The confusion matrix of mIoU: pixels of each part and of the background by predicted label.

    Args, raises: as for `evaluate_parsing`.

    Returns:
        (K + 1, K + 1) int64, ground truth by prediction: background, then the schema's parts.
    """
    num_parts = len(records.part_schema.parts)
    total = np.zeros((num_parts + 1, num_parts + 1), dtype=np.int64)
    for picture, people in _pictures(records, predictions):
        total += _confusion(picture, people, num_parts, paint_threshold)
    return total


def _pictures(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[TruePicture, list[FoundPerson]]]:
    """Each image's ground truth and its predictions that have masks."""
    check_predictions(records, predictions)
    schema = records.part_schema
    groups: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in records.images}
    for prediction in predictions:
        if "segmentation" in prediction or "part_segmentation" in prediction:
            groups[prediction["image_id"]].append(prediction)
    for picture in true_pictures(records):
        group = groups[picture.image_id]
        yield picture, [found_person(p, schema, picture.image_size) for p in group]


def _judge(picture: TruePicture, people: Sequence[FoundPerson], num_classes: int) -> _Verdicts:
    scores = np.array([p.score for p in people], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    compared = overlaps(picture, people, num_classes)
    # If either of the two is empty, there is nothing to match.
    there = (compared.found[:, None] > 0) & (compared.true > 0)
    iou = np.where(there, np.nan_to_num(compared.iou), -1.0)[..., 1:]
    body_iou = np.where(there[..., :1], np.nan_to_num(compared.body_iou)[..., None], -1.0)
    found, excused = compared.found > 0, compared.excused

    def both_kinds(iou: np.ndarray, thresholds: np.ndarray, columns: slice) -> list[np.ndarray]:
        official = iou.max(axis=1, initial=-1.0)[:, None] > thresholds[:, None]
        return [
            _verdicts(hits, found[:, columns], excused[:, columns], thresholds)
            for hits in (official, _one_to_one_hits(iou, thresholds, order))
        ]

    regions = both_kinds(iou, PART_THRESHOLDS, slice(1, None))
    silhouettes = both_kinds(body_iou, SILHOUETTE_THRESHOLDS, slice(0, 1))
    has_parts = (compared.true[:, 1:] > 0).any(axis=1)
    taker, person_verdicts = _person_matches(compared, scores, order, has_parts)
    return _Verdicts(
        scores,
        *regions,
        person_verdicts,
        *silhouettes,
        (compared.true > 0).sum(axis=0),
        (compared.true[has_parts, 1:] > 0).sum(axis=1),
        _parts_right(iou, taker)[has_parts],
    )


def _one_to_one_hits(iou: np.ndarray, thresholds: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(D, T, C) bool from IoUs (D, G, C): in this order, each matches the best free one above t."""
    count, true_count, classes = iou.shape
    hits = np.zeros((count, len(thresholds), classes), dtype=bool)
    if true_count == 0:
        return hits
    taken = np.zeros((true_count, len(thresholds), classes), dtype=bool)
    for d in order:
        free = np.where(taken, -1.0, iou[d][:, None])
        best = free.argmax(axis=0)
        hits[d] = free.max(axis=0) > thresholds[:, None]
        t, c = np.nonzero(hits[d])
        taken[best[t, c], t, c] = True
    return hits


def _person_matches(
    compared: Overlaps, scores: np.ndarray, order: np.ndarray, has_parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(G, T) index of the prediction for each ground-truth person, -1: none; (D, T) verdicts."""
    thresholds = PART_THRESHOLDS
    taker = np.full((len(has_parts), len(thresholds)), -1)
    hits = np.zeros((len(scores), len(thresholds)), dtype=bool)
    counts = (scores >= MIN_SCORE) & (compared.found[:, 1:] > 0).any(axis=1)
    if has_parts.any():
        # Background always exists, so the mean is never empty, unless no pixel counts.
        likeness = np.where(has_parts, np.nan_to_num(_nanmean(compared.iou, axis=2)), -1.0)
        best = likeness.argmax(axis=1)
        for d in order[counts[order]]:
            g = best[d]
            hits[d] = (likeness[d, g] > thresholds) & (taker[g] < 0)
            taker[g, hits[d]] = d
    verdicts = _verdicts(
        hits[..., None], counts[:, None], compared.excused_parts[:, None], thresholds
    )
    return taker, verdicts[..., 0]


def _parts_right(iou: np.ndarray, taker: np.ndarray) -> np.ndarray:
    """(G, T) int16: number of classes whose IoU (D, G, K) with the match is above the threshold."""
    right = np.zeros(taker.shape, dtype=np.int16)
    for g, t in zip(*np.nonzero(taker >= 0), strict=True):
        right[g, t] = np.count_nonzero(iou[taker[g, t], g] > PART_THRESHOLDS[t])
    return right


def _verdicts(
    hits: np.ndarray, found: np.ndarray, excused: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """(D, T, C) int8 from hits (D, T, C), existence and excused fraction (both (D, C))."""
    verdicts = hits.astype(np.int8)
    verdicts[~hits & (excused[:, None] > thresholds[:, None])] = _NONE
    verdicts[np.broadcast_to(~found[:, None], hits.shape)] = _NONE
    return verdicts


def _average_precision(verdicts: np.ndarray, truths: int) -> np.ndarray:
    """Percent at each threshold, from (N, T) verdicts in descending score; nan without truths."""
    if truths == 0:
        return np.full(verdicts.shape[1], np.nan)
    right, wrong = verdicts == _RIGHT, verdicts == _WRONG
    hits = np.cumsum(right, axis=0)
    precision = hits / np.maximum(hits + np.cumsum(wrong, axis=0), 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return 100 * (envelope * right).sum(axis=0) / truths


def _confusion(
    picture: TruePicture, people: Sequence[FoundPerson], num_classes: int, threshold: float
) -> np.ndarray:
    """(K + 1, K + 1) int64 pixel counts, ground truth by prediction."""
    people = [p for p in people if p.score >= threshold]
    window = _window(picture, [*picture.people, *people])
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    predicted = np.zeros(shape, dtype=np.uint8)
    for i in np.argsort([-p.score for p in people], kind="stable")[::-1]:
        view, crop = people[i].crop, _inside(people[i].crop.slices, window)
        predicted[crop][view.body] = view.labels[view.body]

    true, counts = _painted_truth(picture, window)
    counts &= true != UNKNOWN
    if picture.ignore is not None:
        counts &= ~picture.ignore[window]
    codes = true[counts].astype(np.uint16) * (num_classes + 1) + predicted[counts]
    confusion = np.bincount(codes, minlength=(num_classes + 1) ** 2)
    confusion = confusion.reshape(num_classes + 1, num_classes + 1)
    confusion[0, 0] += _rest(picture, window)
    return confusion


def _window(picture: TruePicture, people: Iterable) -> tuple[slice, slice]:
    """(rows, columns) of the image that contain all people; all of it if it has a label map."""
    if picture.label_map is not None:
        return slice(0, picture.image_size[0]), slice(0, picture.image_size[1])
    slices = [p.crop.slices for p in people if p.crop.body.size]
    if not slices:
        return slice(0, 0), slice(0, 0)
    return tuple(
        slice(min(s[axis].start for s in slices), max(s[axis].stop for s in slices))
        for axis in (0, 1)
    )


def _inside(slices: tuple[slice, slice], window: tuple[slice, slice]) -> tuple[slice, slice]:
    return tuple(
        slice(s.start - w.start, s.stop - w.start) for s, w in zip(slices, window, strict=True)
    )


def _painted_truth(
    picture: TruePicture, window: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray]:
    """The window's ground-truth labels, and where unlabelled people can be ruled out."""
    shape = (window[0].stop - window[0].start, window[1].stop - window[1].start)
    counts = np.full(shape, picture.exhaustive)
    if picture.crowd is not None:
        counts &= ~picture.crowd[window]
    true = np.zeros(shape, dtype=np.uint8)
    # What is known of one person takes precedence over what is unknown of another.
    for unknown in (True, False):
        for person in picture.people:
            crop, place = person.crop, _inside(person.crop.slices, window)
            there = crop.labels > 0
            if person.known[0]:
                there |= crop.body
            mask = there & ((crop.labels == UNKNOWN) == unknown)
            true[place][mask] = crop.labels[mask]
            counts[place][mask] = True
    return (true if picture.label_map is None else picture.label_map[window]), counts


def _rest(picture: TruePicture, window: tuple[slice, slice]) -> int:
    """Number of pixels outside the window that count: background in both."""
    if not picture.exhaustive:
        return 0
    height, width = picture.image_size
    rows, columns = window
    rest = height * width - (rows.stop - rows.start) * (columns.stop - columns.start)
    regions = [region for region in (picture.ignore, picture.crowd) if region is not None]
    if regions:
        region = np.logical_or.reduce(regions)
        rest -= np.count_nonzero(region) - np.count_nonzero(region[window])
    return rest


def _joined(pictures: Sequence[_Verdicts], field: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field of all images, concatenated; ``shape`` is its shape without the first axis."""
    return np.concatenate([np.zeros((0, *shape)), *(getattr(p, field) for p in pictures)])


def _fifty_and_vol(name: str, by_threshold: np.ndarray, suffix: str = "") -> dict[str, float]:
    (fifty,) = by_threshold[PART_THRESHOLDS == 0.5]
    return {
        f"{name}_50{suffix}": float(fifty),
        f"{name}_vol{suffix}": float(np.mean(by_threshold)),
    }


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without nan values; nan if there are no others."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    count = known.sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
