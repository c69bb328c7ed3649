"""Left/right confusion: how often a model confuses a person's left and right.

A model can reach a fair AP while it swaps the arms of every person seen from behind: both masks are
predicted, under each other's name. This metric shows it; no published peer reports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ..records import Records
from ..schema import PartSchema
from .coco_ap import check_predictions
from .matching import Person, mask_iou, person_iou, takers


def left_right_confusion(records: Records, predictions: Sequence[Person]) -> dict[str, float]:
    """The fraction of left/right pairs whose predicted left overlaps more with the true right.

    In each image, predictions are matched to people by the IoU of silhouettes if both have one,
    else of boxes (`takers`). Crowds are left out. A pair is evaluated if both sides have masks
    (known or derived, and not empty) in ground truth and prediction; it is confused if the
    predicted left has a higher IoU with the true right than with the true left.

    Args:
        records: the ground truth.
        predictions: as for `coco_ap.evaluate_ap`.

    Returns:
        ``confusion``, and one ``confusion-<pair>`` for each of the schema's unions (``arm``,
        ``leg``): percent, nan if no pair was evaluated; ``pairs``: how many were evaluated.

    Raises:
        ValueError: as `coco_ap.check_predictions`.
    """
    check_predictions(records, predictions)
    found: dict[int, list[Person]] = {image["id"]: [] for image in records.images}
    for prediction in predictions:
        found[prediction["image_id"]].append(prediction)

    confused: dict[str, list[bool]] = {name: [] for name in records.part_schema.unions}
    for image_id, group in records.by_image().items():
        people = [a for a in group if not a["iscrowd"]]
        found_by = takers(people, found[image_id], person_iou)
        for person, prediction in zip(people, found_by, strict=True):
            if prediction is not None:
                for pair in judged_pairs(prediction, person, records.part_schema):
                    confused[pair.name].append(pair.is_confused)

    judged = [c for values in confused.values() for c in values]
    shares = {f"confusion-{name}": _percent(values) for name, values in confused.items()}
    return {"confusion": _percent(judged), **shares, "pairs": len(judged)}


class JudgedPair(NamedTuple):
    """An evaluated left/right pair: a union's name, such as ``arm``, and two IoUs."""

    name: str
    to_left: float  # of the predicted left with the true left
    to_right: float  # of the predicted left with the true right

    @property
    def is_confused(self) -> bool:
        """Whether the predicted left overlaps more with the true right."""
        return self.to_right > self.to_left


def judged_pairs(prediction: Person, person: Person, schema: PartSchema) -> Iterator[JudgedPair]:
    """The pairs that `left_right_confusion` evaluates for a prediction and its matched person."""
    for name, indices in schema.unions.items():
        sides = [schema.channels[i] for i in indices]
        found, true = part_masks(prediction, *sides), part_masks(person, *sides)
        if found and true:
            to_right, to_left = (mask_iou(found[1], side, person) for side in true)
            yield JudgedPair(name, to_left, to_right)


def part_masks(person: Person, *parts: str) -> list[Mapping[str, Any]] | None:
    """The parts' RLEs, or None if one of them is missing or empty."""
    masks = person.get("part_segmentation", {})
    if all(part in masks and mask_util.area(masks[part]) > 0 for part in parts):
        return [masks[part] for part in parts]
    return None


def _percent(values: Sequence[bool]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")
