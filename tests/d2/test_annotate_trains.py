"""What `bodyparts annotate` writes, as training data."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.data import BodyPartsMapper, register_bodyparts_dataset
from detectron2_bodyparts.deploy import OnnxPredictor, default_model
from detectron2_bodyparts.engine import Trainer

NAME = "annotated_by_a_model"


@pytest.fixture
def cfg(small_cfg, tmp_path):
    """A small model that is to train on the two photographs, labelled by the shipped one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    scores = []
    for photograph in default_model().parent.glob("*.jpg"):
        shutil.copy(photograph, folder)
        scores.append(OnnxPredictor(default_model())(cv2.imread(str(photograph))).scores.max())
    json_file = tmp_path / "records.json"
    # The less sure one is to be ignored.
    options = ["--threshold", str(np.mean(scores)), "--ignore-threshold", "0.05"]
    assert main(["annotate", str(folder), "--output", str(json_file), *options]) == 0
    register_bodyparts_dataset(NAME, json_file, tmp_path, part_schema="bodyparts-11")
    small_cfg.MODEL.BODYPARTS.PART_SCHEMA = "bodyparts-11"
    small_cfg.DATASETS.TRAIN = (NAME,)
    small_cfg.DATASETS.TEST = ()
    yield small_cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_a_few_steps_of_training(cfg):
    trainer = Trainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    assert trainer.iter == cfg.SOLVER.MAX_ITER
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_people_train_every_head_and_their_parts_as_derived_ones(cfg):
    mapper = BodyPartsMapper(cfg)
    pictures = [mapper(picture) for picture in DatasetCatalog.get(NAME)]
    classes = torch.cat([picture["instances"].gt_classes for picture in pictures])
    assert (classes == 0).any() and (classes == -1).any()

    def losses(derived_weight: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        cfg.MODEL.ROI_MASK_HEAD.DERIVED_LOSS_WEIGHT = derived_weight
        with EventStorage():
            return build_model(cfg).train()(pictures)

    whole, without = losses(1.0), losses(0.0)
    assert all(whole[name] > 0 for name in ("loss_cls", "loss_mask", "loss_keypoint"))
    assert without["loss_mask"] == 0 and without["loss_keypoint"] > 0
