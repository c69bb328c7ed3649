"""Right and left for limbs that were labelled without: a guess, from a teacher's skeleton."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .derive import distance_to_bone

# A connected piece of limb that the teacher splits less evenly than this goes to one side whole: a
# forearm has one side, two thighs side by side have two.
MINOR_SHARE = 0.25
# Of the piece's pixels, the mean certainty (0 = undecided, 1 = sure) from which it is settled.
MIN_CERTAINTY = 0.2


Bone = tuple[np.ndarray, np.ndarray]  # x, y of both ends


def rightness(limb: np.ndarray, right: Sequence[Bone], left: Sequence[Bone]) -> np.ndarray:
    """How surely a limb's pixels are of the right side, by which side's bones are nearer.

    Args:
        limb: boolean (H, W): the limbs of both sides of one person.
        right, left: the bones of either side that are known, in pixel indices. Of a side without
            any, all that is said is that its bones are not nearer than one of the other's is long.

    Returns:
        (H, W) in -1..1, as `split_sides` takes it: the difference of the distances over their sum;
        0 outside the limb, and everywhere where there is no bone.
    """
    opinion = np.zeros(limb.shape, dtype=np.float32)
    if not (right or left):
        return opinion
    rows, columns = np.nonzero(limb)
    pixels = np.column_stack([columns, rows]).astype(np.float32)
    length = max(float(np.hypot(*(end - begin))) for begin, end in (*right, *left))
    to_right, to_left = (
        np.min([distance_to_bone(pixels, *bone) for bone in bones], axis=0) if bones else length
        for bones in (right, left)
    )
    opinion[rows, columns] = (to_left - to_right) / np.maximum(to_left + to_right, 1)
    return opinion


def split_sides(union: np.ndarray, rightness: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A limb's mask of both sides -> right and left, by pieces, or by pixels where a piece is both.

    Args:
        union: boolean (H, W): the limbs of both sides of one person, without a side.
        rightness: (H, W) in -1..1: 1 where a teacher is sure of the person's right, -1 of the left.

    Returns:
        Boolean (H, W) of right and left, which together are the union; None where the teacher
        cannot tell a piece's side.
    """
    right = np.zeros_like(union)
    count, pieces = cv2.connectedComponents(union.astype(np.uint8), connectivity=8)
    for i in range(1, count):
        piece = pieces == i
        opinion = rightness[piece]
        if np.abs(opinion).mean() < MIN_CERTAINTY:
            return None
        share = (opinion > 0).mean()
        if min(share, 1 - share) >= MINOR_SHARE:
            right |= piece & (rightness > 0)
        elif share > 0.5:
            right |= piece
    return right, union & ~right
