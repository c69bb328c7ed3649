"""PASCAL-Person-Part: label maps of six body parts for 3,533 images of PASCAL VOC 2010.

The dataset's folder contains ``pascal_person_part_gt/<image>.png``, ``JPEGImages/<image>.jpg``, the
lists ``train.txt`` and ``test.txt`` (one of them suffices), and the people's boxes: VOC's
``Annotations/<image>.xml``, or ``person_boxes.json`` with {image: [[x, y, width, height], ...]}.

The label maps have neither people nor sides. Pixels are assigned to people by box (`share_out`):

* a labelled pixel inside exactly one box belongs to that person;
* inside several boxes it may belong to any of them: it is ignored for each of them, and belongs to
  a crowd with known parts;
* labelled pixels outside all boxes go, by connected component, to the one person whose box must be
  enlarged the least to contain the component, by at most ``BOX_MARGIN``; the rest belongs to people
  without a box: a crowd, too.

A box without labelled pixels is a person whose body is unknown: an ignore region. A person all of
whose pixels are shared keeps only the box.

What is known of the others: the body, and all parts except those visible only where boxes overlap.
Limbs have no sides: in schemas with sides their unions are known, and for a union without pixels
both sides are known to be empty. The neck is labelled head, as in bodyparts-11; bodyparts-7 has it
in the torso, which these labels cannot provide.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from ..records import RecordError, ignore_annotation, mask_box, person_annotation
from ..schema import BODY, COCO_17, PartSchema
from . import voc
from .label_maps import read_indices
from .prepare import (
    BadInput,
    Picture,
    Shard,
    Summary,
    argument_parser,
    picture_size,
    prepare,
    records_path,
    run_splits,
)

DATASET = "pascal_person_part"
LABELS_FOLDER = "pascal_person_part_gt"
BOXES_FILE = "person_boxes.json"

# Split -> its list. The training list is divided, so that models are not selected on the test
# split: every eighth image is for validation.
SPLITS = {"train": "train.txt", "val": "train.txt", "trainval": "train.txt", "test": "test.txt"}
VAL_EVERY = 8

# Pixels. VOC's boxes are drawn by hand: in images with one box, nine in ten of its edges are within
# 9 pixels of the extent of the labels.
BOX_MARGIN = 10

# Schema -> the channel or union of label 1, 2, ..., 6.
_CHANNELS: dict[str, tuple[str, ...]] = {
    "bodyparts-7": ("head", "torso", "arm", "arm", "leg", "leg"),
    "bodyparts-11": ("head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg"),
    "pascal-person-part": (
        *("head", "torso"),
        *("upper_arms", "lower_arms", "upper_legs", "lower_legs"),
    ),
}
_LABELS = 6


@dataclass(frozen=True)
class Share:
    """One person's share of the labelled pixels.

    Args:
        own: boolean (H, W), labelled pixels that are certainly this person's.
        shared: boolean (H, W), labelled pixels that may be this person's or another's.
    """

    own: np.ndarray
    shared: np.ndarray


def share_out(
    labelled: np.ndarray, boxes: np.ndarray, margin: int = BOX_MARGIN
) -> tuple[list[Share], np.ndarray]:
    """Assign an image's labelled pixels to people by their boxes.

    Args:
        labelled: boolean (H, W).
        boxes: (N, 4) integers, XYWH in pixels, one per person.
        margin: how far outside the box a person's pixels may lie, in pixels.

    Returns:
        The share of each box, and the labelled pixels in no share, boolean (H, W).
    """
    insides = [_rectangle(box, labelled.shape) for box in boxes]
    depth = np.sum([np.zeros(labelled.shape, dtype=int), *insides], axis=0)
    shares = [
        Share(labelled & inside & (depth == 1), labelled & inside & (depth > 1))
        for inside in insides
    ]
    rest = labelled & (depth == 0)
    numbers, _ = ndimage.label(rest, structure=np.ones((3, 3)))
    for number, window in enumerate(ndimage.find_objects(numbers), start=1):
        rows, columns = window
        start, stop = (columns.start, rows.start), (columns.stop, rows.stop)
        # How far each box must be enlarged to contain the piece.
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        outside = np.maximum(low - start, stop - high).max(axis=1)
        nearest = np.flatnonzero(outside == outside.min(initial=margin + 1))
        if len(nearest) == 1 and outside[nearest[0]] <= margin:
            piece = numbers[window] == number
            shares[nearest[0]].own[window] |= piece
            rest[window] &= ~piece
    return shares, rest


def _rectangle(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of an XYWH box, clipped to the image, as boolean (H, W)."""
    x0, y0, x1, y1 = np.maximum([box[0], box[1], box[0] + box[2], box[1] + box[3]], 0)
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def _groups(mask: np.ndarray) -> list[np.ndarray]:
    """Divide a mask into groups of pixels, (H, W) each, more than twice ``BOX_MARGIN`` apart."""
    kernel = np.ones((2 * BOX_MARGIN + 1,) * 2, dtype=np.uint8)
    numbers, count = ndimage.label(cv2.dilate(mask.astype(np.uint8), kernel))
    return [mask & (numbers == number) for number in range(1, count + 1)]


def read_split(root: str | os.PathLike, split: str) -> list[str]:
    """The image ids of a split, in the order of its list.

    Raises:
        FileNotFoundError: the list is missing.
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {tuple(SPLITS)}, found {split!r}")
    path = Path(root) / SPLITS[split]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a list of image ids, found no file;"
            " datasets/README.md says where to get PASCAL-Person-Part and how it must lie"
        )
    image_ids = path.read_text("utf-8").split()
    if split == "val":
        return image_ids[::VAL_EVERY]
    if split == "train":
        return [image_id for i, image_id in enumerate(image_ids) if i % VAL_EVERY]
    return image_ids


def read_boxes(
    image_id: str, root: str | os.PathLike, listed: Mapping[str, Any] | None = None
) -> np.ndarray:
    """The (N, 4) integer XYWH boxes of an image's people.

    Args:
        image_id: e.g. ``2008_000008``.
        root: the dataset's folder.
        listed: the content of ``person_boxes.json``, in which images without people may be missing;
            if not given, VOC's XML is read.

    Raises:
        BadInput: the XML is missing or cannot be read, or the listed boxes are malformed.
    """
    if listed is None:
        try:
            return voc.read_people(Path(root) / "Annotations" / f"{image_id}.xml")[0]
        except BadInput as e:
            raise BadInput(e.where, f"{e.expected}, or {BOXES_FILE}", e.found) from e
    boxes = listed.get(image_id, [])
    try:
        return np.array(boxes, dtype=float).reshape(len(boxes), 4).round().astype(int)
    except (TypeError, ValueError) as e:
        where = f"{Path(root) / BOXES_FILE}, {image_id}"
        raise BadInput(where, "a list of [x, y, width, height]", f"{boxes}") from e


def _read_boxes_file(root: str | os.PathLike) -> dict[str, Any] | None:
    """The content of ``person_boxes.json``, or None if there is no such file."""
    path = Path(root) / BOXES_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as e:
        raise RecordError(f"{path}: not JSON ({e})") from e
    if not isinstance(content, dict):
        raise RecordError(f"{path}: expected {{image: boxes}}, found a {type(content).__name__}")
    return content


def read_image(
    image_id: str,
    root: str | os.PathLike,
    part_schema: PartSchema,
    listed_boxes: Mapping[str, Any] | None = None,
) -> Shard:
    """Read one image and its people.

    Args:
        image_id: e.g. ``2008_000008``.
        root: the dataset's folder.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        listed_boxes: as for `read_boxes`.

    Raises:
        BadInput: image, label map or boxes are missing or cannot be read, sizes differ, or a label
            is above 6.
    """
    root = Path(root)
    file_name = f"JPEGImages/{image_id}.jpg"
    labels_file = root / LABELS_FOLDER / f"{image_id}.png"
    labels = read_indices(labels_file)
    shape = picture_size(root / file_name)
    if labels.shape != shape:
        expected = "a label map as large as the picture"
        raise BadInput(labels_file, expected, f"{labels.shape}, not {shape}")
    if labels.max() > _LABELS:
        raise BadInput(labels_file, f"labels from 0 to {_LABELS}", f"label {labels.max()}")
    boxes = read_boxes(image_id, root, listed_boxes)
    shares, rest = share_out(labels > 0, boxes)
    shared = np.any([np.zeros(shape, dtype=bool), *(s.shared for s in shares)], axis=0)
    annotations, unknown = [], []
    for box, share in zip(boxes, shares, strict=True):
        rectangle = _rectangle(box, shape)
        if share.own.any() or share.shared.any():
            annotations.append(_person(labels, share, rectangle, part_schema))
        elif rectangle.any():
            unknown.append(ignore_annotation(COCO_17, shape, rectangle))
    crowds = [_crowd(labels, group, part_schema) for group in _groups(shared) + _groups(rest)]
    return Shard([Picture(file_name, *shape, [*annotations, *crowds, *unknown])])


def _person(
    labels: np.ndarray, share: Share, rectangle: np.ndarray, schema: PartSchema
) -> dict[str, Any]:
    x0, y0, x1, y1 = mask_box(rectangle | share.own)
    reach = [x0, y0, x1 - x0, y1 - y0]
    annotation = person_annotation(
        schema,
        COCO_17,
        labels.shape,
        body=share.own if share.own.any() else None,
        **_parts(labels, share, schema),
        ignore=share.shared,
        bbox=reach,
    )
    if share.shared.any():
        # The extent of the body is unknown: use the dataset's box instead of the body's.
        annotation["bbox"] = reach
    return annotation


def _crowd(labels: np.ndarray, mask: np.ndarray, schema: PartSchema) -> dict[str, Any]:
    parts = _parts(labels, Share(mask, np.zeros_like(mask)), schema)
    annotation = person_annotation(schema, COCO_17, labels.shape, body=mask, **parts)
    return {**annotation, "iscrowd": 1}


def _parts(labels: np.ndarray, share: Share, schema: PartSchema) -> dict[str, dict[str, Any]]:
    """`person_annotation`'s arguments for the parts: ``parts``, ``unsided`` and ``states``."""
    parts: dict[str, np.ndarray] = {}
    unsided: dict[str, np.ndarray] = {}
    states = {}
    if share.own.any():
        states[BODY] = "known"
        names = np.array(["", *_CHANNELS[schema.name]])
        for name in dict.fromkeys(_CHANNELS[schema.name]):
            channel = np.isin(labels, np.flatnonzero(names == name))
            if (channel & share.own).any():
                (parts if name in schema.parts else unsided)[name] = channel & share.own
                states[name] = "known"
            elif not (channel & share.shared).any():
                sides = [schema.channels[i] for i in schema.unions.get(name, ())]
                states.update(dict.fromkeys(sides or [name], "known"))
    return {"parts": parts, "unsided": unsided, "states": states}


def prepare_pascal_person_part(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/pascal_person_part_<split>.<schema>.json``.

    Args:
        root: the dataset's folder.
        split: "train" or "val" (the official training list without every eighth image, and only
            these), "trainval" (the whole list) or "test".
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the split's list is missing.
        RecordError: ``person_boxes.json``, or all of the images, cannot be read.
        ValueError: there is no such split, or the labels have no mapping to the schema.
    """
    if part_schema.name not in _CHANNELS:
        raise ValueError(
            f"PASCAL-Person-Part is read as one of {sorted(_CHANNELS)}, not {part_schema.name}"
        )
    return prepare(
        read_split(root, split)[:limit],
        partial(
            read_image,
            root=Path(root),
            part_schema=part_schema,
            listed_boxes=_read_boxes_file(root),
        ),
        records_path(root, DATASET, split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={"description": "PASCAL-Person-Part", "split": split, "box_margin": BOX_MARGIN},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare PASCAL-Person-Part; see datasets/README.md for its layout on disk.",
        DATASET,
        _CHANNELS,
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=SPLITS,
        default=["train", "val"],
        help="(default: train val)",
    )
    run_splits(prepare_pascal_person_part, parser.parse_args(argv))
