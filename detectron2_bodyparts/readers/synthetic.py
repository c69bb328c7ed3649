"""Synthetic people as a dataset: rendered images and their records.

They need no download and no licence, so the quick start, the tests and the benchmarks use them.

    >>> from detectron2_bodyparts.readers.figures import render
    >>> from detectron2_bodyparts.readers.synthetic import annotations
    >>> from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17
    >>> picture = render(0)
    >>> len(annotations(picture, BODYPARTS_7, COCO_17)) == len(picture.people)
    True
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..records import person_annotation
from ..schema import (
    BODY,
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    PASCAL_PERSON_PART,
    KeypointSchema,
    PartSchema,
    get_part_schema,
)
from .derive import pieces_of_all
from .figures import FINE_PARTS, SyntheticPicture, render
from .prepare import (
    Picture,
    Shard,
    Summary,
    argument_parser,
    positive_int,
    prepare,
    records_path,
    run_all,
    write_picture,
)

_SPLITS = ("train", "val")
_PICTURES = 1_000_000  # images of a split before those of the next seed begin


def annotations(
    picture: SyntheticPicture, part_schema: PartSchema, keypoint_schema: KeypointSchema
) -> list[dict[str, Any]]:
    """The people's annotations, as returned by `records.person_annotation`.

    Every channel is known. Keypoints are matched by name; those that COCO-17 lacks have v = 0.

    Raises:
        ValueError: the schema has a part that is no union of ``FINE_PARTS``.
    """
    sources = pieces_of_all(part_schema, FINE_PARTS, "synthetic people have no parts for")
    return [
        person_annotation(
            part_schema,
            keypoint_schema,
            person.body.shape,
            body=person.body,
            parts={
                channel: np.logical_or.reduce([person.parts[name] for name in names])
                for channel, names in sources.items()
            },
            states=dict.fromkeys((BODY, *sources), "known"),
            keypoints=keypoint_schema.take(person.keypoints, COCO_17),
        )
        for person in picture.people
    ]


def prepare_synthetic(
    root: str | os.PathLike,
    split: str,
    count: int,
    part_schema: PartSchema,
    *,
    seed: int = 0,
    workers: int = 1,
) -> Summary:
    """Render ``<root>/images/<split>_*.jpg`` and write ``<root>/synthetic_<split>.<schema>.json``.

    Args:
        root: the folder to write to.
        split: "train" or "val"; they have no image in common, whatever their seeds.
        count: number of images.
        part_schema: the schema of the annotations.
        seed: another seed gives other images.
        workers: number of processes.
    """
    items = [f"{split}_{i:06d}" for i in range(count)]
    return prepare(
        items,
        partial(_draw, root=Path(root), part_schema=part_schema, seed=seed),
        records_path(root, "synthetic", split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={"description": "synthetic people", "split": split, "seed": seed},
    )


def _draw(item: str, root: Path, part_schema: PartSchema, seed: int) -> Shard:
    split, number = item.split("_")
    file_name = f"images/{item}.jpg"
    picture = render(_picture_seed(split, int(number), seed))
    write_picture(root / file_name, picture.image)
    height, width = picture.image.shape[:2]
    people = annotations(picture, part_schema, COCO_17)
    return Shard([Picture(file_name, height, width, people)])


def _picture_seed(split: str, number: int, seed: int) -> int:
    """Even for train, odd for val: they have no image in common."""
    return 2 * (_PICTURES * seed + number) + _SPLITS.index(split)


def main(argv: Sequence[str] | None = None) -> None:
    """The command: render the splits, write their records and print a summary of each."""
    parser = argument_parser(
        "Render synthetic people and write their annotations.",
        "synthetic",
        (BODYPARTS_7.name, BODYPARTS_11.name, PASCAL_PERSON_PART.name),
    )
    parser.add_argument(
        "--split", nargs="+", choices=_SPLITS, default=_SPLITS, help="(default: train val)"
    )
    parser.add_argument("--train", type=positive_int, default=600, help="images (default: 600)")
    parser.add_argument("--val", type=positive_int, default=100, help="images (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args(argv)
    run_all(
        partial(
            prepare_synthetic,
            args.root,
            split,
            min(count, args.limit or count),
            get_part_schema(name),
            seed=args.seed,
            workers=args.workers,
        )
        for name in args.schema
        for split, count in (("train", args.train), ("val", args.val))
        if split in args.split
    )
