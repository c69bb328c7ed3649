"""Matching of predictions to the people of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_util

MATCH_IOU = 0.5

Person = Mapping[str, Any]  # a record's annotation, or a prediction


def box_iou(prediction: Person, person: Person) -> float:
    """IoU of the boxes."""
    return float(mask_util.iou([prediction["bbox"]], [person["bbox"]], [0])[0, 0])


def person_iou(prediction: Person, person: Person) -> float:
    """IoU of the silhouettes (`mask_iou`) if both have one, else of the boxes."""
    if "segmentation" not in prediction or "segmentation" not in person:
        return box_iou(prediction, person)
    return mask_iou(prediction["segmentation"], person["segmentation"], person)


def mask_iou(found: Mapping[str, Any], true: Mapping[str, Any], person: Person) -> float:
    """IoU of two RLEs, without the person's ``ignore_segmentation``."""
    ignored = person.get("ignore_segmentation")
    if ignored is None:
        return float(mask_util.iou([found], [true], [0])[0, 0])

    def area(*masks: Mapping[str, Any]) -> float:
        return float(mask_util.area(mask_util.merge(list(masks), intersect=True)))

    both = area(found, true) - area(found, true, ignored)
    either = area(found) - area(found, ignored) + area(true) - area(true, ignored) - both
    return both / either if either else 0.0


def takers(
    people: Sequence[Person],
    predictions: Sequence[Person],
    iou: Callable[[Person, Person], float],
) -> list[Person | None]:
    """For each person the prediction matched to them, or None.

    Greedy and one to one: in descending score, each prediction is matched to the unmatched person
    with the highest IoU, if it is at least `MATCH_IOU`.

    Args:
        people, predictions: of one image, without crowds.
        iou: IoU of a prediction and a person.
    """
    found: list[Person | None] = [None] * len(people)
    for prediction in sorted(predictions, key=lambda p: -p["score"]):
        overlaps = {i: iou(prediction, people[i]) for i, p in enumerate(found) if p is None}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= MATCH_IOU:
            found[best] = prediction
    return found
