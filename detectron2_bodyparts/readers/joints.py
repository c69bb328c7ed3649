"""Cleaning of keypoints from MATLAB files, and the commands' options for it."""

from __future__ import annotations

import argparse

import numpy as np


def shift_joints(joints: np.ndarray) -> np.ndarray:
    """Convert (..., 3) keypoints x, y, v from MATLAB's 1-based coordinates to pixel indices."""
    return joints - (1, 1, 0)


def drop_outside_joints(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mark those of (..., 3) keypoints, in pixel indices, outside the image as unlabelled (v = 0).

    The image extends half a pixel beyond the centres of its outermost pixels.
    """
    x, y, v = np.moveaxis(joints, -1, 0)
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    return np.stack([x, y, np.where(inside, v, 0)], axis=-1)


def add_joint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-shift-joints`` and ``--no-drop-outside-joints``."""
    parser.add_argument(
        "--shift-joints",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="shift 1-based keypoints to pixel indices (default: yes)",
    )
    parser.add_argument(
        "--drop-outside-joints",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keypoints outside the image count as unlabelled (default: yes)",
    )
