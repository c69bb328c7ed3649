#!/usr/bin/env python3
"""Add sides and keypoints to parts without sides, from MoveNet (Google, Apache-2.0) as a teacher.

    python datasets/prepare_sides.py --teacher movenet-thunder/model.json

reads pascal_person_part_train, which prepare_pascal_person_part.py writes, or the given split of
another dataset, and writes pascal_person_part_train_sides. The teacher is used only inside the
masks: a labelled union of a right and a left limb is divided into two "derived" channels, by which
side's bones are nearer, and keypoints are kept where they lie on the person's body. The teacher
sees the image and its mirror image; keypoints on which the two disagree are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detectron2_bodyparts.modeling.tfjs import TfjsGraph
from detectron2_bodyparts.readers.derive import LIMBS, pieces_of
from detectron2_bodyparts.readers.pascal_person_part import DATASET
from detectron2_bodyparts.readers.prepare import datasets_root, records_path
from detectron2_bodyparts.readers.sides import Bone, rightness, split_sides
from detectron2_bodyparts.records import (
    decode_mask,
    decode_segmentation,
    encode_mask,
    read_records,
    write_records,
)
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    PartSchema,
    get_part_schema,
)

SIDE = 256  # side of MoveNet Thunder's input, in pixels
MARGIN = 0.2  # of the box's longer side, added on each side of it
JOINT_SCORE = 0.3  # least score of a keypoint, the mean over the image and its mirror image
# How far apart the two may place a keypoint, and how far it may lie from the body's mask, as
# fractions of the crop's side.
AGREEMENT = 0.05
NEAR_BODY = 0.03


class Teacher:
    """MoveNet Thunder on a crop around one person."""

    def __init__(self, model: str) -> None:
        self.model = TfjsGraph(model)

    def __call__(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
        """
        Args:
            image: (H, W, 3) BGR uint8.
            box: XYXY.

        Returns:
            The person's (17, 3) COCO keypoints: x, y in pixel indices and score, 0 where the two
            views disagree; and the crop's side in pixels of the image.
        """
        low, high = box[:2], box[2:]
        side = (1 + 2 * MARGIN) * (high - low).max()
        start = (low + high - side) / 2
        scale = SIDE / side
        warp = np.column_stack([np.eye(2) * scale, -start * scale])
        crop = cv2.warpAffine(image, warp, (SIDE, SIDE))[:, :, ::-1]
        views = []
        for pixels in (crop, crop[:, ::-1]):
            found = self.model(torch.from_numpy(pixels.copy()).float()[None]).reshape(17, 3)
            views.append(found.numpy()[:, [1, 0, 2]])  # x, y as fractions of the crop, score
        plain, mirrored = views
        mirrored = mirrored[list(COCO_17.flip_permutation)] * [-1, 1, 1] + [1, 0, 0]
        joints = (plain + mirrored) / 2
        apart = np.hypot(*(plain - mirrored)[:, :2].T)
        joints[apart > AGREEMENT, 2] = 0
        joints[:, :2] = joints[:, :2] * side + start
        return joints, float(side)


def bones_of(channel: str, schema: PartSchema, joints: np.ndarray) -> list[Bone]:
    """The bones of a channel with both keypoints scoring at least ``JOINT_SCORE``."""
    bones = []
    for piece in pieces_of(schema, BODYPARTS_11.parts)[channel]:
        side, limb = piece.split("_", 1)
        ends = [joints[COCO_17.keypoints.index(f"{side}_{joint}")] for joint in LIMBS[limb]]
        if min(end[2] for end in ends) >= JOINT_SCORE:
            bones.append((ends[0][:2], ends[1][:2]))
    return bones


def teach(annotation: dict, image: np.ndarray, teacher: Teacher, schema: PartSchema) -> None:
    """Add the teacher's sides and keypoints to a person's record; labelled keypoints are kept."""
    shape = image.shape[:2]
    x, y, w, h = annotation["bbox"]
    joints, side = teacher(image, np.array([x, y, x + w, y + h]))
    for union, rle in dict(annotation.get("unsided", {})).items():
        channels = [schema.channels[i] for i in schema.unions[union]]
        limb = decode_mask(rle)
        bones = [bones_of(channel, schema, joints) for channel in channels]
        split = split_sides(limb, rightness(limb, *bones))
        if split is None:
            continue
        del annotation["unsided"][union]
        for name, mask in zip(channels, split, strict=True):
            annotation["part_state"][name] = "derived"
            if mask.any():
                annotation["part_segmentation"][name] = encode_mask(mask)
    if annotation["num_keypoints"]:
        return
    body = decode_segmentation(annotation["segmentation"], *shape)
    radius = int(np.ceil(NEAR_BODY * side))
    near = cv2.dilate(body.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0
    points = np.zeros((17, 3))
    for k, (px, py, score) in enumerate(joints):
        column, row = round(px), round(py)
        inside = 0 <= column < shape[1] and 0 <= row < shape[0]
        if score >= JOINT_SCORE and inside and near[row, column]:
            points[k] = px, py, 2
    annotation["keypoints"] = points.ravel().tolist()
    annotation["num_keypoints"] = int((points[:, 2] > 0).sum())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--teacher", required=True, help="MoveNet Thunder's TensorFlow.js model.json"
    )
    parser.add_argument("--dataset", default=DATASET, help="(default: %(default)s)")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument("--root", type=Path, help="the dataset's folder, if not the usual one")
    parser.add_argument(
        "--schema",
        choices=(BODYPARTS_7.name, BODYPARTS_11.name),
        default=BODYPARTS_11.name,
        help="(default: %(default)s)",
    )
    args = parser.parse_args()

    schema = get_part_schema(args.schema)
    root = args.root or datasets_root() / args.dataset
    records = read_records(records_path(root, args.dataset, args.split, schema))
    if records.keypoint_schema != COCO_17:
        parser.error(f"the teacher's joints are coco-17, {args.dataset}'s not")
    teacher = Teacher(args.teacher)
    groups = records.by_image()
    for image in tqdm(records.images, disable=None):
        people = [a for a in groups[image["id"]] if not a["iscrowd"] and "segmentation" in a]
        if people:
            picture = cv2.imread(str(root / image["file_name"]))
            for annotation in people:
                teach(annotation, picture, teacher, schema)
    write_records(records_path(root, args.dataset, f"{args.split}_sides", schema), records)


if __name__ == "__main__":
    main()
