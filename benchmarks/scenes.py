"""Images with people for the benchmarks: any number of people, any size."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import BoxMode

from detectron2_bodyparts.people import Crop, People
from detectron2_bodyparts.readers.figures import SyntheticConfig, render
from detectron2_bodyparts.readers.synthetic import annotations
from detectron2_bodyparts.records import decode_mask, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

_MODELS = 4  # the number of different people


@cache
def _model(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A rendered person: (h, w) channel indices on the box, (17, 3) keypoints in 0..1 of it."""
    picture = render(seed, SyntheticConfig((480, 480), people=(1, 1), heights=(0.95, 0.95)))
    one = annotations(picture, BODYPARTS_7, COCO_17)[0]
    x, y, width, height = one["bbox"]
    labels = np.zeros((480, 480), np.uint8)
    for name, rle in one["part_segmentation"].items():
        labels[decode_mask(rle)] = BODYPARTS_7.index(name)
    joints = np.array(one["keypoints"]).reshape(-1, 3)
    joints[:, :2] = (joints[:, :2] - (x, y)) / (width, height)
    return labels[y : y + height, x : x + width], joints


def figures(count: int, height: int, width: int, seed: int = 0) -> list[tuple[Crop, np.ndarray]]:
    """People at random positions, with heights from 1/7 to 0.9 of the image's.

    Returns:
        For each person the crop, inside the image, and (17, 3) keypoints in pixel indices.
    """
    rng = np.random.default_rng(seed)
    people = []
    for i in range(count):
        labels, joints = _model(i % _MODELS)
        h = int(height * rng.uniform(1 / 7, 0.9))
        w = min(max(h * labels.shape[1] // labels.shape[0], 4), width - 1)
        x0, y0 = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        labels = cv2.resize(labels, (w, h), interpolation=cv2.INTER_NEAREST)
        points = joints * (w, h, 1) + (x0, y0, 0)
        people.append((Crop(x0, y0, labels, labels > 0), points))
    return people


def boxes(people: list[tuple[Crop, np.ndarray]]) -> torch.Tensor:
    """(N, 4) XYXY of the crops."""
    corners = [(c.x0, c.y0, c.x0 + c.body.shape[1], c.y0 + c.body.shape[0]) for c, _ in people]
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def regions(people: list[tuple[Crop, np.ndarray]], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Foreground regions as sampled in training: ``count`` jittered boxes of the people in turn.

    Returns:
        (count,) index of the region's person, and (count, 4) XYXY boxes.
    """
    generator = torch.Generator().manual_seed(0)
    person = torch.arange(count) % len(people)
    chosen = boxes(people)[person]
    size = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return person, chosen + (torch.rand(count, 4, generator=generator) - 0.5) * 0.2 * size


def whole_planes(
    people: list[tuple[Crop, np.ndarray]], height: int, width: int
) -> list[np.ndarray]:
    """(H, W) channel indices of each person; nonzero on the body."""
    planes = []
    for crop, _ in people:
        plane = np.zeros((height, width), np.uint8)
        plane[crop.slices] = crop.labels
        planes.append(plane)
    return planes


def records(people: list[tuple[Crop, np.ndarray]], height: int, width: int) -> list[dict]:
    """The people as annotations of a file of records."""
    return [
        person_annotation(
            BODYPARTS_7,
            COCO_17,
            (height, width),
            body=plane > 0,
            parts={name: plane == BODYPARTS_7.index(name) for name in BODYPARTS_7.parts},
            keypoints=joints,
        )
        for plane, (_, joints) in zip(whole_planes(people, height, width), people, strict=True)
    ]


def dataset_dict(count: int, height: int, width: int, folder: Path) -> dict:
    """An image on disk in Detectron2's standard dataset format, as from `load_bodyparts_json`."""
    people = []
    for one in records(figures(count, height, width), height, width):
        points = [v if i % 3 == 2 else v + 0.5 for i, v in enumerate(one["keypoints"])]
        people.append({**one, "keypoints": points, "category_id": 0, "bbox_mode": BoxMode.XYWH_ABS})
    path = folder / f"{width}x{height}.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (width, height)))
    return {
        "file_name": str(path),
        "image_id": 1,
        "height": height,
        "width": width,
        "exhaustive": True,
        "keypoint_schema": COCO_17.name,
        "annotations": people,
    }


def found_people(count: int, height: int, width: int) -> People:
    """Predictions of a good model: 112x112 probabilities that rise over a few cells."""
    people = figures(count, height, width)
    probs = np.zeros((count, len(BODYPARTS_7.channels), 112, 112), np.float32)
    for one, (crop, _) in zip(probs, people, strict=True):
        labels = cv2.resize(crop.labels, (112, 112), interpolation=cv2.INTER_NEAREST)
        for channel, plane in enumerate(one):
            mask = labels > 0 if channel == 0 else labels == channel
            plane[:] = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
    scores = np.random.default_rng(0).random(count)
    size = (height, width)
    return People(size, boxes(people).numpy(), scores, probs, None, BODYPARTS_7, COCO_17)
