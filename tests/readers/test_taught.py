from __future__ import annotations

import numpy as np
import pytest

from detectron2_bodyparts.readers.taught import (
    CLASSES,
    bodypix_size,
    sum_of_sides,
    teach_person,
    teach_picture,
)
from detectron2_bodyparts.records import decode_mask, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17, LSP_14

SHAPE = 12, 16
TORSO, LOWER_LEG = CLASSES.index("torso"), CLASSES.index("lower_leg")


def block(y0, y1, x0, x1):
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def says(p=0.9, **where):
    """What a teacher says that is so sure of the classes, and of the background elsewhere."""
    classes = np.zeros(SHAPE, int)
    for name, mask in where.items():
        classes[mask] = CLASSES.index(name)
    answer = np.full((len(CLASSES), *SHAPE), (1 - p) / (len(CLASSES) - 1))
    np.put_along_axis(answer, classes[None], p, axis=0)
    return answer


def anything():
    return np.ones((len(CLASSES), *SHAPE), bool)


def test_sides_are_summed_up():
    p = np.random.default_rng(0).dirichlet(np.ones(11), (3, 4)).transpose(2, 0, 1)
    summed = sum_of_sides(p)
    np.testing.assert_allclose(summed.sum(axis=0), 1)
    np.testing.assert_allclose(summed[TORSO], p[BODYPARTS_11.index("torso")])
    sides = [BODYPARTS_11.index(f"{side}_lower_leg") for side in ("right", "left")]
    np.testing.assert_allclose(summed[LOWER_LEG], p[sides].sum(axis=0))


BODY = block(2, 10, 4, 8)
JOINTS = np.zeros((17, 3))
JOINTS[0] = 5, 3, 2
PERSON = person_annotation(
    BODYPARTS_11, COCO_17, SHAPE, body=BODY, ignore=block(2, 10, 8, 9), keypoints=JOINTS
)


def test_a_labelled_body_gets_the_parts_that_are_seen_in_it():
    head, arm = block(0, 4, 4, 8), block(6, 8, 2, 6)
    (person,) = teach_person(
        PERSON, says(head=head, lower_arm=arm, torso=BODY & ~head & ~arm), anything(), COCO_17
    )
    parts = {k: decode_mask(v) for k, v in person["part_segmentation"].items()}
    np.testing.assert_array_equal(decode_mask(person["segmentation"]), BODY)
    np.testing.assert_array_equal(parts["head"], head & BODY)
    np.testing.assert_array_equal(decode_mask(person["unsided"]["lower_arm"]), arm & BODY)
    np.testing.assert_array_equal(decode_mask(person["ignore_segmentation"]), block(2, 10, 8, 9))
    assert set(parts) == {"head", "torso"}
    states = person["part_state"]
    assert states.pop("body") == "known" and set(states.values()) == {"derived"}
    # Of the arm both sides are unknown; a leg is derived to be nowhere.
    assert "right_lower_arm" not in states and "right_lower_leg" in states
    assert person["keypoints"] == PERSON["keypoints"] and person["bbox"] == PERSON["bbox"]


def test_labels_go_before_what_is_taught():
    possible = anything()
    possible[:, 8:] = False
    possible[LOWER_LEG, 8:] = True  # shoes
    (person,) = teach_person(PERSON, says(torso=BODY), possible, COCO_17)
    torso, leg = BODY & block(0, 8, 0, 16), BODY & block(8, 12, 0, 16)
    np.testing.assert_array_equal(decode_mask(person["part_segmentation"]["torso"]), torso)
    np.testing.assert_array_equal(decode_mask(person["unsided"]["lower_leg"]), leg)


def test_where_labels_leave_several_classes_and_the_teacher_sees_another_nothing_is_taught():
    possible = anything()
    possible[:, 8:] = False
    possible[[TORSO, CLASSES.index("upper_leg")], 8:] = True  # a coat
    (person,) = teach_person(PERSON, says(0.95, lower_leg=BODY), possible, COCO_17)
    coat = BODY & block(8, 12, 0, 16)
    np.testing.assert_array_equal(decode_mask(person["ignore_segmentation"]) & BODY, coat)
    assert not person["part_segmentation"]
    np.testing.assert_array_equal(decode_mask(person["unsided"]["lower_leg"]), BODY & ~coat)


@pytest.mark.parametrize("sure", [False, True])
def test_what_is_not_sure_is_ignored(sure):
    said = says(0.7 if sure else 0.5, torso=BODY)
    (person,) = teach_person(PERSON, said, anything(), COCO_17)
    ignored = decode_mask(person["ignore_segmentation"])
    np.testing.assert_array_equal(ignored & BODY, np.zeros_like(BODY) if sure else BODY)


def test_others_are_ignored_and_slivers_are_not_others():
    said = says(torso=BODY | block(0, 12, 11, 16), head=block(0, 1, 0, 3))
    person, others = teach_person(PERSON, said, anything(), COCO_17)
    assert others["iscrowd"] and not others["part_state"]
    np.testing.assert_array_equal(decode_mask(others["segmentation"]), block(0, 12, 11, 16))


BONE = block(2, 4, 4, 8)
JOINTED = person_annotation(
    BODYPARTS_11,
    LSP_14,
    SHAPE,
    parts={"right_lower_arm": BONE},
    states=dict.fromkeys(BODYPARTS_11.parts, "derived"),
    ignore=~BONE,
    bbox=(2, 1, 10, 8),
)


def test_strips_along_bones_keep_their_side_and_the_rest_is_taught_without():
    arm, torso = block(1, 5, 3, 9), block(5, 9, 3, 9)
    said = says(lower_arm=arm, torso=torso)
    said[:, 10:] = says(0.5)[:, 10:]  # not sure
    strips, seen = teach_picture(JOINTED, said, LSP_14)
    assert strips["iscrowd"] and seen["iscrowd"]
    assert set(strips["part_segmentation"]) == {"right_lower_arm"} and "unsided" not in strips
    np.testing.assert_array_equal(decode_mask(strips["segmentation"]), BONE)
    np.testing.assert_array_equal(decode_mask(seen["unsided"]["lower_arm"]), arm & ~BONE)
    np.testing.assert_array_equal(decode_mask(seen["part_segmentation"]["torso"]), torso)
    np.testing.assert_array_equal(decode_mask(seen["ignore_segmentation"]), block(10, 12, 0, 16))
    np.testing.assert_array_equal(
        decode_mask(seen["segmentation"]), ((arm | torso) & ~BONE) | block(10, 12, 0, 16)
    )


def test_an_empty_picture_has_no_regions():
    nothing = {**JOINTED, "part_segmentation": {}}
    assert teach_picture(nothing, says(), LSP_14) == []


@pytest.mark.parametrize(
    "height, width, size",
    [(513, 513, (513, 513)), (375, 500, (513, 385)), (500, 333, (337, 513)), (4, 900, (513, 17))],
)
def test_bodypix_is_given_whole_cells_and_a_pixel(height, width, size):
    assert bodypix_size(height, width) == size
