"""Parts that a teacher sees, for pictures whose labels do not tell them: self-training.

The teacher gives every pixel the probabilities of the background and of bodyparts-11's parts. Of a
limb it teaches no side: sides are of those who know them, bones that were labelled or a teacher of
joints. What it is not sure of is ignored, and what was labelled goes before. All of it is marked as
derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from ..records import (
    decode_mask,
    decode_segmentation,
    ignore_annotation,
    person_annotation,
)
from ..schema import BODY, BODYPARTS_11, KeypointSchema, unsided_name

CLASSES = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")

# The least probability that is believed.
SURE = 0.6
# Where labels leave several classes, the least that the teacher must give to all of these together:
# a long coat over the shins is not a thigh because its label has no lower leg.
AGREES = 0.5
# Pixels of the longer side of the picture that BodyPix is given, and from cell to cell.
BODYPIX_SIDE, BODYPIX_STRIDE = 513, 16
# Outside of everybody who is labelled, somebody else is who is seen over more than a sliver.
_SLIVER = np.ones((5, 5), dtype=np.uint8)  # pixels


def bodypix_size(height: int, width: int) -> tuple[int, int]:
    """(W, H) of the picture that BodyPix is given: whole cells and a pixel, as it takes them."""
    scale = BODYPIX_SIDE / max(height, width)
    columns, rows = (max(round((n * scale - 1) / BODYPIX_STRIDE), 1) for n in (width, height))
    return columns * BODYPIX_STRIDE + 1, rows * BODYPIX_STRIDE + 1


def sum_of_sides(probabilities: np.ndarray) -> np.ndarray:
    """(11, H, W), the background and bodyparts-11's parts -> (7, H, W), as ``CLASSES``."""
    names = ["background", *map(unsided_name, BODYPARTS_11.parts)]
    rows = [[name == of_class for name in names] for of_class in CLASSES]
    return np.einsum("ck,khw->chw", np.array(rows, dtype=probabilities.dtype), probabilities)


def teach_person(
    annotation: Mapping[str, Any],
    probabilities: np.ndarray,
    possible: np.ndarray,
    keypoint_schema: KeypointSchema,
) -> list[dict[str, Any]]:
    """The record of somebody whose body is labelled, with parts.

    Args:
        annotation: theirs, the only one of the picture, in bodyparts-11.
        probabilities: (7, H, W), as of `sum_of_sides`.
        possible: boolean (7, H, W), what a pixel may be of as far as it is labelled.
        keypoint_schema: of the annotation.

    Returns:
        Their annotation, and one of the region, if any, in which the teacher sees others: to be
        ignored.
    """
    shape = probabilities.shape[1:]
    body = decode_segmentation(annotation["segmentation"], *shape)
    ignored = _ignored(annotation, shape)
    # Where everything that is possible has next to no probability, all of it has the same.
    held = possible * np.maximum(probabilities, 1e-6)
    total = held.sum(axis=0)
    held /= total
    classes = held.argmax(axis=0)
    disagrees = (possible.sum(axis=0) > 1) & (total < AGREES)
    unsure = body & ((held.max(axis=0) < SURE) | (classes == 0) | disagrees)
    taught = _taught(classes, body & ~unsure & ~ignored)
    taught["states"][BODY] = "known"
    person = person_annotation(
        BODYPARTS_11,
        keypoint_schema,
        shape,
        body=body,
        ignore=ignored | unsure,
        keypoints=np.reshape(annotation["keypoints"], (-1, 3)),
        **taught,
    )
    others = (probabilities[0] < 0.5) & ~body & ~ignored
    others = cv2.morphologyEx(others.astype(np.uint8), cv2.MORPH_OPEN, _SLIVER) > 0
    if not others.any():
        return [person]
    return [person, ignore_annotation(keypoint_schema, shape, others)]


def teach_picture(
    annotation: Mapping[str, Any], probabilities: np.ndarray, keypoint_schema: KeypointSchema
) -> list[dict[str, Any]]:
    """Regions that tell which parts are where in a picture, and not whose.

    Args:
        annotation: of somebody whose body is unknown, the only one of the picture, in bodyparts-11;
            of parts there are, derived with their sides, strips along the bones.
        probabilities: (7, H, W), as of `sum_of_sides`.
        keypoint_schema: of the annotation.

    Returns:
        One region of the strips, and one of what the teacher sees elsewhere, as far as there are
        such; elsewhere is nobody.
    """
    shape = probabilities.shape[1:]
    strips = {name: decode_mask(rle) for name, rle in annotation["part_segmentation"].items()}
    labelled = np.any([np.zeros(shape, dtype=bool), *strips.values()], axis=0)
    classes, unsure = probabilities.argmax(axis=0), probabilities.max(axis=0) < SURE
    seen = ((classes > 0) | unsure) & ~labelled
    regions = []
    if labelled.any():
        states = dict.fromkeys(BODYPARTS_11.channels, "derived")
        regions.append({"body": labelled, "parts": strips, "states": states})
    if seen.any():
        taught = _taught(classes, seen & ~unsure)
        regions.append({"body": seen, "ignore": unsure & seen, **taught})
    return [
        {**person_annotation(BODYPARTS_11, keypoint_schema, shape, **region), "iscrowd": 1}
        for region in regions
    ]


def _ignored(annotation: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    if "ignore_segmentation" in annotation:
        return decode_mask(annotation["ignore_segmentation"])
    return np.zeros(shape, dtype=bool)


def _taught(classes: np.ndarray, where: np.ndarray) -> dict[str, dict[str, Any]]:
    """What `person_annotation` is to be told of the parts: its parts, unsided and states."""
    parts: dict[str, np.ndarray] = {}
    unsided: dict[str, np.ndarray] = {}
    states = {BODY: "derived"}
    for i, name in enumerate(CLASSES[1:], start=1):
        mask = (classes == i) & where
        if mask.any():
            (parts if name in BODYPARTS_11.parts else unsided)[name] = mask
            states[name] = "derived"
        else:
            absent = [p for p in BODYPARTS_11.parts if unsided_name(p) == name]
            states.update(dict.fromkeys(absent, "derived"))
    return {"parts": parts, "unsided": unsided, "states": states}
