from __future__ import annotations

import numpy as np
import pytest

from detectron2_bodyparts.readers.sides import rightness, split_sides


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


def point(x, y):
    return np.array([x, y], float)


def test_the_nearer_bone_gives_the_side():
    limb = np.ones((21, 41), bool)
    limb[:, 20] = False
    right, left = (point(5, 0), point(5, 20)), (point(35, 0), point(35, 20))
    opinion = rightness(limb, [right], [left])
    assert (opinion[:, :20] > 0).all() and (opinion[:, 21:] < 0).all() and not opinion[:, 20].any()
    np.testing.assert_allclose(opinion[:, ::-1], -opinion, atol=1e-6)
    np.testing.assert_allclose(opinion[:, 5], 1)  # on the bone
    assert opinion[10, 10] == pytest.approx((25 - 5) / (25 + 5))


def test_one_sides_bone_tells_of_what_is_near_to_it():
    limb = np.ones((21, 101), bool)
    opinion = rightness(limb, [(point(5, 0), point(5, 20))], [])
    assert opinion[10, 5] == 1 and opinion[10, 15] == pytest.approx((20 - 10) / (20 + 10))
    assert opinion[10, 90] < 0  # farther than the bone is long
    np.testing.assert_array_equal(rightness(limb, [], [(point(5, 0), point(5, 20))]), -opinion)


def test_without_bones_there_is_no_opinion():
    limb = np.ones((4, 4), bool)
    assert not rightness(limb, [], []).any()
    assert split_sides(limb, rightness(limb, [], [])) is None
