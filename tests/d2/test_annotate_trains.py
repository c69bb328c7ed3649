"""What `bodyparts annotate` writes, as training data."""

from __future__ import annotations

import cv2
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.data import BodyPartsMapper, register_bodyparts_dataset
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.readers.figures import render

NAME = "annotated_by_a_model"


@pytest.fixture
def cfg(small_cfg, tmp_path):
    """A small model that is to train on four drawn pictures, labelled by the shipped one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in (1, 3, 5, 7):
        cv2.imwrite(str(folder / f"{seed}.png"), render(seed).image)
    json_file = tmp_path / "records.json"
    # With a high threshold, so that there is somebody to ignore.
    options = ["--threshold", "0.8", "--ignore-threshold", "0.05"]
    assert main(["annotate", str(folder), "--output", str(json_file), *options]) == 0
    register_bodyparts_dataset(NAME, json_file, tmp_path)
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
