"""What several subcommands need."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..records import Records, compress_segmentation, read_records
from ..schema import BODY, COCO_17, KeypointSchema, get_keypoint_schema, get_part_schema

INTERRUPTED = 130  # the exit code that shells give after Ctrl-C
PART_KEYS = ("part_segmentation", "part_state", "unsided", "ignore_segmentation")


class CommandError(Exception):
    """What the user is told in one line instead of a traceback."""


def require_detectron2() -> None:
    """Register the plugin, or end the command with one clear line: Detectron2 is not installed."""
    if importlib.util.find_spec("detectron2") is None:
        raise CommandError("this needs Detectron2; the README says how to install it")
    importlib.import_module("detectron2_bodyparts.data")
    importlib.import_module("detectron2_bodyparts.modeling")


@contextlib.contextmanager
def faults_in_one_line() -> Iterator[None]:
    """What is wrong with the user's files or with their content becomes a `CommandError`."""
    try:
        yield
    except OSError as e:
        raise CommandError(f"{e.filename}: {e.strerror}" if e.strerror else str(e)) from e
    except ValueError as e:
        raise CommandError(str(e)) from e


def load_dataset(name: str, image_root: str | None = None) -> tuple[Records, Path]:
    """A dataset's records, and the folder in which their ``file_name`` starts.

    Args:
        name: a file of records (``.json``), or a dataset registered with Detectron2.
        image_root: of a file, where the pictures are; its own folder where left out.

    Raises:
        CommandError: there is no such file or dataset.
        RecordError: the file is no file of records.
    """
    try:
        if name.endswith(".json"):
            return read_records(name), Path(image_root or Path(name).parent)
        return registered_records(name), Path()
    except FileNotFoundError as e:
        # The system says which file, a registered dataset also which command makes it.
        raise CommandError(f"no file {e.filename}" if e.filename else str(e)) from e


def registered_records(name: str) -> Records:
    """A dataset registered with Detectron2 as records, ``file_name`` with its folder.

    Of a dataset without parts, a COCO file say, boxes, bodies and joints are taken, and of its
    classes only ``person``, where it has one.

    Raises:
        CommandError: no such dataset is registered.
        FileNotFoundError: it is registered, but its file is not there.
    """
    require_detectron2()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name not in DatasetCatalog.list():
        known = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("part_schema")]
        raise CommandError(f"no dataset {name!r}; with parts there are {sorted(known)}")
    pictures = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    joints = COCO_17
    if metadata.get("keypoint_schema"):
        joints = get_keypoint_schema(metadata.keypoint_schema)
    elif metadata.get("keypoint_names"):
        joints = KeypointSchema(name, tuple(metadata.keypoint_names))
    classes = metadata.get("thing_classes", [])
    person_class = classes.index("person") if "person" in classes else None

    records = Records(get_part_schema(metadata.get("part_schema", "bodyparts-7")), joints)
    for picture in pictures:
        height, width = picture["height"], picture["width"]
        people = [
            registered_annotation(person, height, width, len(joints))
            for person in picture["annotations"]
            if person_class in (None, person["category_id"])
        ]
        exhaustive = picture.get("exhaustive", True)
        records.add_image(picture["file_name"], height, width, people, exhaustive=exhaustive)
    return records


def registered_annotation(
    person: dict[str, Any], height: int, width: int, num_joints: int
) -> dict[str, Any]:
    """A person in Detectron2's standard form as a record, of a picture of that size."""
    from detectron2.structures import BoxMode

    points = np.reshape(person.get("keypoints") or np.zeros((num_joints, 3)), (-1, 3))
    points = np.where(points[:, 2:] > 0, points - (0.5, 0.5, 0), 0)
    annotation = {
        "bbox": BoxMode.convert(person["bbox"], person["bbox_mode"], BoxMode.XYWH_ABS),
        "iscrowd": person.get("iscrowd", 0),
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(points[:, 2])),
        "part_segmentation": {},
        "part_state": {},
    }
    segmentation = person.get("segmentation")
    if segmentation:
        annotation["segmentation"] = compress_segmentation(segmentation, height, width)
        annotation["part_state"] = {} if annotation["iscrowd"] else {BODY: "known"}
    return annotation | {key: person[key] for key in PART_KEYS if key in person}


def add_evaluation_arguments(
    parser: argparse.ArgumentParser, annotations: str, predictions: str
) -> None:
    """The truth and the predictions, with what to say of them."""
    parser.add_argument("--annotations", required=True, help=annotations)
    parser.add_argument("--predictions", required=True, help=predictions)
