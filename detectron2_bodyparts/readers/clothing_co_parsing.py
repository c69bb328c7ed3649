"""Clothing Co-Parsing: street fashion, one person per image, with the garment of every pixel.

The dataset's folder contains ``photos/0001.jpg``, ``annotations/pixel-level/0001.mat`` with
``groundtruth`` (H, W) for 1,004 of the 2,098 images, and ``label_list.mat`` with the 59 label
names, from "null" to "wedges".

What is known: the body. Carried objects occlude the person and are ignored. Parts are unknown,
since a shirt covers both chest and arms; but the garment restricts the parts a pixel may belong to
(`possible_parts`), which pseudo-labels must agree with (`taught`). Bystanders are unlabelled:
images are not exhaustive.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from ..records import RecordError, person_annotation
from ..schema import COCO_17, PartSchema
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
from .taught import CLASSES

DATASET = "clothing_co_parsing"
LABELS_FOLDER = "annotations/pixel-level"
NOBODY = "null"
CARRIED = ("accessories", "bag", "purse", "wallet")

_ARMS, _LEGS = ("upper_arm", "lower_arm"), ("upper_leg", "lower_leg")
# Garments -> the classes their pixels may belong to. Coats reach to the knees.
_WORN_ON: dict[tuple[str, ...], tuple[str, ...]] = {
    ("earrings", "glasses", "hair", "hat", "sunglasses"): ("head",),
    ("scarf",): ("head", "torso"),
    ("belt", "necklace", "tie"): ("torso",),
    ("bracelet", "gloves", "ring", "watch"): ("lower_arm",),
    (
        *("blazer", "blouse", "bodysuit", "bra", "cape", "cardigan", "coat", "hoodie", "intimate"),
        *("jacket", "jumper", "romper", "shirt", "suit", "sweater", "sweatshirt", "swimwear"),
        *("t-shirt", "top", "vest"),
    ): ("torso", *_ARMS, "upper_leg"),
    ("dress",): ("torso", *_ARMS, *_LEGS),
    (*("jeans", "leggings", "panties", "pants", "shorts", "skirt", "stockings", "tights"),): (
        "torso",
        *_LEGS,
    ),
    (
        *("boots", "clogs", "flats", "heels", "loafers", "pumps", "sandals", "shoes", "sneakers"),
        *("socks", "wedges"),
    ): ("lower_leg",),
    ("skin",): CLASSES[1:],
    (NOBODY,): CLASSES[:1],
    CARRIED: CLASSES,
}
_CLASSES_OF = {name: classes for names, classes in _WORN_ON.items() for name in names}


def read_names(root: str | os.PathLike) -> list[str]:
    """The label names, in the order of the labels.

    Raises:
        FileNotFoundError: there is no ``label_list.mat``.
        RecordError: it cannot be read, or contains a name that is not Clothing Co-Parsing's.
    """
    path = Path(root) / "label_list.mat"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the labels' names, found no file;"
            " datasets/README.md says where to get Clothing Co-Parsing and how it must lie"
        )
    try:
        names = [str(name[0]) for name in scipy.io.loadmat(path)["label_list"].ravel()]
    except Exception as e:  # whatever scipy raises on damaged bytes
        raise RecordError(f"{path}: not a .mat file of names ({type(e).__name__}: {e})") from e
    unknown = sorted(set(names) - set(_CLASSES_OF))
    if unknown:
        raise RecordError(f"{path}: expected garments, found {unknown}")
    return names


def read_garments(path: str | os.PathLike, count: int) -> np.ndarray:
    """The (H, W) uint8 labels of an image, each below ``count``.

    Raises:
        BadInput: the file is missing, cannot be read, or contains other labels.
    """
    expected = "a .mat file with groundtruth (H, W)"
    if not Path(path).is_file():
        raise BadInput(path, expected, "no file")
    try:
        garments = np.asarray(scipy.io.loadmat(path)["groundtruth"])
    except Exception as e:  # whatever scipy raises on damaged bytes
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e
    if garments.ndim != 2 or garments.max(initial=0) >= count:
        found = f"shape {garments.shape}, labels up to {garments.max(initial=0)}"
        raise BadInput(path, f"(H, W) labels from 0 to {count - 1}", found)
    return garments.astype(np.uint8)


def possible_parts(garments: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(H, W) labels -> boolean (7, H, W), which of `taught.CLASSES` each pixel may belong to."""
    table = np.array([[c in _CLASSES_OF[name] for c in CLASSES] for name in names])
    return table[garments].transpose(2, 0, 1)


def labels_path(root: str | os.PathLike, file_name: str) -> Path:
    """The path of the labels of an image, e.g. ``photos/0001.jpg``."""
    return Path(root) / LABELS_FOLDER / f"{Path(file_name).stem}.mat"


def read_image(
    item: str, root: str | os.PathLike, part_schema: PartSchema, names: Sequence[str]
) -> Shard:
    """Read one image and its one person.

    Args:
        item: e.g. ``0001``.
        root: the dataset's folder.
        part_schema: any.
        names: as returned by `read_names`.

    Raises:
        BadInput: image or labels are missing or cannot be read, their sizes differ, or nobody is
            labelled.
    """
    file_name = f"photos/{item}.jpg"
    path = labels_path(root, file_name)
    garments = read_garments(path, len(names))
    shape = picture_size(Path(root) / file_name)
    if garments.shape != shape:
        raise BadInput(path, "labels as large as the picture", f"{garments.shape}, not {shape}")
    carried = np.isin(garments, [names.index(name) for name in CARRIED if name in names])
    body = (garments != names.index(NOBODY)) & ~carried
    if not body.any():
        raise BadInput(path, "somebody who wears something", "nobody")
    person = person_annotation(part_schema, COCO_17, shape, body=body, ignore=carried)
    return Shard([Picture(file_name, *shape, [person], exhaustive=False)])


def prepare_clothing_co_parsing(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/clothing_co_parsing_<split>.<schema>.json``.

    Args:
        root: the dataset's folder.
        split: "train": all images with labels.
        part_schema: any; parts are unknown.
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the label names are missing.
        RecordError: the label names, or all of the images, cannot be read.
    """
    names = read_names(root)
    items = sorted(path.stem for path in (Path(root) / LABELS_FOLDER).glob("*.mat"))
    return prepare(
        items[:limit],
        partial(read_image, root=Path(root), part_schema=part_schema, names=names),
        records_path(root, DATASET, split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={"description": "Clothing Co-Parsing", "split": split},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the images in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare Clothing Co-Parsing; see datasets/README.md for its layout on disk.",
        DATASET,
        ("bodyparts-7", "bodyparts-11", "pascal-person-part"),
    )
    args = parser.parse_args(argv)
    args.split = ["train"]
    run_splits(prepare_clothing_co_parsing, args)
