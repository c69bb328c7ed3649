from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import HFlipTransform, NoOpTransform, TransformList
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from detectron2.structures import Instances

from detectron2_bodyparts.data import register_bodyparts_dataset
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints
from detectron2_bodyparts.modeling.regions import enlarged
from detectron2_bodyparts.modeling.test_time_augmentation import BodyPartsRCNNWithTTA, _average
from detectron2_bodyparts.people import People
from detectron2_bodyparts.schema import (
    KeypointSchema,
    get_keypoint_schema,
    get_part_schema,
    register_keypoint_schema,
)

from .conftest import HEIGHT, WIDTH, load_script

# Sides both ways, and schemas in which nothing has a side.
SCHEMAS = [
    ("bodyparts-7", "coco-17"),
    ("bodyparts-11", "jhmdb-15"),
    ("pascal-person-part", "unsided-2"),
]
register_keypoint_schema(KeypointSchema("unsided-2", ("nose", "neck")))


@pytest.fixture
def picture() -> dict:
    """A picture of noise, as the test loader gives it."""
    image = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    return {"image": torch.as_tensor(image), "height": HEIGHT, "width": WIDTH}


def mirrored(picture: dict) -> dict:
    return {**picture, "image": picture["image"].flip(2)}


def augmented(cfg, model, *sizes: int, flip: bool) -> BodyPartsRCNNWithTTA:
    cfg.TEST.AUG.MIN_SIZES = sizes
    cfg.TEST.AUG.FLIP = flip
    return BodyPartsRCNNWithTTA(cfg, model)


@torch.no_grad()
def answer(model, picture: dict) -> Instances:
    return model([picture])[0]["instances"]


def assert_same_fields(found: Instances, expected: Instances) -> None:
    assert found.image_size == expected.image_size
    assert set(found.get_fields()) == set(expected.get_fields())
    assert len(found) == len(expected) > 0
    for name, value in expected.get_fields().items():
        ours, theirs = (getattr(v, "tensor", v) for v in (found.get(name), value))
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_the_mean_of_a_view_and_a_mirrored_one_by_hand():
    plain = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.0]], [[0.25, 0.75]]]])
    # In the mirror the columns are exchanged, and so are the second and the third channel.
    flipped = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]], [[0.25, 0.75]]]])
    transforms = [TransformList([NoOpTransform()]), TransformList([HFlipTransform(2)])]
    expected = torch.tensor([[[[1.0, 0.0]], [[0.625, 0.125]], [[0.625, 0.375]]]])
    assert torch.equal(_average([plain, flipped], transforms, (0, 2, 1)), expected)
    assert torch.equal(_average([plain, plain], transforms[:1] * 2, (0, 2, 1)), plain)


@pytest.mark.parametrize("shared", [False, True])
def test_without_augmentation_it_is_the_plain_model(small_cfg, picture, shared):
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = shared
    model = build_model(small_cfg).eval()
    plain = answer(model, picture)
    assert_same_fields(answer(augmented(small_cfg, model, HEIGHT, flip=False), picture), plain)
    assert_same_fields(answer(model, picture), plain)  # the model itself is as it was


def test_the_answer_is_in_coordinates_of_the_picture_and_not_of_what_the_model_sees(
    small_cfg, picture
):
    model = build_model(small_cfg).eval()
    tta = augmented(small_cfg, model, HEIGHT, flip=False)
    small = answer(tta, picture)
    # The same pixels, of a picture that was twice as high and three times as wide.
    found = answer(tta, {**picture, "height": 2 * HEIGHT, "width": 3 * WIDTH})
    plain = answer(model, {**picture, "height": 2 * HEIGHT, "width": 3 * WIDTH})
    assert found.image_size == found.pred_masks.shape[1:] == (2 * HEIGHT, 3 * WIDTH)
    for a, b in ((found, plain), (found, small)):
        assert len(a) == len(b) > 0
    scale = torch.tensor([3.0, 2.0])
    torch.testing.assert_close(found.pred_boxes.tensor, small.pred_boxes.tensor * scale.repeat(2))
    torch.testing.assert_close(found.pred_keypoints[..., :2], small.pred_keypoints[..., :2] * scale)
    torch.testing.assert_close(found.pred_keypoints, plain.pred_keypoints)


@pytest.mark.parametrize("looks", [(), (1.0,)], ids=["", "heads look twice"])
@pytest.mark.parametrize("parts, joints", SCHEMAS)
def test_the_mirrored_picture_has_the_mirrored_answer(small_cfg, picture, parts, joints, looks):
    small_cfg.MODEL.FPN.MIRRORED_LOOKS = looks
    small_cfg.MODEL.ROI_HEADS.MIRRORED = bool(looks)
    small_cfg.MODEL.BODYPARTS.PART_SCHEMA = parts
    small_cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA = joints
    model = build_model(small_cfg).eval()
    tta = augmented(small_cfg, model, 2 * HEIGHT, HEIGHT, flip=True)
    a, b = answer(tta, picture), answer(tta, mirrored(picture))
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.scores, b.scores)
    boxes = b.pred_boxes.tensor[:, [2, 1, 0, 3]].clone()
    boxes[:, [0, 2]] = WIDTH - boxes[:, [0, 2]]
    torch.testing.assert_close(boxes, a.pred_boxes.tensor, rtol=1e-5, atol=1e-3)
    channels = list(get_part_schema(parts).flip_permutation)
    close = {"rtol": 1e-3, "atol": 1e-4}
    masks = b.pred_part_masks.flip(3)[:, channels]
    torch.testing.assert_close(masks, a.pred_part_masks, **close)
    order = list(get_keypoint_schema(joints).flip_permutation)
    heatmaps = b.pred_keypoint_heatmaps.flip(3)[:, order]
    torch.testing.assert_close(heatmaps, a.pred_keypoint_heatmaps, **close)
    points = b.pred_keypoints[:, order].clone()
    points[..., 0] = WIDTH - points[..., 0]
    torch.testing.assert_close(points, a.pred_keypoints, rtol=1e-3, atol=1e-2)
    # Which the plain model's is not, or this test would say nothing.
    c, d = answer(model, picture), answer(model, mirrored(picture))
    assert len(c) != len(d) or (c.scores - d.scores).abs().max() > 1e-3


def test_the_heads_look_at_the_merged_boxes_in_both_views(small_cfg, picture):
    model = build_model(small_cfg).eval()
    found = answer(augmented(small_cfg, model, HEIGHT, flip=True), picture)
    outputs = []
    for view in (picture, mirrored(picture)):
        given = Instances((HEIGHT, WIDTH))
        given.pred_boxes = found.pred_boxes.clone()
        given.pred_classes = found.pred_classes
        if view is not picture:
            x0, x1 = found.pred_boxes.tensor[:, [0, 2]].unbind(1)
            given.pred_boxes.tensor[:, 0] = WIDTH - x1
            given.pred_boxes.tensor[:, 2] = WIDTH - x0
        with torch.no_grad():
            outputs += model.inference([view], [given], do_postprocess=False)
    channels = [0, 1, 2, 4, 3, 6, 5]  # bodyparts-7: arms and legs
    plain, flipped = outputs
    masks = (plain.pred_part_masks + flipped.pred_part_masks.flip(3)[:, channels]) / 2
    torch.testing.assert_close(found.pred_part_masks, masks)
    order = [0] + [i + 1 if i % 2 else i - 1 for i in range(1, 17)]  # coco-17: nose, then pairs
    logits = (plain.pred_keypoint_heatmaps + flipped.pred_keypoint_heatmaps.flip(3)[:, order]) / 2
    torch.testing.assert_close(found.pred_keypoint_heatmaps, logits)
    joints = decode_keypoints(logits, found.pred_boxes.tensor)
    torch.testing.assert_close(found.pred_keypoints, joints)
    assert (masks - plain.pred_part_masks).abs().max() > 1e-3


def test_the_pictures_it_is_given_stay_as_they_are(small_cfg, picture):
    before = picture["image"].clone()
    answer(augmented(small_cfg, build_model(small_cfg).eval(), 64, flip=True), picture)
    assert set(picture) == {"image", "height", "width"}
    assert torch.equal(picture["image"], before)


@pytest.mark.parametrize("segmentation", [0.0, 1.0])
@pytest.mark.parametrize("shared", [False, True])
def test_the_mask_and_joint_heads_see_the_merged_boxes_alone(
    small_cfg, picture, shared, segmentation
):
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = shared
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = segmentation
    model = build_model(small_cfg).eval()
    regions = []
    for module in (model.roi_heads.mask_head.decoder.upsample, model.roi_heads.keypoint_head):
        module.register_forward_hook(lambda m, args, out: regions.append(len(args[0])))
    found = answer(augmented(small_cfg, model, HEIGHT, flip=True), picture)
    assert regions == [2 * len(found)] * 2


def test_a_margin_is_kept(small_cfg, picture):
    model = build_model(small_cfg).eval()
    plain = answer(augmented(small_cfg, model, HEIGHT, flip=True), picture)
    model.roi_heads.region_margin = 0.1
    found = answer(augmented(small_cfg, model, HEIGHT, flip=True), picture)
    assert not plain.has("pred_region_margin")
    torch.testing.assert_close(found.pred_region_margin, torch.full((len(found),), 0.1))
    assert torch.equal(found.pred_boxes.tensor, plain.pred_boxes.tensor)
    regions = enlarged(found.pred_boxes.tensor, 0.1)
    joints = decode_keypoints(found.pred_keypoint_heatmaps, regions)
    torch.testing.assert_close(found.pred_keypoints, joints)


@pytest.mark.parametrize("parts, joints", SCHEMAS)
def test_a_picture_of_nobody(small_cfg, picture, parts, joints):
    small_cfg.MODEL.BODYPARTS.PART_SCHEMA = parts
    small_cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA = joints
    small_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    model = build_model(small_cfg).eval()
    found = answer(augmented(small_cfg, model, HEIGHT, flip=True), picture)
    schemas = get_part_schema(parts), get_keypoint_schema(joints)
    assert found.pred_part_masks.shape == (0, len(schemas[0].channels), 112, 112)
    assert found.pred_masks.shape == (0, HEIGHT, WIDTH)
    assert found.pred_keypoints.shape == (0, len(schemas[1]), 3)
    assert len(People.from_instances(found, *schemas)) == 0


def test_with_one_view_and_a_margin_it_answers_as_the_plain_model(small_cfg, picture):
    small_cfg.MODEL.BODYPARTS.REGION_MARGIN = 0.25
    model = build_model(small_cfg).eval()
    found = answer(augmented(small_cfg, model, HEIGHT, flip=False), picture)
    plain = answer(model, picture)
    assert_same_fields(found, plain)
    torch.testing.assert_close(found.pred_region_margin, plain.pred_region_margin)
    assert found.pred_masks.any()


@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("masks, joints", [(True, False), (False, True), (False, False)], ids=str)
def test_models_without_masks_or_joints(small_cfg, picture, masks, joints, margin):
    small_cfg.MODEL.BODYPARTS.REGION_MARGIN = margin
    small_cfg.MODEL.MASK_ON = masks
    small_cfg.MODEL.KEYPOINT_ON = joints
    model = build_model(small_cfg).eval()
    found = answer(augmented(small_cfg, model, HEIGHT, flip=False), picture)
    assert_same_fields(found, answer(model, picture))
    assert found.has("pred_part_masks") == masks and found.has("pred_keypoints") == joints
    assert found.has("pred_region_margin") == bool(margin and (masks or joints))


@pytest.fixture
def dataset_cfg(small_cfg, small_records, tmp_path):
    """`small_cfg` on a registered dataset, without augmentation but asking for it."""
    name = f"tta_{tmp_path.name}"
    register_bodyparts_dataset(name, *small_records)
    small_cfg.DATASETS.TRAIN = small_cfg.DATASETS.TEST = (name,)
    small_cfg.TEST.AUG.ENABLED = True
    small_cfg.TEST.AUG.MIN_SIZES = (HEIGHT,)
    small_cfg.TEST.AUG.FLIP = False
    yield small_cfg
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def predictions(cfg, folder: str) -> list[dict]:
    path = Path(cfg.OUTPUT_DIR) / folder / cfg.DATASETS.TEST[0] / "predictions.json"
    return json.loads(path.read_text())


def test_the_views_are_made_of_the_picture_as_it_is(dataset_cfg):
    model = build_model(dataset_cfg)
    plain = Trainer.test(dataset_cfg, model)
    dataset_cfg.INPUT.MIN_SIZE_TEST = HEIGHT // 3
    results = Trainer.test_with_TTA(dataset_cfg, model)
    assert set(results) == {f"{name}_TTA" for name in plain}
    assert len(predictions(dataset_cfg, "inference")) > 0
    assert predictions(dataset_cfg, "inference_TTA") == predictions(dataset_cfg, "inference")
    assert dataset_cfg.INPUT.MIN_SIZE_TEST == HEIGHT // 3


@pytest.mark.parametrize("enabled", [False, True])
def test_train_net_evaluates_with_it_after_training_and_alone(dataset_cfg, tmp_path, enabled):
    train_net = load_script("train_net.py")
    dataset_cfg.TEST.AUG.ENABLED = enabled
    dataset_cfg.SOLVER.MAX_ITER = 1
    config = tmp_path / "config.yaml"
    config.write_text(dataset_cfg.dump())
    folder = Path(dataset_cfg.OUTPUT_DIR) / "inference_TTA"

    parser = default_argument_parser()
    train_net.main(parser.parse_args(["--config-file", str(config)]))
    assert folder.exists() == enabled

    weights = ["MODEL.WEIGHTS", f"{dataset_cfg.OUTPUT_DIR}/model_final.pth"]
    arguments = ["--config-file", str(config), "--eval-only", *weights]
    results = train_net.main(parser.parse_args(arguments))
    assert ("parts_TTA" in results) == enabled and "parts" in results
