"""ChaLearn Looking at People, pose recovery: two actors in front of a camera, 14 limbs each.

The dataset's folder contains one ``SeqXX.zip`` or one folder ``SeqXX`` per sequence. The files in
it are recognized by name, in any subfolder:

* ``XX_YYYY.jpg``: frame YYYY of sequence XX (2014: ``imagesjpg/``);
* ``XX_YYYY_W_Z.png``: limb Z, 1 to 14, of actor W (2014: ``maskspng/``);
* ``XX_YYYY_W.png``: all limbs of actor W, 14 masks of the frame's size, side by side (2015:
  ``masks/``).

Zips are read in place; the frames used are copied, unchanged, to ``frames/SeqXX/`` beside them,
because Detectron2 opens images by path.

W is 1 for the actor on the left of the image and 2 for the one on the right: a position, not an
identity. Everything is known: a limb without a mask, or with an empty one, is not visible. All
actors in a frame are labelled, and the body is the union of the limbs. Frames without any mask are
left out, since they cannot be told from unlabelled ones, and so are sequences without masks (the
hidden test set). There are no keypoints.

Consecutive frames are nearly identical, so every sixth is used, and splits consist of whole
sequences.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from ..records import person_annotation, whole_file
from ..schema import COCO_17, PartSchema
from .prepare import (
    BadInput,
    LeftOut,
    Picture,
    Shard,
    Summary,
    argument_parser,
    positive_int,
    prepare,
    records_path,
    run_splits,
)

DATASET = "chalearn"
FRAMES = "frames"  # where the frames taken from zips are written
EVERY = 6  # one frame in this many is used

# The validation sequences: two of nine, chosen by this project, since we know of no split of the
# labelled sequences.
VAL_SEQUENCES = (4, 8)

# Schema -> the channel of limb 1, 2, ..., 14: head, torso, hands, forearms, upper arms, feet, lower
# legs, thighs, left before right. That left is the person's own is unverified.
_CHANNELS: dict[str, tuple[str, ...]] = {
    "bodyparts-7": (
        *("head", "torso"),
        *("left_arm", "right_arm") * 3,
        *("left_leg", "right_leg") * 3,
    ),
    "bodyparts-11": (
        *("head", "torso"),
        *("left_lower_arm", "right_lower_arm") * 2,
        *("left_upper_arm", "right_upper_arm"),
        *("left_lower_leg", "right_lower_leg") * 2,
        *("left_upper_leg", "right_upper_leg"),
    ),
    "pascal-person-part": (
        *("head", "torso"),
        *("lower_arms",) * 4,
        *("upper_arms",) * 2,
        *("lower_legs",) * 4,
        *("upper_legs",) * 2,
    ),
}
_LIMBS = 14
_ALL_LIMBS = 0  # in place of a limb's number if one file contains all limbs

_SEQUENCE = re.compile(r"Seq(\d+)(\.zip)?", re.IGNORECASE)
_FILE = re.compile(
    r"(?P<frame>\d+_\d+)(_(?P<actor>\d+)(_(?P<limb>\d+))?)?\.(jpg|jpeg|png)", re.IGNORECASE
)


@dataclass
class _Frame:
    """The files of one frame: its image, and its masks by actor and limb."""

    picture: str | None = None
    masks: defaultdict[int, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))


class _Files:
    """The files of a sequence, in a zip or in a folder."""

    def __init__(self, path: Path) -> None:
        """Raises `BadInput` if a zip cannot be opened."""
        self.path = path
        self.zip: zipfile.ZipFile | None = None
        if path.is_dir():
            self.names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
            return
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as e:
            raise BadInput(path, "a zip or a folder", f"{type(e).__name__}: {e}") from e
        self.names = self.zip.namelist()

    def close(self) -> None:
        if self.zip is not None:
            self.zip.close()

    def frames(self) -> dict[str, _Frame]:
        """``XX_YYYY`` -> its files, in frame order."""
        frames: defaultdict[str, _Frame] = defaultdict(_Frame)
        for name in self.names:
            match = _FILE.fullmatch(PurePosixPath(name).name)
            if match is None:
                continue
            frame = frames[match["frame"]]
            if match["actor"] is None:
                frame.picture = name
            else:
                frame.masks[int(match["actor"])][int(match["limb"] or _ALL_LIMBS)] = name
        return dict(sorted(frames.items()))

    def where(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        """The file's content. Raises `BadInput` if it cannot be read from a zip."""
        if self.zip is None:
            return (self.path / name).read_bytes()
        try:
            return self.zip.read(name)
        except Exception as e:
            # Whatever zipfile raises on damaged bytes: BadZipFile, zlib.error, EOFError, ...
            raise BadInput(
                self.where(name), "a file that the zip gives back", f"{type(e).__name__}: {e}"
            ) from e

    def decode(self, name: str, data: bytes, mode: int) -> np.ndarray:
        """Decode the image in ``data``. Raises `BadInput` if that fails."""
        pixels = np.frombuffer(data, dtype=np.uint8)
        image = cv2.imdecode(pixels, mode) if pixels.size else None
        if image is None:
            raise BadInput(self.where(name), "a whole picture", "a file that cannot be decoded")
        return image


def find_sequences(root: str | os.PathLike) -> dict[int, str]:
    """Number -> name of the zip or folder, by number; the folder if there are both.

    Raises:
        FileNotFoundError: there is no sequence.
    """
    root = Path(root)
    found = {}
    # A folder's name sorts before its zip's: in reverse order the folder overwrites the zip.
    for path in sorted(root.iterdir(), reverse=True) if root.is_dir() else []:
        match = _SEQUENCE.fullmatch(path.name)
        if match and path.is_dir() == (match[2] is None):
            found[int(match[1])] = path.name
    if not found:
        raise FileNotFoundError(
            f"{root}: expected SeqXX.zip or folders SeqXX, found none;"
            " datasets/README.md says where to get ChaLearn and how it must lie"
        )
    return dict(sorted(found.items()))


def read_split(
    root: str | os.PathLike, split: str, val_sequences: Collection[int] = VAL_SEQUENCES
) -> list[str]:
    """The zips or folders of a split, by number.

    Args:
        root: the dataset's folder.
        split: "train" or "val".
        val_sequences: the numbers of the validation sequences; all others are for training.

    Raises:
        FileNotFoundError: there is no sequence of the split.
        ValueError: there is no such split.
    """
    if split not in ("train", "val"):
        raise ValueError(f"expected the split 'train' or 'val', found {split!r}")
    found = find_sequences(root)
    chosen = [name for i, name in found.items() if (i in val_sequences) == (split == "val")]
    if not chosen:
        raise FileNotFoundError(
            f"{root}: expected sequences for {split}, found only {list(found.values())};"
            f" for validation are {sorted(val_sequences)} (--val-sequences)"
        )
    return chosen


def read_sequence(
    item: str, root: str | os.PathLike, part_schema: PartSchema, *, every: int = EVERY
) -> Shard:
    """Read every n-th labelled frame and its people; frames that cannot be read are left out.

    Args:
        item: the name of a zip or folder, e.g. ``Seq01.zip``.
        root: the dataset's folder; frames from a zip are copied to ``frames/Seq01/`` in it.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        every: take one labelled frame in this many, starting with the first.

    Raises:
        BadInput: the zip cannot be opened, or there are no masks.
    """
    root = Path(root)
    shard = Shard()
    with contextlib.closing(_Files(root / item)) as files:
        frames = files.frames()
        labelled = {name: frame for name, frame in frames.items() if frame.masks}
        if not labelled:
            raise BadInput(
                files.path, "masks of limbs (the hidden test set has none)", f"{len(frames)} frames"
            )
        if len(labelled) < len(frames):
            found = f"{len(frames) - len(labelled)} of {len(frames)} frames"
            shard.left_out.append(LeftOut(str(files.path), "frames without any mask", found))
        for name in list(labelled)[::every]:
            try:
                shard.pictures.append(_read_frame(name, labelled[name], files, root, part_schema))
            except BadInput as e:
                reason = f"a frame: expected {e.expected}"
                shard.left_out.append(LeftOut(e.where, reason, f"found {e.found}"))
    return shard


def _read_frame(name: str, frame: _Frame, files: _Files, root: Path, schema: PartSchema) -> Picture:
    if frame.picture is None:
        raise BadInput(files.where(name), "a picture of the frame", "masks only")
    data = files.read(frame.picture)
    height, width = files.decode(frame.picture, data, cv2.IMREAD_COLOR).shape[:2]
    people = []
    for _, masks in sorted(frame.masks.items()):
        person = _person(_read_limbs(masks, files, (height, width)), schema)
        if person is not None:
            people.append(person)

    file_name = f"{files.path.name}/{frame.picture}"
    if files.zip is not None:
        picture = PurePosixPath(frame.picture).name
        file_name = f"{FRAMES}/{files.path.stem}/{picture}"
        with whole_file(root / file_name, "wb") as f:
            f.write(data)
    return Picture(file_name, height, width, people)


def _read_limbs(masks: dict[int, str], files: _Files, shape: tuple[int, int]) -> np.ndarray:
    """The limb masks of one actor, (14, H, W) bool."""
    height, width = shape
    limbs = np.zeros((_LIMBS, height, width), dtype=bool)
    for limb, name in sorted(masks.items()):
        if limb > _LIMBS:
            raise BadInput(files.where(name), f"a limb of 1 to {_LIMBS}", f"limb {limb}")
        mask = files.decode(name, files.read(name), cv2.IMREAD_GRAYSCALE) > 0
        if limb == _ALL_LIMBS:
            _check_shape(mask, (height, _LIMBS * width), files.where(name))
            limbs |= mask.reshape(height, _LIMBS, width).transpose(1, 0, 2)
        else:
            _check_shape(mask, shape, files.where(name))
            limbs[limb - 1] |= mask
    return limbs


def _check_shape(mask: np.ndarray, shape: tuple[int, int], where: str) -> None:
    if mask.shape != shape:
        raise BadInput(where, "masks as large as the frame", f"{mask.shape}, not {shape}")


def _person(limbs: np.ndarray, schema: PartSchema) -> dict[str, Any] | None:
    """The annotation of an actor from (14, H, W) limb masks; None if no limb is visible."""
    body = limbs.any(axis=0)
    if not body.any():
        return None
    parts: dict[str, np.ndarray] = {}
    for channel, limb in zip(_CHANNELS[schema.name], limbs, strict=True):
        parts[channel] = parts.get(channel, False) | limb
    return person_annotation(
        schema,
        COCO_17,
        body.shape,
        body=body,
        parts=parts,
        states=dict.fromkeys(schema.channels, "known"),
    )


def prepare_chalearn(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    every: int = EVERY,
    val_sequences: Collection[int] = VAL_SEQUENCES,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/chalearn_<split>.<schema>.json``.

    Args:
        root: the dataset's folder; frames from zips are copied to ``frames/`` in it.
        split: "train" or "val".
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        every: take one labelled frame in this many.
        val_sequences: the numbers of the validation sequences.
        workers: number of processes.
        limit: use only the first ``limit`` sequences.

    Raises:
        FileNotFoundError: there is no sequence of the split.
        RecordError: nothing could be read.
        ValueError: there is no such split, or the limbs have no mapping to the schema.
    """
    if part_schema.name not in _CHANNELS:
        raise ValueError(f"ChaLearn is read as one of {sorted(_CHANNELS)}, not {part_schema.name}")
    return prepare(
        read_split(root, split, val_sequences)[:limit],
        partial(read_sequence, root=Path(root), part_schema=part_schema, every=every),
        records_path(root, DATASET, split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={
            "description": "ChaLearn Looking at People, pose recovery",
            "split": split,
            "every": every,
            "val_sequences": sorted(val_sequences),
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare ChaLearn's pose recovery; see datasets/README.md for its layout on disk.",
        DATASET,
        _CHANNELS,
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=("train", "val"),
        default=["train", "val"],
        help="(default: train val)",
    )
    parser.add_argument(
        "--every",
        type=positive_int,
        default=EVERY,
        help="take one labelled frame in EVERY (default: %(default)s)",
    )
    parser.add_argument(
        "--val-sequences",
        nargs="+",
        type=int,
        default=VAL_SEQUENCES,
        metavar="XX",
        help="numbers of the validation sequences (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    run_splits(prepare_chalearn, args, every=args.every, val_sequences=args.val_sequences)
