"""Leeds Sports Pose and its extended training set: one person a picture, with 14 joints.

The dataset's folder holds ``joints.mat`` and ``images/im00001.jpg``, ``im00002.jpg``, ... (Leeds
Sports Pose: ``im0001.jpg``, ...) in the order of the joints. A copy with only some of the pictures
has ``names.txt``, the file names in the order of its own joints.

What is known: the joints. Body and parts are unknown, and so is everybody else in the picture:
pictures are not exhaustive. The box is the joints' hull, enlarged (`records.JOINT_HULL_MARGIN`).

On request, a strip along every bone is taken for its part (`derive_cores`): the sides of parts, of
which label maps without sides know nothing. They are marked as derived.

The extended set flags a joint 1 where it was labelled, 0 where it was not and has no position.
Leeds Sports Pose has a position for every joint and flags those that are hidden.

Cleaning, each step a function of its own that can be switched off:

* `shift_joints`: joints are taken to be 1-based, as MATLAB has it (unverified: a pixel cannot be
  seen in joints that are pointed at by hand);
* `drop_outside_joints`: joints outside the picture are guesses;
* `is_implausible`: people with a bone that is far too long are left out. Sides that were exchanged
  cannot be told from the joints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from ..records import RecordError, person_annotation
from ..schema import LSP_14, PartSchema
from .derive import derive_cores
from .joints import add_joint_arguments, drop_outside_joints, shift_joints
from .prepare import (
    DERIVED,
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

EXTENDED = "lspet"
ORIGINAL = "lsp"
DESCRIPTIONS = {EXTENDED: "Leeds Sports Pose Extended", ORIGINAL: "Leeds Sports Pose"}
# Dataset -> its splits. The extended set is for training: every tenth picture is our own choice of
# validation. The original set's second half is its published test split.
SPLITS = {EXTENDED: ("train", "val"), ORIGINAL: ("train", "test")}
VAL_EVERY = 10

# A bone of so many times the length of the person's median bone is implausible. Of the 26 people
# whom that leaves out of 2,500 of the extended set about half were wrong, seen in the pictures.
MAX_BONE = 3.0


def is_implausible(joints: np.ndarray) -> bool:
    """Whether a person's (14, 3) joints of x, y, v make a bone that is longer than ``MAX_BONE``."""
    ends = joints[np.array(LSP_14.bones)]  # (bones, 2, 3)
    ends = ends[(ends[..., 2] > 0).all(axis=1), :, :2]
    if len(ends) == 0:
        return False
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    return bool(lengths.max() > MAX_BONE * np.median(lengths))


def read_joints(root: str | os.PathLike) -> tuple[str, list[str], np.ndarray]:
    """What ``joints.mat`` holds.

    Returns:
        "lspet" or "lsp", told apart by the array's layout; the N pictures' file names; and
        (N, 14, 3) joints: x, y as they are in the file, v = 2 visible, 1 hidden, 0 not labelled.

    Raises:
        FileNotFoundError: there is no ``joints.mat``.
        RecordError: it is something else, or ``names.txt`` is of another length.
    """
    path = Path(root) / "joints.mat"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the joints, found no file;"
            " datasets/README.md says where to get Leeds Sports Pose and how it must lie"
        )
    try:
        joints = scipy.io.loadmat(path, variable_names=["joints"])["joints"].astype(float)
    except Exception as e:
        # Whatever the damaged bytes lead scipy to: zlib.error, TypeError, MatReadError, ...
        expected = "a readable .mat file of MATLAB 5 with 'joints'"
        raise RecordError(f"{path}: expected {expected}, found {type(e).__name__}: {e}") from e
    num_joints = len(LSP_14)
    if joints.ndim == 3 and joints.shape[:2] == (num_joints, 3):
        dataset, digits, joints = EXTENDED, 5, joints.transpose(2, 0, 1)
        joints[..., 2] = np.where(joints[..., 2] > 0, 2, 0)
    elif joints.ndim == 3 and joints.shape[:2] == (3, num_joints):
        dataset, digits, joints = ORIGINAL, 4, joints.transpose(2, 1, 0)
        joints[..., 2] = np.where(joints[..., 2] > 0, 1, 2)
    else:
        expected = f"an array ({num_joints}, 3, N) or (3, {num_joints}, N)"
        raise RecordError(f"{path}: expected {expected}, found {joints.shape}")
    joints[~np.isfinite(joints).all(axis=-1)] = 0
    names_file = path.with_name("names.txt")
    if not names_file.is_file():
        return dataset, [f"im{i:0{digits}d}.jpg" for i in range(1, len(joints) + 1)], joints
    names = names_file.read_text("utf-8").split()
    if len(names) != len(joints):
        expected = f"{len(joints)} names, one for each of the joints"
        raise RecordError(f"{names_file}: expected {expected}, found {len(names)}")
    return dataset, names, joints


def select_split(dataset: str, split: str, count: int) -> range | list[int]:
    """The 0-based indices of a split among ``count`` pictures.

    Raises:
        RecordError: the dataset has no such split.
    """
    if split not in SPLITS[dataset]:
        raise RecordError(f"expected a split of {dataset} {SPLITS[dataset]}, found {split!r}")
    if dataset == ORIGINAL:
        return range(count // 2) if split == "train" else range(count // 2, count)
    return [i for i in range(count) if (i % VAL_EVERY == 0) == (split == "val")]


def read_image(
    name: str,
    root: str | os.PathLike,
    part_schema: PartSchema,
    joints: Mapping[str, np.ndarray],
    *,
    shift: bool = True,
    drop_outside: bool = True,
    drop_implausible: bool = True,
    derive: bool = False,
) -> Shard:
    """One picture and its one labelled person.

    Args:
        name: the picture's file name in ``images/``.
        root: the dataset's folder.
        part_schema: any.
        joints: file name -> (14, 3) of `read_joints`.
        shift: apply `shift_joints`.
        drop_outside: apply `drop_outside_joints`.
        drop_implausible: leave people out who are `is_implausible`.
        derive: derive the parts along the bones.

    Raises:
        BadInput: the picture is missing or cannot be read.
    """
    file_name = f"images/{name}"
    shape = picture_size(Path(root) / file_name)
    person = joints[name]
    if shift:
        person = shift_joints(person)
    if drop_outside:
        person = drop_outside_joints(person, *shape)
    if not (person[:, 2] > 0).any():
        return Shard(left_out=[LeftOut(file_name, "no joint is labelled")])
    if drop_implausible and is_implausible(person):
        return Shard(left_out=[LeftOut(file_name, f"a bone over {MAX_BONE} of the median bone")])
    known = {}
    if derive:
        cores = derive_cores(person, LSP_14, part_schema, shape)
        if cores.parts:
            states = dict.fromkeys(part_schema.parts, "derived")
            known = {"parts": cores.parts, "states": states, "ignore": cores.ignore}
    annotation = person_annotation(part_schema, LSP_14, shape, keypoints=person, **known)
    return Shard([Picture(file_name, *shape, [annotation], exhaustive=False)])


def prepare_lsp(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    shift: bool = True,
    drop_outside: bool = True,
    drop_implausible: bool = True,
    derive: bool = False,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/lspet_<split>.<schema>.json``, of Leeds Sports Pose ``lsp_...``.

    With derived parts the split's name ends in ``_derived``.

    Args:
        root: the dataset's folder; which of the two it is, ``joints.mat`` tells.
        split: one of ``SPLITS``.
        part_schema: any; parts are unknown, or derived.
        shift, drop_outside, drop_implausible: cleaning, see `read_image`.
        derive: derive the parts along the bones; they are marked as derived.
        workers: processes.
        limit: take only the first so many pictures.

    Raises:
        FileNotFoundError: the dataset is not there.
        RecordError: its joints cannot be read, it has no such split, or no picture is left.
    """
    dataset, names, joints = read_joints(root)
    items = [names[i] for i in select_split(dataset, split, len(names))][:limit]
    return prepare(
        items,
        partial(
            read_image,
            root=Path(root),
            part_schema=part_schema,
            joints=dict(zip(names, joints, strict=True)),
            shift=shift,
            drop_outside=drop_outside,
            drop_implausible=drop_implausible,
            derive=derive,
        ),
        records_path(root, dataset, split + DERIVED if derive else split, part_schema),
        part_schema,
        LSP_14,
        workers=workers,
        info={
            "description": DESCRIPTIONS[dataset],
            "split": split,
            "shift_joints": shift,
            "drop_outside_joints": drop_outside,
            "max_bone": MAX_BONE if drop_implausible else None,
            "parts": "derived along the bones" if derive else "unknown",
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas, print a summary of each."""
    parser = argument_parser(
        "Prepare Leeds Sports Pose Extended; see datasets/README.md for its layout on disk.",
        EXTENDED,
        ("bodyparts-7", "bodyparts-11", "pascal-person-part"),
    )
    parser.add_argument(
        "--split",
        nargs="+",
        default=["train", "val"],
        help="train, val; for Leeds Sports Pose train, test (default: train val)",
    )
    add_joint_arguments(parser)
    parser.add_argument(
        "--drop-implausible",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"leave out people with a bone over {MAX_BONE} median bones long (default: yes)",
    )
    parser.add_argument(
        "--derive-parts",
        action="store_true",
        help=f"derive parts along the bones; the splits' names then end in {DERIVED}",
    )
    args = parser.parse_args(argv)
    run_splits(
        prepare_lsp,
        args,
        shift=args.shift_joints,
        drop_outside=args.drop_outside_joints,
        drop_implausible=args.drop_implausible,
        derive=args.derive_parts,
    )
