from __future__ import annotations

import numpy as np

from detectron2_bodyparts.readers.sides import split_sides


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two arms apart, and two thighs side by side: 10 x 40 pixels, the right side at the left."""
    union = np.zeros((10, 40), bool)
    union[1:9, 2:6] = union[1:9, 10:14] = union[1:9, 20:32] = True
    rightness = np.full((10, 40), -0.8)
    rightness[:, :8] = rightness[:, :26][:, 20:] = 0.8
    return union, rightness


def test_pieces_and_halves_of_pieces_get_their_side():
    union, rightness = scene()
    right, left = split_sides(union, rightness)
    assert not (right & left).any()
    np.testing.assert_array_equal(right | left, union)
    np.testing.assert_array_equal(np.flatnonzero(right[5]), [2, 3, 4, 5, *range(20, 26)])


def test_a_small_part_of_a_piece_follows_the_rest():
    union, rightness = scene()
    rightness[1, 2:6] = -0.8  # an eighth of the first arm
    right, _ = split_sides(union, rightness)
    assert right[1:9, 2:6].all()


def test_a_mirrored_opinion_exchanges_the_sides():
    union, rightness = scene()
    right, left = split_sides(union, rightness)
    other_right, other_left = split_sides(union[:, ::-1], -rightness[:, ::-1])
    np.testing.assert_array_equal(other_right, left[:, ::-1])
    np.testing.assert_array_equal(other_left, right[:, ::-1])


def test_an_undecided_piece_leaves_the_limb_unknown():
    union, rightness = scene()
    rightness[:, 9:15] = 0.1
    assert split_sides(union, rightness) is None


def test_nothing_is_split_into_nothing():
    right, left = split_sides(np.zeros((4, 4), bool), np.zeros((4, 4)))
    assert not right.any() and not left.any()
