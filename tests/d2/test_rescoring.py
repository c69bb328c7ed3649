"""Scores of those without parts, and of people whose silhouette lies in somebody else's."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.rescoring import (
    doubt_second_finds,
    rescored,
    shares_in_earlier,
    weigh_by_parts,
)
from detectron2_bodyparts.modeling.test_time_augmentation import BodyPartsRCNNWithTTA

SIDE = 112
WHOLE = torch.tensor([0.0, 0, 100, 100])
WITHIN = torch.tensor([20.0, 10, 60, 90])
ACROSS = torch.tensor([75.0, 0, 125, 40])  # half of it
ASIDE = torch.tensor([100.0, 0, 140, 100])


def full(count: int) -> torch.Tensor:
    return torch.ones(count, SIDE, SIDE)


def test_shares_are_of_those_before():
    found = shares_in_earlier(full(4), torch.stack([WHOLE, WITHIN, ACROSS, ASIDE]))
    torch.testing.assert_close(found, torch.tensor([0, 1, 0.5, 0.25]), atol=0.03, rtol=0)
    found = shares_in_earlier(full(2), torch.stack([WITHIN, WHOLE]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.32]), atol=0.02, rtol=0)


def test_silhouettes_count_and_not_boxes():
    bodies = full(2)
    bodies[0, :, SIDE // 2 :] = 0
    right = torch.tensor([60.0, 20, 90, 80])
    assert shares_in_earlier(bodies, torch.stack([WHOLE, right]))[1] == 0
    left = torch.tensor([10.0, 20, 40, 80])
    assert shares_in_earlier(bodies, torch.stack([WHOLE, left]))[1] == 1
    upper = torch.tensor([40.0, 0, 60, 100])  # half in, half out
    assert shares_in_earlier(bodies, torch.stack([WHOLE, upper]))[1] == pytest.approx(0.5)
    bodies[1, : SIDE // 2] = 0
    low = torch.tensor([30.0, 60, 50, 140])  # its silhouette is below WHOLE
    assert shares_in_earlier(bodies, torch.stack([WHOLE, low]))[1] == 0


def test_nobody_and_empty_silhouettes():
    assert shares_in_earlier(full(0), torch.zeros(0, 4)).shape == (0,)
    empty = torch.zeros(2, SIDE, SIDE)
    torch.testing.assert_close(
        shares_in_earlier(empty, torch.stack([WHOLE, WITHIN])), torch.zeros(2)
    )
    flat = torch.tensor([5.0, 5, 5, 5])
    assert shares_in_earlier(full(2), torch.stack([flat, WHOLE])).isfinite().all()


def people(boxes: list[torch.Tensor], scores: list[float]) -> Instances:
    found = Instances((200, 200), pred_boxes=Boxes(torch.stack(boxes)))
    found.scores = torch.tensor(scores)
    found.pred_part_masks = torch.zeros(len(boxes), 3, SIDE, SIDE)
    found.pred_part_masks[:, 0] = 0.9
    found.number = torch.arange(len(boxes))
    return found


def test_a_second_find_comes_after_others_and_stays():
    found = doubt_second_finds(people([WHOLE, WITHIN, ACROSS], [0.9, 0.8, 0.7]), 0.25)
    assert found.number.tolist() == [0, 2, 1]
    half = 0.7 * (1 - 0.75 * 0.5**4)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, half, 0.8 * 0.25]))
    torch.testing.assert_close(found.pred_boxes.tensor[2], WITHIN)


def test_with_a_margin_masks_are_on_more_than_the_boxes():
    found = people([WITHIN, ASIDE], [0.9, 0.8])
    assert doubt_second_finds(found, 0.0).scores[1] == pytest.approx(0.8)
    found = people([WITHIN, ASIDE], [0.9, 0.8])
    found.pred_region_margin = torch.full((2,), 1.0)  # x of -20 to 100, and 60 to 180
    assert doubt_second_finds(found, 0.0).scores[1] < 0.8


def test_scores_heed_how_likely_parts_are_where_the_body_is():
    found = people([WHOLE, WITHIN, ACROSS], [0.9, 0.8, 0.7])
    masks = found.pred_part_masks
    masks[0, 0, :, : SIDE // 4] = 0.4  # not of the body: what is there does not count
    masks[0, 1, :, : SIDE // 2] = 0.36  # 0.36 in a third of the silhouette
    masks[1, 1:] = 0.6  # of separate sigmoids the sum may be more than 1
    masks[2, 0] = 0  # no silhouette
    weighed = weigh_by_parts(found, 0.5)
    assert weighed.number.tolist() == [1, 0, 2]
    expected = torch.tensor([0.8, 0.9 * (0.36 / 3) ** 0.5, 0])
    torch.testing.assert_close(weighed.scores, expected)
    assert weigh_by_parts(found, 1.0).scores[1].item() == pytest.approx(0.9 * 0.12, rel=1e-5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_who_is_surer_by_the_parts_comes_first_of_two_finds():
    heads = nn.Module()
    found = people([WITHIN, WITHIN], [0.9, 0.8])
    found.pred_part_masks[1, 1] = 0.81
    found.pred_part_masks[0, 1] = 0.25
    assert rescored(found, heads) is found  # other heads, which have no such settings
    heads.part_score_power, heads.second_find_score = 0.5, 0.3
    after = rescored(found, heads)
    assert after.number.tolist() == [1, 0]
    torch.testing.assert_close(after.scores, torch.tensor([0.8 * 0.9, 0.9 * 0.5 * 0.3]))


def test_without_masks_or_wish_nothing_changes():
    found = people([WHOLE, WITHIN], [0.9, 0.8])
    assert weigh_by_parts(found, 0.0) is found
    assert doubt_second_finds(found, 1.0) is found
    doubt_second_finds(found, 0.3)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])  # those of who was asked
    found.remove("pred_part_masks")
    assert doubt_second_finds(found, 0.3) is found
    assert weigh_by_parts(found, 0.5) is found


def find_bodies_without_parts(heads: nn.Module) -> None:
    """Everything is body, and of every part it is unlikely."""
    bias = heads.mask_head.decoder.upsample[-2].bias
    nn.init.constant_(bias, -5)
    nn.init.constant_(bias[:4], 5)  # the four cells that a position of the first channel becomes


@pytest.mark.parametrize("setting, value", [("SECOND_FIND_SCORE", 0.3), ("PART_SCORE_POWER", 0.5)])
def test_the_model_rescores_whom_it_finds_and_not_given_boxes(small_cfg, setting, value):
    model = Trainer.build_model(small_cfg).eval()
    assert model.roi_heads.second_find_score == 1 and model.roi_heads.part_score_power == 0
    small_cfg.MODEL.ROI_HEADS[setting] = value
    doubtful = Trainer.build_model(small_cfg).eval()
    find_bodies_without_parts(model.roi_heads)
    model.roi_heads.box_predictor.test_score_thresh = 0
    doubtful.roi_heads.box_predictor.test_score_thresh = 0
    doubtful.load_state_dict(model.state_dict())
    picture = [{"image": torch.rand(3, 96, 128) * 255}]
    with torch.no_grad():
        (before,), (after,) = (
            m.inference(picture, do_postprocess=False) for m in (model, doubtful)
        )
        assert len(before) == len(after) > 5
        (given,) = doubtful.inference(picture, [before[:]], do_postprocess=False)
    assert (after.scores.diff() <= 0).all() and after.scores.sum() < 0.9 * before.scores.sum()
    boxes = before.pred_boxes.tensor
    order = torch.cdist(after.pred_boxes.tensor, boxes).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(len(before)))
    assert (after.scores <= before.scores[order] + 1e-6).all()
    torch.testing.assert_close(after.pred_keypoints, before.pred_keypoints[order])
    torch.testing.assert_close(given.scores, before.scores)


def test_test_time_augmentation_rescores_whom_it_finds(small_cfg):
    small_cfg.TEST.AUG.MIN_SIZES = (96,)
    small_cfg.TEST.AUG.MAX_SIZE = 128
    model = Trainer.build_model(small_cfg).eval()
    heads = model.roi_heads
    find_bodies_without_parts(heads)
    picture = [{"image": torch.rand(3, 96, 128) * 255, "height": 96, "width": 128}]
    found = []
    for power, score in ((0.0, 1.0), (0.5, 0.3)):
        heads.part_score_power, heads.second_find_score = power, score
        augmented = BodyPartsRCNNWithTTA(small_cfg, model)
        with torch.no_grad():
            found.append(augmented(picture)[0]["instances"])
    before, after = found
    expected = rescored(before, heads)
    torch.testing.assert_close(after.scores, expected.scores)
    torch.testing.assert_close(after.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert after.scores.min() < 0.5 * before.scores.min()
