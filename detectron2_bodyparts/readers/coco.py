"""COCO 2017's people: bodies and 17 keypoints, no parts.

The dataset's folder is laid out like Detectron2's own ``coco``: images in ``<split>/``, and in
``annotations/`` ``instances_<split>.json`` and ``person_keypoints_<split>.json``. Either file
suffices; with both, masks and boxes are taken from the instances, and keypoints are matched to them
by annotation id.

What is known: everybody's body, and the keypoints of those who have any. Parts are unknown unless
derived from body and keypoints (`derive`). Everybody is labelled except in crowds, which become
ignore regions. Images without people are kept as negatives.

The JSON files are far too large for every process to load. One process reads them once into a
`PeopleTable` on disk, in which the others look up their images.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..records import (
    PERSON_CATEGORY_ID,
    RecordError,
    decode_segmentation,
    ignore_annotation,
    person_annotation,
)
from ..schema import (
    BODY,
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    PASCAL_PERSON_PART,
    PartSchema,
)
from .derive import derive_parts
from .prepare import (
    DERIVED,
    BadInput,
    LeftOut,
    Picture,
    Shard,
    Summary,
    argument_parser,
    picture_size,
    prepare,
    records_path,
    run_splits,
)

DATASET = "coco"
_SCHEMAS = tuple(schema.name for schema in (BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART))


class PeopleTable:
    """The people of COCO files, in a file on disk in which images are looked up by name."""

    def __init__(self, path: str | os.PathLike) -> None:
        """
        Args:
            path: the table's file; created by the first `add`.
        """
        self.path = Path(path).resolve()

    def add(self, json_file: str | os.PathLike) -> None:
        """Add the images and people of a COCO file.

        The file's text is held in memory as a whole, the parsed content is not. For a person who is
        already in the table, only the keypoints are updated.

        Args:
            json_file: instances or person_keypoints.

        Raises:
            RecordError: it is not COCO's JSON, or its person category or keypoints are not COCO's.
        """
        with closing(sqlite3.connect(self.path)) as table, table:
            table.executescript(
                """
                CREATE TABLE IF NOT EXISTS picture (
                    id INTEGER PRIMARY KEY, name TEXT UNIQUE, height INTEGER, width INTEGER);
                CREATE TABLE IF NOT EXISTS person (
                    id INTEGER PRIMARY KEY, picture INTEGER, annotation TEXT, joints TEXT);
                CREATE INDEX IF NOT EXISTS person_picture ON person (picture);
                """
            )
            try:
                content = json.loads(
                    Path(json_file).read_bytes(), object_hook=partial(_take_up, table)
                )
                _check_categories(content["categories"])
            except (ValueError, LookupError, TypeError, sqlite3.Error) as e:
                raise RecordError(
                    f"{json_file}: expected COCO's JSON with people, found {type(e).__name__}: {e}"
                ) from e

    def names(self, *, people_only: bool = False) -> list[str]:
        """The images' file names, sorted; with ``people_only``, of images with people or crowds."""
        condition = "WHERE id IN (SELECT picture FROM person)" if people_only else ""
        return [name for (name,) in self._read(f"SELECT name FROM picture {condition} ORDER BY 1")]

    def picture(self, name: str) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        """(H, W) of an image and its annotations in COCO's form, by id."""
        (row,) = self._read("SELECT id, height, width FROM picture WHERE name = ?", name)
        people = self._read(
            "SELECT annotation, joints FROM person WHERE picture = ? ORDER BY id", row[0]
        )
        return row[1:], [
            {**json.loads(annotation), "keypoints": json.loads(joints)}
            for annotation, joints in people
        ]

    def _read(self, query: str, *values: Any) -> list[tuple]:
        # Nobody writes while it is read: without locks, which network file systems may not have.
        address = f"{self.path.as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as table:
            return table.execute(query, values).fetchall()


def _take_up(table: sqlite3.Connection, value: dict[str, Any]) -> dict[str, Any] | None:
    """JSON object hook: images and people go to the table and are not kept in memory."""
    if "file_name" in value:
        row = (value["id"], value["file_name"], value["height"], value["width"])
        table.execute("INSERT OR IGNORE INTO picture VALUES (?, ?, ?, ?)", row)
        return None
    if "image_id" in value:
        if value["category_id"] == PERSON_CATEGORY_ID:
            joints = json.dumps(value.pop("keypoints", None))
            row = (value["id"], value["image_id"], json.dumps(value), joints)
            table.execute(
                "INSERT INTO person VALUES (?, ?, ?, ?) ON CONFLICT (id)"
                " DO UPDATE SET joints = excluded.joints WHERE picture = excluded.picture",
                row,
            )
        return None
    return value


def _check_categories(categories: Sequence[Mapping[str, Any]]) -> None:
    names = {category["id"]: category["name"] for category in categories}
    if names.get(PERSON_CATEGORY_ID) != "person":
        raise ValueError(f"category {PERSON_CATEGORY_ID} is {names.get(PERSON_CATEGORY_ID)!r}")
    for category in categories:
        if tuple(category.get("keypoints", COCO_17.keypoints)) != COCO_17.keypoints:
            raise ValueError(f"joints {category['keypoints']}")


def annotation_files(root: str | os.PathLike, split: str) -> list[Path]:
    """The existing JSON files of a split, the instances first.

    Args:
        root: the dataset's folder.
        split: as in the file names, e.g. "val2017".

    Raises:
        FileNotFoundError: there is neither.
    """
    kinds = ("instances", "person_keypoints")
    files = [Path(root) / "annotations" / f"{kind}_{split}.json" for kind in kinds]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{files[0]}: expected COCO's annotations, found neither it nor {files[1].name};"
            " datasets/README.md says where to get COCO and how it must lie"
        )
    return found


def read_image(
    name: str,
    root: str | os.PathLike,
    split: str,
    table: PeopleTable,
    part_schema: PartSchema,
    *,
    derive: bool = False,
    check_picture: bool = False,
) -> Shard:
    """Read one image and its people.

    A person without a usable mask keeps box and keypoints. Without a usable box either, the person
    is left out and the image is not exhaustive. So is a crowd without a usable mask.

    Args:
        name: e.g. ``000000391895.jpg``.
        root: the dataset's folder.
        split: the images' folder in it.
        table: where to look up the image.
        part_schema: the schema of derived parts.
        derive: derive parts of people with a mask and keypoints.
        check_picture: decode the whole image; otherwise only check that the file exists.

    Raises:
        BadInput: the image is missing or, if checked, cannot be read or has another size than its
            annotations say.
    """
    shape, annotations = table.picture(name)
    file_name = f"{split}/{name}"
    path = Path(root) / file_name
    if check_picture:
        found = picture_size(path)
        if found != shape:
            raise BadInput(
                path, "a picture as large as its annotations say", f"{found}, not {shape}"
            )
    elif not path.is_file():
        raise BadInput(path, "a picture", "no file")

    shard = Shard([Picture(file_name, *shape)])
    (picture,) = shard.pictures
    for annotation in annotations:
        where = f"{file_name}, annotation {annotation['id']}"
        try:
            person, notes = _annotation(annotation, shape, part_schema, derive, where)
        except BadInput as e:
            shard.left_out.append(_note(e))
            picture.exhaustive = False
            continue
        picture.annotations.append(person)
        shard.left_out.extend(notes)
    return shard


def _note(fault: BadInput) -> LeftOut:
    return LeftOut(fault.where, f"expected {fault.expected}", f"found {fault.found}")


def _annotation(
    annotation: Mapping[str, Any],
    shape: tuple[int, int],
    schema: PartSchema,
    derive: bool,
    where: str,
) -> tuple[dict[str, Any], list[LeftOut]]:
    """The record of a person or crowd, and what could not be used of it."""
    if annotation.get("iscrowd"):
        return ignore_annotation(COCO_17, shape, _body(annotation, shape, where)), []

    body = box = joints = None
    notes = []
    try:
        body = _body(annotation, shape, where)
    except BadInput as e:
        box = _box(annotation, shape, where)
        notes.append(_note(e))
    try:
        joints = _joints(annotation, where)
    except BadInput as e:
        notes.append(_note(e))

    states = {} if body is None else {BODY: "known"}
    parts, ignore = {}, None
    if derive and body is not None and joints is not None:
        derived = derive_parts(body, joints, COCO_17, schema)
        parts, ignore = derived.parts, derived.ignore
        states.update(dict.fromkeys(parts, "derived"))
    person = person_annotation(
        schema,
        COCO_17,
        shape,
        body=body,
        parts=parts,
        states=states,
        ignore=ignore,
        keypoints=joints,
        bbox=box,
    )
    return person, notes


def _body(annotation: Mapping[str, Any], shape: tuple[int, int], where: str) -> np.ndarray:
    """The boolean (H, W) mask. Raises `BadInput` if there is none or it is empty."""
    segmentation = annotation.get("segmentation")
    # Validated first, because pycocotools takes a polygon of two points for a box, and reads past
    # the end of run lengths that are too short.
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        usable = segmentation.get("size") == list(shape) and (
            isinstance(counts, str)
            or (_numbers(counts) and min(counts) >= 0 and sum(counts) == shape[0] * shape[1])
        )
    else:
        usable = isinstance(segmentation, list) and all(
            _numbers(polygon) and len(polygon) >= 6 and len(polygon) % 2 == 0
            for polygon in segmentation
        )
    if not usable or not segmentation:
        raise BadInput(where, "polygons, or run lengths of the picture's size", "neither")
    mask = decode_segmentation(segmentation, *shape)
    if not mask.any():
        raise BadInput(where, "a mask with pixels", "none")
    return mask


def _box(annotation: Mapping[str, Any], shape: tuple[int, int], where: str) -> list[float]:
    """XYWH, clipped to the image. Raises `BadInput` if nothing is left."""
    box = annotation.get("bbox")
    if _numbers(box) and len(box) == 4:
        x0, y0 = max(box[0], 0), max(box[1], 0)
        x1, y1 = min(box[0] + box[2], shape[1]), min(box[1] + box[3], shape[0])
        if x1 > x0 and y1 > y0:
            return [x0, y0, x1 - x0, y1 - y0]
    raise BadInput(where, "a mask, or a box inside the picture", f"no mask and box {box}")


def _joints(annotation: Mapping[str, Any], where: str) -> np.ndarray | None:
    """(17, 3), x, y in pixel indices and v; None if the file has no keypoints."""
    joints = annotation["keypoints"]
    if joints is None:
        return None
    if not _numbers(joints) or len(joints) != 3 * len(COCO_17):
        raise BadInput(where, f"{3 * len(COCO_17)} numbers of joints", f"{joints}")
    joints = np.array(joints, dtype=float).reshape(-1, 3)
    if not np.isin(joints[:, 2], (0, 1, 2)).all():
        raise BadInput(where, "joints that are 0, 1 or 2", f"{joints[:, 2]}")
    return joints


def _numbers(values: Any) -> bool:
    """Whether it is a non-empty list of finite numbers."""
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    )


def prepare_coco(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    derive: bool = False,
    people_only: bool = False,
    check_pictures: bool = False,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/coco_<split>.<schema>.json``; with ``derive``, ``coco_<split>_derived...``.

    Args:
        root: the dataset's folder.
        split: "train2017" or "val2017".
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        derive: derive the parts of people with a mask and keypoints, marked as derived.
        people_only: leave out images without people.
        check_pictures: decode every image, so that damaged ones are left out; otherwise only check
            that the files exist.
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the annotations are missing.
        RecordError: the annotations are not COCO's, or no image is left.
    """
    root = Path(root)
    files = annotation_files(root, split)
    name = split + DERIVED if derive else split
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{DATASET}_{name}_") as folder:
        table = PeopleTable(Path(folder) / "people.sqlite")
        for file in files:
            table.add(file)
        return prepare(
            table.names(people_only=people_only)[:limit],
            partial(
                read_image,
                root=root,
                split=split,
                table=table,
                part_schema=part_schema,
                derive=derive,
                check_picture=check_pictures,
            ),
            records_path(root, DATASET, name, part_schema),
            part_schema,
            COCO_17,
            workers=workers,
            info={
                "description": "COCO 2017, people",
                "split": split,
                "parts": "derived" if derive else "unknown",
                "people_only": people_only,
                "pictures_checked": check_pictures,
            },
        )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare COCO 2017's people; see datasets/README.md for its layout on disk.",
        DATASET,
        _SCHEMAS,
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["train2017", "val2017"],
        help="as in the files' names (default: train2017 val2017)",
    )
    parser.add_argument(
        "--derive-parts",
        action="store_true",
        help=f"derive parts from masks and keypoints; the splits' names then end in {DERIVED}",
    )
    parser.add_argument(
        "--people-only", action="store_true", help="leave out images without people"
    )
    parser.add_argument(
        "--check-pictures",
        action="store_true",
        help="read every image in full, to leave out corrupt ones",
    )
    args = parser.parse_args(argv)
    run_splits(
        prepare_coco,
        args,
        derive=args.derive_parts,
        people_only=args.people_only,
        check_pictures=args.check_pictures,
    )
