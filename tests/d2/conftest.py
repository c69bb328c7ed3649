"""Fixtures of the tests that need Detectron2."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BoxMode

from detectron2_bodyparts import add_bodyparts_config, get_config_file
from detectron2_bodyparts.records import Records, person_annotation, write_records
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 96, 128


def load_script(path: str) -> ModuleType:
    """A script of the project as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)


def rectangle(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    """A boolean (HEIGHT, WIDTH) mask, ends exclusive."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def figure(x: int = 40, y: int = 10) -> dict[str, np.ndarray]:
    """A person facing the camera, made of rectangles: the right side is at the picture's left."""
    return {
        "head": rectangle(y, x + 10, y + 12, x + 20),
        "torso": rectangle(y + 12, x + 8, y + 40, x + 22),
        "right_arm": rectangle(y + 12, x, y + 36, x + 8),
        "left_arm": rectangle(y + 12, x + 22, y + 36, x + 30),
        "right_leg": rectangle(y + 40, x + 8, y + 76, x + 15),
        "left_leg": rectangle(y + 40, x + 15, y + 76, x + 22),
    }


def figure_joints(x: int = 40, y: int = 10) -> np.ndarray:
    """(17, 3) joints of `figure` in pixel indices, all visible."""
    joints = np.zeros((17, 3))
    places = {
        "nose": (15, 6),
        "right_shoulder": (5, 14),
        "left_shoulder": (24, 14),
        "right_wrist": (4, 34),
        "left_wrist": (26, 34),
        "right_ankle": (11, 73),
        "left_ankle": (18, 73),
    }
    for name, (dx, dy) in places.items():
        joints[COCO_17.keypoints.index(name)] = (x + dx, y + dy, 2)
    return joints


def person(kind: str, x: int = 40, y: int = 10) -> dict:
    """A record of `figure`: "everything", "body" only, "joints" only, "parts" or a "crowd"."""
    parts = figure(x, y)
    body = np.any(list(parts.values()), axis=0)
    shape = (HEIGHT, WIDTH)
    joints = figure_joints(x, y)
    if kind == "joints":
        return person_annotation(BODYPARTS_7, COCO_17, shape, keypoints=joints)
    if kind == "body":
        return person_annotation(BODYPARTS_7, COCO_17, shape, body=body)
    states = dict.fromkeys(BODYPARTS_7.channels, "known")
    annotation = person_annotation(
        BODYPARTS_7,
        COCO_17,
        shape,
        body=body,
        parts=parts,
        states=states,
        keypoints=joints if kind == "everything" else None,
    )
    if kind == "crowd":
        annotation["iscrowd"] = 1
    return annotation


def as_dataset_dict(
    tmp_path, annotations: list[dict], name: str = "picture", exhaustive: bool = True
) -> dict:
    """A picture on disk and its dictionary, as `load_bodyparts_json` makes it."""
    path = tmp_path / f"{name}.png"
    rng = np.random.default_rng(0)
    cv2.imwrite(str(path), rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    people = []
    for annotation in annotations:
        one = {k: v for k, v in annotation.items() if k not in ("area", "num_keypoints")}
        one["keypoints"] = [
            v if i % 3 == 2 else v + 0.5 for i, v in enumerate(annotation["keypoints"])
        ]
        people.append({**one, "category_id": 0, "bbox_mode": BoxMode.XYWH_ABS})
    return {
        "file_name": str(path),
        "image_id": 1,
        "height": HEIGHT,
        "width": WIDTH,
        "exhaustive": exhaustive,
        "keypoint_schema": "coco-17",
        "annotations": people,
    }


@pytest.fixture
def small_cfg(tmp_path) -> CfgNode:
    """The quick start's model, smaller yet."""
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    cfg.merge_from_file(get_config_file("quick_schedules/synthetic_quick_start.yaml"))
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (16,)
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    cfg.INPUT.MAX_SIZE_TRAIN = WIDTH
    cfg.INPUT.MIN_SIZE_TEST = HEIGHT
    cfg.INPUT.MAX_SIZE_TEST = WIDTH
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 4
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.fixture
def small_records(tmp_path) -> tuple[str, str]:
    """Four pictures of rectangles with everything known: (JSON file, image root)."""
    rng = np.random.default_rng(1)
    records = Records(BODYPARTS_7, COCO_17)
    for i in range(4):
        annotation = person("everything", 10 + 20 * i)
        image = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for part, mask in figure(10 + 20 * i).items():
            image[mask] = BODYPARTS_7.colors[BODYPARTS_7.index(part)]
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        records.add_image(f"{i}.png", HEIGHT, WIDTH, [annotation])
    path = tmp_path / "records.json"
    write_records(path, records)
    return str(path), str(tmp_path)
