"""All datasets at once: native files -> records -> one model, and what each teaches it.

Everybody is `figure`, written in each dataset's own format.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from pycocotools import mask as mask_util

from detectron2_bodyparts.data import BodyPartsMapper, catalog, register_bodyparts_dataset
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.readers.ade20k import PERSON, prepare_ade20k
from detectron2_bodyparts.readers.chalearn import prepare_chalearn
from detectron2_bodyparts.readers.coco import prepare_coco
from detectron2_bodyparts.readers.jhmdb import prepare_jhmdb
from detectron2_bodyparts.readers.voc_part import prepare_voc_part
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, JHMDB_15, UNION_21

from .conftest import HEIGHT, ROOT, WIDTH, figure, figure_joints

PARTS = figure()
BODY = np.any(list(PARTS.values()), axis=0)


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


def voc_part(root: Path) -> Path:
    names = {"right_arm": "rlarm", "left_arm": "llarm", "right_leg": "rlleg", "left_leg": "llleg"}
    parts = [(names.get(part, part), mask.astype(np.uint8)) for part, mask in PARTS.items()]
    person = {
        "class": "person",
        "class_ind": 15,
        "mask": BODY.astype(np.uint8),
        "parts": np.array([parts], dtype=[("part_name", "O"), ("mask", "O")]),
    }
    write_picture(root / "JPEGImages/a.jpg")
    (root / "Annotations_Part").mkdir()
    anno = {"imname": "a", "objects": person}
    scipy.io.savemat(root / "Annotations_Part/a.mat", {"anno": anno})
    return prepare_voc_part(root, "all", BODYPARTS_7).output


def ade20k(root: Path) -> Path:
    """Body, head and both arms are labelled; torso and legs are not."""
    stem = root / "images/ADE/training/home/attic/ADE_train_1"
    write_picture(stem.with_suffix(".jpg"))
    masks = {PERSON: BODY, "head": PARTS["head"]}
    masks |= {f"{side} arm": PARTS[f"{side}_arm"] for side in ("left", "right")}
    objects = []
    for i, (name, mask) in enumerate(masks.items()):
        file = f"{stem.name}/instance_{i:03d}_{stem.name}.png"
        write_mask(stem.parent / file, mask)
        whole = {"hasparts": [1, 2, 3], "ispartof": [], "part_level": 0}
        part = {"hasparts": [], "ispartof": 0, "part_level": 1}
        parts = whole if i == 0 else part
        one = {"id": i, "name": name, "name_ndx": 1 + i, "crop": "0", "instance_mask": file}
        objects.append({**one, "parts": parts})
    content = {"annotation": {"filename": f"{stem.name}.jpg", "object": objects}}
    stem.with_suffix(".json").write_text(json.dumps(content))
    return prepare_ade20k(root, "train", BODYPARTS_7).output


def chalearn(root: Path) -> Path:
    limbs = {1: "head", 2: "torso", 7: "left_arm", 8: "right_arm", 13: "left_leg", 14: "right_leg"}
    write_picture(root / "Seq01/imagesjpg/01_0001.jpg")
    for limb, part in limbs.items():
        write_mask(root / f"Seq01/maskspng/01_0001_1_{limb}.png", PARTS[part])
    return prepare_chalearn(root, "train", BODYPARTS_7).output


def jhmdb(root: Path) -> Path:
    order = ("torso", "head", "right_arm", "left_arm", "right_leg", "left_leg")
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, part in enumerate(order, start=1):
        labels[PARTS[part]] = number
    joints = np.stack([JHMDB_15.take(figure_joints(), COCO_17)[:, :2]] * 2).transpose(2, 1, 0) + 1
    joints[:, joints[0, :, 0] == 1] = -9  # what figure has no joint for lies outside the frame
    content = {
        "puppet_mask/wave/a/puppet_mask.mat": {"part_mask": np.stack([BODY] * 2, -1) * 1},
        "puppet_flow_com/wave/a/puppet_flow.mat": {"part_mask": np.stack([labels] * 2, -1)},
        "joint_positions/wave/a/joint_positions.mat": {"pos_img": joints},
    }
    for name, variables in content.items():
        (root / name).parent.mkdir(parents=True)
        scipy.io.savemat(root / name, variables)
    for number in (1, 2):
        write_picture(root / f"Rename_Images/wave/a/{number:05d}.png")
    (root / "splits").mkdir()
    for number in (1, 2, 3):
        (root / f"splits/wave_test_split{number}.txt").write_text("a.avi 1\n")
    return prepare_jhmdb(root, "train1", BODYPARTS_7).output


def coco(root: Path) -> Path:
    rle = mask_util.encode(np.asfortranarray(BODY, dtype=np.uint8))
    joints = figure_joints()
    person = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": int(BODY.sum()),
        "bbox": [40.0, 10.0, 30.0, 76.0],
        "segmentation": {**rle, "counts": rle["counts"].decode()},
        "keypoints": joints.ravel().tolist(),
        "num_keypoints": int((joints[:, 2] > 0).sum()),
    }
    write_picture(root / "train2017/1.jpg")
    (root / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints)}],
    }
    for kind in ("instances", "person_keypoints"):
        (root / f"annotations/{kind}_train2017.json").write_text(json.dumps(content))
    return prepare_coco(root, "train2017", BODYPARTS_7).output


LABELLED = {k for k, (_, _, v) in zip(COCO_17.keypoints, figure_joints(), strict=True) if v > 0}
EVERYTHING = set(BODYPARTS_7.channels)

# dataset -> its writer, its joints, and what it knows: channels, joints.
KINDS = {
    "voc_part": (voc_part, COCO_17, EVERYTHING, set()),
    "ade20k": (ade20k, COCO_17, {"body", "head", "right_arm", "left_arm"}, set()),
    "chalearn": (chalearn, COCO_17, EVERYTHING, set()),
    "jhmdb": (jhmdb, JHMDB_15, EVERYTHING, LABELLED & set(JHMDB_15.keypoints)),
    "coco": (coco, COCO_17, {"body"}, LABELLED),
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Kind -> (records, name in the catalog)."""
    root = tmp_path_factory.mktemp("datasets")
    made = {}
    for kind, (write, joints, _, _) in KINDS.items():
        (root / kind).mkdir()
        path = write(root / kind)
        made[kind] = (path, f"test_{kind}")
        register_bodyparts_dataset(made[kind][1], path, root / kind, keypoint_schema=joints.name)
    yield made
    for _, name in made.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(small_cfg, datasets):
    small_cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA = UNION_21.name
    small_cfg.MODEL.ROI_MASK_HEAD.DICE_LOSS_WEIGHT = 0.5
    small_cfg.DATASETS.TRAIN = tuple(name for _, name in datasets.values())
    small_cfg.DATASETS.TEST = ()
    return small_cfg


def test_each_dataset_moves_only_what_it_has_labels_for(cfg, datasets):
    model = build_model(cfg).train()
    heads = model.roi_heads
    mapper = BodyPartsMapper(cfg)
    for kind, (_, _, channels, joints) in KINDS.items():
        pictures = DatasetCatalog.get(datasets[kind][1])
        model.zero_grad()
        with EventStorage():
            losses = model([mapper(picture) for picture in pictures])
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        predictor = heads.mask_head.decoder.upsample[-2]
        moved = predictor.weight.grad.reshape(len(BODYPARTS_7.channels), -1).abs().sum(dim=1) > 0
        assert {c for c, m in zip(BODYPARTS_7.channels, moved, strict=True) if m} == channels, kind
        moved = heads.keypoint_head.score_lowres.weight.grad.abs().sum(dim=(0, 2, 3)) > 0
        assert {k for k, m in zip(UNION_21.keypoints, moved, strict=True) if m} == joints, kind
        assert losses["loss_box_reg"] > 0, kind


def test_one_run_on_all_of_them(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["test_coco", 2.0]]
    cfg.DATASETS.TRAIN_LOSS_WEIGHTS = [["test_ade20k", 0.5]]
    cfg.SOLVER.IMS_PER_BATCH = 4
    trainer = Trainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    after = list(trainer.model.parameters())
    assert trainer.iter == cfg.SOLVER.MAX_ITER
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_stock_loader_and_evaluator_take_the_file(datasets, kind, tmp_path):
    path, name = datasets[kind]
    loaded = load_coco_json(str(path), MetadataCatalog.get(name).image_root, name)
    assert all(Path(d["file_name"]).is_file() for d in loaded)
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, output_dir=str(tmp_path))
    evaluator.reset()
    for picture in loaded:
        instances = Instances((HEIGHT, WIDTH))
        instances.pred_boxes = Boxes(torch.tensor([[40.0, 10.0, 70.0, 86.0]]))
        instances.scores = torch.ones(1)
        instances.pred_classes = torch.zeros(1, dtype=torch.int64)
        instances.pred_masks = torch.from_numpy(BODY[None])
        evaluator.process([picture], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


class Understood(Exception):
    """A command's options are what it takes."""


def test_what_makes_a_dataset_is_a_command_that_takes_its_options(monkeypatch, tmp_path):
    commands = {}

    def note(name, *args, prepare_command, **kwargs):
        commands[name] = prepare_command

    monkeypatch.setattr(catalog, "register_bodyparts_dataset", note)
    catalog.register_all(tmp_path)
    assert "voc_part_train" in commands and "lspet_train_taught_11" in commands
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(parser, args=None, namespace=None):
        parse(parser, args, namespace)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    for name, command in commands.items():
        python, script, *options = command.split()
        monkeypatch.setattr(sys, "argv", [script, *options])
        assert python == "python"
        with pytest.raises(Understood):
            runpy.run_path(str(ROOT / script), run_name="__main__")
            pytest.fail(f"{name}: {command}")
