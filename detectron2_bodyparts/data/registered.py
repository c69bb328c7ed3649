"""People in datasets registered with Detectron2, the plugin's and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from ..records import Records, compress_segmentation
from ..schema import (
    BODY,
    BODYPARTS_7,
    COCO_17,
    KeypointSchema,
    PartSchema,
    get_keypoint_schema,
    get_part_schema,
    mirrored_name,
)

# Keys of a person in the plugin's datasets in addition to COCO's.
PART_KEYS = ("part_segmentation", "part_state", "unsided", "ignore_segmentation")


def joints_of(name: str) -> KeypointSchema:
    """Keypoint schema of a registered dataset: its own, else ``keypoint_names``, else COCO's.

    Raises:
        ValueError: names in ``keypoint_names`` or ``keypoint_flip_map`` mark sides other than by
            ``right_`` and ``left_``.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("keypoint_schema"):
        return get_keypoint_schema(metadata.keypoint_schema)
    if metadata.get("keypoint_names"):
        for pair in metadata.get("keypoint_flip_map", ()):
            if mirrored_name(pair[0]) != pair[1]:
                raise ValueError(
                    f"dataset {name!r}: keypoint_flip_map has {tuple(pair)}; of joints with sides"
                    " the names must begin with right_ and left_, and else be the same"
                )
        return KeypointSchema(name, tuple(metadata.keypoint_names))
    return COCO_17


def only_people(name: str, pictures: Iterable[dict]) -> Iterator[dict]:
    """Keep only annotations of people in the dataset dicts of dataset ``name``.

    In a dataset with a single class, all annotations are of people. Images without annotations of
    people are kept, as images without people.

    Raises:
        ValueError: the dataset has several classes, none of which is ``person``.
    """
    classes = MetadataCatalog.get(name).get("thing_classes", [])
    if len(classes) > 1 and "person" not in classes:
        raise ValueError(f"dataset {name!r} has no class 'person', only {classes}")
    for picture in pictures:
        people = picture["annotations"]
        if len(classes) > 1:
            people = [a for a in people if classes[a["category_id"]] == "person"]
        yield {**picture, "annotations": people}


def registered_records(name: str, part_schema: PartSchema = BODYPARTS_7) -> Records:
    """Convert a registered dataset to records, with its image IDs and full ``file_name``.

    Of a dataset without parts, e.g. a COCO file, boxes, bodies and keypoints are used.

    Args:
        name: the dataset.
        part_schema: schema of the records if the dataset has none.

    Raises:
        FileNotFoundError: the dataset is registered, but its file does not exist.
        ValueError: see `only_people` and `joints_of`.
    """
    pictures = DatasetCatalog.get(name)
    metadata, joints = MetadataCatalog.get(name), joints_of(name)
    if metadata.get("part_schema"):
        part_schema = get_part_schema(metadata.part_schema)
    records = Records(part_schema, joints)
    for picture in only_people(name, pictures):
        height, width, image_id = picture["height"], picture["width"], picture["image_id"]
        people = [_record(p, height, width, len(joints)) for p in picture["annotations"]]
        exhaustive = picture.get("exhaustive", True)
        first = len(records.annotations)
        records.add_image(picture["file_name"], height, width, people, exhaustive=exhaustive)
        records.images[-1]["id"] = image_id
        for annotation in records.annotations[first:]:
            annotation["image_id"] = image_id
    return records


def _record(person: dict[str, Any], height: int, width: int, num_joints: int) -> dict[str, Any]:
    """Convert a person in Detectron2's standard format to a record, for an image of that size."""
    points = np.reshape(person.get("keypoints") or np.zeros((num_joints, 3)), (-1, 3))
    points = np.where(points[:, 2:] > 0, points - (0.5, 0.5, 0), 0)
    x, y, w, h = BoxMode.convert(person["bbox"], person["bbox_mode"], BoxMode.XYWH_ABS)
    annotation = {
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": person.get("iscrowd", 0),
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(points[:, 2])),
        "part_segmentation": {},
        "part_state": {},
    }
    segmentation = person.get("segmentation")
    if not segmentation and annotation["iscrowd"]:
        segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if segmentation:
        mask = compress_segmentation(segmentation, height, width)
        annotation["segmentation"] = mask
        annotation["area"] = float(mask_util.area(mask))
        annotation["part_state"] = {} if annotation["iscrowd"] else {BODY: "known"}
    return annotation | {key: person[key] for key in PART_KEYS if key in person}
