"""Draw a dataset's annotations, many images per page."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..readers.prepare import positive_int, read_picture
from ..records import Records, validate_records
from .common import CommandError, load_dataset

MIN_CELL = 64  # minimum side of a cell in pixels: smaller ones show nothing
LEGEND_HEIGHT = 400  # minimum in pixels, for legibility


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("dataset", help="a registered dataset, or an annotation file")
    parser.add_argument(
        "--image-root", help="folder of an annotation file's images (default: beside it)"
    )
    parser.add_argument("--output", default="output/inspect", help="folder (default: %(default)s)")
    parser.add_argument(
        "--num", type=positive_int, default=96, help="number of images (default: %(default)s)"
    )
    parser.add_argument("--shuffle", action="store_true", help="draw random images, not the first")
    parser.add_argument("--seed", type=int, default=0, help="for --shuffle (default: %(default)s)")
    parser.add_argument(
        "--only", metavar="CHANNEL", help="only people for whom this channel is known"
    )
    parser.add_argument("--empty", action="store_true", help="also draw images without people")
    for name, number in (("rows", 4), ("columns", 6)):
        words = f"{name} per page (default: {number})"
        parser.add_argument(f"--{name}", type=positive_int, default=number, help=words)
    parser.add_argument(
        "--cell",
        type=cell_size,
        default="320x240",
        metavar="WIDTHxHEIGHT",
        help="pixels per image (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Draw the annotations of a dataset, many images per page.

    An image that cannot be drawn is reported and leaves an empty cell.
    """
    from ..drawing import annotation_cell, annotation_legend, grid

    records, image_root = load_dataset(args.dataset, args.image_root)
    schema = records.part_schema
    names = [*schema.channels, *schema.unions]
    if args.only is not None and args.only not in names:
        raise CommandError(f"schema {schema.name} has no {args.only!r}, only {', '.join(names)}")
    groups = records.by_image()
    if args.only is not None:
        groups = {image_id: knowing(group, args.only) for image_id, group in groups.items()}
    images = [i for i in records.images if args.empty or groups[i["id"]]]
    if not images:
        print(f"nothing to draw: none of {len(records.images)} pictures has such people")
        return 0
    if args.shuffle:
        random.Random(args.seed).shuffle(images)
    number = f"{len(images)}"
    if len(images) > args.num:
        number = f"{args.num} of {number}"
        images = images[: args.num]

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("page_[0-9]*.jpg"):  # so that pages of two runs are not mixed
        old.unlink()
    per_page = args.rows * args.columns
    cell = args.cell[::-1]
    for start in tqdm(range(0, len(images), per_page), desc="pages", disable=None):
        cells = []
        for image in images[start : start + per_page]:
            picture = read_picture(image_root / image["file_name"])
            annotations = groups[image["id"]]
            faults = picture_faults(records, image, annotations, picture)
            for fault in faults:
                print(f"not drawn: {image['file_name']}: {fault}", file=sys.stderr)
            cells.append(
                annotation_cell(
                    None if faults else picture,
                    image,
                    annotations,
                    schema,
                    records.keypoint_schema,
                    cell,
                    fault="; ".join(faults),
                )
            )
        page = grid(cells, args.columns, cell)
        missing = max(LEGEND_HEIGHT - page.shape[0], 0)
        page = cv2.copyMakeBorder(page, 0, missing, 0, 0, cv2.BORDER_CONSTANT)
        page = np.hstack([page, annotation_legend(schema, page.shape[0])])
        cv2.imwrite(str(output / f"page_{start // per_page + 1:03d}.jpg"), page)
    print(f"{number} pictures drawn in {output}")
    return 0


def knowing(annotations: Iterable[dict], channel: str) -> list[dict]:
    """The people among an image's annotations whose channel or union is known or derived."""
    return [a for a in annotations if not a["iscrowd"] and channel in a["part_state"]]


def picture_faults(
    records: Records, image: dict, annotations: list[dict], picture: np.ndarray | None
) -> list[str]:
    """Why an image of the records cannot be drawn, one line per fault; empty if it can."""
    if picture is None:
        return ["not a readable picture"]
    expected = (image["height"], image["width"])
    if picture.shape[:2] != expected:
        return [f"expected a picture of {expected}, found {picture.shape[:2]}"]
    faults = validate_records(replace(records, images=[image], annotations=annotations))
    return [fault.removeprefix(f"{image['file_name']}, ") for fault in faults]


def cell_size(text: str) -> tuple[int, int]:
    """Parse an argument like ``320x240`` to (width, height)."""
    width, height = (int(n) for n in text.split("x"))
    if min(width, height) < MIN_CELL:
        raise argparse.ArgumentTypeError(f"a cell needs {MIN_CELL} pixels each way: {text}")
    return width, height
