"""Predictions and ground truth by image: matches and their IoU, misses and false positives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ..metrics.matching import MATCH_IOU, Person, mask_iou, person_iou, takers
from ..metrics.sides import JudgedPair, judged_pairs, part_masks
from ..records import Records
from ..schema import BODY, PartSchema


class Match(NamedTuple):
    """A prediction, the person matched to it, and their mean part IoU; see `part_iou`."""

    prediction: Person
    person: Person
    iou: float


class Swap(NamedTuple):
    """A left/right pair whose predicted left overlaps more with the true right."""

    prediction: Person
    person: Person
    pair: JudgedPair


@dataclass
class Comparison:
    """An image's predictions compared with its people.

    Args:
        image: its entry in `Records.images`.
        matches: people who were detected.
        missed: people who were not.
        false_alarms: predictions that match nobody.
        excused: predictions that match nobody where people need not be labelled.
        swaps: of all matched predictions, including those of a low score.
    """

    image: Mapping[str, Any]
    matches: list[Match] = field(default_factory=list)
    missed: list[Person] = field(default_factory=list)
    false_alarms: list[Person] = field(default_factory=list)
    excused: list[Person] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)

    @property
    def quality(self) -> float:
        """Mean part IoU of the people, 0 for each missed person and each false alarm; nan if there
        is nothing to judge."""
        ious = [match.iou for match in self.matches if not math.isnan(match.iou)]
        ious += [0.0] * (len(self.missed) + len(self.false_alarms))
        return float(np.mean(ious)) if ious else math.nan


def compare(
    records: Records, predictions: Sequence[Person], *, threshold: float
) -> list[Comparison]:
    """Match predictions and people one to one, as `sides.left_right_confusion` does.

    Args:
        records: the ground truth.
        predictions: as for `coco_ap.evaluate_ap`.
        threshold: predictions with a lower score are used for swapped sides only.

    Returns:
        One per image, in the order of the records.
    """
    schema = records.part_schema
    groups: dict[int, list[Person]] = {image["id"]: [] for image in records.images}
    for prediction in predictions:
        groups[prediction["image_id"]].append(prediction)
    annotations = records.by_image()
    comparisons = []
    for image in records.images:
        people = [a for a in annotations[image["id"]] if not a["iscrowd"]]
        crowds = [a for a in annotations[image["id"]] if a["iscrowd"]]
        comparison = Comparison(image)
        taken = set()
        found_by = takers(people, groups[image["id"]], person_iou)
        for person, prediction in zip(people, found_by, strict=True):
            if prediction is None:
                continue
            pairs = judged_pairs(prediction, person, schema)
            comparison.swaps += [Swap(prediction, person, p) for p in pairs if p.is_confused]
            if prediction["score"] >= threshold:
                iou = part_iou(prediction, person, schema)
                comparison.matches.append(Match(prediction, person, iou))
                taken |= {id(prediction), id(person)}
        comparison.missed = [person for person in people if id(person) not in taken]
        for prediction in groups[image["id"]]:
            if prediction["score"] >= threshold and id(prediction) not in taken:
                excused = not image["exhaustive"] or _in_crowd(prediction, crowds)
                (comparison.excused if excused else comparison.false_alarms).append(prediction)
        comparisons.append(comparison)
    return comparisons


def part_iou(prediction: Person, person: Person, schema: PartSchema) -> float:
    """Mean IoU, 0..1, of the person's known parts that are present in at least one of the two.

    If no part is known, the body's IoU; nan if there is nothing to compare.
    """
    known = [part for part in schema.parts if part in person["part_state"]] or [BODY]
    ious = []
    for channel in known:
        masks = [_mask(p, channel) for p in (prediction, person)]
        if channel in person["part_state"] and masks != [None, None]:
            ious.append(0.0 if None in masks else mask_iou(*masks, person))
    return float(np.mean(ious)) if ious else math.nan


def _mask(person: Person, channel: str) -> Mapping[str, Any] | None:
    if channel == BODY:
        return person.get("segmentation")
    masks = part_masks(person, channel)
    return masks and masks[0]


def _in_crowd(prediction: Person, crowds: Sequence[Person]) -> bool:
    """Whether the fraction of it that lies in a crowd is at least the IoU required for a match."""
    kind = "segmentation" if "segmentation" in prediction else "bbox"
    return any(
        mask_util.iou([prediction[kind]], [crowd[kind]], [1])[0, 0] >= MATCH_IOU for crowd in crowds
    )


def worst_and_best(
    comparisons: Sequence[Comparison], count: int
) -> tuple[list[Comparison], list[Comparison]]:
    """The ``count`` images of lowest quality, worst first, and those of highest, best first.

    No image is in both, so with few images there are fewer of each.
    """
    judged = [c for c in comparisons if not math.isnan(c.quality)]
    ranked = sorted(judged, key=lambda c: c.quality)
    count = min(count, math.ceil(len(ranked) / 2))
    worst = ranked[:count]
    return worst, ranked[count:][::-1][:count]


def surest_swaps(comparisons: Sequence[Comparison], count: int) -> list[tuple[Comparison, Swap]]:
    """The ``count`` swapped pairs of highest score."""
    swaps = [(comparison, swap) for comparison in comparisons for swap in comparison.swaps]
    return sorted(swaps, key=lambda found: -found[1].prediction["score"])[:count]
