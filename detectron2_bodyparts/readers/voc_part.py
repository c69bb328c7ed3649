"""PASCAL VOC 2010 Part: people of VOC2010 with up to 24 parts each.

The dataset's folder contains ``Annotations_Part/<image>.mat``, ``JPEGImages/<image>.jpg`` and, for
the splits, ``ImageSets/Main/{train,val,trainval}.txt``.

What is known: a person's parts cover nearly the whole body, so a part that is not listed is not
visible, and its channel is known to be empty. Two exceptions:

* a person without any part: only the body was drawn, and every part is unknown;
* a part with an unknown name: its pixels are ignored, and since it may have been any part, channels
  without a mask are unknown instead of known to be empty. The summary names it.

Only people are read; images without people are kept as negatives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from ..records import person_annotation
from ..schema import BODY, COCO_17, PartSchema
from . import voc
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

DATASET = "voc_part"
ALL = "all"  # the split of all annotated images, for copies without ImageSets

_HEAD = ("head", "hair", "lear", "rear", "leye", "reye", "lebrow", "rebrow", "nose", "mouth")

# Schema -> VOC's part name -> channel, in paint order, because the masks overlap: a limb in front
# of the chest is in the torso's mask, too. l and r are the person's own.
#
# bodyparts-7 keeps the schema's paint order. pascal-person-part keeps the order in which its
# published label maps were painted: torso over head, neck over torso, upper over lower arm (checked
# on two images; legs are unverified, assumed to be like arms). bodyparts-11 is the same with sides.
_CHANNELS: dict[str, dict[str, str]] = {
    "bodyparts-7": {
        **dict.fromkeys(("torso", "neck"), "torso"),
        **dict.fromkeys(_HEAD, "head"),
        **dict.fromkeys(("ruleg", "rlleg", "rfoot"), "right_leg"),
        **dict.fromkeys(("luleg", "llleg", "lfoot"), "left_leg"),
        **dict.fromkeys(("ruarm", "rlarm", "rhand"), "right_arm"),
        **dict.fromkeys(("luarm", "llarm", "lhand"), "left_arm"),
    },
    "pascal-person-part": {
        **dict.fromkeys(_HEAD, "head"),
        "torso": "torso",
        "neck": "head",
        **dict.fromkeys(("rlleg", "llleg", "rfoot", "lfoot"), "lower_legs"),
        **dict.fromkeys(("ruleg", "luleg"), "upper_legs"),
        **dict.fromkeys(("rlarm", "llarm", "rhand", "lhand"), "lower_arms"),
        **dict.fromkeys(("ruarm", "luarm"), "upper_arms"),
    },
    "bodyparts-11": {
        **dict.fromkeys(_HEAD, "head"),
        "torso": "torso",
        "neck": "head",
        **dict.fromkeys(("rlleg", "rfoot"), "right_lower_leg"),
        **dict.fromkeys(("llleg", "lfoot"), "left_lower_leg"),
        "ruleg": "right_upper_leg",
        "luleg": "left_upper_leg",
        **dict.fromkeys(("rlarm", "rhand"), "right_lower_arm"),
        **dict.fromkeys(("llarm", "lhand"), "left_lower_arm"),
        "ruarm": "right_upper_arm",
        "luarm": "left_upper_arm",
    },
}


def read_split(root: str | os.PathLike, split: str) -> list[str]:
    """The image ids of a split, in the order of its file; sorted for the split "all".

    Raises:
        FileNotFoundError: the folder of annotations or the split's file is missing.
    """
    root = Path(root)
    folder = root / "Annotations_Part"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: expected a folder of .mat files, found none;"
            " datasets/README.md says where to get VOC-Part and how it must lie"
        )
    if split == ALL:
        return sorted(path.stem for path in folder.glob("*.mat"))
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a list of image ids, found no file;"
            f" without VOC2010's ImageSets take the split {ALL!r}"
        )
    return voc.read_ids(path)


def read_image(image_id: str, root: str | os.PathLike, part_schema: PartSchema) -> Shard:
    """Read one image and its people.

    Args:
        image_id: e.g. ``2008_000652``.
        root: the dataset's folder.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".

    Raises:
        BadInput: image or annotation is missing or cannot be read, or their sizes differ.
    """
    root = Path(root)
    file_name = f"JPEGImages/{image_id}.jpg"
    annotation_file = root / "Annotations_Part" / f"{image_id}.mat"
    objects = _read_objects(annotation_file)
    height, width = picture_size(root / file_name)

    shard = Shard([Picture(file_name, height, width)])
    for number, entry in enumerate(objects, start=1):
        where = f"{annotation_file}, object {number}"
        body = _mask(entry, (height, width), where)
        if _text(entry, "class", where) != "person":
            continue
        if not body.any():
            shard.left_out.append(LeftOut(where, "a person's mask is empty"))
            continue
        annotation, notes = _person(entry, body, part_schema, where)
        shard.pictures[0].annotations.append(annotation)
        shard.left_out.extend(notes)
    return shard


def _person(
    entry: np.void, body: np.ndarray, schema: PartSchema, where: str
) -> tuple[dict[str, Any], list[LeftOut]]:
    pieces: dict[str, np.ndarray] = {}
    ignore = np.zeros_like(body)
    notes = []
    channels = _CHANNELS[schema.name]
    entries = _field(entry, "parts", where).ravel()
    for part in entries:
        name = _text(part, "part_name", where)
        mask = _mask(part, body.shape, f"{where}, part {name}")
        if name in channels:
            pieces[name] = pieces.get(name, False) | mask
        else:
            ignore |= mask & body
            reason = "an unknown part's pixels are ignored, missing parts are unknown"
            notes.append(LeftOut(where, reason, f"found part {name!r}"))

    labels = np.zeros(body.shape, dtype=np.uint8)
    for name, channel in channels.items():
        if name in pieces:
            labels[pieces[name]] = schema.index(channel)
    masks = {part: labels == schema.index(part) for part in schema.parts}
    parts = {part: mask for part, mask in masks.items() if mask.any()}
    if len(entries) == 0:
        known = (BODY,)
    elif notes:
        known = (BODY, *parts)
    else:
        known = schema.channels
    annotation = person_annotation(
        schema,
        COCO_17,
        body.shape,
        body=body,
        parts=parts,
        states=dict.fromkeys(known, "known"),
        ignore=ignore,
    )
    return annotation, notes


def _read_objects(path: Path) -> np.ndarray:
    """The (N,) objects of an annotation, as NumPy structs."""
    expected = "a readable .mat file of MATLAB 5"
    if not path.is_file():
        raise BadInput(path, expected, "no file")
    try:
        content = scipy.io.loadmat(path, variable_names=["anno"])
    except Exception as e:
        # Whatever scipy raises on damaged bytes: zlib.error, TypeError, MatReadError, ...
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e
    if "anno" not in content or content["anno"].size != 1:
        raise BadInput(path, "one struct 'anno'", f"variables {sorted(content)}")
    return _field(content["anno"].ravel()[0], "objects", str(path)).ravel()


def _field(entry: np.void, name: str, where: str) -> np.ndarray:
    names = getattr(entry, "dtype", np.dtype(float)).names or ()
    if name not in names:
        raise BadInput(where, f"a struct with field {name!r}", f"fields {names}")
    return entry[name]


def _text(entry: np.void, name: str, where: str) -> str:
    return "".join(map(str, _field(entry, name, where).ravel()))


def _mask(entry: np.void, shape: tuple[int, int], where: str) -> np.ndarray:
    """The entry's boolean (H, W) mask."""
    mask = _field(entry, "mask", where)
    if mask.shape != shape:
        raise BadInput(where, "a mask as large as the picture", f"{mask.shape}, not {shape}")
    return mask > 0


def prepare_voc_part(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/voc_part_<split>.<schema>.json``.

    Args:
        root: the dataset's folder.
        split: "train", "val", "trainval", another list in ``ImageSets/Main``, or "all".
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the dataset is missing.
        RecordError: nothing could be read.
        ValueError: VOC's parts have no mapping to the schema.
    """
    if part_schema.name not in _CHANNELS:
        raise ValueError(f"VOC-Part is read as one of {sorted(_CHANNELS)}, not {part_schema.name}")
    return prepare(
        read_split(root, split)[:limit],
        partial(read_image, root=Path(root), part_schema=part_schema),
        records_path(root, DATASET, split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={"description": "PASCAL VOC 2010 Part, people", "split": split},
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare PASCAL VOC 2010 Part; see datasets/README.md for its layout on disk.",
        DATASET,
        _CHANNELS,
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["train", "val"],
        help="train, val, trainval, or all annotated images (default: train val)",
    )
    run_splits(prepare_voc_part, parser.parse_args(argv))
