"""datasets/prepare_sides.py, with a teacher that is not MoveNet."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from detectron2_bodyparts.readers.prepare import records_path
from detectron2_bodyparts.records import (
    Records,
    decode_mask,
    encode_mask,
    person_annotation,
    write_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17, JHMDB_15

from .conftest import load_script

SHAPE = 100, 120


@pytest.fixture(scope="module")
def script():
    return load_script("datasets/prepare_sides.py")


def block(y0, y1, x0, x1):
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


# Seen from the front: the person's right arm is at the left.
ARMS = block(20, 40, 30, 36) | block(20, 40, 64, 70)
BODY = block(10, 60, 40, 60) | ARMS
JOINTS = {
    "right_shoulder": (33, 20),
    "right_elbow": (33, 40),
    "left_shoulder": (67, 20),
    "left_elbow": (67, 40),
}


def annotation(schema=BODYPARTS_11):
    union = "upper_arm" if schema == BODYPARTS_11 else "arm"
    return person_annotation(schema, COCO_17, SHAPE, body=BODY, unsided={union: ARMS})


def teacher(joints=JOINTS, score=0.9):
    answer = np.zeros((17, 3))
    for name, place in joints.items():
        answer[COCO_17.keypoints.index(name)] = *place, score
    return lambda image, box: (answer, 100.0)


PICTURE = np.zeros((*SHAPE, 3), np.uint8)


@pytest.mark.parametrize("schema", [BODYPARTS_7, BODYPARTS_11], ids=lambda s: s.name)
def test_limbs_get_their_sides_and_joints_are_kept(script, schema):
    taught = annotation(schema)
    joints = JOINTS | {"right_wrist": (33, 50), "left_wrist": (67, 50)}
    script.teach(taught, PICTURE, teacher(joints), schema)
    name = "upper_arm" if schema == BODYPARTS_11 else "arm"
    right = decode_mask(taught["part_segmentation"][f"right_{name}"])
    left = decode_mask(taught["part_segmentation"][f"left_{name}"])
    np.testing.assert_array_equal(right, block(20, 40, 30, 36))
    np.testing.assert_array_equal(left, block(20, 40, 64, 70))
    assert taught["part_state"][f"right_{name}"] == "derived"
    assert taught["part_state"][name] == "known" and name not in taught["unsided"]
    kept = np.reshape(taught["keypoints"], (17, 3))
    assert kept[COCO_17.keypoints.index("right_elbow")].tolist() == [33, 40, 2]
    # The wrists lie ten pixels from the body, more than three in a hundred of the crop.
    assert taught["num_keypoints"] == 4


def test_an_unsure_teacher_teaches_nothing(script):
    taught = annotation()
    script.teach(taught, PICTURE, teacher(score=0.2), BODYPARTS_11)
    assert taught["part_state"] == annotation()["part_state"]
    assert taught["unsided"] == {"upper_arm": encode_mask(ARMS)}
    assert taught["num_keypoints"] == 0


def test_labelled_joints_are_kept(script):
    taught = annotation()
    taught["keypoints"][:3], taught["num_keypoints"] = [50, 15, 2], 1
    before = list(taught["keypoints"])
    script.teach(taught, PICTURE, teacher(), BODYPARTS_11)
    assert "right_upper_arm" in taught["part_segmentation"]
    assert taught["keypoints"] == before and taught["num_keypoints"] == 1


def test_joints_of_another_schema_are_refused(script, tmp_path, monkeypatch, capsys):
    records = Records(BODYPARTS_7, JHMDB_15)
    write_records(records_path(tmp_path, "jhmdb", "train1", BODYPARTS_7), records)
    monkeypatch.setattr(sys, "argv", "prepare_sides.py --teacher m.json --dataset jhmdb".split())
    sys.argv += ["--split", "train1", "--schema", BODYPARTS_7.name, "--root", str(tmp_path)]
    with pytest.raises(SystemExit):
        script.main()
    assert "coco-17" in capsys.readouterr().err


def dots(pixels):
    """A "network" that finds its joints where the picture is bright: right red, left blue."""
    _, height, width, _ = pixels.shape
    answer = torch.zeros(1, 1, 17, 3)
    for k, name in enumerate(COCO_17.keypoints):
        if name in JOINTS:
            # It knows right from left by the colour in the picture, not by the place.
            place = int(pixels[0, :, :, 0 if name.startswith("right") else 2].argmax())
            answer[0, 0, k] = torch.tensor(
                [(place // width + 0.5) / height, (place % width + 0.5) / width, 0.9]
            )
    return answer


def test_joints_lie_in_the_picture_where_the_crop_has_them(script):
    pupil = script.Teacher.__new__(script.Teacher)
    picture = PICTURE.copy()
    picture[30:33, 20:23, 2] = 255  # BGR: red
    picture[70:73, 90:93, 0] = 255
    box = np.array([10.0, 15, 110, 95])

    def model(pixels):
        # In the mirrored picture the person's right is where the left was.
        first = not model.asked
        model.asked = True
        return dots(pixels if first else pixels.flip(3))

    model.asked = False
    pupil.model = model
    joints, side = pupil(picture, box)
    assert side == pytest.approx(140)
    right, left = (joints[COCO_17.keypoints.index(f"{s}_elbow")] for s in ("right", "left"))
    np.testing.assert_allclose(right, [21, 31, 0.9], atol=1.5)
    np.testing.assert_allclose(left, [91, 71, 0.9], atol=1.5)


def test_a_teacher_that_disagrees_with_itself_is_not_heard(script):
    pupil = script.Teacher.__new__(script.Teacher)
    picture = PICTURE.copy()
    picture[30:33, 20:23, 2] = 255
    picture[70:73, 90:93, 0] = 255
    pupil.model = dots  # by colour: in the mirrored picture, it takes right for left
    joints, _ = pupil(picture, np.array([10.0, 15, 110, 95]))
    assert (joints[:, 2] == 0).all()
