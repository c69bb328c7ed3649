from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detectron2_bodyparts.data import BodyPartsMapper, load_bodyparts_json
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.segmentation import PartSegmentation, whole_picture
from detectron2_bodyparts.records import encode_mask
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17
from detectron2_bodyparts.structures import target_names

from .conftest import HEIGHT, WIDTH, as_dataset_dict, figure, person, rectangle

NAMES = target_names(BODYPARTS_7)
SIDE = 112


def target(tmp_path, annotations, **kwargs):
    mapper = BodyPartsMapper(
        augmentations=[T.NoOpTransform()],
        image_format="BGR",
        part_schema=BODYPARTS_7,
        keypoint_schema=COCO_17,
    )
    return mapper(as_dataset_dict(tmp_path, annotations, **kwargs))["instances"]


def at(grid, mask):
    """The values of a (S, S) grid over the picture at the cells whose centre is in the mask."""
    centers = (np.arange(SIDE) + 0.5) / SIDE
    rows, columns = (centers * HEIGHT).astype(int), (centers * WIDTH).astype(int)
    return grid.numpy()[mask[np.ix_(rows, columns)]]


def test_people_are_put_together(tmp_path):
    truth, weights = whole_picture(
        target(tmp_path, [person("everything", x) for x in (5, 80)]), 112
    )
    assert truth.shape == weights.shape == (len(NAMES), SIDE, SIDE)
    assert (weights[: len(BODYPARTS_7.channels)] == 1).all()
    for x in (5, 80):
        for part, mask in figure(x).items():
            inner = mask & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
            inner &= np.roll(mask, 2, 0) & np.roll(mask, -2, 0)
            for name in BODYPARTS_7.parts:
                assert (at(truth[NAMES.index(name)], inner) == (name == part)).all()
    assert truth[0].sum() == pytest.approx(
        sum(m.sum() for m in figure().values()) * 2 * SIDE * SIDE / HEIGHT / WIDTH, rel=0.05
    )


def test_no_more_is_known_than_of_whom_it_is(tmp_path):
    truth, weights = whole_picture(
        target(tmp_path, [person("everything", 5), person("body", 80)]), 112
    )
    arm = weights[NAMES.index("right_arm")]
    assert (at(arm, np.any(list(figure(5).values()), axis=0)) == 1).all()
    assert (at(arm, figure(80)["torso"]) == 0).all()
    assert (at(arm, rectangle(0, 0, HEIGHT, 3)) == 1).all()  # the background
    assert (weights[0] == 1).all()


def test_derived_parts_have_their_weight(tmp_path):
    annotation = person("everything", 5)
    annotation["part_state"]["right_arm"] = "derived"
    _, weights = whole_picture(target(tmp_path, [annotation]), 112, 0.25)
    assert (at(weights[NAMES.index("right_arm")], figure(5)["torso"]) == 0.25).all()
    assert (at(weights[NAMES.index("left_arm")], figure(5)["torso"]) == 1).all()


def test_nothing_is_known_where_it_is_to_be_ignored(tmp_path):
    shared = person("everything", 5)
    shared["ignore_segmentation"] = encode_mask(rectangle(80, 0, 90, 40))
    annotations = [shared, person("joints", 40), person("crowd", 80)]
    _, weights = whole_picture(target(tmp_path, annotations), 112)
    assert (at(weights[0], rectangle(82, 2, 88, 38)) == 0).all()
    assert (at(weights[0], figure(40)["torso"]) == 0).all()
    assert (at(weights[0], figure(80)["torso"]) == 0).all()
    assert (at(weights[0], figure(5)["torso"]) == 1).all()


@pytest.mark.parametrize("annotations", [[], [person("joints")]], ids=["nobody", "joints"])
def test_pictures_that_are_not_exhaustive_know_nothing(tmp_path, annotations):
    found = target(tmp_path, annotations, exhaustive=False)
    truth, weights = whole_picture(found, 112)
    assert not truth.any()
    assert not weights.any()
    branch = PartSegmentation(8, 4, BODYPARTS_7)
    features = torch.randn(1, 8, HEIGHT // 4, WIDTH // 4, requires_grad=True)
    loss = branch.losses(branch(features), [found])["loss_segmentation"]
    assert loss == 0
    loss.backward()
    assert not features.grad.any()


def test_an_empty_picture_is_background(tmp_path):
    truth, weights = whole_picture(target(tmp_path, []), 112)
    assert not truth.any()
    assert (weights == 1).all()


def test_it_learns_where_parts_are(tmp_path):
    """From features that tell parts apart, each in its place: a shifted grid could not."""
    found = target(tmp_path, [person("everything", 8, 8)])
    features = torch.zeros(1, 8, HEIGHT, WIDTH)
    for i, mask in enumerate(figure(8, 8).values()):
        features[0, i] = torch.from_numpy(mask.astype(np.float32))
    branch = PartSegmentation(8, 1, BODYPARTS_7)
    optimizer = torch.optim.Adam(branch.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss = branch.losses(branch(features), [found])["loss_segmentation"]
        loss.backward()
        optimizer.step()
    assert loss < 0.15


def test_the_masks_start_from_it_and_their_loss_does_not_reach_it(small_cfg, small_records):
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    model = Trainer.build_model(small_cfg)
    mapper = BodyPartsMapper(small_cfg)
    pictures = [mapper(picture) for picture in load_bodyparts_json(*small_records)[:2]]
    branch = model.roi_heads.part_segmentation
    with EventStorage():
        model(pictures)["loss_mask"].backward()
    assert all(p.grad is None for p in branch.parameters())
    assert any(p.grad is not None for p in model.roi_heads.mask_head.parameters())

    def logits():
        given = Instances((HEIGHT, WIDTH), pred_boxes=Boxes(torch.tensor([[10.0, 10, 60, 80]])))
        given.pred_classes = torch.zeros(1, dtype=torch.int64)
        (found,) = model.eval().inference(pictures[:1], [given], do_postprocess=False)
        return found.pred_part_masks.logit()

    with torch.no_grad():
        before = logits()
        branch.predictor.bias += 2
        torch.testing.assert_close(logits() - before, torch.full_like(before, 2), atol=1e-3, rtol=0)


def test_the_whole_model_has_the_loss_only_where_asked(small_cfg, small_records):
    pictures = load_bodyparts_json(*small_records)[:2]
    for weight in (0.0, 1.0):
        small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = weight
        model = Trainer.build_model(small_cfg)
        mapper = BodyPartsMapper(small_cfg)
        with EventStorage():
            losses = model([mapper(picture) for picture in pictures])
        assert ("loss_segmentation" in losses) == bool(weight)
        assert model.eval()([{"image": mapper(pictures[0])["image"]}])
