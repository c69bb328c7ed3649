"""Count what a dataset holds; print a table and draw a chart."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from .common import CommandError, load_dataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("dataset", help="a registered dataset, or an annotation file")
    parser.add_argument(
        "--output", default="output/stats.png", help="the chart to write (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Count what a dataset holds; print a table and draw a chart."""
    from ..stats import collect, draw_chart

    records, _ = load_dataset(args.dataset)
    statistics = collect(records)
    print(statistics)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(output), draw_chart(statistics, Path(args.dataset).name)):
        raise CommandError(f"cannot write {output}")
    print(f"chart: {output}")
    return 0
