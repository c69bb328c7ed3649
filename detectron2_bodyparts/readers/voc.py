"""PASCAL VOC's own annotations: everybody's box, and images without people.

The dataset's folder contains ``Annotations/<image>.xml``, ``JPEGImages/<image>.jpg`` and the lists
``ImageSets/Main/<split>.txt``, of any year from 2007 to 2012.

What is known: the box. Body, parts and keypoints are unknown. Everybody is labelled; people marked
difficult, whom VOC's own evaluation does not count, become ignore regions. Images without people
are kept: from them RPN and box head learn what is not a person.

Many of the images are also in other datasets, with part labels or as test images: their lists can
be left out, and the split's name then ends in ``_rest``.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ..records import ignore_annotation, person_annotation
from ..schema import BODYPARTS_7, BODYPARTS_11, COCO_17, PASCAL_PERSON_PART, PartSchema
from .prepare import (
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

DATASET = "voc"
REST = "_rest"  # suffix of the name of a split without the images of some lists
_SCHEMAS = tuple(schema.name for schema in (BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART))


def read_split(root: str | os.PathLike, split: str) -> list[str]:
    """The image ids of ``ImageSets/Main/<split>.txt``, in its order; raises as `read_ids`."""
    return read_ids(Path(root) / "ImageSets" / "Main" / f"{split}.txt")


def read_ids(path: str | os.PathLike) -> list[str]:
    """The image ids of a list: the first word of each line, since lists of a class add a flag.

    Raises:
        FileNotFoundError: the list is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a list of image ids, found no file;"
            " datasets/README.md says where to get PASCAL VOC and how it must lie"
        )
    return [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]


def read_people(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Read the people in an image's XML.

    Returns:
        Boxes, (N, 4) integers, XYWH in pixels, and boolean (N,), true if marked difficult.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    path = Path(path)
    expected = "the boxes in VOC's XML"
    if not path.is_file():
        raise BadInput(path, expected, "no file")
    corners, difficult = [], []
    try:
        for entry in ElementTree.parse(path).getroot().iter("object"):
            if entry.findtext("name") == "person":
                names = ("xmin", "ymin", "xmax", "ymax")
                corners.append([float(entry.findtext(f"bndbox/{name}") or "") for name in names])
                difficult.append(bool(int(entry.findtext("difficult") or 0)))
    except (ElementTree.ParseError, ValueError) as e:
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e
    # VOC's pixel indices are 1-based, and the last pixel is inside the box.
    low, high = np.array(corners).reshape(-1, 2, 2).round().astype(int).transpose(1, 0, 2)
    return np.hstack([low - 1, high - low + 1]), np.array(difficult, dtype=bool)


def read_image(image_id: str, root: str | os.PathLike, part_schema: PartSchema) -> Shard:
    """Read one image and its people.

    Args:
        image_id: e.g. ``2008_000008``.
        root: the dataset's folder.
        part_schema: any.

    Raises:
        BadInput: image or annotation is missing or cannot be read. Only the box is left out if it
            lies outside the image; the image is then not exhaustive.
    """
    root = Path(root)
    file_name = f"JPEGImages/{image_id}.jpg"
    annotation_file = root / "Annotations" / f"{image_id}.xml"
    boxes, difficult = read_people(annotation_file)
    shape = picture_size(root / file_name)
    picture = Picture(file_name, *shape)
    shard = Shard([picture])
    for box, is_difficult in zip(boxes, difficult, strict=True):
        (x0, y0), (x1, y1) = np.clip([box[:2], box[:2] + box[2:]], 0, shape[::-1]).tolist()
        if x1 <= x0 or y1 <= y0:
            outside = LeftOut(str(annotation_file), "a box outside of the picture", f"{box}")
            shard.left_out.append(outside)
            picture.exhaustive = False
        elif is_difficult:
            region = np.zeros(shape, dtype=bool)
            region[y0:y1, x0:x1] = True
            picture.annotations.append(ignore_annotation(COCO_17, shape, region))
        else:
            inside = [x0, y0, x1 - x0, y1 - y0]
            person = person_annotation(part_schema, COCO_17, shape, bbox=inside)
            picture.annotations.append(person)
    return shard


def prepare_voc(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    leave_out: Sequence[str | os.PathLike] = (),
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/voc_<split>.<schema>.json``; with ``leave_out``, ``voc_<split>_rest...``.

    Args:
        root: the dataset's folder.
        split: a list in ``ImageSets/Main``: "train", "val", "trainval".
        part_schema: any; every part is unknown.
        leave_out: files of image ids to leave out, e.g. those of another dataset.
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the dataset or a file of ``leave_out`` is missing.
        RecordError: nothing could be read.
    """
    others = {os.fspath(path): set(read_ids(path)) for path in leave_out}
    listed = read_split(root, split)
    image_ids = [i for i in listed if not any(i in ids for ids in others.values())]
    return prepare(
        image_ids[:limit],
        partial(read_image, root=Path(root), part_schema=part_schema),
        records_path(root, DATASET, split + REST if leave_out else split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={
            "description": "PASCAL VOC, people's boxes",
            "split": split,
            "left_out": {path: len(ids.intersection(listed)) for path, ids in others.items()},
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare PASCAL VOC's boxes; see datasets/README.md for its layout on disk.",
        DATASET,
        _SCHEMAS,
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["train", "val"],
        help="lists in ImageSets/Main (default: train val)",
    )
    parser.add_argument(
        "--leave-out",
        nargs="+",
        type=Path,
        default=[],
        metavar="LIST",
        help="lists of image ids to leave out, e.g. PASCAL-Person-Part's train.txt and test.txt;"
        f" the splits' names then end in {REST}",
    )
    args = parser.parse_args(argv)
    run_splits(prepare_voc, args, leave_out=args.leave_out)
