from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from detectron2_bodyparts.data import BodyPartsMapper
from detectron2_bodyparts.data.copy_paste import CopyPaste, Target, visible_box
from detectron2_bodyparts.modeling.proposals import IGNORE_CLASS
from detectron2_bodyparts.schema import BODYPARTS_7
from detectron2_bodyparts.structures import BODY_BIT, IGNORE_BIT, KNOWN, UNKNOWN, target_names

from .conftest import as_dataset_dict
from .conftest import person as annotated

SHAPE = (96, 128)
NUM_NAMES = len(target_names(BODYPARTS_7))


def person(x0: int, y0: int, x1: int, y1: int, *, part: int = 1, body: int = KNOWN) -> Target:
    """A rectangle that is all of one part, with a joint at its first pixel and one at its last."""
    plane = np.zeros(SHAPE, np.uint8)
    plane[y0:y1, x0:x1] = BODY_BIT | part
    state = np.full(NUM_NAMES, KNOWN, np.uint8)
    state[0] = body
    joints = np.array([(x0 + 0.5, y0 + 0.5, 2), (x1 - 0.5, y1 - 0.5, 1)])
    return Target((x0, y0, x1, y1), 0, plane, state, joints)


def picture(*people: Target, level: int) -> np.ndarray:
    """Black, with people of this grey."""
    image = np.zeros((*SHAPE, 3), np.uint8)
    for one in people:
        image[one.plane > 0] = level
    return image


@pytest.fixture
def pasted():
    """A call that puts a person of 30 x 40, of grey 200, into a picture; each time elsewhere."""
    np.random.seed(5)
    copy_paste = CopyPaste(1.0)
    donor = person(20, 30, 50, 70, part=3)
    image, targets = copy_paste(picture(donor, level=200), [donor])
    assert len(targets) == 1 and (image == picture(donor, level=200)).all()  # nobody at hand yet

    def paste(image, targets):
        copy_paste._donors = deque([copy_paste._donors[0]])
        return copy_paste(image, targets)

    return paste


def test_people_come_with_their_pixels_parts_boxes_and_joints(pasted):
    cut_off = 0
    for _ in range(50):
        image, targets = pasted(np.zeros((*SHAPE, 3), np.uint8), [])
        here = image[..., 0] == 200
        if not targets:  # in a corner
            assert not here.any()
            continue
        (one,) = targets
        assert (image[~here] == 0).all()
        assert (one.plane == here * np.uint8(BODY_BIT | 3)).all()
        assert one.box == visible_box((0, 0, *SHAPE[::-1]), one.plane)
        assert one.label == 0 and one.state[0] == KNOWN
        x0, y0, x1, y1 = one.box
        if (x1 - x0, y1 - y0) == (30, 40):
            assert one.joints.tolist() == [[x0 + 0.5, y0 + 0.5, 2], [x1 - 0.5, y1 - 0.5, 1]]
        else:
            cut_off += 1
            assert (one.joints[:, 2] == 0).sum() >= 1
            assert (one.joints[one.joints[:, 2] == 0] == 0).all()
    assert 5 < cut_off < 45


def test_who_is_behind_loses_what_is_hidden(pasted):
    left_out = shrunk = 0
    for _ in range(200):
        behind = [person(40, 30, 100, 60), person(4, 4, 14, 14), person(60, 70, 90, 90)]
        before = [one.plane.copy() for one in behind]
        image, targets = pasted(picture(*behind, level=90), behind)
        assert all((one.plane == plane).all() for one, plane in zip(behind, before, strict=True))
        front = image[..., 0] == 200
        if not front.any():
            assert targets == behind
            continue
        *seen, new = targets
        assert (new.plane > 0).sum() == front.sum()
        left_out += len(behind) - len(seen)
        assert sum((one.plane > 0).sum() for one in seen) == (image[..., 0] == 90).sum()
        for one in seen:
            assert not (one.plane[front]).any()
            assert one.box == visible_box((0, 0, *SHAPE[::-1]), one.plane)
            shrunk += one.box not in [o.box for o in behind]
            for x, y, v in one.joints:
                assert v == 0 or not front[int(y), int(x)]
    assert left_out and shrunk > 20


def test_of_unknown_bodies_the_boxes_stay_and_nobody_is_cut_out():
    np.random.seed(1)
    copy_paste = CopyPaste(1.0)
    unknown = person(40, 30, 100, 60, body=UNKNOWN)
    crowd = Target((0, 0, 128, 96), IGNORE_CLASS, unknown.plane, unknown.state)
    everywhere = Target((-1e4, -1e4, 1e4, 1e4), IGNORE_CLASS)
    for _ in range(3):
        image, targets = copy_paste(picture(unknown, level=90), [unknown, crowd, everywhere])
        assert targets == [unknown, crowd, everywhere]  # nobody was at hand
    donor = person(0, 0, 128, 96)
    copy_paste(picture(donor, level=200), [donor])
    _, targets = copy_paste(picture(unknown, level=90), [unknown, crowd, everywhere])
    assert [t.box for t in targets[:3]] == [t.box for t in (unknown, crowd, everywhere)]
    assert (targets[0].plane > 0).sum() < (unknown.plane > 0).sum()


def test_pixels_to_ignore_are_not_cut_out():
    np.random.seed(2)
    copy_paste = CopyPaste(1.0)
    donor = person(20, 30, 50, 70)
    donor.plane[30:40, 20:50] |= IGNORE_BIT
    copy_paste(picture(donor, level=200), [donor])
    for _ in range(20):
        image, (one,) = copy_paste(np.zeros((*SHAPE, 3), np.uint8), [])
        assert (image[..., 0] == 200).sum() <= 30 * 30
        assert not (one.plane >= IGNORE_BIT).any()


def test_the_probability():
    np.random.seed(3)
    donor = person(20, 30, 50, 70)
    for probability in (0.0, 0.25):
        copy_paste = CopyPaste(probability)
        copy_paste(picture(donor, level=200), [donor])
        count = sum(len(copy_paste(np.zeros((*SHAPE, 3), np.uint8), [])[1]) for _ in range(400))
        assert abs(count - 400 * probability) < 40


def test_the_mapper_pastes_people_of_the_pictures_before(small_cfg, tmp_path):
    small_cfg.INPUT.COPY_PASTE = 1.0
    mapper = BodyPartsMapper(small_cfg)
    somebody = as_dataset_dict(tmp_path, [annotated("everything")], "somebody")
    nobody = as_dataset_dict(tmp_path, [], "nobody")
    assert len(mapper(somebody)["instances"]) == 1
    pasted = [mapper(nobody)["instances"] for _ in range(8)]
    people = [p for p in pasted if len(p)]
    assert len(people) >= 4
    for one in people:
        assert one.gt_part_masks.state[0, 0] == KNOWN and one.gt_keypoints.tensor.any()
    small_cfg.MODEL.MASK_ON = False
    assert BodyPartsMapper(small_cfg).copy_paste is None
