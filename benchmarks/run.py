"""The project against alternatives: every row is a ratio of two things measured in one run.

    python benchmarks/run.py [--only NAME ...] [--json FILE] [--plots FOLDER] [--quick]

Both sides of a row run in turns, and the median counts. Memory is measured on Linux only, or on a
GPU. Ends with 1 if a reach is missed, unless `--quick`: its small sizes are no measure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import detectron2
import numpy as np
import torch
from measure import Row, Settings

GROUPS = ("heads", "targets", "mapper", "decoding", "pasting", "whole_model", "growth")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="NAME",
                        help=f"some of {', '.join(GROUPS)}")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--plots", type=Path, help="folder for the scaling plots")
    parser.add_argument("--quick", action="store_true", help="small: only check that all runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU (default: 1)")
    args = parser.parse_args(argv)

    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(args.device, args.quick, Path(folder))
        print(_line("what", "ours", "alternative", "ratio", "reach", ""), flush=True)
        for name in args.only:
            start = time.perf_counter()
            for row in importlib.import_module(name).rows(settings):
                rows.append(row)
                print(_formatted(row), flush=True)
            print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    if args.json:
        content = {**_machine(args), "rows": [_plain(row) for row in rows]}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.plots:
        from plots import draw_growth

        args.plots.mkdir(parents=True, exist_ok=True)
        draw_growth(rows, args.plots / "growth.png")
    missed = [row for row in rows if row.met is False]
    print(f"{len(missed)} of {sum(row.met is not None for row in rows)} reaches missed")
    return 1 if missed and not args.quick else 0


def _line(*cells: str) -> str:
    return "{:<50} {:>20} {:>20} {:>8} {:>9} {:>6}".format(*cells)


def _formatted(row: Row) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g} {row.unit}"

    bound = "" if row.reach is None else f"{'>=' if row.at_least else '<='} {row.reach:.3g}"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    cells = (number(row.ours), number(row.alternative), f"{row.value:.3g}", bound, verdict)
    return f"{_line(row.name, *cells)}\n    {row.compared}"


def _plain(row: Row) -> dict[str, Any]:
    return {**asdict(row), "value": row.value, "met": row.met}


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if args.device == "cuda" else _cpu()
    return {
        "command": ["benchmarks/run.py", *map(str, sys.argv[1:])],
        "machine": {"device": device, "threads": args.threads, "system": platform.platform()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
    }


def _cpu() -> str:
    lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores"


if __name__ == "__main__":
    sys.exit(main())
