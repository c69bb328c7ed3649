"""What is written to be fast gives what the plain slow way gives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from pycocotools import mask as mask_util

from detectron2_bodyparts import structures
from detectron2_bodyparts.data import BodyPartsMapper
from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints
from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import decode_mask, encode_mask, mask_box
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17
from detectron2_bodyparts.structures import BODY_BIT, IGNORE_BIT, PartMasks, part_plane

from .conftest import HEIGHT, WIDTH, as_dataset_dict, person, rectangle


def test_joints_are_those_of_a_loop_over_the_maps():
    logits = torch.randn(6, 17, 56, 56, dtype=torch.float64)
    boxes = torch.rand(6, 4, dtype=torch.float64) * 50
    boxes[:, 2:] += 30 + boxes[:, :2]
    found = decode_keypoints(logits, boxes)
    for box, maps, joints in zip(boxes.numpy(), logits.numpy(), found.numpy(), strict=True):
        for heatmap, joint in zip(maps, joints, strict=True):
            y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
            place = []
            for line, at in ((heatmap[y], x), (heatmap[:, x], y)):
                shift = 0.0
                if 0 < at < 55:
                    # The top of the parabola through three points.
                    a, b, _ = np.polyfit([-1, 0, 1], line[at - 1 : at + 2], 2)
                    shift = np.clip(-b / (2 * a), -0.5, 0.5)
                place.append((at + 0.5 + shift) / 56)
            expected = box[:2] + place * (box[2:] - box[:2])
            np.testing.assert_allclose(joint[:2], expected, atol=1e-9)
            share = np.exp(heatmap[y, x]) / np.exp(heatmap).sum()
            assert joint[2] == pytest.approx(share)


def slow_crop(one, channels):
    """Labels and body, each pixel by itself; zero around the mask's samples."""
    x0, y0, x1, y1 = one.box.astype(float)
    crop = one.crop()
    labels, body = np.zeros(crop.labels.shape, np.uint8), np.zeros(crop.body.shape, bool)
    padded = np.pad(one.part_probs, ((0, 0), (1, 1), (1, 1)))
    size = one.part_probs.shape[-1]
    for j in range(labels.shape[0]):
        for i in range(labels.shape[1]):
            x = (crop.x0 + i + 0.5 - x0) * size / (x1 - x0) + 0.5
            y = (crop.y0 + j + 0.5 - y0) * size / (y1 - y0) + 0.5
            a, b = int(x), int(y)
            four = padded[:, b : b + 2, a : a + 2]
            probs = np.einsum("cyx,y,x->c", four, [b + 1 - y, y - b], [a + 1 - x, x - a])
            body[j, i] = probs[0] >= 0.5
            # Head, torso, arms, legs, each of any side; or none of them.
            kind = max([[1], [2], [3, 4], [5, 6]], key=lambda kind: probs[kind].sum())
            if body[j, i] and probs[kind].sum() >= 1 - probs[1:].sum():
                labels[j, i] = max(kind, key=lambda channel: probs[channel])
    assert labels.max() == channels - 1
    return labels, body


def test_bands_of_a_crop_are_the_pixels_one_by_one():
    channels = len(BODYPARTS_7.channels)
    probs = np.random.default_rng(0).random((1, channels, 14, 14), dtype=np.float32)
    probs[:, 1:] *= 0.3
    boxes = np.array([[-3.3, 5.2, 37.9, 180.6]])  # more rows than a band, beyond the picture
    people = People((170, 60), boxes, np.ones(1), probs, None, BODYPARTS_7, COCO_17)
    labels, body = slow_crop(people[0], channels)
    assert 0.2 < body.mean() < 0.8
    assert np.count_nonzero(people[0].crop().body != body) <= 1  # rounding at 0.5
    assert np.count_nonzero(people[0].crop().labels != labels) <= 1
    # The grid is the mask's own where a threshold is asked for, too.
    x0, y0, masks = people[0].channel_masks(0.5)
    assert (x0, y0) == (people[0].crop().x0, people[0].crop().y0)
    np.testing.assert_array_equal(masks[0], people[0].crop().body)


def random_mask(rng):
    """Some blobs; at times nothing, everything or single pixels."""
    noise = cv2.GaussianBlur(rng.random((HEIGHT, WIDTH)), (0, 0), rng.choice([0.3, 2.0, 8.0]))
    return noise >= np.quantile(noise, rng.choice([0.0, 0.1, 0.7, 0.99])) * rng.choice([1, 1, 9])


def test_a_plane_is_what_decoding_each_mask_gives():
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(40):
        masks = {name: random_mask(rng) for name in BODYPARTS_7.parts}
        body, ignored = random_mask(rng), random_mask(rng)
        one = {
            "segmentation": encode_mask(body),
            "part_segmentation": {name: encode_mask(mask) for name, mask in masks.items()},
            "part_state": dict.fromkeys(BODYPARTS_7.channels, "known"),
            "ignore_segmentation": encode_mask(ignored),
        }
        plane, _ = part_plane(one, BODYPARTS_7, HEIGHT, WIDTH)
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for name, mask in masks.items():
            expected[mask] = BODYPARTS_7.index(name)
        expected[body] |= BODY_BIT
        expected[ignored] |= IGNORE_BIT
        np.testing.assert_array_equal(plane, expected)
        areas.append(body.mean())
    assert min(areas) == 0 and max(areas) == 1


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(1)
    masks = [random_mask(rng) for _ in range(20)] + [np.zeros((3000, 4000), bool)]
    masks[-1][5, 3999] = True  # numbers of several digits
    for mask in masks:
        height, width = mask.shape
        rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
        lengths = structures._run_lengths(rle["counts"])
        uncompressed = {"size": [height, width], "counts": lengths.tolist()}
        np.testing.assert_array_equal(decode_mask(uncompressed), mask)
        np.testing.assert_array_equal(structures._run_lengths(lengths.tolist()), lengths)


def test_polygons_and_masks_of_another_size():
    polygons = [[5.0, 5, 25, 5, 25, 35, 5, 35], [60.0, 40, 80, 40, 70, 60]]
    plane, _ = part_plane({"segmentation": polygons}, BODYPARTS_7, HEIGHT, WIDTH)
    rles = mask_util.frPyObjects(polygons, HEIGHT, WIDTH)
    np.testing.assert_array_equal(plane == BODY_BIT, mask_util.decode(mask_util.merge(rles)) > 0)
    with pytest.raises(ValueError, match=r"expected a mask of \[96, 128\], found \[96, 120\]"):
        small = {"segmentation": encode_mask(np.ones((HEIGHT, WIDTH - 8), bool))}
        part_plane(small, BODYPARTS_7, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="runs of 20000 pixels"):
        broken = {"size": [HEIGHT, WIDTH], "counts": [0, 20000]}
        part_plane({"segmentation": broken}, BODYPARTS_7, HEIGHT, WIDTH)


def test_targets_in_chunks_are_those_of_all_at_once(monkeypatch):
    parts, joints = person("everything"), person("body", 60)
    planes, states = zip(
        *(part_plane(a, BODYPARTS_7, HEIGHT, WIDTH) for a in (parts, joints)), strict=True
    )
    masks = PartMasks.from_planes(planes, states, BODYPARTS_7)[torch.arange(7) % 2]
    boxes = torch.rand(7, 4) * 30
    boxes[:, 2:] += 60
    targets, valid = masks.crop_and_resize(boxes, 28)
    assert targets[1::2, 1].logical_not().all() and targets[::2, 1].any()
    for chunk in (1, 2, 3):
        monkeypatch.setattr(structures, "_CHUNK", chunk)
        again, again_valid = masks.crop_and_resize(boxes, 28)
        assert torch.equal(again, targets) and torch.equal(again_valid, valid)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_mappers_masks_are_each_channel_moved_by_itself(tmp_path, flip):
    annotation = person("everything")
    annotation["ignore_segmentation"] = encode_mask(rectangle(10, 40, 20, 50))
    mapper = BodyPartsMapper(
        augmentations=[T.Resize((150, 170)), T.RandomFlip(flip)],
        image_format="BGR",
        part_schema=BODYPARTS_7,
        keypoint_schema=COCO_17,
    )
    item = mapper(as_dataset_dict(tmp_path, [annotation]))["instances"]
    whole = torch.tensor([[0.0, 0.0, 170.0, 150.0]])
    # At 170x170 a cell is a pixel wide; its row lies in that of the mask at 150/170.
    targets, _ = item.gt_part_masks.crop_and_resize(whole, 170)
    rows = ((np.arange(170) + 0.5) * 150 / 170).astype(int)
    resize = T.ResizeTransform(HEIGHT, WIDTH, 150, 170)
    for name in BODYPARTS_7.channels:
        masks = annotation["part_segmentation"]
        rle = annotation["segmentation"] if name == "body" else masks[name]
        mask = resize.apply_segmentation(decode_mask(rle).astype(np.uint8))
        if flip:
            mask = mask[:, ::-1]
            name = BODYPARTS_7.channels[BODYPARTS_7.flip_permutation[BODYPARTS_7.index(name)]]
        found = targets[0, BODYPARTS_7.index(name)].numpy()
        different = found != mask[rows].astype(bool)
        assert different.mean() < 0.005  # rows between two pixels
        if name == "body":
            assert item.gt_boxes.tensor[0].tolist() == list(mask_box(mask))
