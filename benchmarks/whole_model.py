"""The whole R-50-FPN model against Detectron2's own with mask and keypoint heads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import scenes
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from measure import Row, Settings, compare
from targets import part_masks
from torch import nn

from detectron2_bodyparts.config import load_config

PEOPLE = 10
PROPOSALS = 1000


def our_config() -> CfgNode:
    return load_config("bodyparts_rcnn_R_50_FPN_1x.yaml")


def _their_config() -> CfgNode:
    cfg = get_cfg()
    name = "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.MODEL.MASK_ON = True
    # As in Detectron2's Mask R-CNN.
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


def build(cfg: CfgNode, device: str) -> nn.Module:
    """A model with random weights; backbone, proposals and boxes are the same for all models."""
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # random weights are never confident
    cfg.TEST.DETECTIONS_PER_IMAGE = PEOPLE
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, BottleneckBlock):
            # Without trained statistics the values would double in each block.
            module.conv3.norm.weight.fill_(0.1)
    for layer in (model.roi_heads.box_predictor.cls_score, model.roi_heads.box_predictor.bbox_pred):
        nn.init.zeros_(layer.weight)  # all boxes are equally likely and stay where proposed
    return model


@contextlib.contextmanager
def fixed_proposals(model: nn.Module, boxes: torch.Tensor) -> Iterator[None]:
    """Replace the model's proposals by ``boxes``: with random weights it would detect nobody.

    Its own proposals are still computed, and discarded.
    """
    generator = model.proposal_generator
    own = generator.predict_proposals
    scores = torch.linspace(10, -10, len(boxes), device=boxes.device)

    def predict(anchors, logits, deltas, image_sizes) -> list[Instances]:
        own(anchors, logits, deltas, image_sizes)
        return [
            Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=scores)
            for size in image_sizes
        ]

    generator.predict_proposals = predict
    try:
        yield
    finally:
        del generator.predict_proposals


class Picture:
    """An image with people as input for both models, and proposals, some of them on people."""

    def __init__(self, people: int, foreground: int, height: int, width: int, device: str) -> None:
        self.size = (height, width)
        figures = scenes.figures(people, height, width)
        planes = scenes.whole_planes(figures, height, width)
        rng = np.random.default_rng(0)
        self.image = torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))
        joints = np.stack([points for _, points in figures]) + (0.5, 0.5, 0)
        self.targets = Instances(self.size)
        self.targets.gt_boxes = Boxes(scenes.boxes(figures))
        self.targets.gt_classes = torch.zeros(people, dtype=torch.int64)
        self.targets.gt_keypoints = Keypoints(joints.astype(np.float32))
        self.part_masks = part_masks(planes)
        self.bit_masks = BitMasks(np.stack(planes) > 0)
        near = scenes.regions(figures, foreground)[1]
        corners = rng.uniform(0, (width - 40, height - 40), (PROPOSALS - foreground, 2))
        anywhere = np.concatenate([corners, corners + rng.uniform(20, 40, corners.shape)], axis=1)
        boxes = Boxes(torch.cat([near, torch.from_numpy(anywhere).float()]))
        boxes.clip(self.size)
        self.proposals = boxes.tensor.to(device)

    def inputs(self, masks: str | None) -> list[dict]:
        """A batch of one: for inference, or with ``gt_part_masks`` or ``gt_masks``."""
        picture = {"image": self.image, "height": self.size[0], "width": self.size[1]}
        if masks:
            picture["instances"] = Instances(self.size, **self.targets.get_fields())
            chosen = self.part_masks if masks == "gt_part_masks" else self.bit_masks
            picture["instances"].set(masks, chosen)
        return [picture]


def infer(model: nn.Module, picture: Picture) -> Instances:
    with torch.no_grad(), fixed_proposals(model, picture.proposals):
        found = model.eval()(picture.inputs(None))[0]["instances"]
    assert len(found) == PEOPLE, f"expected {PEOPLE} people, found {len(found)}"
    return found


def train_step(model: nn.Module, picture: Picture, masks: str) -> None:
    """Forward and backward pass; the optimizer's step costs the same for every model."""
    torch.manual_seed(0)
    with EventStorage(), fixed_proposals(model, picture.proposals):
        losses = model.train()(picture.inputs(masks))
        sum(losses.values()).backward()
    model.zero_grad()


def rows(settings: Settings) -> Iterator[Row]:
    """Inference including Detectron2's pasting of body masks; a training step; its peak memory."""
    height, width = (800, 1333) if settings.device == "cuda" else (480, 800)
    # With the people's own boxes at most 64, so that MAX_REGIONS_PER_IMAGE has no effect.
    foreground = 54 if settings.device == "cuda" else 22
    if settings.quick:
        height, width, foreground = 128, 192, PEOPLE
    picture = Picture(PEOPLE, foreground, height, width, settings.device)
    ours, theirs = build(our_config(), settings.device), build(_their_config(), settings.device)
    words = f"R-50-FPN: 7 channels of 112x112 / 1 of 28x28, 17 joints, 10 people, {width}x{height}"
    yield from compare(
        "whole model, inference",
        words,
        lambda: infer(ours, picture),
        lambda: infer(theirs, picture),
        settings,
        time_reach=1.0,
        seconds=50,
    )
    yield from compare(
        "whole model, training step",
        f"{words}, {foreground + PEOPLE} regions on people",
        lambda: train_step(ours, picture, "gt_part_masks"),
        lambda: train_step(theirs, picture, "gt_masks"),
        settings,
        time_reach=1.15,
        memory_reach=1.1,
        seconds=40,
    )
