from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer

from detectron2_bodyparts import add_bodyparts_config, get_config_file
from detectron2_bodyparts.data import (
    BodyPartsMapper,
    load_bodyparts_json,
    register_bodyparts_dataset,
)
from detectron2_bodyparts.modeling.proposals import lies_in
from detectron2_bodyparts.modeling.roi_heads import spread_over_people
from detectron2_bodyparts.predictor import BodyPartsPredictor
from detectron2_bodyparts.records import decode_mask, encode_mask
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

from .conftest import HEIGHT, WIDTH, as_dataset_dict, person, rectangle

CONFIGS = [
    "bodyparts_rcnn_R_50_FPN_1x.yaml",
    "bodyparts_rcnn_R_50_FPN_3x.yaml",
    "bodyparts_rcnn_R_50_FPN_3x_mixture.yaml",
    "bodyparts_rcnn_R_50_FPN_1x_ppp.yaml",
    "bodyparts_rcnn_R_101_FPN_3x.yaml",
    "bodyparts_rcnn_mobilenet_v1_075_FPN.yaml",
    "bodyparts_rcnn_mobilenet_v1_075_FPN_pretraining.yaml",
    "original_rcnn_R_50_FPN_1x.yaml",
    "stages/1_detection.yaml",
    "stages/2_parts.yaml",
    "quick_schedules/bodyparts_rcnn_instant_test.yaml",
    "quick_schedules/synthetic_quick_start.yaml",
    "quick_schedules/voc_part_overfit.yaml",
]


def batch(cfg, tmp_path, *kinds):
    """One mapped picture a kind; a kind is a tuple of people or "background"."""
    mapper = BodyPartsMapper(cfg)
    mapped = []
    for i, people in enumerate(kinds):
        annotations = [person(kind, 10 + 50 * n) for n, kind in enumerate(people)]
        mapped.append(mapper(as_dataset_dict(tmp_path, annotations, name=str(i))))
    return mapped


def losses_of(model, pictures):
    with EventStorage():
        return model(pictures)


def test_every_config_is_listed_here():
    root = Path(get_config_file(CONFIGS[0])).parent
    found = {str(p.relative_to(root)) for p in root.glob("**/*.yaml") if "Base" not in p.name}
    assert found == set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_build_a_model(name):
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert model.roi_heads.mask_on == cfg.MODEL.MASK_ON
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} <= set(DatasetCatalog.list())
    BodyPartsMapper(cfg)  # its loss weights name datasets, too


def test_an_unknown_config_names_those_there_are():
    with pytest.raises(FileNotFoundError, match="bodyparts_rcnn_R_50_FPN_1x.yaml"):
        get_config_file("nothing.yaml")


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "kinds",
    [
        [()],
        [("body",)],
        [("joints",)],
        [("everything",)],
        [("crowd",)],
        [(), ("body",), ("joints",), ("everything", "parts"), ("crowd", "everything")],
    ],
    ids=str,
)
def test_mixed_batches_give_finite_losses_and_a_gradient_for_every_parameter(
    small_cfg, tmp_path, kinds, shared
):
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = shared
    model = build_model(small_cfg).train()
    losses = losses_of(model, batch(small_cfg, tmp_path, *kinds))
    assert set(losses) == {
        "loss_cls", "loss_box_reg", "loss_mask", "loss_keypoint", "loss_rpn_cls", "loss_rpn_loc",
    }  # fmt: skip
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    labels = {kind for people in kinds for kind in people}
    assert (losses["loss_mask"] > 0) == bool(labels & {"body", "everything", "parts"})
    assert (losses["loss_keypoint"] > 0) == bool(labels & {"joints", "everything"})


def test_nothing_is_a_negative_in_a_picture_that_is_not_exhaustive(small_cfg, tmp_path):
    model = build_model(small_cfg).train()
    mapper = BodyPartsMapper(small_cfg)
    nobody = as_dataset_dict(tmp_path, [], exhaustive=False)
    losses = losses_of(model, [mapper(nobody)])
    assert all(loss == 0 for loss in losses.values()), losses
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    losses = losses_of(model, [mapper({**nobody, "exhaustive": True})])
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0


def test_regions_inside_a_crowd_are_ignored_and_those_outside_are_negatives():
    crowd = Boxes(torch.tensor([[0.0, 0.0, 50.0, 50.0]]))
    boxes = Boxes(
        torch.tensor([[10.0, 10, 20, 20], [40, 0, 60, 50], [44, 0, 56, 9], [60, 0, 70, 9]])
    )
    # The second lies in it by exactly half, the third too: not more than half.
    assert lies_in(boxes, crowd, 0.5).tolist() == [True, False, False, False]
    assert lies_in(boxes, crowd, 0.4).tolist() == [True, True, True, False]
    assert lies_in(boxes, Boxes(torch.zeros(0, 4)), 0.5).tolist() == [False] * 4


@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_those_of_detectron2(small_cfg, training):
    small_cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = small_cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 50
    rpn = build_model(small_cfg).proposal_generator.train(training)
    generator = torch.Generator().manual_seed(2)
    maps = [torch.zeros(2, 1, 64 // 2**i, 48 // 2**i) for i in range(len(rpn.in_features))]
    anchors = rpn.anchor_generator(maps)
    logits = [torch.randn(2, len(a), generator=generator) for a in anchors]
    deltas = [torch.randn(2, len(a), 4, generator=generator) for a in anchors]
    assert min(map(len, anchors)) < 50 < max(map(len, anchors))
    sizes = [(256, 192), (200, 180)]
    ours = rpn.predict_proposals(anchors, logits, deltas, sizes)
    theirs = RPN.predict_proposals(rpn, anchors, logits, deltas, sizes)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) > 10
        torch.testing.assert_close(mine.proposal_boxes.tensor, other.proposal_boxes.tensor)
        torch.testing.assert_close(mine.objectness_logits, other.objectness_logits)
    deltas[0][0, :, 0] = torch.inf
    if training:
        with pytest.raises(FloatingPointError, match="diverged"):
            rpn.predict_proposals(anchors, logits, deltas, sizes)
        return
    fewer, same = rpn.predict_proposals(anchors, logits, deltas, sizes)
    assert 0 < len(fewer) < len(ours[0]) and fewer.proposal_boxes.tensor.isfinite().all()
    torch.testing.assert_close(same.proposal_boxes.tensor, ours[1].proposal_boxes.tensor)


def test_people_in_a_crowd_region_stay_positive(small_cfg, tmp_path):
    model = build_model(small_cfg).train()
    pictures = batch(small_cfg, tmp_path, ("everything",))
    targets = pictures[0]["instances"]
    whole = Instances(targets.image_size, **targets.get_fields())[[0, 0]]
    whole.gt_boxes.tensor[1] = torch.tensor([0.0, 0, WIDTH, HEIGHT])
    whole.gt_classes[1] = -1
    proposals = Instances(targets.image_size)
    nowhere = torch.tensor([[0.0, 0, 20, 20], [90, 60, 120, 90]])
    proposals.proposal_boxes = Boxes(torch.cat([targets.gt_boxes.tensor + 1, nowhere]))
    proposals.objectness_logits = torch.zeros(3)
    with EventStorage():
        sampled = model.roi_heads.label_and_sample_proposals([proposals], [whole])[0]
    assert sampled.gt_classes.tolist() == [0, 0]  # the proposal and the person itself


@pytest.mark.parametrize("shared", [False, True])
def test_the_cap_bounds_the_regions_of_each_picture(small_cfg, tmp_path, shared):
    small_cfg.MODEL.BODYPARTS.MAX_REGIONS_PER_IMAGE = 3
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = shared
    model = build_model(small_cfg).train()
    seen = []
    upsample = model.roi_heads.mask_head.decoder.upsample
    upsample.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    pictures = batch(small_cfg, tmp_path, ("everything", "everything"), ("everything",))
    for picture in pictures:  # enough regions on the people for the cap to bite
        targets = picture["instances"]
        picture["instances"] = Instances.cat([targets] * 4)
    losses_of(model, pictures)
    assert seen == [6]


def test_flipping_the_picture_flips_what_the_mapper_gives(small_cfg, tmp_path):
    annotations = [person("everything", 20), person("everything", 70)]
    picture = as_dataset_dict(tmp_path, annotations)

    def mapped(*augmentations):
        arguments = BodyPartsMapper.from_config(small_cfg)
        arguments["augmentations"] = list(augmentations)
        return BodyPartsMapper(**arguments)(copy.deepcopy(picture))

    flip = T.RandomFlip(prob=1.0)
    plain, once, twice = mapped(), mapped(flip), mapped(flip, flip)
    assert torch.equal(once["image"].flip(2), plain["image"])
    a, b = plain["instances"], once["instances"]
    mirrored = a.gt_boxes.tensor[:, [2, 1, 0, 3]].clone()
    mirrored[:, [0, 2]] = WIDTH - mirrored[:, [0, 2]]
    torch.testing.assert_close(b.gt_boxes.tensor, mirrored)
    masks, _ = a.gt_part_masks.crop_and_resize(a.gt_boxes.tensor, 30)
    flipped, _ = b.gt_part_masks.crop_and_resize(b.gt_boxes.tensor, 30)
    channels = len(BODYPARTS_7.channels)
    expected = masks[:, list(BODYPARTS_7.flip_permutation)].flip(3)
    assert torch.equal(flipped[:, :channels], expected)
    assert flipped[:, 1:channels].any(dim=(2, 3)).all()
    joints = a.gt_keypoints.tensor[:, list(COCO_17.flip_permutation)].clone()
    joints[..., 0] = torch.where(joints[..., 2] > 0, WIDTH - joints[..., 0], 0.0)
    torch.testing.assert_close(b.gt_keypoints.tensor, joints)

    for field in ("gt_boxes", "gt_keypoints"):
        torch.testing.assert_close(
            twice["instances"].get(field).tensor, a.get(field).tensor, rtol=0, atol=1e-4
        )
    again, _ = twice["instances"].gt_part_masks.crop_and_resize(a.gt_boxes.tensor, 30)
    assert torch.equal(again, masks)


def test_pixels_to_ignore_belong_to_the_box_as_far_as_it_was_labelled(small_cfg, tmp_path):
    annotation = person("everything", 40)  # from x = 40 to 70, y = 10 to 86
    small_cfg.INPUT.RANDOM_FLIP = "none"
    mapper = BodyPartsMapper(small_cfg)

    def box(lost, ignored):
        """Of the person without the pixels that are lost, while others are ignored."""

        def left(rle):
            return encode_mask(decode_mask(rle) & ~lost)

        parts = {part: left(rle) for part, rle in annotation["part_segmentation"].items()}
        body = left(annotation["segmentation"])
        cut = {**annotation, "segmentation": body, "part_segmentation": parts}
        if ignored is not None:
            cut["ignore_segmentation"] = encode_mask(ignored)
        found = mapper(as_dataset_dict(tmp_path, [cut]))["instances"]
        return found.gt_boxes.tensor[0].tolist()

    right_half = rectangle(0, 55, HEIGHT, WIDTH)
    assert box(right_half, None) == [40, 10, 55, 86]
    assert box(right_half, right_half) == [40, 10, 70, 86]
    assert box(right_half, rectangle(0, 55, HEIGHT, 65)) == [40, 10, 65, 86]
    assert box(right_half, rectangle(0, 80, HEIGHT, 90)) == [40, 10, 55, 86]
    everything = rectangle(0, 0, HEIGHT, WIDTH)
    assert box(everything, everything) == [40, 10, 70, 86]


def test_pieces_have_the_side_and_the_scales_that_were_asked_for(small_cfg, small_records):
    small_cfg.INPUT.PIECE_SIDE = 64
    small_cfg.INPUT.SCALE_RANGE = (0.5, 2.0)
    mapper = BodyPartsMapper(small_cfg)
    picture = load_bodyparts_json(*small_records)[0]
    pieces = [mapper(copy.deepcopy(picture)) for _ in range(150)]
    widths = [p["image"].shape[2] for p in pieces]
    heights = [p["image"].shape[1] for p in pieces]
    # The longer side of 128 becomes 32 to 128, of which 64 are left; the shorter one 24 to 96.
    assert 32 <= min(widths) < 40 and max(widths) == 64
    assert 24 <= min(heights) < 30 and max(heights) == 64
    for piece in pieces:
        people = piece["instances"]
        assert people.image_size == piece["image"].shape[1:]
        if len(people) and people.gt_boxes.area() > 100:
            body, _ = people.gt_part_masks.crop_and_resize(people.gt_boxes.tensor, 28)
            x0, y0, x1, y1 = people.gt_boxes.tensor[0].int()
            bright = (piece["image"][:, y0:y1, x0:x1].amax(dim=0) > 80).float().mean()
            torch.testing.assert_close(bright, body[0, 0].float().mean(), rtol=0, atol=0.15)
    assert sum(len(p["instances"]) for p in pieces) > 100


def test_resizing_and_cropping_move_masks_boxes_and_joints_together(small_cfg, tmp_path):
    picture = as_dataset_dict(tmp_path, [person("everything", 40)])
    arguments = BodyPartsMapper.from_config(small_cfg)
    # The person's lower half is cut off and the rest enlarged twice.
    crop = T.CropTransform(20, 0, 100, 48, WIDTH, HEIGHT)
    arguments["augmentations"] = [crop, T.ResizeTransform(48, 100, 96, 200)]
    instances = BodyPartsMapper(**arguments)(picture)["instances"]
    assert instances.image_size == (96, 200)
    # x: 40..70 -> 20..50 -> 40..100; y: 10..48 -> 20..96.
    assert instances.gt_boxes.tensor.tolist() == [[40.0, 20.0, 100.0, 96.0]]
    targets, _ = instances.gt_part_masks.crop_and_resize(instances.gt_boxes.tensor, 76)
    head = targets[0, BODYPARTS_7.index("head")]
    # The head was 12 of 38 rows of what is left.
    assert head[:24].any() and not head[25:].any()
    assert targets[0, BODYPARTS_7.index("left_arm")].any()
    assert not targets[0, BODYPARTS_7.index("left_leg")].any()
    joints = instances.gt_keypoints.tensor[0]
    nose = joints[COCO_17.keypoints.index("nose")]
    assert nose.tolist() == [2 * (40 + 15 - 20 + 0.5), 2 * (10 + 6 + 0.5), 2.0]
    assert joints[COCO_17.keypoints.index("left_ankle")].tolist() == [0, 0, 0]


@pytest.mark.parametrize("piece_side", [0, 128])
def test_rotation_moves_masks_and_joints_together_and_keeps_sides(small_cfg, tmp_path, piece_side):
    small_cfg.INPUT.RANDOM_FLIP = "none"
    small_cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    small_cfg.INPUT.PIECE_SIDE = piece_side
    small_cfg.INPUT.SCALE_RANGE = (1.0, 1.0)
    picture = as_dataset_dict(tmp_path, [person("everything", 40)])
    pieces = {}
    for probability in (0.0, 1.0):
        small_cfg.INPUT.ROTATION = (probability, 90.0)
        mapper = BodyPartsMapper(small_cfg)
        pieces[probability] = [mapper(copy.deepcopy(picture))["instances"] for _ in range(10)]
    wrist = COCO_17.keypoints.index("left_wrist")
    (still,) = {tuple(i.gt_keypoints.tensor[0, wrist].tolist()) for i in pieces[0.0]}
    assert still[2]
    assert len({tuple(i.gt_keypoints.tensor[0, wrist].tolist()) for i in pieces[1.0]}) > 5
    arms = [BODYPARTS_7.index(f"{side}_arm") for side in ("right", "left")]
    judged = 0
    for people in pieces[1.0]:
        x, y, seen = people.gt_keypoints.tensor[0, wrist].tolist()
        if not seen:
            continue
        judged += 1
        around = torch.tensor([[x - 2, y - 2, x + 2, y + 2]])
        targets, _ = people.gt_part_masks.crop_and_resize(around, 4)
        assert not targets[0, arms[0]].any() and targets[0, arms[1]].any()
        x0, y0, x1, y1 = people.gt_boxes.tensor[0].tolist()
        assert x0 <= x <= x1 and y0 <= y <= y1
    assert judged >= 5


def test_people_that_a_crop_leaves_out_are_dropped(small_cfg, tmp_path):
    arguments = BodyPartsMapper.from_config(small_cfg)
    arguments["augmentations"] = [T.CropTransform(0, 0, 38, HEIGHT, WIDTH, HEIGHT)]
    picture = as_dataset_dict(tmp_path, [person("everything", 40), person("everything", 5)])
    instances = BodyPartsMapper(**arguments)(picture)["instances"]
    assert len(instances) == len(instances.gt_part_masks) == len(instances.gt_keypoints) == 1


def test_default_predictor_cocoevaluator_and_visualizer_take_our_output(
    small_cfg, small_records, tmp_path
):
    json_file, root = small_records
    name = f"test_stock_{tmp_path.name}"
    register_bodyparts_dataset(name, json_file, root)
    small_cfg.DATASETS.TEST = (name,)
    small_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(small_cfg)
    evaluator = COCOEvaluator(name, output_dir=str(tmp_path / "coco"))
    evaluator.reset()
    for i in range(4):
        image = cv2.imread(f"{root}/{i}.png")
        output = predictor(image)
        instances = output["instances"]
        assert instances.pred_masks.shape == (len(instances), HEIGHT, WIDTH)
        assert instances.pred_part_masks.shape == (len(instances), 7, 112, 112)
        drawn = Visualizer(image[:, :, ::-1], MetadataCatalog.get(name))
        drawn = drawn.draw_instance_predictions(instances.to("cpu")).get_image()
        assert drawn.shape == (HEIGHT, WIDTH, 3) and (drawn != image[:, :, ::-1]).any()
        evaluator.process([{"image_id": i + 1}], [output])
    results = evaluator.evaluate()
    assert set(results) == {"bbox", "segm", "keypoints"}
    assert all(np.isfinite(results[task]["AP"]) for task in results)


def untrained_predictor(cfg) -> BodyPartsPredictor:
    """The predictor takes no model without a checkpoint."""
    cfg.MODEL.WEIGHTS = f"{cfg.OUTPUT_DIR}.pth"
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    return BodyPartsPredictor(cfg)


@pytest.mark.parametrize("shared", [False, True])
def test_with_a_margin_the_heads_look_at_the_enlarged_box(small_cfg, small_records, shared):
    _, root = small_records
    image = cv2.imread(f"{root}/0.png")
    small_cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = shared
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    predictor = untrained_predictor(small_cfg)
    heads = predictor.model.roi_heads
    boxes, larger = np.array([[40.0, 30, 80, 50]]), np.array([[32.0, 26, 88, 54]])
    plain = predictor(image, larger)
    assert plain.margin == 0
    heads.region_margin = 0.2
    people = predictor(image, boxes)
    np.testing.assert_allclose(people.boxes, boxes, atol=1e-3)
    assert people.margin == pytest.approx(0.2)
    np.testing.assert_allclose(people.part_probs, plain.part_probs, atol=1e-5)
    np.testing.assert_allclose(people.keypoints, plain.keypoints, atol=1e-3)

    # What Detectron2 pastes into the box is what ours shows there, of a body that fills a triangle.
    steps = torch.arange(112) / 112
    triangle = torch.where(steps[:, None] + steps < 0.9, 50.0, -50.0)
    heads.mask_head.decoder.upsample.register_forward_hook(lambda m, args, out: out * 0 + triangle)
    instances = Instances(image.shape[:2], pred_boxes=Boxes(torch.tensor(boxes).float()))
    instances.scores, instances.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        (output,) = predictor.model.inference([predictor.model_input(image)], [instances])
    pasted = output["instances"].pred_masks[0].numpy()
    ours = predictor(image, boxes)[0].body
    box = np.zeros_like(ours)
    box[30:50, 40:80] = True
    assert not pasted[~box].any()
    assert (pasted == ours)[31:49, 41:79].mean() > 0.98
    assert 0.3 < ours[box].mean() < 0.6 and ours[~box].any()


def test_with_a_margin_people_are_trained_on_the_enlarged_regions(small_cfg, small_records):
    mapper = BodyPartsMapper(small_cfg)
    pictures = [mapper(p) for p in load_bodyparts_json(*small_records)[:2]]
    seen = {}
    for margin in (0.0, 0.25):
        small_cfg.MODEL.BODYPARTS.REGION_MARGIN = margin
        torch.manual_seed(0)
        model = build_model(small_cfg)
        regions = seen[margin] = []

        def note(module, args, out, regions=regions):
            regions.append(torch.cat([i.proposal_boxes.tensor for i in args[1]]))

        for head in (model.roi_heads.mask_head, model.roi_heads.keypoint_head):
            head.register_forward_hook(note)
        with EventStorage():
            losses = model(pictures)
        assert torch.isfinite(sum(losses.values()))
    for plain, wide in zip(seen[0.0], seen[0.25], strict=True):
        size = plain[:, 2:] - plain[:, :2]
        torch.testing.assert_close(wide[:, :2], plain[:, :2] - size / 4)
        torch.testing.assert_close(wide[:, 2:], plain[:, 2:] + size / 4)


def test_predictor_on_batches_and_on_given_boxes(small_cfg, small_records):
    _, root = small_records
    small_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = untrained_predictor(small_cfg)
    images = [cv2.imread(f"{root}/{i}.png") for i in range(3)]
    images[2] = cv2.resize(images[2], (200, 150))
    alone = [predictor(image) for image in images[:2]]
    together = predictor(images[:2])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
        np.testing.assert_allclose(a.part_probs, b.part_probs, atol=1e-3)
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-2)

    boxes = np.array([[20.0, 10, 120, 140], [0, 0, 200, 150]])
    people = predictor(images[2], boxes)
    np.testing.assert_allclose(people.boxes, boxes, atol=1e-3)
    assert people.scores.tolist() == [1, 1]
    assert people[0].part("left_arm").shape == (150, 200)
    assert len(predictor(images[2], np.zeros((0, 4)))) == 0
    beyond = predictor(images[2], np.array([[-40.0, 10, 120, 190]]))
    within = predictor(images[2], np.array([[0.0, 10, 120, 150]]))
    np.testing.assert_allclose(beyond.boxes, within.boxes, atol=1e-3)
    np.testing.assert_allclose(beyond.part_probs, within.part_probs, atol=1e-5)
    assert [len(p) for p in predictor(images, [boxes, boxes[:1], boxes[:0]])] == [2, 1, 0]
    with pytest.raises(ValueError, match=r"expected a picture \(H, W, 3\), found \(4, 4\)"):
        predictor([np.zeros((4, 4), np.uint8)])


def test_default_predictor_and_ours_agree(small_cfg, small_records):
    _, root = small_records
    small_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    ours = untrained_predictor(small_cfg)
    with torch.no_grad():  # untrained masks are 0.5 in most places; make them decided
        predictor = ours.model.roi_heads.mask_head.decoder.upsample[-2]
        predictor.weight *= 1000
        predictor.bias -= 0.05
    stock = DefaultPredictor(small_cfg)
    stock.model.load_state_dict(ours.model.state_dict())
    image = cv2.resize(cv2.imread(f"{root}/0.png"), (190, 140))
    people, instances = ours(image), stock(image)["instances"]
    np.testing.assert_allclose(people.boxes, instances.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(people.keypoints, instances.pred_keypoints, atol=1e-3)
    assert len(people) > 0
    for person_, mask in zip(people, instances.pred_masks.numpy(), strict=True):
        assert (person_.body != mask).mean() < 1e-3


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 1, 2, 1)])
def test_the_small_backbone_has_the_strides_and_widths_it_says(small_cfg, blocks):
    small_cfg.MODEL.BACKBONE.NAME = "build_small_resnet_fpn_backbone"
    small_cfg.MODEL.RESNETS.BLOCKS_PER_STAGE = blocks
    small_cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    backbone = build_backbone(small_cfg)
    features = backbone(torch.zeros(1, 3, 64, 128))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        f"p{level}": (1, 16, 64 >> level, 128 >> level) for level in range(2, 7)
    }
    stages = backbone.bottom_up.output_shape()
    assert [stages[f"res{i}"].channels for i in range(2, 6)] == [8, 16, 32, 64]
    assert len(backbone.bottom_up.res2) == blocks[0]


def test_the_cap_leaves_nobody_out_before_others_come_twice():
    people = Boxes(torch.tensor([[0.0, 0, 50, 90], [5, 5, 20, 30], [60, 60, 80, 90]]))
    regions = Instances((96, 128), id=torch.arange(9))
    regions.gt_boxes = people[torch.tensor([0, 0, 0, 0, 1, 0, 2, 1, 0])]
    assert spread_over_people(regions, 3).id.tolist() == [0, 4, 6]
    assert spread_over_people(regions, 6).id.tolist() == [0, 4, 6, 1, 7, 2]
    assert spread_over_people(regions, 9).id.tolist() == list(range(9))
    assert len(spread_over_people(regions[:0], 3)) == 0


def test_heads_that_cannot_work_together_are_refused(small_cfg):
    cfg = small_cfg.clone()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RPN"
    with pytest.raises(ValueError, match="need BodyPartsRPN"):
        build_model(cfg)
    cfg = small_cfg.clone()
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = True
    with pytest.raises(ValueError, match=r"SHARE_MASK_FEATURES needs MODEL\.MASK_ON"):
        build_model(cfg)


def test_saturation_is_changed_as_of_the_same_picture_in_rgb(small_cfg, tmp_path):
    small_cfg.INPUT.COLOR_JITTER = 0.5
    seen = {}
    for order in ("RGB", "BGR"):
        small_cfg.INPUT.FORMAT = order
        mapper = BodyPartsMapper(small_cfg)
        picture = as_dataset_dict(tmp_path, [person("everything")])
        cv2.imwrite(picture["file_name"], np.full((HEIGHT, WIDTH, 3), (200, 90, 30), np.uint8))
        np.random.seed(5)
        seen[order] = mapper(picture)["image"].numpy()
    np.testing.assert_allclose(seen["BGR"][::-1], seen["RGB"], atol=1)
    assert np.ptp(seen["RGB"][:, 0, 0].astype(int)) != 170
