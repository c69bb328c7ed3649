"""How often a model takes a person's left for their right.

A model can reach a fair AP while it swaps the arms of every person seen from behind: the masks of
both arms are found, under each other's name. This figure says so; no published peer reports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..records import Records
from .coco_ap import check_predictions

MATCH_IOU = 0.5


def left_right_confusion(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Share of sided pairs whose predicted left lies rather on the true right.

    In each picture the predictions, in descending score, take the free person of greatest IoU, at
    least `MATCH_IOU`: of the silhouettes where both are there, else of the boxes. Crowds take no
    part. A pair is judged where its right and left are there (known or derived, and not empty) in
    truth and prediction; it is confused where the predicted left has a greater IoU with the true
    right than with the true left.

    Args:
        records: the truth.
        predictions: as for `coco_ap.evaluate_ap`.

    Returns:
        ``confusion``, and one ``confusion-<pair>`` for each of the schema's unions (``arm``,
        ``leg``): percent, nan where no pair was judged; ``pairs``: how many were judged.

    Raises:
        ValueError: as `coco_ap.check_predictions`.
    """
    check_predictions(records, predictions)
    channels = records.part_schema.channels
    pairs = {
        name: tuple(channels[i] for i in pair) for name, pair in records.part_schema.unions.items()
    }
    found: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in records.images}
    for prediction in predictions:
        found[prediction["image_id"]].append(prediction)

    confused: dict[str, list[bool]] = {name: [] for name in pairs}
    for image_id, group in records.by_image().items():
        people = [a for a in group if not a["iscrowd"]]
        for prediction, person in matches(found[image_id], people):
            for name, (right, left) in pairs.items():
                masks = [part_masks(p, right, left) for p in (prediction, person)]
                if None in masks:
                    continue
                (_, predicted_left), truth = masks
                to_right, to_left = mask_util.iou([predicted_left], truth, [0, 0])[0]
                confused[name].append(bool(to_right > to_left))

    judged = [c for values in confused.values() for c in values]
    shares = {f"confusion-{name}": _percent(values) for name, values in confused.items()}
    return {"confusion": _percent(judged), **shares, "pairs": len(judged)}


def matches(
    predictions: Sequence[Mapping[str, Any]], people: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(prediction, person) pairs of one picture, one to one, greedily by score.

    Args:
        predictions, people: of the picture, crowds left out; matched as in `left_right_confusion`.
    """
    free = list(people)
    pairs = []
    for prediction in sorted(predictions, key=lambda p: -p["score"]):
        overlaps = [_person_iou(prediction, person) for person in free]
        if overlaps and max(overlaps) >= MATCH_IOU:
            pairs.append((prediction, free.pop(int(np.argmax(overlaps)))))
    return pairs


def _person_iou(prediction: Mapping[str, Any], person: Mapping[str, Any]) -> float:
    kind = "segmentation" if "segmentation" in prediction and "segmentation" in person else "bbox"
    return float(mask_util.iou([prediction[kind]], [person[kind]], [0])[0, 0])


def part_masks(person: Mapping[str, Any], *parts: str) -> list[Mapping[str, Any]] | None:
    """The parts' RLEs, None where one of them is missing or empty."""
    masks = person.get("part_segmentation", {})
    if all(part in masks and mask_util.area(masks[part]) > 0 for part in parts):
        return [masks[part] for part in parts]
    return None


def _percent(values: Sequence[bool]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")
