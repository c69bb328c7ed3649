from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.structures.keypoints import heatmaps_to_keypoints
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from detectron2_bodyparts.modeling import BodyPartsKeypointHead, BodyPartsMaskHead
from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints, keypoint_loss
from detectron2_bodyparts.modeling.mask_head import part_mask_loss
from detectron2_bodyparts.modeling.regions import enlarged, on_boxes
from detectron2_bodyparts.records import encode_mask
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, LSP_14, PartSchema
from detectron2_bodyparts.structures import PartMasks, part_plane, target_names

from .conftest import HEIGHT, WIDTH, figure, person, rectangle

BOX = torch.tensor([[40.0, 10.0, 70.0, 86.0]])
CHANNELS = len(BODYPARTS_7.channels)


def pack(annotation):
    plane, state = part_plane(annotation, BODYPARTS_7, HEIGHT, WIDTH)
    return PartMasks.from_planes([plane], [state], BODYPARTS_7)


def test_loss_of_known_channels_is_the_mean_cross_entropy():
    masks = pack(person("everything"))
    logits = torch.randn(1, CHANNELS, 28, 28)
    targets, _ = masks.crop_and_resize(BOX, 28)
    expected = F.binary_cross_entropy_with_logits(logits, targets[:, :CHANNELS].float())
    torch.testing.assert_close(part_mask_loss(logits, masks, BOX), expected)


def test_unknown_channels_and_ignored_pixels_have_neither_loss_nor_gradient():
    annotation = person("body")
    annotation["ignore_segmentation"] = encode_mask(rectangle(10, 40, 30, 70))
    masks = pack(annotation)
    _, valid = masks.crop_and_resize(BOX, 28)
    logits = torch.zeros(1, CHANNELS, 28, 28, requires_grad=True)
    loud = logits.detach().clone()
    loud[:, 1:] = 50.0
    loud[:, 0][~valid] = -50.0
    loud.requires_grad_()
    first, second = (part_mask_loss(x, masks, BOX) for x in (logits, loud))
    torch.testing.assert_close(first, second)
    second.backward()
    assert not loud.grad[:, 1:].any()
    assert not loud.grad[:, 0][~valid].any()
    assert loud.grad[:, 0][valid].all()


def test_derived_channels_count_by_their_weight():
    annotation = person("everything")
    annotation["part_state"]["head"] = "derived"
    masks = pack(annotation)
    logits = torch.randn(1, CHANNELS, 28, 28)
    targets, _ = masks.crop_and_resize(BOX, 28)
    weights = torch.ones(CHANNELS)
    weights[BODYPARTS_7.index("head")] = 0.25
    per_channel = F.binary_cross_entropy_with_logits(
        logits, targets[:, :CHANNELS].float(), reduction="none"
    ).mean(dim=(0, 2, 3))
    expected = (per_channel * weights).mean()
    torch.testing.assert_close(part_mask_loss(logits, masks, BOX, derived_weight=0.25), expected)


def test_regions_count_by_their_weight_even_if_all_have_the_same():
    masks = PartMasks.cat([pack(person("everything")), pack(person("body"))])
    logits, boxes = torch.randn(2, CHANNELS, 28, 28), BOX.expand(2, 4)

    def loss(*weights, **options):
        return part_mask_loss(logits, masks, boxes, torch.tensor(weights), **options)

    for options in ({}, {"dice_weight": 1.0}):
        first, second = loss(1.0, 0.0, **options), loss(0.0, 1.0, **options)
        assert first > 0 and second > 0
        torch.testing.assert_close(loss(0.5, 0.25, **options), first / 2 + second / 4)
        plain = part_mask_loss(logits, masks, boxes, **options)
        torch.testing.assert_close(plain, first + second)


def test_joints_count_by_the_weight_of_their_region():
    torch.manual_seed(0)
    logits = torch.randn(2, 17, 56, 56)
    joints = torch.cat([50 + 10 * torch.rand(2, 17, 2), torch.full((2, 17, 1), 2.0)], dim=2)
    boxes = BOX.expand(2, 4)
    each = [keypoint_loss(logits[i : i + 1], joints[i : i + 1], BOX)[0] for i in (0, 1)]
    loss, count = keypoint_loss(logits, joints, boxes, torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(loss, each[0] / 2)
    assert count == 34


def test_dice_by_hand_and_blind_to_what_is_unknown():
    annotation = person("body")
    annotation["ignore_segmentation"] = encode_mask(rectangle(10, 40, 30, 70))
    masks = pack(annotation)
    targets, valid = masks.crop_and_resize(BOX, 28)
    logits = torch.zeros(1, CHANNELS, 28, 28)
    # Probability a half everywhere: the overlap is half the body's valid pixels.
    body, pixels = (targets[:, 0] & valid).sum().item(), valid.sum().item()
    expected = 1 - (2 * 0.5 * body + 1) / (0.5 * pixels + body + 1)

    def dice(x):
        return part_mask_loss(x, masks, BOX, dice_weight=1.0) - part_mask_loss(x, masks, BOX)

    assert dice(logits).item() == pytest.approx(expected, abs=1e-5)
    loud = logits.clone()
    loud[:, 1:] = 50.0
    loud[:, 0][~valid] = 50.0
    assert dice(loud).item() == pytest.approx(expected, abs=1e-5)


def test_a_union_is_content_with_either_side_but_not_with_none():
    annotation = person("body")
    arms = figure()["right_arm"] | figure()["left_arm"]
    annotation["part_state"]["arm"] = "known"
    annotation["unsided"] = {"arm": encode_mask(arms)}
    masks = pack(annotation)
    targets, _ = masks.crop_and_resize(BOX, 28)
    union = targets[0, target_names(BODYPARTS_7).index("arm")]

    def loss(*channels):
        logits = torch.full((1, CHANNELS, 28, 28), -20.0)
        logits[:, 0] = torch.where(targets[:, 0], 20.0, -20.0)
        for channel in channels:
            logits[0, BODYPARTS_7.index(channel)] = torch.where(union, 20.0, -20.0)
        return part_mask_loss(logits, masks, BOX).item()

    assert loss("right_arm") == pytest.approx(0, abs=1e-6)
    assert loss("left_arm") == pytest.approx(0, abs=1e-6)
    assert loss() > 1

    # It makes up no side: right and left are pushed by their odds, not the likelier one alone.
    logits = torch.zeros(1, CHANNELS, 28, 28)
    logits[:, BODYPARTS_7.index("right_arm")] = np.log(2)
    logits.requires_grad_()
    part_mask_loss(logits, masks, BOX).backward()
    right, left = (logits.grad[0, BODYPARTS_7.index(f"{s}_arm")] for s in ("right", "left"))
    assert (left[union] < 0).all()
    torch.testing.assert_close(right, 2 * left)


@pytest.mark.parametrize(
    "decoder, side, conv_dim", [("efficient", 28, 64), ("original", 56, 256), ("efficient", 28, 16)]
)
@pytest.mark.parametrize("schema", [BODYPARTS_7, PartSchema("two", ("body", "head"))])
def test_masks_are_112_whatever_decoder_and_schema(decoder, side, conv_dim, schema):
    head = BodyPartsMaskHead(
        ShapeSpec(channels=16, height=side, width=side),
        part_schema=schema,
        decoder=decoder,
        conv_dim=conv_dim,
    ).eval()
    found = [Instances((100, 100), pred_boxes=Boxes(torch.rand(n, 4))) for n in (2, 0, 1)]
    with torch.no_grad():
        head(torch.randn(3, 16, side, side), found)
    for instances, count in zip(found, (2, 0, 1), strict=True):
        assert instances.pred_part_masks.shape == (count, len(schema.channels), 112, 112)
        assert instances.pred_masks.shape == (count, 1, 112, 112)
        assert torch.equal(instances.pred_masks[:, 0], instances.pred_part_masks[:, 0])


def test_masks_on_enlarged_boxes_become_masks_on_the_boxes():
    """A ramp over the picture stays what it is: value = x + 10 y at every place."""
    boxes, margin, side = torch.tensor([[0.2, 0.1, 0.6, 0.9]]), 0.25, 28

    def ramp(region):
        low, high = region[0, :2], region[0, 2:]
        cells = (torch.arange(side) + 0.5) / side
        x, y = (low[i] + cells * (high[i] - low[i]) for i in (0, 1))
        return (x[None] + 10 * y[:, None])[None, None]

    regions = enlarged(boxes, margin)
    torch.testing.assert_close(regions, torch.tensor([[0.1, -0.1, 0.7, 1.1]]))
    torch.testing.assert_close(on_boxes(ramp(regions), margin), ramp(boxes))
    torch.testing.assert_close(on_boxes(ramp(boxes), 0.0), ramp(boxes))
    assert on_boxes(torch.zeros(0, 1, side, side), margin).shape == (0, 1, side, side)


def gmac(decoder, side, conv_dim):
    """Multiplications of the convolutions on one region, in 10^9, counted as they run."""
    shape = ShapeSpec(channels=256, height=side, width=side)
    head = BodyPartsMaskHead(shape, part_schema=BODYPARTS_7, decoder=decoder, conv_dim=conv_dim)
    counts = []

    def count(module, args, output):
        per_output = module.weight[0].numel() * output.numel()
        if isinstance(module, torch.nn.ConvTranspose2d):
            per_output = module.weight[0].numel() * args[0].numel()
        counts.append(per_output)

    for module in head.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        head.eval()(torch.zeros(1, 256, side, side), [Instances((9, 9), scores=torch.ones(1))])
    return sum(counts) / 1e9


def test_the_default_decoder_is_cheap_and_the_original_is_what_it_was():
    assert gmac("efficient", 28, 64) == pytest.approx(0.30, abs=0.005)
    assert gmac("original", 56, 256) == pytest.approx(8.24, abs=0.005)


def test_keypoint_loss_by_hand():
    # One region of 56x56 pixels at (10, 20): a cell a pixel. The first joint is in cell (3, 5), the
    # second on the far edge and so in the last cell, the third outside, the fourth not labelled.
    logits = torch.randn(1, 4, 56, 56)
    box = torch.tensor([[10.0, 20.0, 66.0, 76.0]])
    joints = torch.tensor([[[13.5, 25.5, 2.0], [66, 76, 1], [9.0, 30, 2], [30, 40, 0]]])
    loss, count = keypoint_loss(logits, joints, box)
    log_p = logits.flatten(2).log_softmax(2)
    assert count == 2
    torch.testing.assert_close(loss, -log_p[0, 0, 5 * 56 + 3] - log_p[0, 1, 56 * 56 - 1])


def test_keypoint_targets_are_those_of_detectron2():
    rng = np.random.default_rng(0)
    boxes = torch.tensor(rng.uniform(0, 50, (5, 4)), dtype=torch.float32)
    boxes[:, 2:] += 60 + boxes[:, :2]
    joints = torch.tensor(rng.uniform(0, 150, (5, 17, 3)), dtype=torch.float32)
    joints[..., 2] = torch.tensor(rng.integers(0, 3, (5, 17)))
    target, valid = Keypoints(joints).to_heatmap(boxes, 56)
    logits = torch.randn(5, 17, 56, 56)
    valid = valid.bool()
    assert 5 < valid.sum() < 85
    expected = F.cross_entropy(logits.flatten(2)[valid], target[valid], reduction="sum")
    loss, count = keypoint_loss(logits, joints, boxes)
    torch.testing.assert_close(loss, expected)
    assert count == valid.sum()


def peaks(points, boxes, side=56):
    """Logits of Gaussian bumps (R, K, S, S) around points in picture coordinates."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    cells = (points - low) / (high - low) * side
    grid = torch.arange(side) + 0.5
    dx = grid[None, None, None, :] - cells[..., 0, None, None]
    dy = grid[None, None, :, None] - cells[..., 1, None, None]
    return -(dx**2 + dy**2) / (2 * 1.5**2)


def test_decoding_finds_known_positions_at_least_as_well_as_detectron2():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 4, generator=generator) * 100
    boxes[:, 2:] = boxes[:, :2] + 40 + boxes[:, 2:] * 3
    points = torch.rand(20, 17, 2, generator=generator) * 0.9 + 0.05
    points = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
    logits = peaks(points, boxes)
    found = decode_keypoints(logits, boxes)
    theirs = heatmaps_to_keypoints(logits, boxes)

    def error(xy):
        return (xy - points).norm(dim=-1).mean()

    assert error(found[..., :2]) <= error(theirs[..., :2])
    assert error(found[..., :2]) < 0.05
    assert ((found[..., 2] > 0) & (found[..., 2] <= 1)).all()


def test_decoding_at_the_border_stays_in_the_box():
    logits = torch.zeros(1, 2, 56, 56)
    logits[0, 0, 0, 0] = logits[0, 1, 55, 55] = 5.0
    found = decode_keypoints(logits, torch.tensor([[10.0, 20.0, 66.0, 76.0]]))
    torch.testing.assert_close(found[0, :, :2], torch.tensor([[10.5, 20.5], [65.5, 75.5]]))
    assert decode_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)


@pytest.mark.parametrize("side", [14, 28, 56])
def test_heatmaps_are_56_from_any_region(side):
    head = BodyPartsKeypointHead(
        ShapeSpec(channels=8, height=side, width=side), keypoint_schema=LSP_14, conv_dims=(8, 8)
    )
    assert head.layers(torch.zeros(3, 8, side, side)).shape == (3, 14, 56, 56)


def test_zero_losses_still_touch_every_parameter():
    mask_head = BodyPartsMaskHead(ShapeSpec(8, height=28, width=28), part_schema=BODYPARTS_7)
    joint_head = BodyPartsKeypointHead(
        ShapeSpec(8, height=14, width=14), keypoint_schema=COCO_17, conv_dims=(8,)
    )
    with EventStorage():
        losses = {
            **mask_head(torch.zeros(0, 8, 28, 28), []),
            **joint_head(torch.zeros(0, 8, 14, 14), []),
        }
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for head in (mask_head, joint_head):
        assert all(p.grad is not None for p in head.parameters())


def test_the_mask_head_may_take_finer_features_than_the_box_head(small_cfg):
    small_cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4"]
    heads = build_model(small_cfg).roi_heads
    assert heads.mask_in_features == ["p2", "p3", "p4"]
    small_cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES = ("p2",)
    heads = build_model(small_cfg).roi_heads
    assert heads.mask_in_features == ("p2",) and len(heads.mask_pooler.level_poolers) == 1
    assert heads.box_in_features == ["p2", "p3", "p4"]
    assert small_cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p2", "p3", "p4"]
