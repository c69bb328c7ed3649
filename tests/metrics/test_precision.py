"""The original system's precision, by hand."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pytest import approx

from detectron2_bodyparts.metrics.instances import UNKNOWN, TruePerson, TruePicture
from detectron2_bodyparts.metrics.precision import (
    FoundChannels,
    OriginalPrecision,
    channel_iou,
    found_channels,
)
from detectron2_bodyparts.people import Crop, People
from detectron2_bodyparts.schema import COCO_17, PartSchema

SIZE = (100, 200)
# A person is 40 x 40 pixels: head above, torso below, 20 rows each.
WIDTH = HEIGHT = 40


def true(x: int, y: int = 10, known=(True, True, True)) -> TruePerson:
    labels = np.repeat([1, 2], HEIGHT // 2)[:, None].repeat(WIDTH, axis=1).astype(np.uint8)
    crop = Crop(x, y, labels, labels > 0)
    return TruePerson(crop, np.array(known), np.array([x, y, x + WIDTH, y + HEIGHT], float))


def found(x: float, y: int = 10, score: float = 0.9, width: int = WIDTH, rows=(40, 20, 20)):
    """``rows``: how many each channel fills: the silhouette, head from above, torso from below."""
    masks = np.zeros((3, HEIGHT, width), dtype=bool)
    masks[0, : rows[0]] = masks[1, : rows[1]] = True
    masks[2, HEIGHT - rows[2] :] = True
    box = np.array([x, y, x + width, y + HEIGHT], float)
    return FoundChannels(box, score, int(x), y, masks)


def picture(*people: TruePerson, **more) -> TruePicture:
    return TruePicture(1, SIZE, people, **more)


def precision(one: TruePicture, people) -> tuple[float, float]:
    """(official, strict)"""
    collected = OriginalPrecision()
    collected.add(one, people)
    result = collected.result()
    return result["precision_official"], result["precision_strict"]


def test_the_truth_is_perfect():
    one = picture(true(10), true(100))
    assert precision(one, [found(10), found(100)]) == (100, 100)


def test_channels_are_taken_together():
    # In rows: silhouette 40 of 40, head 20 of 20, torso nothing of 20: 60 / 80.
    one = picture(true(10))
    assert channel_iou(one, one.people[0], found(10, rows=(40, 20, 0))) == approx(60 / 80)
    # Silhouette 10, head 10, torso 20: exactly half is not above half.
    assert channel_iou(one, one.people[0], found(10, rows=(10, 10, 20))) == 0.5
    assert precision(one, [found(10, rows=(10, 10, 20))]) == (0, 0)
    assert precision(one, [found(10, rows=(11, 10, 20))]) == (100, 100)
    # Too much counts too: the head reaches over the torso: 80 of 100.
    assert channel_iou(one, one.people[0], found(10, rows=(40, 40, 20))) == approx(80 / 100)


def test_masks_are_compared_in_the_picture():
    # 10 columns beside: 30 in common, 50 in either.
    one = picture(true(10))
    assert channel_iou(one, one.people[0], found(20)) == approx(30 / 50)
    assert channel_iou(one, one.people[0], found(10, y=15)) == approx(
        (35 + 15 + 15) / (45 + 25 + 25)
    )
    assert channel_iou(one, one.people[0], found(60, y=60)) == 0


def test_boxes_overlap_by_more_than_half():
    # 13 columns beside: 27 / 53 of the box and of the channels; 14: 26 / 54.
    one = picture(true(10))
    assert precision(one, [found(23)]) == (100, 100)
    assert precision(one, [found(24)]) == (0, 0)


def test_only_sure_and_large_detections_count():
    one = picture(true(10))
    assert np.isnan(precision(one, [])).all()
    assert np.isnan(precision(one, [found(100, score=0.5)])).all()
    assert precision(one, [found(100, score=0.51)]) == (0, 0)
    assert np.isnan(precision(one, [found(100, width=25)])).all()  # 25 * 40 = 1000
    assert precision(one, [found(100, width=26)]) == (0, 0)


def test_the_share_is_of_detections_and_the_missed_do_not_count():
    one = picture(true(10), true(100))
    assert precision(one, [found(10)]) == (100, 100)
    assert precision(one, [found(10), found(55)]) == (50, 50)


def test_official_flaw_duplicates_are_right():
    one = picture(true(10))
    assert precision(one, [found(10, score=0.9), found(10, score=0.8)]) == (100, 50)


def test_strict_goes_by_the_score():
    # The surer one takes the person, and its masks are wrong.
    one = picture(true(10))
    people = [found(10, score=0.8), found(10, score=0.9, rows=(0, 0, 0))]
    for order in (people, people[::-1]):
        assert precision(one, order) == (50, 0)


def test_the_person_of_greatest_box_overlap_is_compared():
    one = picture(true(10), true(16))
    close = found(16, rows=(40, 20, 20))
    assert channel_iou(one, one.people[1], close) == 1
    assert precision(one, [close]) == (100, 100)
    # The second takes the one that is left: boxes 34 / 46.
    assert precision(one, [close, found(16, score=0.8)]) == (100, 100)


def test_unknown_channels_are_left_out():
    one = picture(true(10, known=(True, True, False)))
    assert channel_iou(one, one.people[0], found(10, rows=(40, 20, 0))) == 1
    nothing_known = picture(true(10, known=(False, False, False)), true(100))
    assert precision(nothing_known, [found(10), found(100)]) == (100, 100)
    assert np.isnan(precision(nothing_known, [found(10)])).all()


def test_pixels_of_which_nothing_is_known_and_ignored_pixels_do_not_count():
    rows = (40, 30, 10)  # the head reaches 10 rows into the torso
    person = true(10)
    assert channel_iou(picture(person), person, found(10, rows=rows)) == approx(70 / 90)
    person.crop.labels[20:30], person.crop.body[20:30] = UNKNOWN, False
    assert channel_iou(picture(person), person, found(10, rows=rows)) == 1
    ignore = np.zeros(SIZE, bool)
    ignore[30:40] = True
    person = true(10)
    assert channel_iou(picture(person, ignore=ignore), person, found(10, rows=rows)) == 1


def test_crowds_excuse_what_matches_nobody():
    crowd = np.zeros(SIZE, bool)
    crowd[:, 120:] = True
    one = picture(true(10), crowd=crowd)
    assert precision(one, [found(10), found(101)]) == (100, 100)  # 21 of 40 columns
    assert precision(one, [found(10), found(100)]) == (50, 50)  # 20 of 40
    assert precision(picture(true(10)), [found(10), found(101)]) == (50, 50)
    # A person in the crowd is judged.
    assert precision(picture(true(140), crowd=crowd), [found(140, rows=(0, 0, 0))]) == (0, 0)


def test_pictures_that_are_not_exhaustive_excuse_what_matches_nobody():
    one = picture(true(10), exhaustive=False)
    assert precision(one, [found(10), found(100)]) == (100, 100)
    assert precision(one, [found(10, rows=(0, 0, 0)), found(100)]) == (0, 0)


def test_pieces_add_up():
    pieces = [OriginalPrecision() for _ in range(2)]
    pieces[0].add(picture(true(10)), [found(10), found(10, score=0.8)])
    pieces[1].add(picture(true(10)), [found(100)])
    first, second = pickle.loads(pickle.dumps(pieces))
    first.merge(second)
    assert first.result() == approx({"precision_official": 200 / 3, "precision_strict": 100 / 3})


def test_a_predicted_person_is_thresholded_channel_by_channel():
    # Two channels may hold the same pixel; 0.59 does not, 0.6 does.
    schema = PartSchema("two", ("body", "head", "torso"))
    probs = np.zeros((1, 3, 8, 8), np.float32)
    probs[0, :, 2:6, 2:6] = np.array([1.0, 0.6, 0.59], np.float32)[:, None, None]
    probs[0, :2, 2:6, 2:6] += 1e-6
    boxes = np.array([[10.0, 20.0, 18.0, 28.0]])
    people = People((50, 60), boxes, np.array([0.75]), probs, None, schema, COCO_17)
    channels = found_channels(people[0])
    assert (channels.x0, channels.y0, channels.masks.shape) == (10, 20, (3, 8, 8))
    expected = np.zeros((8, 8), bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(channels.masks[0], expected)
    np.testing.assert_array_equal(channels.masks[1], expected)
    assert not channels.masks[2].any()
    assert channels.score == 0.75
    without = People((50, 60), boxes, np.array([0.75]), None, None, schema, COCO_17)
    with pytest.raises(ValueError, match="no part masks"):
        found_channels(without[0])
