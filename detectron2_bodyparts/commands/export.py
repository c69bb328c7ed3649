"""Export a trained model to one ONNX file that runs without torch and Detectron2.

    bodyparts export bodyparts.onnx --weights model_final.pth \\
        --config-file configs/bodyparts_rcnn_R_50_FPN_3x.yaml

`bodyparts predict --model bodyparts.onnx` runs it, as does `detectron2_bodyparts.deploy`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import faults_in_one_line, require_detectron2, require_onnx
from .model import read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument(
        "--config-file", required=True, help="a path, or the name of one of the plugin's configs"
    )
    parser.add_argument("--weights", help="a checkpoint (default: the config's MODEL.WEIGHTS)")
    parser.add_argument("--opts", nargs="*", default=[], help="config keys and values")
    parser.add_argument(
        "--half", action="store_true", help="store the weights as float16: half the size"
    )


def run(args: argparse.Namespace) -> int:
    """Export the model of a config and a checkpoint. Returns the exit code."""
    require_detectron2()
    require_onnx()
    from ..export import export_onnx
    from ..predictor import BodyPartsPredictor

    cfg = read_config(args)
    cfg.MODEL.DEVICE = "cpu"
    with faults_in_one_line():
        model = BodyPartsPredictor(cfg).model
        args.output.parent.mkdir(parents=True, exist_ok=True)
        config = Path(args.config_file).name
        export_onnx(model, cfg, args.output, config=config, half=args.half)
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB")
    return 0
