"""J-HMDB: short clips of one annotated person each, with the body, ten parts and 15 keypoints.

The dataset's folder contains, for every ``<action>/<clip>``,

* ``Rename_Images/<action>/<clip>/00001.png``, ...: the frames; or
  ``ReCompress_Videos/<action>/<clip>.avi``, from which the frames used are written to
  ``frames/<action>/<clip>/00001.jpg``, ..., because Detectron2 opens images by path;
* ``puppet_mask/<action>/<clip>/puppet_mask.mat``: the body in every frame;
* ``puppet_flow_com/<action>/<clip>/puppet_flow.mat``: the parts in every frame, or in every frame
  but the last;
* ``joint_positions/<action>/<clip>/joint_positions.mat``: the keypoints in every frame;

and ``splits/<action>_test_split{1,2,3}.txt``. Split n consists of ``train<n>`` and ``test<n>``.

What is known: the body, and all parts in frames with part labels. Hands and feet are unlabelled, so
body pixels that belong to no part are ignored: they may be arm or leg. In frames without part
labels parts are unknown; clips without a file of parts or keypoints are named in the summary. One
person is annotated, others may be in the image: images are not exhaustive.

Cleaning: each step is a function of its own and can be switched off:

* `shift_joints`: keypoints are 1-based, as in MATLAB;
* `drop_outside_joints`: keypoints outside the frame are guesses without a flag.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io

from ..records import RecordError, person_annotation
from ..schema import BODY, JHMDB_15, PartSchema
from .joints import add_joint_arguments, drop_outside_joints, shift_joints
from .prepare import (
    BadInput,
    LeftOut,
    Picture,
    Shard,
    Summary,
    argument_parser,
    picture_size,
    positive_int,
    prepare,
    records_path,
    run_splits,
    write_picture,
)

DATASET = "jhmdb"
SUB_DATASET = "sub_jhmdb"  # the name of records of a list of clips
FRAMES = "frames"  # where frames from videos are written
SPLITS = tuple(f"{half}{number}" for number in (1, 2, 3) for half in ("train", "test"))

# Schema -> the channel of label 1, 2, ..., 10: torso, head, upper arms, upper legs, lower arms,
# lower legs, right before left. The numbers are taken from a program that reads the files and are
# unverified; the sides of the keypoints were checked to be the person's own.
_CHANNELS: dict[str, tuple[str, ...]] = {
    "bodyparts-7": (
        *("torso", "head"),
        *("right_arm", "left_arm", "right_leg", "left_leg") * 2,
    ),
    "bodyparts-11": (
        *("torso", "head"),
        *("right_upper_arm", "left_upper_arm", "right_upper_leg", "left_upper_leg"),
        *("right_lower_arm", "left_lower_arm", "right_lower_leg", "left_lower_leg"),
    ),
    "pascal-person-part": (
        *("torso", "head"),
        *("upper_arms", "upper_arms", "upper_legs", "upper_legs"),
        *("lower_arms", "lower_arms", "lower_legs", "lower_legs"),
    ),
}
_LABELS = 10


def read_split(
    root: str | os.PathLike, split: str, clips: Iterable[str] | None = None
) -> list[str]:
    """The clips of a split, as ``<action>/<clip>``, in the order of its files.

    Args:
        root: the dataset's folder.
        split: one of ``SPLITS``.
        clips: use only the clips with these names.

    Raises:
        FileNotFoundError: the split's files are missing.
        RecordError: they are not lists of clips, or lack one of ``clips``.
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {SPLITS}, found {split!r}")
    half, number = split[:-1], split[-1]
    ending = f"_test_split{number}.txt"
    paths = sorted((Path(root) / "splits").glob(f"*{ending}"))
    if not paths:
        raise FileNotFoundError(
            f"{Path(root) / 'splits'}: expected <action>{ending}, found none;"
            " datasets/README.md says where to get J-HMDB and how it must lie"
        )
    chosen = []
    wanted = None if clips is None else set(clips)
    missing = set() if wanted is None else set(wanted)
    for path in paths:
        for line in filter(None, map(str.strip, path.read_text("utf-8").splitlines())):
            match = re.fullmatch(r"(.+)\.avi\s+([012])", line)
            if match is None:
                raise RecordError(f"{path}: expected lines '<clip>.avi 1|2', found {line!r}")
            clip, flag = match.groups()
            missing.discard(clip)
            # 1 is training, 2 is testing; HMDB's own lists also have 0, neither.
            if flag == {"train": "1", "test": "2"}[half] and (wanted is None or clip in wanted):
                chosen.append(f"{path.name.removesuffix(ending)}/{clip}")
    if missing:
        raise RecordError(
            f"{Path(root) / 'splits'}: expected every clip of the list in *{ending},"
            f" found {len(missing)} in none: {sorted(missing)[:3]}"
        )
    return chosen


def read_clip_list(path: str | os.PathLike) -> list[str]:
    """The clip names in a file, one per line.

    An action before the name (``catch/``) and ``.avi`` or a flag after it are skipped.

    Raises:
        FileNotFoundError: there is no such file.
    """
    lines = filter(None, map(str.strip, Path(path).read_text("utf-8").splitlines()))
    return [line.split()[0].rsplit("/", 1)[-1].removesuffix(".avi") for line in lines]


def read_clip(
    clip: str,
    root: str | os.PathLike,
    part_schema: PartSchema,
    *,
    every: int = 1,
    shift: bool = True,
    drop_outside: bool = True,
) -> Shard:
    """Read the frames of a clip and the person in them; frames that cannot be read are left out.

    Args:
        clip: ``<action>/<clip>``.
        root: the dataset's folder; frames from a video are written to ``frames/`` in it.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        every: take one frame in this many, starting with the first.
        shift: apply `shift_joints`.
        drop_outside: apply `drop_outside_joints`.

    Raises:
        BadInput: a .mat file or the video cannot be read, or the lengths or sizes of the .mat files
            do not match.
    """
    root = Path(root)
    mask_file = root / "puppet_mask" / clip / "puppet_mask.mat"
    bodies = _read_masks(mask_file)
    shard = Shard()
    labels = _read_labels(root / "puppet_flow_com" / clip / "puppet_flow.mat", bodies.shape, shard)
    joints = _read_joints(
        root / "joint_positions" / clip / "joint_positions.mat", bodies.shape[2], shard
    )
    if shift:
        joints = shift_joints(joints)
    if drop_outside:
        joints = drop_outside_joints(joints, *bodies.shape[:2])

    indices = range(0, bodies.shape[2], every)
    for i, file_name, shape in _take_frames(root, clip, indices, shard):
        body = bodies[:, :, i] > 0
        if shape != body.shape:
            reason = "a frame: expected a picture as large as the masks"
            shard.left_out.append(LeftOut(file_name, reason, f"found {shape}, not {body.shape}"))
        elif not body.any():
            shard.left_out.append(LeftOut(f"{mask_file}, frame {i + 1}", "the body mask is empty"))
        else:
            frame_labels = labels[:, :, i] if i < labels.shape[2] else None
            person = _person(body, frame_labels, joints[i], part_schema)
            shard.pictures.append(Picture(file_name, *shape, [person], exhaustive=False))
    return shard


def _person(
    body: np.ndarray, labels: np.ndarray | None, joints: np.ndarray, schema: PartSchema
) -> dict[str, Any]:
    parts: dict[str, np.ndarray] = {}
    states = {BODY: "known"}
    ignore = None
    if labels is not None:
        for label, channel in enumerate(_CHANNELS[schema.name], start=1):
            parts[channel] = parts.get(channel, False) | (labels == label)
        states = dict.fromkeys(schema.channels, "known")
        ignore = body & (labels == 0)
    return person_annotation(
        schema,
        JHMDB_15,
        body.shape,
        body=body,
        parts=parts,
        states=states,
        ignore=ignore,
        keypoints=joints,
    )


def _read_masks(path: Path) -> np.ndarray:
    """(H, W, T), positive on the person."""
    masks = _read_variable(path, "part_mask")
    if masks.ndim != 3:
        raise BadInput(path, "masks of shape (H, W, T)", f"{masks.shape}")
    return masks


def _read_labels(path: Path, shape: tuple[int, int, int], shard: Shard) -> np.ndarray:
    """(H, W, T'), 0 to 10; T' is 0 if there is no file, else T or T - 1."""
    height, width, length = shape
    if not path.is_file():
        shard.left_out.append(LeftOut(str(path), "no file: the clip's parts are unknown"))
        return np.zeros((height, width, 0), dtype=np.uint8)
    labels = _read_variable(path, "part_mask")
    if labels.shape not in (shape, (height, width, length - 1)):
        raise BadInput(path, "labels of parts for the masks", f"{labels.shape}, not {shape}")
    if labels.min() < 0 or labels.max() > _LABELS:
        found = f"{labels.min()} to {labels.max()}"
        raise BadInput(path, f"labels of parts from 0 to {_LABELS}", found)
    return labels


def _read_joints(path: Path, length: int, shard: Shard) -> np.ndarray:
    """(T, 15, 3), x and y as in the file, and v: 0 if there is no finite position, else 2."""
    if not path.is_file():
        shard.left_out.append(LeftOut(str(path), "no file: the clip's joints are unknown"))
        return np.zeros((length, len(JHMDB_15), 3))
    positions = _read_variable(path, "pos_img")
    expected = (2, len(JHMDB_15), length)
    if positions.shape != expected:
        raise BadInput(path, "joints for the masks", f"{positions.shape}, not {expected}")
    positions = positions.transpose(2, 1, 0).astype(float)
    given = np.isfinite(positions).all(axis=-1, keepdims=True)
    return np.concatenate([np.where(given, positions, 0), 2 * given], axis=-1)


def _read_variable(path: Path, name: str) -> np.ndarray:
    """Read one numeric array, without the rest of the file: optical flow is large."""
    expected = "a readable .mat file of MATLAB 5"
    if not path.is_file():
        raise BadInput(path, expected, "no file")
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except Exception as e:
        # Whatever scipy raises on damaged bytes: zlib.error, TypeError, MatReadError, ...
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e
    array = content.get(name)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        raise BadInput(path, f"an array {name!r}", f"variables {sorted(content)}")
    return array


def _take_frames(
    root: Path, clip: str, indices: range, shard: Shard
) -> list[tuple[int, str, tuple[int, int]]]:
    """(0-based index, file name, (H, W)) of the frames that can be read."""
    folder = root / "Rename_Images" / clip
    if not folder.is_dir():
        return _write_frames(root, clip, indices, shard)
    frames = []
    for i in indices:
        path = folder / f"{i + 1:05d}.png"
        try:
            frames.append((i, path.relative_to(root).as_posix(), picture_size(path)))
        except BadInput as e:
            reason = f"a frame: expected {e.expected}"
            shard.left_out.append(LeftOut(e.where, reason, f"found {e.found}"))
    return frames


def _write_frames(
    root: Path, clip: str, indices: range, shard: Shard
) -> list[tuple[int, str, tuple[int, int]]]:
    """As `_take_frames`, but from the clip's video."""
    path = root / "ReCompress_Videos" / f"{clip}.avi"
    if not path.is_file():
        folder = root / "Rename_Images" / clip
        raise BadInput(path, "the clip's frames or its video", f"neither this nor {folder}")
    video = cv2.VideoCapture(str(path))
    if not video.isOpened():
        raise BadInput(path, "a video", "a file that cannot be decoded")
    frames = []
    # Read frame by frame: neither the length in the header nor seeking is reliable.
    for i in range(indices[-1] + 1):
        if not video.grab():
            break
        if i in indices:
            is_whole, image = video.retrieve()
            if not is_whole:
                break
            file_name = f"{FRAMES}/{clip}/{i + 1:05d}.jpg"
            write_picture(root / file_name, image)
            frames.append((i, file_name, image.shape[:2]))
    video.release()
    for i in indices[len(frames) :]:
        reason = "a frame: expected one for every mask"
        shard.left_out.append(LeftOut(f"{path}, frame {i + 1}", reason, "found the video's end"))
    return frames


def prepare_jhmdb(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    clips: Sequence[str] | None = None,
    every: int = 1,
    shift: bool = True,
    drop_outside: bool = True,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/jhmdb_<split>.<schema>.json``, or ``sub_jhmdb_...`` from a list of clips.

    Args:
        root: the dataset's folder; frames from videos are written to ``frames/`` in it.
        split: one of ``SPLITS``: "train1", "test1", ...
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        clips: use only the clips with these names, e.g. sub-JHMDB's.
        every: take one frame in this many.
        shift, drop_outside: cleaning, see `read_clip`.
        workers: number of processes.
        limit: use only the first ``limit`` clips.

    Raises:
        FileNotFoundError: the split's files are missing.
        RecordError: they are not lists of clips, lack one of ``clips``, or no clip could be read.
        ValueError: there is no such split, or the labels have no mapping to the schema.
    """
    if part_schema.name not in _CHANNELS:
        raise ValueError(f"J-HMDB is read as one of {sorted(_CHANNELS)}, not {part_schema.name}")
    dataset = DATASET if clips is None else SUB_DATASET
    return prepare(
        read_split(root, split, clips)[:limit],
        partial(
            read_clip,
            root=Path(root),
            part_schema=part_schema,
            every=every,
            shift=shift,
            drop_outside=drop_outside,
        ),
        records_path(root, dataset, split, part_schema),
        part_schema,
        JHMDB_15,
        workers=workers,
        info={
            "description": "J-HMDB" if clips is None else "J-HMDB, a list of clips",
            "split": split,
            "every": every,
            "shift_joints": shift,
            "drop_outside_joints": drop_outside,
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare J-HMDB; see datasets/README.md for its layout on disk.", DATASET, _CHANNELS
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=SPLITS,
        default=["train1", "test1"],
        help="(default: train1 test1)",
    )
    parser.add_argument(
        "--every",
        type=positive_int,
        default=1,
        help="take one frame in EVERY (default: %(default)s)",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        metavar="FILE",
        help="take only the clips named in FILE, one per line, e.g. sub-JHMDB's; the output is"
        f" then called {SUB_DATASET}_...",
    )
    add_joint_arguments(parser)
    args = parser.parse_args(argv)
    if args.clips is not None and not args.clips.is_file():
        parser.error(f"{args.clips}: expected a list of clips, found no file")
    run_splits(
        prepare_jhmdb,
        args,
        clips=None if args.clips is None else read_clip_list(args.clips),
        every=args.every,
        shift=args.shift_joints,
        drop_outside=args.drop_outside_joints,
    )
