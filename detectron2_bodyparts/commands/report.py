"""Write a page with metrics, curves and images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..readers.prepare import positive_int, read_picture
from .common import add_evaluation_arguments, faults_in_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    add_evaluation_arguments(parser, "an annotation file", "the evaluator's predictions.json")
    parser.add_argument(
        "--images", metavar="ROOT", help="folder of its images (default: beside it)"
    )
    parser.add_argument(
        "--output", default="output/report.html", help="the page's file (default: %(default)s)"
    )
    parser.add_argument(
        "--examples",
        type=positive_int,
        default=6,
        metavar="N",
        help="draw the N worst images, the N best and N swapped pairs (default: %(default)s)",
    )
    parser.add_argument(
        "--paint-threshold",
        type=float,
        default=0.3,
        help="minimum score of people drawn, and painted for mIoU (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Write a page with metrics, curves and images."""
    from ..records import whole_file
    from ..report.inputs import evaluate_files, settings
    from ..report.page import report_page

    root = Path(args.images or Path(args.annotations).parent)
    unreadable = set()

    def picture_of(image: dict[str, Any]) -> np.ndarray | None:
        path = root / image["file_name"]
        picture = read_picture(path)
        if picture is None and path not in unreadable:
            unreadable.add(path)
            print(f"not a readable picture: {path}", file=sys.stderr)
        return picture

    with faults_in_one_line():
        records, predictions, results = evaluate_files(
            args.annotations, args.predictions, paint_threshold=args.paint_threshold
        )
        page = report_page(
            records,
            predictions,
            results,
            picture_of,
            title=f"Body parts: {Path(args.annotations).name}",
            paint_threshold=args.paint_threshold,
            examples=args.examples,
            settings=settings(args.annotations, args.predictions, args.paint_threshold),
        )
        with whole_file(args.output) as f:
            f.write(page)
    print(f"report: {args.output}")
    return 0
