"""Quantize an exported model's convolutions to 8 bits, which is faster on many CPUs.

    bodyparts quantize fast.onnx photographs/

The photographs, some 64 with people in them, tell the ranges of the activations: folders, or the
annotation file of a dataset. Compare the two models on your own data before you use the quantized
one.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..readers.prepare import positive_int, read_picture
from .common import CommandError, faults_in_one_line, load_dataset, require_onnx
from .pictures import find_pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="images, folders of them, and annotation files (.json) beside their images",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="a file written by `bodyparts export` (default: bodyparts.onnx, from which the shipped"
        " model was made)",
    )
    parser.add_argument(
        "--max-images",
        type=positive_int,
        default=64,
        help="use at most so many, evenly spread (default 64)",
    )


def run(args: argparse.Namespace) -> int:
    """Quantize a model. Returns the exit code."""
    require_onnx()
    import onnxruntime

    from ..deploy import trainable_model
    from ..quantization import quantize

    with faults_in_one_line():
        paths = list(_find_images(args.images))
        paths = paths[:: -(-len(paths) // args.max_images) or 1]
        images = [read_picture(path) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image is None:
                raise CommandError(f"{path}: {'not an image' if path.exists() else 'no such file'}")
        # ONNX Runtime's advice to do what `quantize` has done, and on inputs with a default.
        logging.disable(logging.WARNING)
        onnxruntime.set_default_logger_severity(3)
        try:
            quantize(args.model or trainable_model(), args.output, images)
        finally:
            logging.disable(logging.NOTSET)
            onnxruntime.set_default_logger_severity(2)
    plural = "" if len(images) == 1 else "s"
    megabytes = args.output.stat().st_size / 2**20
    print(f"{args.output}: {megabytes:.1f} MiB, from {len(images)} image{plural}")
    return 0


def _find_images(inputs: Iterable[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.suffix == ".json":
            records, folder = load_dataset(str(path))
            yield from (folder / image["file_name"] for image in records.images)
        else:
            yield from find_pictures([path])
