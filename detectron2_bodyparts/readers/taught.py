"""Pseudo-labels of parts from a teacher, for images without part labels: self-training.

The teacher gives every pixel the probabilities of the background and of bodyparts-11's parts. Limbs
get no sides from it: these come from labelled bones or from a keypoint teacher. Pixels of which the
teacher is not confident are ignored, and labels take precedence. Everything is marked as derived.
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

# The least probability that becomes a pseudo-label.
SURE = 0.6
# Where labels allow several classes, the least probability of all these together: a long coat over
# the shins must not become a thigh because its label does not include the lower leg.
AGREES = 0.5
# The longer side of BodyPix's input, and its output stride, in pixels.
BODYPIX_SIDE, BODYPIX_STRIDE = 513, 16
# What the teacher sees outside the labelled person is other people if wider than this (opening).
_SLIVER = np.ones((5, 5), dtype=np.uint8)  # pixels


def bodypix_size(height: int, width: int) -> tuple[int, int]:
    """(W, H) of BodyPix's input for an image: a multiple of the stride plus one each."""
    scale = BODYPIX_SIDE / max(height, width)
    columns, rows = (max(round((n * scale - 1) / BODYPIX_STRIDE), 1) for n in (width, height))
    return columns * BODYPIX_STRIDE + 1, rows * BODYPIX_STRIDE + 1


def sum_of_sides(probabilities: np.ndarray) -> np.ndarray:
    """(11, H, W), background and bodyparts-11's parts -> (7, H, W) in the order of ``CLASSES``."""
    names = ["background", *map(unsided_name, BODYPARTS_11.parts)]
    rows = [[name == of_class for name in names] for of_class in CLASSES]
    return np.einsum("ck,khw->chw", np.array(rows, dtype=probabilities.dtype), probabilities)


def teach_person(
    annotation: Mapping[str, Any],
    probabilities: np.ndarray,
    possible: np.ndarray,
    keypoint_schema: KeypointSchema,
) -> list[dict[str, Any]]:
    """Add pseudo-labelled parts to a person whose body is labelled.

    Args:
        annotation: the person's, the only one of the image, in bodyparts-11.
        probabilities: (7, H, W), as returned by `sum_of_sides`.
        possible: boolean (7, H, W), the classes that the labels of a pixel allow.
        keypoint_schema: of the annotation.

    Returns:
        The person's annotation, and an ignore region where the teacher sees other people, if any.
    """
    shape = probabilities.shape[1:]
    body = decode_segmentation(annotation["segmentation"], *shape)
    ignored = _ignored(annotation, shape)
    # If all possible classes have next to no probability, they become equally likely.
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
    """Crowd regions that tell which parts are where in an image, but not whose they are.

    Args:
        annotation: of a person whose body is unknown, the only one of the image, in bodyparts-11;
            its parts are strips along the bones, derived, with sides.
        probabilities: (7, H, W), as returned by `sum_of_sides`.
        keypoint_schema: of the annotation.

    Returns:
        A region of the strips and one of what the teacher sees elsewhere, each unless empty; the
        rest of the image is background.
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
    """`person_annotation`'s arguments for the parts: ``parts``, ``unsided`` and ``states``."""
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
