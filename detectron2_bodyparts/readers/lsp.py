"""Leeds Sports Pose and its extended training set: one person per image, with 14 keypoints.

The dataset's folder contains ``joints.mat`` and ``images/im00001.jpg``, ``im00002.jpg``, ... (Leeds
Sports Pose: ``im0001.jpg``, ...) in the order of the keypoints. A copy with only some of the images
has ``names.txt``, the file names in the order of its own ``joints.mat``.

What is known: the keypoints. Body, parts and other people in the image are unknown: images are not
exhaustive. The box is the hull of the keypoints, enlarged (`records.JOINT_HULL_MARGIN`).

Optionally, parts are derived as a strip along every bone (`derive_cores`). They add sides, which
label maps without sides lack, and are marked as derived.

The extended set flags a keypoint 1 if labelled, and 0 if not, in which case it has no position.
Leeds Sports Pose has a position for every keypoint and flags the hidden ones.

Cleaning: each step is a function of its own and can be switched off:

* `shift_joints`: keypoints are assumed to be 1-based, as in MATLAB (unverified: one pixel is within
  the error of manual labels);
* `drop_outside_joints`: keypoints outside the image are guesses;
* `is_implausible`: people with a bone that is far too long are left out. Swapped sides cannot be
  detected from the keypoints.
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
# Dataset -> its splits. The extended set is for training; that every tenth image is for validation
# is our own choice. The original set's second half is its published test split.
SPLITS = {EXTENDED: ("train", "val"), ORIGINAL: ("train", "test")}
VAL_EVERY = 10

# A bone longer than this many times the person's median bone is implausible. Of the 26 of 2,500
# people of the extended set that this leaves out, about half were wrong, judged by the images.
MAX_BONE = 3.0


def is_implausible(joints: np.ndarray) -> bool:
    """Whether a bone of (14, 3) keypoints x, y, v is longer than ``MAX_BONE`` median bones."""
    ends = joints[np.array(LSP_14.bones)]  # (bones, 2, 3)
    ends = ends[(ends[..., 2] > 0).all(axis=1), :, :2]
    if len(ends) == 0:
        return False
    lengths = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
    return bool(lengths.max() > MAX_BONE * np.median(lengths))


def read_joints(root: str | os.PathLike) -> tuple[str, list[str], np.ndarray]:
    """Read ``joints.mat``.

    Returns:
        "lspet" or "lsp", told apart by the array's layout; the N images' file names; and (N, 14, 3)
        keypoints: x, y as in the file, v = 2 visible, 1 hidden, 0 not labelled.

    Raises:
        FileNotFoundError: there is no ``joints.mat``.
        RecordError: its content is not as expected, or ``names.txt`` has another length.
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
        # Whatever scipy raises on damaged bytes: zlib.error, TypeError, MatReadError, ...
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
    """The 0-based indices of a split among ``count`` images.

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
    """Read one image and its one labelled person.

    Args:
        name: the image's file name in ``images/``.
        root: the dataset's folder.
        part_schema: any; with ``derive``, as for `derive_parts`.
        joints: file name -> (14, 3), as returned by `read_joints`.
        shift: apply `shift_joints`.
        drop_outside: apply `drop_outside_joints`.
        drop_implausible: leave out people for whom `is_implausible` is true.
        derive: derive the parts along the bones.

    Raises:
        BadInput: the image is missing or cannot be read.
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
    """Write ``<root>/lspet_<split>.<schema>.json``; for Leeds Sports Pose, ``lsp_...``.

    With derived parts the split's name ends in ``_derived``.

    Args:
        root: the dataset's folder; which of the two datasets it is follows from ``joints.mat``.
        split: one of the dataset's ``SPLITS``.
        part_schema: any; with ``derive``, as for `derive_parts`.
        shift, drop_outside, drop_implausible: cleaning, see `read_image`.
        derive: derive the parts along the bones, marked as derived.
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the dataset is missing.
        RecordError: its keypoints cannot be read, it has no such split, or no image is left.
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
    """The command: prepare the splits in the schemas and print a summary of each."""
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
