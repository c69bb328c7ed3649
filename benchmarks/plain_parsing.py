"""The parsing metrics as plain loops over whole label maps: slow, but easy to follow.

Written from the definitions, independently of `detectron2_bodyparts.metrics`, which the tests
compare with it. Everything is computed again for every threshold, class and pair of people, on
boolean planes of the image's size; `measured` is the only place where pairs may be cached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

PART_THRESHOLDS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
BODY_THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
BODY = 0  # as a class: the silhouette; only `background` asks for the other class 0


@dataclass
class PlainTruth:
    labels: np.ndarray  # (H, W): 0..K, 255 = unknown
    body: np.ndarray  # (H, W) bool; unknown labels outside it: nothing is known
    known: np.ndarray  # (K + 1,) bool, [0] the silhouette


@dataclass
class PlainFound:
    labels: np.ndarray
    body: np.ndarray
    score: float


@dataclass
class PlainPicture:
    image_id: int
    truths: list[PlainTruth]
    found: list[PlainFound]
    ignore: np.ndarray  # (H, W) bool
    crowd: np.ndarray
    exhaustive: bool = True
    cache: dict = field(default_factory=dict)


def mask_of(person, c):
    return person.body if c == BODY else person.labels == c


def there(picture, person, c):
    return bool((mask_of(person, c) & ~picture.ignore).any())


def is_truth(picture, truth, c):
    return bool(truth.known[c]) and there(picture, truth, c)


def iou(picture, found, truth, c):
    """nan if the class is unknown or in neither."""
    if not truth.known[c]:
        return math.nan
    counts = ~picture.ignore & ~((truth.labels == 255) & ~truth.body)
    a, b = mask_of(found, c) & counts, mask_of(truth, c) & counts
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else math.nan


def background_iou(picture, found, truth):
    counts = ~picture.ignore & (truth.labels != 255)
    a, b = (found.labels == 0) & counts, (truth.labels == 0) & counts
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else math.nan


def likeness(picture, found, truth, classes):
    values = [background_iou(picture, found, truth)]
    values += [iou(picture, found, truth, c) for c in range(1, classes + 1)]
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else 0.0


def excused(picture, found, c, t):
    """Whether an unmatched predicted class at t is neither a true nor a false positive."""
    mask = mask_of(found, c)
    regions = [picture.ignore | picture.crowd | (not picture.exhaustive)]
    for truth in picture.truths:
        region = (truth.labels == 255) & ~truth.body
        if not truth.known[c] and c == BODY:
            region = region | truth.body
        if not truth.known[c] and c != BODY:
            region = region | (truth.labels == 255)
        regions.append(region & ~picture.ignore)
    area = np.count_nonzero(mask)
    return area > 0 and max(np.count_nonzero(mask & r) for r in regions) / area > t


def excused_parts(picture, found, t):
    mask = found.labels > 0
    regions = [picture.ignore | picture.crowd | (not picture.exhaustive)]
    for truth in picture.truths:
        region = (truth.labels == 255) & ~truth.body
        if not truth.known[1:].any():
            region = region | truth.body
        regions.append(region & ~picture.ignore)
    area = np.count_nonzero(mask)
    return area > 0 and max(np.count_nonzero(mask & r) for r in regions) / area > t


def measured(picture, key, function, *args):
    """The function's value, cached if the image has a cache (see `keep_measures`)."""
    if picture.cache is None:
        return function(picture, *args)
    if key not in picture.cache:
        picture.cache[key] = function(picture, *args)
    return picture.cache[key]


def keep_measures(pictures, keep):
    """Set whether a pair of people is measured once, or again for every threshold."""
    for picture in pictures:
        picture.cache = {} if keep else None


def in_score_order(pictures):
    everybody = [
        (-found.score, picture.image_id, i, picture)
        for picture in pictures
        for i, found in enumerate(picture.found)
    ]
    return [(picture, i) for _, _, i, picture in sorted(everybody, key=lambda e: e[:3])]


def area_under_envelope(flags, positives):
    """Of flags, true or false positive, in descending score."""
    if positives == 0:
        return math.nan
    recall, precision, right = [0.0], [0.0], 0
    for n, flag in enumerate(flags, start=1):
        right += flag
        recall.append(right / positives)
        precision.append(right / n)
    area = 0.0
    for n in range(1, len(recall)):
        area += (recall[n] - recall[n - 1]) * max(precision[n:])
    return area


def class_ap(pictures, c, t, strict):
    positives = sum(is_truth(p, truth, c) for p in pictures for truth in p.truths)
    flags, used = [], set()
    for picture, i in in_score_order(pictures):
        found = picture.found[i]
        if not there(picture, found, c):
            continue
        best, best_g = t, None
        for g, truth in enumerate(picture.truths):
            if not is_truth(picture, truth, c) or (strict and (picture.image_id, g) in used):
                continue
            value = measured(picture, (i, g, c), iou, found, truth, c)
            if value > best:
                best, best_g = value, g
        if best_g is not None:
            used.add((picture.image_id, best_g))
            flags.append(True)
        elif not excused(picture, found, c, t):
            flags.append(False)
    return area_under_envelope(flags, positives)


def person_ap(pictures, classes, t):
    """APp and PCP at t."""
    every_class = range(1, classes + 1)
    truths = [
        (picture.image_id, g)
        for picture in pictures
        for g, truth in enumerate(picture.truths)
        if any(is_truth(picture, truth, c) for c in every_class)
    ]
    flags, shares = [], dict.fromkeys(truths, 0.0)
    used = set()
    for picture, i in in_score_order(pictures):
        found = picture.found[i]
        if found.score < 0.001 or not any(there(picture, found, c) for c in every_class):
            continue
        best, best_g = -1.0, None
        for g, truth in enumerate(picture.truths):
            if (picture.image_id, g) not in shares:
                continue
            value = measured(picture, (i, g), likeness, found, truth, classes)
            if value > best:
                best, best_g = value, g
        if best > t and (picture.image_id, best_g) not in used:
            used.add((picture.image_id, best_g))
            truth = picture.truths[best_g]
            present = [c for c in every_class if is_truth(picture, truth, c)]
            right = [
                c for c in present if measured(picture, (i, best_g, c), iou, found, truth, c) > t
            ]
            shares[picture.image_id, best_g] = len(right) / len(present)
            flags.append(True)
        elif not excused_parts(picture, found, t):
            flags.append(False)
    pcp = sum(shares.values()) / len(shares) if shares else math.nan
    return area_under_envelope(flags, len(truths)), pcp


def class_ious(pictures, classes, paint_threshold):
    right, union = np.zeros(classes + 1), np.zeros(classes + 1)
    for picture in pictures:
        shape = picture.ignore.shape
        predicted, true = np.zeros(shape, int), np.zeros(shape, int)
        # Ascending score; of equal scores the first is painted last.
        for i in sorted(range(len(picture.found)), key=lambda i: (picture.found[i].score, -i)):
            found = picture.found[i]
            if found.score >= paint_threshold:
                predicted = np.where(found.body, found.labels, predicted)
        certain = ~picture.crowd & picture.exhaustive
        for truth in picture.truths:
            true = np.where(truth.labels == 255, 255, true)
        for truth in picture.truths:
            mask = (truth.labels > 0) | (truth.body if truth.known[0] else False)
            true = np.where(mask & (truth.labels != 255), truth.labels, true)
            certain = certain | mask
        counts = certain & (true != 255) & ~picture.ignore
        for c in range(classes + 1):
            a, b = (predicted == c) & counts, (true == c) & counts
            right[c] += np.count_nonzero(a & b)
            union[c] += np.count_nonzero(a | b)
    return [r / u if u else math.nan for r, u in zip(right, union, strict=True)]


def mean(values):
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else math.nan


def plain_result(pictures, class_names, paint_threshold):
    """As `ParsingMetrics.result`."""
    classes = len(class_names)
    ious = class_ious(pictures, classes, paint_threshold)
    result = {"mIoU": mean(ious)}
    names = ("background", *class_names)
    result |= {f"IoU-{name}": value for name, value in zip(names, ious, strict=True)}
    for kind in ("official", "strict"):
        table = np.array(
            [
                [class_ap(pictures, c, t, kind == "strict") for t in PART_THRESHOLDS]
                for c in range(1, classes + 1)
            ]
        )
        for name, row in zip(class_names, table, strict=True):
            result[f"APr_50_{kind}-{name}"] = row[4]
            result[f"APr_vol_{kind}-{name}"] = row.mean()
        result[f"APr_50_{kind}"] = mean(table[:, 4])
        result[f"APr_vol_{kind}"] = mean(table.mean(axis=1))
        by_t = [class_ap(pictures, BODY, t, kind == "strict") for t in BODY_THRESHOLDS]
        result[f"APh_{kind}"] = float(np.mean(by_t))
    people = [person_ap(pictures, classes, t) for t in PART_THRESHOLDS]
    result["APp_50"], result["PCP_50"] = people[4]
    result["APp_vol"] = float(np.mean([ap for ap, _ in people]))
    result = {name: 100 * value for name, value in result.items()}
    return {**result, "mIoU_paint_threshold": paint_threshold}
