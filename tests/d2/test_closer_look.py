"""`MODEL.FPN.CLOSER_SIDE`: a closer look at each person; `INPUT.PERSON_CROP`, to train for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from detectron2_bodyparts.data import BodyPartsMapper
from detectron2_bodyparts.data.person_crop import PersonCrop
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.backbone import CLOSER, in_look
from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints
from detectron2_bodyparts.modeling.regions import BORDER, MAX_SCALE, Strip, crop, enlarged
from detectron2_bodyparts.modeling.roi_heads import (
    CLOSER_BODY_WEIGHT,
    CLOSER_GAIN,
    CLOSER_WEIGHT,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

from .conftest import HEIGHT, WIDTH, as_dataset_dict, person
from .test_mirrored_heads import lively

SIDE = 96
# Standing, lying, tiny, and a corner of the image.
BOXES = torch.tensor([[8.0, 4, 30, 60], [40, 50, 100, 70], [100, 10, 106, 20], [90, 60, 128, 96]])


def places(height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """An image whose channels are the x and y of its pixels' centres."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y])[None]


def test_crops_show_the_box():
    images = torch.cat([places(), places().flip(1)])
    box = torch.tensor([10.0, 20, 34, 68])
    shown = crop(images, box, 24, 8)
    assert shown.shape == (2, 2, 24, 8)
    torch.testing.assert_close(shown[0, 0, 5], 10 + 3 * (torch.arange(8) + 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(
        shown[0, 1, :, 3], 20 + 2 * (torch.arange(24) + 0.5), atol=0.01, rtol=0
    )
    torch.testing.assert_close(shown[1], shown[0].flip(0))
    mirrored = crop(images, box[[2, 1, 0, 3]], 24, 8)
    torch.testing.assert_close(mirrored, shown.flip(3), atol=0.01, rtol=0)
    assert crop(images, box, 1, 1)[0, :, 0, 0].tolist() == pytest.approx([22, 44], abs=0.01)


def test_a_crop_of_everything_is_a_resized_image():
    image, size = pictures(2), (HEIGHT * 3 // 4, WIDTH // 2)
    resized = torch.nn.functional.interpolate(image, size, mode="bilinear")
    whole = crop(image, torch.tensor([0, 0, WIDTH, HEIGHT]), *size)
    torch.testing.assert_close(whole, resized, atol=1e-4, rtol=0)
    mirrored = crop(image, torch.tensor([WIDTH, 0, 0, HEIGHT]), *size)
    torch.testing.assert_close(mirrored, resized.flip(3), atol=1e-4, rtol=0)


def test_crops_are_empty_beyond_the_image():
    shown = crop(places() + 1, torch.tensor([-40.0, -10, 40, 40]), 50, 80)
    assert (shown[0, :, :10] == 0).all() and (shown[0, :, :, :40] == 0).all()
    assert (shown[0, :, 11:, 41:] > 0).all()


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_strip_shows_each_person_mirrored_at_its_height(margin):
    strip = Strip([BOXES], margin, SIDE, 6)
    shown, boxes = strip.cut(places()), strip.boxes()
    whole = (1 + 2 * margin) * (1 + 2 * BORDER)
    assert shown.shape[2] == SIDE
    assert shown.shape[3] < SIDE * len(boxes)  # narrower than squares
    for box, there in zip(BOXES, boxes, strict=True):
        scale = (there[2:] - there[:2]) / (box[2:] - box[:2])
        torch.testing.assert_close(scale[0], scale[1])
        longer = (there[2:] - there[:2]).max()
        enlarged_least = torch.isclose(scale[0], torch.tensor(MAX_SCALE))
        assert enlarged_least or torch.isclose(longer * whole, torch.tensor(1.0 * SIDE))
        x0, y0, x1, y1 = there.tolist()
        assert x0 >= 0 and y0 >= 0 and x1 <= shown.shape[3] and y1 <= SIDE
        for share in (0.25, 0.5, 0.8):  # of the box, from its left and top
            column, row = int(x0 + share * (x1 - x0)), int(y0 + share * (y1 - y0))
            expected_x = box[2] - (column + 0.5 - x0) / scale[0]
            expected_y = box[1] + (row + 0.5 - y0) / scale[0]
            found_x, found_y = shown[0, :, row, column]
            torch.testing.assert_close(found_x, expected_x, atol=0.01, rtol=0)
            torch.testing.assert_close(found_y, expected_y, atol=0.01, rtol=0)
    assert (boxes[1:, 0] >= boxes[:-1, 2]).all()  # side by side
    beyond = torch.tensor([[100.0, 0, WIDTH + 80, HEIGHT]])
    outside = Strip([beyond], margin, SIDE, 1).cut(places() + 1)
    assert (outside[0, 0, SIDE // 2, : SIDE // 4] == 0).all()  # beyond the right edge, mirrored
    assert (outside[0, 0, SIDE // 2, -SIDE // 4 :] > 0).all()


def test_places_without_a_person_take_a_column_each():
    alone = Strip([BOXES[:1]], 0.1, SIDE, 1).cut(places())
    among = Strip([BOXES[:1]], 0.1, SIDE, 4).cut(places())
    assert among.shape[3] == alone.shape[3] + 3
    torch.testing.assert_close(among[..., :-3], alone)


def test_a_strip_of_several_images():
    images = torch.cat([places(), places() + 1000, places() + 2000])
    strip = Strip([BOXES[:2], BOXES[:0], BOXES[3:]], 0.1, SIDE, 3)
    shown, boxes = strip.cut(images), strip.boxes()
    assert len(boxes) == 3
    for box, there, offset in zip(BOXES[[0, 1, 3]], boxes, (0, 0, 2000), strict=True):
        column, row = ((there[:2] + there[2:]) / 2).int().tolist()
        middle = (box[:2] + box[2:]) / 2 + offset
        torch.testing.assert_close(shown[0, :, row, column], middle, atol=1, rtol=0)


@pytest.fixture(params=["shared", "apart"])
def closer_cfg(request, small_cfg):
    small_cfg.MODEL.FPN.CLOSER_SIDE = SIDE
    small_cfg.MODEL.BODYPARTS.REGION_MARGIN = 0.1
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = request.param == "shared"
    return small_cfg


def pictures(count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=generator) * 2 - 1


FIELDS = {
    "pred_part_masks": BODYPARTS_7.flip_permutation,
    "pred_masks": (0,),
    "pred_keypoint_heatmaps": COCO_17.flip_permutation,
}


@torch.no_grad()
def answers(
    model, pixels: torch.Tensor, *boxes: torch.Tensor, scores: list[float] | None = None
) -> list[Instances]:
    """The heads' people in given boxes, with a closer look if there are scores."""
    features = model.backbone(pixels)
    people = [Instances(tuple(pixels.shape[2:]), pred_boxes=Boxes(b)) for b in boxes]
    for one in people:
        one.pred_classes = torch.zeros(len(one), dtype=torch.int64)
    people = model.roi_heads.forward_with_given_boxes(features, people)
    if scores is None:
        return people
    for one in people:
        one.scores = torch.tensor(scores[: len(one)])
    return model.roi_heads.look_closer(features, people)


@pytest.mark.parametrize("segmentation", [0.0, 1.0])
def test_a_closer_look_at_the_whole_image_is_a_look_at_its_mirror_image(closer_cfg, segmentation):
    closer_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = segmentation
    half = SIDE / (1 + 2 * BORDER) / (1 + 2 * 0.1) / 2
    box = SIDE / 2 + torch.tensor([[-half, -half, half, half]])
    square = pictures()[..., :SIDE]
    shown = Strip([box], 0.1, SIDE, 1).cut(square)
    inside = (..., slice(1, -1), slice(1, -1))  # at the border, rounding decides
    torch.testing.assert_close(shown[inside], square.flip(3)[inside], atol=1e-4, rtol=0)
    closer_cfg.MODEL.ROI_HEADS.CLOSER_PEOPLE = 1
    model = lively(closer_cfg)
    (once,) = answers(model, square, box)
    (there,) = answers(model, shown, box)
    (closer,) = answers(model, square, box, scores=[1.0])
    for field, permutation in FIELDS.items():
        back = there.get(field).flip(3)[:, list(permutation)]
        mean = torch.lerp(once.get(field), back, CLOSER_WEIGHT)
        if "masks" in field:
            body = slice(0, 1)
            mean[:, body] = torch.lerp(once.get(field)[:, body], back[:, body], CLOSER_BODY_WEIGHT)
        torch.testing.assert_close(closer.get(field), mean, atol=1e-3, rtol=1e-3)
        assert (back - once.get(field)).abs().max() > 0.02
    region = enlarged(box, 0.1)
    points = decode_keypoints(closer.pred_keypoint_heatmaps, region)
    torch.testing.assert_close(closer.pred_keypoints, points)


def test_a_closer_look_has_mirrored_looks_of_its_own(closer_cfg):
    closer_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    closer_cfg.MODEL.FPN.MIRRORED_LOOKS = (0.5,)
    model = lively(closer_cfg)
    features = model.backbone(pictures())[CLOSER](Strip([BOXES], 0.1, SIDE, 4))
    shapes = [features[name].shape[2:] for name in ("p2", in_look(0, "p2"))]
    assert shapes[0][0] == SIDE // 4 and shapes[1][0] == -(-SIDE // 2 // 32) * 8
    both = model.roi_heads.segment(features)
    once = model.roi_heads.segment({"p2": features["p2"]})
    assert (both - once).abs().max() > 0.01


def test_only_the_most_confident_people_get_a_closer_look(closer_cfg):
    closer_cfg.MODEL.ROI_HEADS.CLOSER_SCORE = 0.5
    closer_cfg.MODEL.ROI_HEADS.CLOSER_PEOPLE = 3
    model = lively(closer_cfg)
    (nobody,) = answers(model, pictures(), BOXES)
    for scores, expected in (
        ([0.9, 0.6, 0.4, 0.1], [True, True, False, False]),
        ([0.4, 0.3, 0.2, 0.1], [True, False, False, False]),
        ([0.9, 0.8, 0.7, 0.6], [True, True, True, False]),
    ):
        (people,) = answers(model, pictures(), BOXES, scores=scores)
        for field in FIELDS:
            change = (people.get(field) - nobody.get(field)).abs().amax(dim=(1, 2, 3))
            assert (change > 0.01).tolist() == expected
            assert (change[~torch.tensor(expected)] == 0).all()
        torch.testing.assert_close(people.pred_boxes.tensor, BOXES)


def test_of_large_people_only_the_most_confident_gets_a_closer_look(closer_cfg):
    model = lively(closer_cfg)
    limit = SIDE / CLOSER_GAIN / 1.2  # with the margin
    large = torch.tensor([[10.0, 5, 60, 5 + limit + 1], [60, 5, 110, 5 + limit + 1]])
    boxes = torch.cat([large, BOXES])
    boxes[3, 2] = boxes[3, 0] + limit - 1
    scores = [0.9, 0.8, 0.7, 0.6, 0.6, 0.6]
    (nobody,) = answers(model, pictures(), boxes)
    (people,) = answers(model, pictures(), boxes, scores=scores)
    change = (people.pred_part_masks - nobody.pred_part_masks).abs().amax(dim=(1, 2, 3))
    assert (change > 0.01).tolist() == [True, False, True, True, True, False]


def test_images_in_a_batch_and_images_without_people(closer_cfg):
    closer_cfg.MODEL.ROI_HEADS.CLOSER_PEOPLE = 1
    # With the column of the image without people, its crop fills whole cells of the coarsest map,
    # so that the crop after it lies on the same cells as alone.
    first = torch.tensor([[8.0, 4, 24, 60]])
    empty = BOXES[:0]
    assert Strip([first, empty], 0.1, SIDE, 1).cut(pictures(2)).shape[3] == 32
    closer_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    model = lively(closer_cfg)
    batch = answers(model, pictures(3), first, empty, BOXES[3:], scores=[0.9])
    assert [len(people) for people in batch] == [1, 0, 1]
    assert len(answers(model, pictures(), BOXES[:0], scores=[])[0].pred_part_masks) == 0
    # The strip's crops are neighbours, and convolutions see across: alone, edges differ a little.
    alone = answers(model, pictures(3)[2:], BOXES[3:], scores=[0.9])[0]
    change = (alone.pred_part_masks - batch[2].pred_part_masks).abs()
    assert change.mean() < 0.02
    other = answers(model, pictures(3)[:1], BOXES[3:], scores=[0.9])[0]
    assert (other.pred_part_masks - batch[2].pred_part_masks).abs().mean() > 3 * change.mean()


def test_inference_looks_closer(closer_cfg):
    closer_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    closer_cfg.MODEL.ROI_HEADS.CLOSER_SCORE = 0.0
    model = lively(closer_cfg)
    image = {"image": (pictures()[0] + 1) * 127}
    with torch.no_grad():
        (closer,) = model.inference([image], do_postprocess=False)
        model.roi_heads.closer_side = 0
        (once,) = model.inference([image], do_postprocess=False)
    assert len(closer) == len(once) > 4
    torch.testing.assert_close(closer.scores, once.scores)
    boxes = once.pred_boxes.tensor
    small = ((boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * 1.2 * CLOSER_GAIN < SIDE).tolist()
    chosen = [i for i in range(len(once)) if i == 0 or small[i]][:4]
    assert len(chosen) == 4
    for field in FIELDS:
        change = (closer.get(field) - once.get(field)).abs().amax(dim=(1, 2, 3))
        assert (change > 0.01).nonzero()[:, 0].tolist() == chosen
        assert (change > 0).sum() == 4


def test_training_does_not_look_closer(closer_cfg):
    model = lively(closer_cfg).train()
    assert "closer" not in model.backbone(pictures())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.FPN.CLOSER_SIDE", 100], "a multiple of 32"),
        (["MODEL.FPN.CLOSER_SIDE", -32], "a multiple of 32"),
        (["MODEL.ROI_HEADS.CLOSER_PEOPLE", 0], "CLOSER_PEOPLE: at least 1"),
        (["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"], "the plugin's own backbones"),
        (["MODEL.ROI_KEYPOINT_HEAD.NAME", "KRCNNConvDeconvUpsampleHead"], "keypoint heads"),
        (["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"], "keypoint heads"),
    ],
)
def test_what_cannot_look_closer_says_so(small_cfg, changes, message):
    small_cfg.MODEL.FPN.CLOSER_SIDE = SIDE
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = False
    Trainer.build_model(small_cfg)
    if "BACKBONE" in changes[0]:
        small_cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    small_cfg.merge_from_list(changes)
    with pytest.raises(ValueError, match=message):
        Trainer.build_model(small_cfg)


class Whole(T.Augmentation):
    """Leaves images as they are."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return T.NoOpTransform()


def test_a_person_crop_shows_a_whole_person_at_the_size_asked_for():
    boxes = np.array([[30, 20, 60, 100], [200, 50, 300, 90], [10, 10, 13, 13]], float)
    image = places(240, 320)[0].permute(1, 2, 0).numpy().astype(np.float32)
    crop = PersonCrop(1.0, 0.5, 0.9, 128, Whole())
    shown = set()
    for _ in range(40):
        transforms = crop.get_transform(image, boxes)
        piece = transforms.apply_image(image)
        assert max(piece.shape[:2]) <= 128
        there = transforms.apply_box(boxes.copy())
        sizes = (there[:, 2:] - there[:, :2]).max(axis=1) / 128
        inside = (there >= -1).all(axis=1) & (there <= 129).all(axis=1)
        (chosen,) = np.flatnonzero(inside & (sizes > 0.49) & (sizes < 0.91))
        shown.add(int(chosen))
        # What is at a person's middle is there after the crop, too.
        x, y = ((there[chosen, :2] + there[chosen, 2:]) / 2).astype(int)
        expected = (boxes[chosen, :2] + boxes[chosen, 2:]) / 2
        assert np.abs(piece[y, x] - expected).max() < 2
    assert shown == {0, 1}  # the third would have to be enlarged more than MAX_SCALE times
    assert 3 * MAX_SCALE < 0.5 * 128


def test_without_people_or_luck_the_other_augmentation_is_used():
    image = places(240, 320)[0].permute(1, 2, 0).numpy().astype(np.float32)
    one = np.array([[30.0, 20, 60, 100]])
    always = PersonCrop(1.0, 0.5, 0.9, 128, Whole())
    assert isinstance(always.get_transform(image, one[:0]), T.NoOpTransform)
    sometimes = PersonCrop(0.5, 0.5, 0.9, 128, Whole())
    used = [isinstance(sometimes.get_transform(image, one), T.NoOpTransform) for _ in range(60)]
    assert 15 < sum(used) < 45
    for strange in ((1.5, 0.5, 0.9), (0.5, 0.9, 0.5), (0.5, 0.0, 0.5)):
        with pytest.raises(ValueError, match="PERSON_CROP"):
            PersonCrop(*strange, 128, Whole())


def test_the_mapper_crops_around_people_with_their_masks_and_joints(small_cfg, tmp_path):
    small_cfg.INPUT.RANDOM_FLIP = "none"
    small_cfg.INPUT.PIECE_SIDE = 160
    small_cfg.INPUT.PERSON_CROP = (1.0, 0.6, 0.8)
    crowd = person("crowd", 90)  # never chosen
    mapper = BodyPartsMapper(small_cfg)
    picture = as_dataset_dict(tmp_path, [person("everything", 40), crowd])
    wrist = COCO_17.keypoints.index("left_wrist")
    sizes = []
    for _ in range(10):
        people = mapper(picture)["instances"]
        first = people[people.gt_classes == 0]
        x0, y0, x1, y1 = first.gt_boxes.tensor[0].tolist()
        sizes.append(max(x1 - x0, y1 - y0) / 160)
        x, y, seen = first.gt_keypoints.tensor[0, wrist].tolist()
        assert seen and x0 <= x <= x1 and y0 <= y <= y1
        around = torch.tensor([[x - 2, y - 2, x + 2, y + 2]])
        targets, _ = first.gt_part_masks.crop_and_resize(around, 4)
        assert targets[0, BODYPARTS_7.index("left_arm")].any()
        assert not targets[0, BODYPARTS_7.index("right_arm")].any()
    assert 0.57 < min(sizes) and max(sizes) < 0.83 and max(sizes) - min(sizes) > 0.05
