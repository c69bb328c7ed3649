"""Clothing Co-Parsing: street fashion, one person a picture, with the garment of every pixel.

The dataset's folder holds ``photos/0001.jpg``, ``annotations/pixel-level/0001.mat`` with
``groundtruth`` (H, W) for 1,004 of its 2,098 pictures, and ``label_list.mat`` with the labels'
names, 59 from "null" to "wedges".

What is known: the body. What the person carries hides what is behind it, and is ignored. Parts are
unknown, for a shirt is chest and arms; but a garment tells which parts a pixel may be of
(`possible_parts`), which is what a teacher of parts is held to (`taught`). Bystanders have no
label: pictures are not exhaustive.
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
# Garments -> the classes that their pixels may be of. Coats reach to the knees.
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
    """The labels' names, in their order.

    Raises:
        FileNotFoundError: there is no ``label_list.mat``.
        RecordError: it cannot be read, or holds a name that is not Clothing Co-Parsing's.
    """
    path = Path(root) / "label_list.mat"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the labels' names, found no file;"
            " datasets/README.md says where to get Clothing Co-Parsing and how it must lie"
        )
    try:
        names = [str(name[0]) for name in scipy.io.loadmat(path)["label_list"].ravel()]
    except Exception as e:  # whatever the damaged bytes lead scipy to
        raise RecordError(f"{path}: not a .mat file of names ({type(e).__name__}: {e})") from e
    unknown = sorted(set(names) - set(_CLASSES_OF))
    if unknown:
        raise RecordError(f"{path}: expected garments, found {unknown}")
    return names


def read_garments(path: str | os.PathLike, count: int) -> np.ndarray:
    """The (H, W) labels of a picture, each under ``count``.

    Raises:
        BadInput: the file is missing, cannot be read, or holds other labels.
    """
    expected = "a .mat file with groundtruth (H, W)"
    if not Path(path).is_file():
        raise BadInput(path, expected, "no file")
    try:
        garments = np.asarray(scipy.io.loadmat(path)["groundtruth"])
    except Exception as e:  # whatever the damaged bytes lead scipy to
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e
    if garments.ndim != 2 or garments.max(initial=0) >= count:
        found = f"shape {garments.shape}, labels up to {garments.max(initial=0)}"
        raise BadInput(path, f"(H, W) labels from 0 to {count - 1}", found)
    return garments.astype(np.uint8)


def possible_parts(garments: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """(H, W) labels -> boolean (7, H, W), which of `taught.CLASSES` a pixel may be of."""
    table = np.array([[c in _CLASSES_OF[name] for c in CLASSES] for name in names])
    return table[garments].transpose(2, 0, 1)


def labels_path(root: str | os.PathLike, file_name: str) -> Path:
    """Where the labels of ``photos/0001.jpg`` lie."""
    return Path(root) / LABELS_FOLDER / f"{Path(file_name).stem}.mat"


def read_image(
    item: str, root: str | os.PathLike, part_schema: PartSchema, names: Sequence[str]
) -> Shard:
    """One picture and its one person.

    Args:
        item: e.g. ``0001``.
        root: the dataset's folder.
        part_schema: any.
        names: of `read_names`.

    Raises:
        BadInput: picture or labels are missing or cannot be read, their sizes differ, or there is
            nobody.
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
        split: "train": all pictures that have labels.
        part_schema: any; parts are unknown.
        workers: processes.
        limit: take only the first so many pictures.

    Raises:
        FileNotFoundError: the labels' names are not there.
        RecordError: they cannot be read, or nothing else could be.
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
    """The command: prepare the pictures in the schemas, print a summary of each."""
    parser = argument_parser(
        "Prepare Clothing Co-Parsing; see datasets/README.md for its layout on disk.",
        DATASET,
        ("bodyparts-7", "bodyparts-11", "pascal-person-part"),
    )
    args = parser.parse_args(argv)
    args.split = ["train"]
    run_splits(prepare_clothing_co_parsing, args)
