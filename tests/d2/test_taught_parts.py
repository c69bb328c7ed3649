"""datasets/prepare_taught_parts.py, with the model of the package and a BodyPix that is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.deploy.predictor import trainable_model
from detectron2_bodyparts.modeling.bodypix import PARTS
from detectron2_bodyparts.predictor import BodyPartsPredictor
from detectron2_bodyparts.readers import clothing_co_parsing
from detectron2_bodyparts.readers.lsp import prepare_lsp
from detectron2_bodyparts.readers.taught import sum_of_sides
from detectron2_bodyparts.records import decode_mask, validate_records
from detectron2_bodyparts.schema import BODYPARTS_11

from .conftest import load_script

HAND = BODYPARTS_11.index("left_lower_arm")


@pytest.fixture(scope="module")
def script():
    return load_script("datasets/prepare_taught_parts.py")


def bodypix(pixels):
    """Sees a left hand where the picture is red, and nobody elsewhere."""
    red = pixels[:, :1, ::16, ::16] - pixels[:, 2:, ::16, ::16]
    parts = torch.zeros(1, len(PARTS), *red.shape[2:])
    parts[:, PARTS.index("left_hand")] = 50
    return {"segments": torch.where(red > 0.5, 50.0, -50.0), "parts": parts}


@pytest.fixture(scope="module")
def teachers(script):
    config = "bodyparts_rcnn_mobilenet_v1_075_FPN.yaml"
    cfg = load_config(config, str(trainable_model()), ["MODEL.DEVICE", "cpu"])
    return script.Teachers(BodyPartsPredictor(cfg), bodypix)


@pytest.fixture(scope="module")
def astronaut():
    return cv2.imread(str(trainable_model().with_name("astronaut.jpg")))


def test_each_teacher_has_its_share_at_its_place(script, teachers):
    picture = np.full((150, 210, 3), 90, np.uint8)
    picture[40:100, 30:110] = 0, 0, 255
    said = teachers(picture)
    assert said.shape == (11, 150, 210)
    np.testing.assert_allclose(said.sum(axis=0), 1, atol=1e-5)
    share = script.BODYPIX_WEIGHT / (1 + script.BODYPIX_WEIGHT)
    assert said[HAND, 50:90, 40:100].min() > 0.98 * share
    edge = picture[:, :, 2] == 90
    edge = cv2.erode(edge.astype(np.uint8), np.ones((31, 31))) > 0
    assert said[HAND][edge].max() < share / 2


def test_the_model_sees_the_parts_of_a_photograph(teachers, astronaut):
    height, width = astronaut.shape[:2]
    said = teachers._ours(astronaut).numpy()
    classes = sum_of_sides(said).argmax(axis=0)
    assert classes[int(0.2 * height), int(0.43 * width)] == 1  # head
    assert classes[int(0.75 * height), int(0.45 * width)] == 2  # torso
    assert classes[:20, -20:].max() == 0
    # Her right arm is at the picture's left; in the mirror image it is a left one, at the right.
    mirrored = teachers._ours(astronaut[:, ::-1]).numpy()
    for picture, side, low, high in ((said, "right", 0, 0.5), (mirrored, "left", 0.5, 1)):
        arm = picture[BODYPARTS_11.index(f"{side}_upper_arm")]
        assert low < (arm.sum(axis=0) * np.arange(width)).sum() / arm.sum() / width < high


def clothing(root, picture):
    """The astronaut wears a shirt as far as she can be seen."""
    (root / "photos").mkdir()
    (root / "annotations/pixel-level").mkdir(parents=True)
    cv2.imwrite(str(root / "photos/0001.jpg"), picture)
    names = np.array([["null", "skin"]], object)
    scipy.io.savemat(root / "label_list.mat", {"label_list": names})
    garments = np.zeros(picture.shape[:2], np.uint8)
    garments[100:400, 100:400] = 1
    scipy.io.savemat(root / "annotations/pixel-level/0001.mat", {"groundtruth": garments})
    clothing_co_parsing.prepare_clothing_co_parsing(root, "train", BODYPARTS_11)
    return garments > 0


def test_clothing_is_taught_parts(script, teachers, astronaut, tmp_path):
    body = clothing(tmp_path, astronaut)
    records = script.teach("clothing_co_parsing", tmp_path, teachers, str(trainable_model()))
    validate_records(records)
    person, *others = records.annotations
    np.testing.assert_array_equal(decode_mask(person["segmentation"]), body)
    assert {"head", "torso"} <= set(person["part_segmentation"])
    assert person["part_state"]["torso"] == "derived"
    assert records.images[0]["exhaustive"]
    assert len(records.info["taught_by"]["sha256"]) == 64
    # What she has outside of what is labelled is of somebody: ignored.
    assert len(others) == 1 and others[0]["iscrowd"]
    assert not (decode_mask(others[0]["segmentation"]) & body).any()


def test_joints_are_taught_parts(script, teachers, astronaut, tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/im00001.jpg"), astronaut)
    cv2.imwrite(str(tmp_path / "images/im00002.jpg"), astronaut)
    joints = np.full((14, 3, 2), 1.0)
    joints[:, :2] = np.random.default_rng(0).integers(150, 350, (14, 2, 1))
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    prepare_lsp(tmp_path, "train", BODYPARTS_11, derive=True, drop_implausible=False)
    records = script.teach("lspet", tmp_path, teachers, str(trainable_model()))
    validate_records(records)
    assert records.keypoint_schema.name == "lsp-14" and len(records.images) == 1
    strips, seen = records.annotations
    assert strips["iscrowd"] and seen["iscrowd"]
    assert "head" in seen["part_segmentation"]
