#!/usr/bin/env python3
"""Sides and joints for PASCAL-Person-Part, from BodyPix as a teacher.

    python datasets/prepare_pascal_person_part_sides.py --teacher model-stride16.json

reads pascal_person_part_train, which prepare_pascal_person_part.py makes, and writes
pascal_person_part_train_sides. What the teacher says is used only inside the labelled masks: right
and left of a limb whose union is known become "derived" channels, and joints are kept where the
teacher is sure and they lie on the person's body. The unions stay known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from detectron2_bodyparts.modeling.bodypix import PARTS, BodyPix, channel_of, read_tfjs_weights
from detectron2_bodyparts.readers.derive import pieces_of
from detectron2_bodyparts.readers.pascal_person_part import DATASET
from detectron2_bodyparts.readers.prepare import datasets_root, records_path
from detectron2_bodyparts.readers.sides import split_sides
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
    mirrored_name,
)

SIDE = 16 * 22 + 1  # pixels of the longer side of a person's crop, as the teacher sees it
MARGIN = 0.2  # of the box's longer side, seen on each side of it
JOINT_SCORE = 0.5  # least score of a joint, the mean over the picture and its mirror image
# A joint may lie this far from the body's mask, in sides of the teacher's cells: ankles and wrists
# are near its edge.
NEAR_BODY = 0.5
STRIDE = 16


class Teacher:
    """BodyPix on one person's surroundings."""

    def __init__(self, model: str) -> None:
        self.model = BodyPix(read_tfjs_weights(model))

    def __call__(
        self, image: np.ndarray, box: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        """
        Args:
            image: (H, W, 3) BGR uint8.
            box: XYXY.

        Returns:
            Probabilities of its parts (24, h, w) and of joints (17, h, w) at every cell of the
            crop, the mirrored picture's averaged in; and x, y of the first cell and the cells'
            distance, in the picture's pixel indices.
        """
        x0, y0, x1, y1 = box
        margin = MARGIN * max(x1 - x0, y1 - y0)
        scale = (SIDE - 1) / (max(x1 - x0, y1 - y0) + 2 * margin)
        size = [
            int(np.ceil((d + 2 * margin) * scale / STRIDE)) * STRIDE + 1 for d in (x1 - x0, y1 - y0)
        ]
        warp = np.array([[scale, 0, (margin - x0) * scale], [0, scale, (margin - y0) * scale]])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        crop = cv2.warpAffine(image, warp, tuple(size), flags=interpolation)
        pixels = torch.from_numpy(crop[:, :, ::-1].copy()).permute(2, 0, 1).float() / 127.5 - 1
        out = self.model(torch.stack([pixels, pixels.flip(2)]))
        parts, joints = out["parts"].softmax(1), out["joints"].sigmoid()
        mirror = [PARTS.index(mirrored_name(part)) for part in PARTS]
        parts = (parts[0] + parts[1].flip(2)[mirror]) / 2
        joints = (joints[0] + joints[1].flip(2)[list(COCO_17.flip_permutation)]) / 2
        return parts.numpy(), joints.numpy(), (x0 - margin, y0 - margin, STRIDE / scale)


def on_pixels(cells: np.ndarray, place: tuple[float, float, float], shape: tuple[int, int]):
    """A (h, w) map of cells, bilinear, on the picture's pixels (H, W); the edge goes on outside."""
    x, y, step = place
    warp = np.array([[1 / step, 0, -x / step], [0, 1 / step, -y / step]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        cells.astype(np.float32), warp, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def teach(annotation: dict, image: np.ndarray, teacher: Teacher, schema: PartSchema) -> None:
    """Add to one person's record what the teacher knows."""
    shape = image.shape[:2]
    x, y, w, h = annotation["bbox"]
    parts, joints, place = teacher(image, np.array([x, y, x + w, y + h]))
    pieces = pieces_of(schema, BODYPARTS_11.parts)
    for union, rle in dict(annotation.get("unsided", {})).items():
        right, left = (
            sum(p for p, part in zip(parts, PARTS, strict=True) if channel_of(part) in channels)
            for channels in (pieces[schema.channels[i]] for i in schema.unions[union])
        )
        rightness = (right - left) / (right + left + 1e-6)
        split = split_sides(decode_mask(rle), on_pixels(rightness, place, shape))
        if split is None:
            continue
        del annotation["unsided"][union]
        for channel, mask in zip(schema.unions[union], split, strict=True):
            name = schema.channels[channel]
            annotation["part_state"][name] = "derived"
            if mask.any():
                annotation["part_segmentation"][name] = encode_mask(mask)
    body = decode_segmentation(annotation["segmentation"], *shape)
    radius = int(np.ceil(NEAR_BODY * place[2]))
    near = cv2.dilate(body.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0
    points = np.zeros((17, 3))
    for k, heat in enumerate(joints):
        heat = np.ascontiguousarray(heat)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        if heat[row, column] < JOINT_SCORE:
            continue
        px, py = _peak(heat, row, column)
        px, py = place[0] + px * place[2], place[1] + py * place[2]
        inside = 0 <= px < shape[1] and 0 <= py < shape[0]
        if inside and near[int(py), int(px)]:
            points[k] = px, py, 2
    annotation["keypoints"] = points.ravel().tolist()
    annotation["num_keypoints"] = int((points[:, 2] > 0).sum())


def _peak(heat: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """x, y of the weighted mean of the 3x3 cells about the best."""
    rows = np.arange(max(row - 1, 0), min(row + 2, heat.shape[0]))
    columns = np.arange(max(column - 1, 0), min(column + 2, heat.shape[1]))
    weights = heat[np.ix_(rows, columns)]
    total = weights.sum()
    return (weights.sum(0) @ columns) / total, (weights.sum(1) @ rows) / total


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="BodyPix's model-stride16.json")
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / DATASET,
        help="the dataset's folder (default: %(default)s)",
    )
    parser.add_argument(
        "--schema",
        choices=(BODYPARTS_7.name, BODYPARTS_11.name),
        default=BODYPARTS_11.name,
        help="(default: %(default)s)",
    )
    args = parser.parse_args()

    schema = get_part_schema(args.schema)
    records = read_records(records_path(args.root, DATASET, "train", schema))
    teacher = Teacher(args.teacher)
    groups = records.by_image()
    for image in tqdm(records.images, disable=None):
        people = [a for a in groups[image["id"]] if not a["iscrowd"] and "segmentation" in a]
        if people:
            picture = cv2.imread(str(args.root / image["file_name"]))
            for annotation in people:
                teach(annotation, picture, teacher, schema)
    write_records(records_path(args.root, DATASET, "train_sides", schema), records)


if __name__ == "__main__":
    main()
