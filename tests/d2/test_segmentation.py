from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from detectron2_bodyparts.data import BodyPartsMapper, load_bodyparts_json
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.backbone import in_look
from detectron2_bodyparts.modeling.segmentation import PartSegmentation, possible_classes
from detectron2_bodyparts.records import encode_mask
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

from .conftest import HEIGHT, WIDTH, as_dataset_dict, figure, person, rectangle

CLASSES = ("background", *BODYPARTS_7.parts)
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


def inner(mask):
    """The mask without its edge, at which neighbouring cells may fall."""
    for axis in (0, 1):
        mask = mask & np.roll(mask, 2, axis) & np.roll(mask, -2, axis)
    return mask


def whole(x=5):
    """The body of `figure`."""
    return np.any(list(figure(x).values()), axis=0)


def classes_at(sets, mask):
    """The one answer that all cells of the mask have: names of the classes that are possible."""
    cells = at(sets.permute(1, 2, 0), inner(mask))
    assert len(cells) and (cells == cells[0]).all()
    return {name for name, here in zip(CLASSES, cells[0], strict=True) if here}


def test_every_part_is_what_it_is_and_all_else_background(tmp_path):
    found = target(tmp_path, [person("everything", x) for x in (5, 80)])
    for sets in possible_classes(found, SIDE):
        for x in (5, 80):
            for part, mask in figure(x).items():
                assert classes_at(sets, mask) == {part}
        assert classes_at(sets, ~(whole(5) | whole(80))) == {"background"}


def test_of_a_body_alone_any_part_is_possible(tmp_path):
    found = target(tmp_path, [person("everything", 5), person("body", 80)])
    for sets in possible_classes(found, SIDE):
        assert classes_at(sets, whole(80)) == set(BODYPARTS_7.parts)
        assert classes_at(sets, figure(5)["torso"]) == {"torso"}
        assert classes_at(sets, rectangle(0, 0, HEIGHT, 5)) == {"background"}


def test_what_is_known_to_be_elsewhere_is_not_here(tmp_path):
    annotation = person("everything", 5)
    for part in set(BODYPARTS_7.parts) - {"torso", "left_leg"}:
        del annotation["part_state"][part], annotation["part_segmentation"][part]
    known, _ = possible_classes(target(tmp_path, [annotation]), SIDE)
    assert classes_at(known, figure(5)["torso"]) == {"torso"}
    others = set(BODYPARTS_7.parts) - {"torso", "left_leg"}
    assert classes_at(known, figure(5)["head"]) == others


def test_limbs_without_a_side_are_of_either(tmp_path):
    annotation = person("everything", 5)
    parts, states = annotation["part_segmentation"], annotation["part_state"]
    annotation["unsided"] = {"arm": parts.pop("right_arm")}
    for part in ("right_arm", "left_arm"):
        del states[part]
    parts.pop("left_arm")
    states["arm"] = "known"
    found = target(tmp_path, [annotation])
    for sets in possible_classes(found, SIDE):
        assert classes_at(sets, figure(5)["right_arm"]) == {"right_arm", "left_arm"}
        assert classes_at(sets, figure(5)["torso"]) == {"torso"}
    # A side that was derived for one of them, and says nothing of the other.
    states["left_arm"] = "derived"
    for sets in possible_classes(target(tmp_path, [annotation]), SIDE):
        assert classes_at(sets, figure(5)["torso"]) == {"torso"}


def test_derived_parts_are_in_the_second_answer_alone(tmp_path):
    annotation = person("everything", 5)
    for part in ("right_arm", "left_arm"):
        annotation["part_state"][part] = "derived"
    known, likely = possible_classes(target(tmp_path, [annotation]), SIDE)
    assert classes_at(known, figure(5)["right_arm"]) == {"right_arm", "left_arm"}
    assert classes_at(likely, figure(5)["right_arm"]) == {"right_arm"}


def test_derived_parts_have_their_weight(tmp_path):
    annotation = person("everything", 5)
    annotation["part_state"] = dict.fromkeys(annotation["part_state"], "derived")
    annotation["part_state"]["body"] = "known"
    found = target(tmp_path, [annotation])
    features = torch.randn(1, 8, HEIGHT // 4, WIDTH // 4)
    losses = []
    for weight in (0.0, 0.25, 1.0):
        torch.manual_seed(0)
        branch = PartSegmentation(8, 4, BODYPARTS_7, derived_weight=weight)
        losses.append(branch.losses(branch(features), [found])["loss_segmentation"].item())
    body_alone, some, everything = losses
    assert everything > body_alone
    assert some == pytest.approx(0.75 * body_alone + 0.25 * everything)


def test_the_loss_is_of_the_sum_of_what_is_possible(tmp_path):
    """By hand: logits that are the same everywhere."""
    found = target(tmp_path, [person("body", 5)])
    branch = PartSegmentation(8, 4, BODYPARTS_7)
    p = torch.tensor([0.4, 0.3, 0.1, 0.05, 0.05, 0.05, 0.05])
    logits = p.log()[None, :, None, None].expand(1, -1, HEIGHT // 4, WIDTH // 4)
    loss = branch.losses(logits, [found])["loss_segmentation"]
    (sets, _) = possible_classes(found, SIDE)
    share = (~sets[0]).float().mean()
    assert 0.05 < share < 0.5
    expected = -(share * np.log(0.6) + (1 - share) * np.log(0.4))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_nothing_is_known_where_it_is_to_be_ignored(tmp_path):
    shared = person("everything", 5)
    shared["ignore_segmentation"] = encode_mask(rectangle(80, 0, 90, 40))
    annotations = [shared, person("joints", 40), {**person("crowd", 80), "part_state": {}}]
    for sets in possible_classes(target(tmp_path, annotations), SIDE):
        assert classes_at(sets, rectangle(80, 0, 90, 40)) == set(CLASSES)
        assert classes_at(sets, figure(40)["torso"]) == set(CLASSES)
        assert classes_at(sets, figure(80)["torso"]) == set(CLASSES)
        assert classes_at(sets, figure(5)["torso"]) == {"torso"}


def test_a_crowd_tells_what_is_there_and_not_whose(tmp_path):
    """As PASCAL-Person-Part's pixels in several boxes: to ignore in each, and of a crowd."""
    first = person("everything", 5)
    first["ignore_segmentation"] = encode_mask(figure(5)["head"])
    crowd = person("everything", 5)
    crowd.update(
        iscrowd=1,
        segmentation=encode_mask(figure(5)["head"]),
        part_segmentation={"head": encode_mask(figure(5)["head"])},
    )
    found = target(tmp_path, [first, crowd])
    assert found.gt_classes.tolist() == [0, -1]
    for sets in possible_classes(found, SIDE):
        assert classes_at(sets, figure(5)["head"]) == {"head"}
        assert classes_at(sets, figure(5)["torso"]) == {"torso"}


def test_where_people_overlap_it_may_be_eithers(tmp_path):
    one, other = person("everything", 5), person("everything", 5)
    del other["part_segmentation"]["head"]
    other["part_segmentation"]["torso"] = encode_mask(figure(5)["head"])
    for sets in possible_classes(target(tmp_path, [one, other]), SIDE):
        assert classes_at(sets, figure(5)["head"]) == {"head", "torso"}


@pytest.mark.parametrize("annotations", [[], [person("joints")]], ids=["nobody", "joints"])
def test_pictures_that_are_not_exhaustive_know_nothing(tmp_path, annotations):
    found = target(tmp_path, annotations, exhaustive=False)
    for sets in possible_classes(found, SIDE):
        assert sets.all()
    branch = PartSegmentation(8, 4, BODYPARTS_7)
    features = torch.randn(1, 8, HEIGHT // 4, WIDTH // 4, requires_grad=True)
    loss = branch.losses(branch(features), [found])["loss_segmentation"]
    assert loss.item() == pytest.approx(0, abs=0.01)  # of 12,544 cells, each a rounding error
    loss.backward()
    assert features.grad.abs().max() < 1e-4


def test_people_are_known_where_others_are_not(tmp_path):
    """As Leeds Sports Pose with derived parts: one person's parts, nothing of the body."""
    annotation = person("everything", 5)
    del annotation["segmentation"], annotation["part_state"]["body"]
    annotation["part_state"] = dict.fromkeys(annotation["part_state"], "derived")
    found = target(tmp_path, [annotation], exhaustive=False)
    known, likely = possible_classes(found, SIDE)
    assert known.all()
    for part, mask in figure(5).items():
        assert classes_at(likely, mask) == {part}
    assert classes_at(likely, ~whole(5)) == set(CLASSES)


def test_an_empty_picture_is_background(tmp_path):
    for sets in possible_classes(target(tmp_path, []), SIDE):
        assert sets[0].all() and not sets[1:].any()


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
        # An untrained head adds nothing to them.
        model.eval()
        features = model.backbone(model.preprocess_image(pictures[:1]).tensor)
        box = [Boxes(torch.tensor([[10.0, 10, 60, 80]]))]
        start = branch.on_regions(model.roi_heads.segment(features), box)
        torch.testing.assert_close(logits(), start, atol=1e-4, rtol=0)
        nn.init.normal_(model.roi_heads.mask_head.decoder.upsample[-2].weight, std=0.1)
        before = logits()
        added = before - start
        assert (added.abs().amax(dim=(0, 2, 3)) > 0.01).all()
        model.roi_heads.mask_head.part_residual = 0.5
        added[:, 1:] /= 2
        torch.testing.assert_close(logits() - start, added, atol=1e-3, rtol=0)
        model.roi_heads.mask_head.part_residual = 1.0
        # The background, as likely as each of the six parts, gets twice the odds.
        branch.predictor.weight.zero_()
        branch.predictor.bias.zero_()
        even = logits()
        assert (before - even).abs().max() > 0.01
        branch.predictor.bias[0] += np.log(2)
        change = logits() - even
    torch.testing.assert_close(
        change[:, 0], torch.full_like(change[:, 0], -np.log(2)), atol=1e-3, rtol=0
    )
    parts = np.log((1 / 8) / (7 / 8)) - np.log((1 / 7) / (6 / 7))
    torch.testing.assert_close(
        change[:, 1:], torch.full_like(change[:, 1:], parts), atol=1e-3, rtol=0
    )


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


def test_pictures_count_by_the_weight_of_their_dataset(small_cfg, small_records):
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    head = Trainer.build_model(small_cfg).roi_heads.part_segmentation
    mapper = BodyPartsMapper(small_cfg)
    targets = [mapper(p)["instances"] for p in load_bodyparts_json(*small_records)[:2]]
    logits = torch.randn(2, 7, 24, 32, generator=torch.Generator().manual_seed(0))

    def loss(*weights):
        for target, weight in zip(targets, weights, strict=True):
            target.gt_loss_weights[:] = weight
        return float(head.losses(logits, targets)["loss_segmentation"])

    assert loss(0.5, 0.5) == pytest.approx(loss(1, 1) / 2, rel=1e-5)
    assert loss(1, 0) + loss(0, 1) == pytest.approx(loss(1, 1), rel=1e-5)
    assert min(loss(1, 0), loss(0, 1)) > 0


def test_two_looks_of_the_same_size_make_the_mirror_image_of_the_picture_the_answers(small_cfg):
    """Whatever the weights are, sides exchanged."""
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0,)
    model = Trainer.build_model(small_cfg).eval()
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def answer(x):
        return model.roi_heads.segment(model.backbone(x))

    with torch.no_grad():
        model.roi_heads.part_segmentation.predictor.weight.mul_(100)
        found, mirrored = answer(picture), answer(picture.flip(3))
        permutation = list(BODYPARTS_7.flip_permutation)
        torch.testing.assert_close(mirrored.flip(3)[:, permutation], found)
        assert (mirrored.flip(3) - found).abs().max() > 0.01  # sides are told apart
        model.backbone.mirrored_looks = ()
        assert (answer(picture) - found).abs().max() > 0.01


@pytest.mark.parametrize("height, width, expected", [(64, 96, (32, 64)), (32, 160, (32, 96))])
def test_mirrored_looks_are_at_smaller_pictures_out_of_training_only(
    small_cfg, height, width, expected
):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (1.0, 0.5)
    backbone = Trainer.build_model(small_cfg).backbone
    picture = torch.zeros(1, 3, height, width)
    assert not any(name.startswith("mirrored") for name in backbone(picture))
    features = backbone.eval()(picture)
    for look, (rows, columns) in enumerate([(height, width), expected]):
        for map_, stride in (("p2", 4), ("p3", 8)):
            name = in_look(look, map_)
            assert features[name].shape[-2:] == (rows // stride, columns // stride)
            shape = backbone.output_shape()[name]
            assert (shape.channels, shape.stride) == (features[name].shape[1], stride)


def test_every_look_counts_alike(small_cfg):
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    head = Trainer.build_model(small_cfg).roi_heads.part_segmentation
    head.conv, head.predictor = nn.Identity(), nn.Identity()
    logits = torch.randn(3, 1, 7, 8, 12, generator=torch.Generator().manual_seed(0))
    mirrored = logits[:, :, list(BODYPARTS_7.flip_permutation)].flip(4)
    found = head.probabilities(logits[0], [mirrored[1], mirrored[2]])
    torch.testing.assert_close(found, logits.softmax(dim=2).mean(dim=0))


def test_other_backbones_look_once(small_cfg):
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = (0.5,)
    small_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    with pytest.raises(ValueError, match="build_resnet_fpn_backbone does not"):
        Trainer.build_model(small_cfg)
    small_cfg.MODEL.BACKBONE.NAME = "build_small_resnet_fpn_backbone"
    for looks in ((0.5, 1.5), (0.0,)):
        small_cfg.MODEL.FPN.MIRRORED_LOOKS = looks
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            Trainer.build_model(small_cfg)
