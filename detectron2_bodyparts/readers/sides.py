"""Derive the sides of limbs labelled without sides, from the skeleton of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .derive import distance_to_bone

# A connected piece of limb goes to one side as a whole unless the teacher gives at least this
# fraction of it to the other: a forearm has one side, two thighs side by side have two.
MINOR_SHARE = 0.25
# The least mean certainty (0 = undecided, 1 = certain) over a piece's pixels to decide on its side.
MIN_CERTAINTY = 0.2


Bone = tuple[np.ndarray, np.ndarray]  # x, y of both ends


def rightness(limb: np.ndarray, right: Sequence[Bone], left: Sequence[Bone]) -> np.ndarray:
    """How certainly the pixels of a limb are right, by which side's bones are nearer.

    Args:
        limb: boolean (H, W), the limbs of both sides of one person.
        right, left: the known bones of either side, in pixel indices. A side without any counts as
            being as far away as the longest known bone is long.

    Returns:
        (H, W) in -1..1, as for `split_sides`: the difference of the distances over their sum; 0
        outside the limb, and everywhere if no bone is known.
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
    """Divide a mask into right and left, by connected pieces, or by pixels if a piece is both.

    Args:
        union: boolean (H, W), the limbs of both sides of one person.
        rightness: (H, W) in -1..1: 1 if certainly the person's right, -1 if certainly the left.

    Returns:
        Boolean (H, W) masks of right and left, whose union is ``union``; None if the side of any
        piece is uncertain.
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
