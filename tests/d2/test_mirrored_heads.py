"""`MODEL.ROI_HEADS.MIRRORED`: the heads look at the mirror image, too."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.backbone import in_look
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

BOXES = torch.tensor([[8.0, 4, 60, 90], [70, 10, 120, 50]])
SIDE_BY_SIDE = (96, 128)  # H, W, whole cells of the coarsest map: nothing is padded


@pytest.fixture(params=["shared", "apart", "no segmentation"])
def mirrored_cfg(request, small_cfg):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0,)
    small_cfg.MODEL.ROI_HEADS.MIRRORED = True
    small_cfg.MODEL.BODYPARTS.REGION_MARGIN = 0.1
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = request.param == "shared"
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = float(request.param != "no segmentation")
    return small_cfg


def lively(cfg) -> nn.Module:
    """An untrained model whose answers differ clearly from place to place."""
    torch.manual_seed(3)
    model = Trainer.build_model(cfg).eval()
    for name, module in model.named_modules():
        weighted = isinstance(module, (nn.Conv2d, nn.Linear))
        if weighted and name.endswith(("cls_score", "bbox_pred", "predictor", "upsample.3")):
            nn.init.normal_(module.weight, std=0.1)
    return model


def picture() -> torch.Tensor:
    return torch.rand(1, 3, *SIDE_BY_SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def mirrored_boxes(boxes: torch.Tensor) -> torch.Tensor:
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    width = SIDE_BY_SIDE[1]
    return torch.stack([width - x1, y0, width - x0, y1], dim=1)


@torch.no_grad()
def answers(model: nn.Module, pixels: torch.Tensor, boxes: torch.Tensor) -> Instances:
    people = Instances(SIDE_BY_SIDE, pred_boxes=Boxes(boxes))
    people.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    return model.roi_heads.forward_with_given_boxes(model.backbone(pixels), [people])[0]


@torch.no_grad()
def found_among(model: nn.Module, pixels: torch.Tensor, boxes: torch.Tensor) -> Instances:
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    model.roi_heads.box_predictor.test_nms_thresh = 1.0
    proposals = Instances(SIDE_BY_SIDE, proposal_boxes=Boxes(boxes))
    return model.roi_heads._forward_box(model.backbone(pixels), [proposals])[0]


def test_the_mirror_image_of_a_picture_has_the_mirrored_masks_and_joints(mirrored_cfg):
    model = lively(mirrored_cfg)
    here = answers(model, picture(), BOXES)
    there = answers(model, picture().flip(3), mirrored_boxes(BOXES))
    for field, permutation, slack in (
        ("pred_part_masks", BODYPARTS_7.flip_permutation, 1e-4),
        ("pred_keypoint_heatmaps", COCO_17.flip_permutation, 1e-3),
    ):
        mine, back = here.get(field), there.get(field).flip(3)[:, list(permutation)]
        torch.testing.assert_close(back, mine, atol=slack, rtol=slack)
        assert (there.get(field).flip(3) - mine).abs().max() > 10 * slack  # sides are told apart
    assert len(answers(model, picture(), BOXES[:0]).pred_part_masks) == 0
    model.roi_heads.mirrored = False
    once = answers(model, picture(), BOXES)
    for field in ("pred_part_masks", "pred_keypoint_heatmaps"):
        assert (once.get(field) - here.get(field)).abs().max() > 0.01


def test_the_mirror_image_of_a_picture_has_the_mirrored_boxes(small_cfg):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0,)
    small_cfg.MODEL.ROI_HEADS.MIRRORED = True
    model = lively(small_cfg)
    here = found_among(model, picture(), BOXES)
    there = found_among(model, picture().flip(3), mirrored_boxes(BOXES))
    torch.testing.assert_close(there.scores, here.scores)
    torch.testing.assert_close(
        mirrored_boxes(there.pred_boxes.tensor), here.pred_boxes.tensor, atol=1e-3, rtol=0
    )
    model.roi_heads.mirrored = False
    once = found_among(model, picture(), BOXES)
    assert (once.scores - here.scores).abs().max() > 1e-3


def test_a_look_of_another_size_is_looked_at_in_the_same_places(small_cfg):
    """Maps that hold their own coordinates, of the picture and of a mirror image half as large."""
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (0.5,)
    small_cfg.MODEL.ROI_HEADS.MIRRORED = True
    heads = Trainer.build_model(small_cfg).eval().roi_heads
    height, width = SIDE_BY_SIDE

    def places(stride, flipped):
        y, x = torch.meshgrid(
            (torch.arange(height // stride) + 0.5) * stride,
            (torch.arange(width // stride) + 0.5) * stride,
            indexing="ij",
        )
        return torch.stack([width - x if flipped else x, y])[None]

    features = {"p2": places(4, False), in_look(0, "p2"): places(8, True)}
    (maps, boxes), (maps_there, boxes_there) = heads._views(features, ["p2"], [Boxes(BOXES)], True)
    pooler = heads.mask_pooler.level_poolers[0]  # of stride 4, in both: a look has its own pixels
    roi = torch.cat([torch.zeros(2, 1), boxes[0].tensor], dim=1)
    roi_there = torch.cat([torch.zeros(2, 1), boxes_there[0].tensor], dim=1)
    mine, theirs = pooler(maps[0], roi), pooler(maps_there[0], roi_there).flip(3)
    torch.testing.assert_close(theirs, mine, atol=1.0, rtol=0)
    middle = mine.shape[-1] // 2
    torch.testing.assert_close(
        theirs[..., middle, middle], mine[..., middle, middle], atol=0.05, rtol=0
    )


def test_training_looks_once(mirrored_cfg):
    model = lively(mirrored_cfg).train()
    features = {"p2": torch.zeros(1, 16, 24, 32)}
    assert len(list(model.roi_heads._views(features, ["p2"], [Boxes(BOXES)], True))) == 1


@pytest.mark.parametrize(
    "changes",
    [
        ["MODEL.FPN.MIRRORED_LOOKS", ()],
        ["MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead"],
        ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"],
    ],
)
def test_what_cannot_look_twice_says_so(small_cfg, changes):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0,)
    small_cfg.MODEL.ROI_HEADS.MIRRORED = True
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = False
    small_cfg.merge_from_list(changes)
    with pytest.raises(ValueError, match=r"ROI_HEADS\.MIRRORED needs"):
        Trainer.build_model(small_cfg)


@pytest.mark.parametrize(
    "change",
    [
        ("MODEL.FPN.MIRRORED_LOOKS", ()),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        ("MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead"),
    ],
)
def test_it_needs_another_look_and_heads_that_take_one(small_cfg, change):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0,)
    small_cfg.MODEL.ROI_HEADS.MIRRORED = True
    Trainer.build_model(small_cfg)
    small_cfg.merge_from_list(list(change))
    with pytest.raises(ValueError, match="MODEL.ROI_HEADS.MIRRORED needs"):
        Trainer.build_model(small_cfg)
