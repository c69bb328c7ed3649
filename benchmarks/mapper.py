"""The mapper against Detectron2's own with one body mask (RLE) per person."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import scenes
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from measure import MIB, Row, Settings, in_turns

from detectron2_bodyparts.data import BodyPartsMapper
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

SHORT, LONG = 800, 1333


def our_mapper() -> BodyPartsMapper:
    return BodyPartsMapper(
        augmentations=_augmentations(),
        image_format="BGR",
        part_schema=BODYPARTS_7,
        keypoint_schema=COCO_17,
    )


def _augmentations() -> list[T.Augmentation]:
    return [T.ResizeShortestEdge(SHORT, LONG), T.RandomFlip()]


def _their_mapper() -> DatasetMapper:
    MetadataCatalog.get("benchmark").set(
        keypoint_names=list(COCO_17.keypoints), keypoint_flip_map=list(COCO_17.flip_map)
    )
    return DatasetMapper(
        is_train=True,
        augmentations=_augmentations(),
        image_format="BGR",
        use_instance_mask=True,
        use_keypoint=True,
        instance_mask_format="bitmask",
        keypoint_hflip_indices=create_keypoint_hflip_indices("benchmark"),
        recompute_boxes=True,
    )


def _body_only(picture: dict) -> dict:
    parts = ("part_segmentation", "part_state")
    people = [{k: v for k, v in a.items() if k not in parts} for a in picture["annotations"]]
    return {**picture, "annotations": people}


def item_size(item: dict) -> float:
    """Size of an item as sent by a worker, in MiB."""
    return len(pickle.dumps(item)) / MIB


def rows(settings: Settings) -> Iterator[Row]:
    """Size of an item, and images per second; both mappers resize, flip and keep keypoints."""
    ours, theirs = our_mapper(), _their_mapper()
    # An image of COCO's usual size, and one that already has the output size.
    for height, width in ((384, 640), (800, 1333)):
        picture = scenes.dataset_dict(10, height, width, Path(settings.folder))
        body_only = _body_only(picture)
        words = f"7 channels / 1 body mask, 10 people, {width}x{height} to {LONG}x{SHORT}"
        a, b = (item_size(m(p)) for m, p in ((ours, picture), (theirs, body_only)))
        yield Row("mapper item, size", words, a, None, "MiB", 16)
        yield Row("mapper item, size against theirs", words, a, b, "MiB", None)
        a, b = in_turns([lambda p=picture: ours(p), lambda p=body_only: theirs(p)], settings, 15)
        yield Row("mapper, speed", words, 1 / a, 1 / b, "pictures/s", 0.9, at_least=True)
