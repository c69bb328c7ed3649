"""Right and left for limbs that were labelled without: a guess, from a teacher's opinion."""

from __future__ import annotations

import cv2
import numpy as np

# A connected piece of limb that the teacher splits less evenly than this goes to one side whole: a
# forearm has one side, two thighs side by side have two.
MINOR_SHARE = 0.25
# Of the piece's pixels, the mean certainty (0 = undecided, 1 = sure) from which it is settled.
MIN_CERTAINTY = 0.2


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
