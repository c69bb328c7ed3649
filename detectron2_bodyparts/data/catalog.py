"""Record files as Detectron2 datasets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..readers.prepare import datasets_root
from ..records import PERSON_CATEGORY_ID, read_records
from ..schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    JHMDB_15,
    LSP_14,
    PASCAL_PERSON_PART,
    get_keypoint_schema,
    get_part_schema,
    register_keypoint_schema,
    register_part_schema,
)
from .registered import PART_KEYS

_ANNOTATION_KEYS = ("bbox", "iscrowd", "segmentation", *PART_KEYS)


def load_bodyparts_json(
    json_file: str | os.PathLike, image_root: str | os.PathLike, dataset_name: str | None = None
) -> list[dict]:
    """Load a record file in Detectron2's standard dataset format.

    Like Detectron2's COCO loader, plus the parts and, for each image, ``exhaustive``,
    ``part_schema``, ``keypoint_schema`` and ``dataset_name``. Boxes are XYWH_ABS; keypoints are
    shifted by half a pixel to continuous coordinates.

    Raises:
        FileNotFoundError, RecordError: see `read_records`.
    """
    records = read_records(json_file)
    groups = records.by_image()
    dataset = []
    for image in records.images:
        people = []
        for annotation in groups[image["id"]]:
            person = {key: annotation[key] for key in _ANNOTATION_KEYS if key in annotation}
            person["bbox_mode"] = BoxMode.XYWH_ABS
            person["category_id"] = 0
            person["keypoints"] = [
                value if i % 3 == 2 else value + 0.5
                for i, value in enumerate(annotation["keypoints"])
            ]
            people.append(person)
        dataset.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "exhaustive": image["exhaustive"],
                "part_schema": records.part_schema.name,
                "keypoint_schema": records.keypoint_schema.name,
                "dataset_name": dataset_name,
                "annotations": people,
            }
        )
    return dataset


def register_bodyparts_dataset(
    name: str,
    json_file: str | os.PathLike,
    image_root: str | os.PathLike,
    *,
    part_schema: str = "bodyparts-7",
    keypoint_schema: str = "coco-17",
    prepare_command: str = "",
) -> None:
    """Register a record file with DatasetCatalog and MetadataCatalog.

    The file is read when the dataset is first used, not here.

    Args:
        name: the dataset's name in configs.
        json_file: the record file.
        image_root: the folder that ``file_name`` is relative to.
        part_schema, keypoint_schema: the schemas of the file.
        prepare_command: the command that makes the file, for the error if it is missing.
    """

    def load() -> list[dict[str, Any]]:
        if not Path(json_file).is_file():
            hint = f" Make it with: {prepare_command}" if prepare_command else ""
            raise FileNotFoundError(
                f"dataset {name!r}: no file {json_file}.{hint}"
                " (DETECTRON2_DATASETS names the folder of all datasets.)"
            )
        pictures = load_bodyparts_json(json_file, image_root, name)
        for key, said in (("part_schema", part_schema), ("keypoint_schema", keypoint_schema)):
            if pictures and pictures[0][key] != said:
                raise ValueError(f"dataset {name!r}: {key} {said!r}, but of {pictures[0][key]!r}")
        return pictures

    joints = get_keypoint_schema(keypoint_schema)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="bodyparts",
        thing_classes=["person"],
        thing_dataset_id_to_contiguous_id={PERSON_CATEGORY_ID: 0},
        part_schema=get_part_schema(part_schema).name,
        keypoint_schema=joints.name,
        keypoint_names=list(joints.keypoints),
        keypoint_flip_map=list(joints.flip_map),
        keypoint_connection_rules=[(a, b, (102, 204, 255)) for a, b in joints.skeleton],
    )


def register_files(names: Iterable[str]) -> None:
    """Register record files (``.json``) as datasets of the same name, and the schemas they contain.

    ``file_name`` of images is relative to the file's folder. Other names are skipped.

    Raises:
        FileNotFoundError, RecordError: see `read_records`.
        ValueError: a different schema is already registered under the name of one of theirs.
    """
    for name in names:
        if name.endswith(".json") and name not in DatasetCatalog.list():
            records = read_records(name)
            register_part_schema(records.part_schema)
            register_keypoint_schema(records.keypoint_schema)
            register_bodyparts_dataset(
                name,
                name,
                Path(name).parent,
                part_schema=records.part_schema.name,
                keypoint_schema=records.keypoint_schema.name,
            )


# Part schema -> suffix of a dataset's name.
_ENDINGS = {BODYPARTS_7.name: "", BODYPARTS_11.name: "_11", PASCAL_PERSON_PART.name: "_ppp"}


@dataclass(frozen=True)
class _Dataset:
    """Output of a prepare command: <folder>/<name>_<split>.<part schema>.json."""

    name: str
    folder: str
    options: dict[str, str]  # split -> the prepare command's options
    keypoint_schema: str = COCO_17.name
    command: str = ""  # ``datasets/prepare_<command>.py``; default: the folder's name
    schemas: tuple[str, ...] = tuple(_ENDINGS)  # that the command supports


def _splits(*names: str, more: str = "") -> dict[str, str]:
    return {name: f" --split {name}{more}" for name in names}


_JHMDB_SPLITS = ("train1", "test1", "train2", "test2", "train3", "test3")
_COCO_SPLITS = ("train2017", "val2017")

_VOC_MAIN = ("train", "val", "trainval")
# The last two are PASCAL-Person-Part's own lists.
_VOC_SPLITS = (*_VOC_MAIN, "all", "person_part_train", "person_part_test")

_PPP_SPLITS = ("train", "val", "trainval", "test")

_DATASETS = (
    _Dataset("voc_part", "voc_part", _splits(*_VOC_SPLITS)),
    _Dataset("voc", "voc", _splits(*_VOC_MAIN)),
    _Dataset(
        "voc",
        "voc",
        {f"{split}_rest": f" --split {split} --leave-out LISTS" for split in _VOC_MAIN},
    ),
    _Dataset("synthetic", "synthetic", {"train": "", "val": ""}),
    _Dataset("ade20k", "ade20k", _splits("train", "val")),
    _Dataset("chalearn", "chalearn", _splits("train", "val")),
    _Dataset("jhmdb", "jhmdb", _splits(*_JHMDB_SPLITS), JHMDB_15.name),
    _Dataset("sub_jhmdb", "jhmdb", _splits(*_JHMDB_SPLITS, more=" --clips FILE"), JHMDB_15.name),
    _Dataset("pascal_person_part", "pascal_person_part", _splits(*_PPP_SPLITS)),
    _Dataset(
        "pascal_person_part",
        "pascal_person_part",
        {"train_sides": " --teacher movenet-thunder/model.json"},
        command="sides",
        schemas=(BODYPARTS_7.name, BODYPARTS_11.name),
    ),
    _Dataset("clothing_co_parsing", "clothing_co_parsing", {"train": ""}),
    _Dataset(
        "clothing_co_parsing",
        "clothing_co_parsing",
        {"train_taught": " --dataset clothing_co_parsing --bodypix model-stride16.json"},
        command="taught_parts",
        schemas=(BODYPARTS_11.name,),
    ),
    _Dataset(
        "clothing_co_parsing",
        "clothing_co_parsing",
        {
            "train_taught_sides": " --dataset clothing_co_parsing --split train_taught"
            " --teacher movenet-thunder/model.json"
        },
        command="sides",
        schemas=(BODYPARTS_11.name,),
    ),
    _Dataset("lspet", "lspet", _splits("train", "val"), LSP_14.name, "lsp"),
    _Dataset(
        "lspet",
        "lspet",
        {"train_derived": " --split train --derive-parts"},
        LSP_14.name,
        "lsp",
    ),
    _Dataset(
        "lspet",
        "lspet",
        {"train_taught": " --dataset lspet --bodypix model-stride16.json"},
        LSP_14.name,
        "taught_parts",
        schemas=(BODYPARTS_11.name,),
    ),
    _Dataset(
        "lsp", "lsp", _splits("train", "test", more=" --root $DETECTRON2_DATASETS/lsp"), LSP_14.name
    ),
    _Dataset("coco", "coco", _splits(*_COCO_SPLITS)),
    _Dataset(
        "coco",
        "coco",
        {f"{split}_derived": f" --split {split} --derive-parts" for split in _COCO_SPLITS},
    ),
)


def register_all(root: str | os.PathLike) -> None:
    """Register the datasets of datasets/README.md under a root folder.

    ``voc_part_train`` has the schema bodyparts-7, ``voc_part_train_11`` bodyparts-11,
    ``voc_part_train_ppp`` pascal-person-part; datasets with a teacher's labels have fewer schemas.
    """
    for dataset in _DATASETS:
        folder = Path(root) / dataset.folder
        script = f"datasets/prepare_{dataset.command or dataset.folder}.py"
        for split, options in dataset.options.items():
            for schema in dataset.schemas:
                register_bodyparts_dataset(
                    f"{dataset.name}_{split}{_ENDINGS[schema]}",
                    folder / f"{dataset.name}_{split}.{schema}.json",
                    folder,
                    part_schema=schema,
                    keypoint_schema=dataset.keypoint_schema,
                    prepare_command=f"python {script} --schema {schema}{options}",
                )


register_all(datasets_root())
