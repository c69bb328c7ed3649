"""Choice of the model that a subcommand runs: an exported one, or a Detectron2 checkpoint."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..deploy import OnnxPredictor, Predictor, default_model
from ..schema import get_keypoint_schema, get_part_schema
from .common import CommandError, faults_in_one_line, require_detectron2, score

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `load_predictor`."""
    parser.add_argument(
        "--model", help="a file written by `bodyparts export` (default: the shipped model)"
    )
    parser.add_argument(
        "--config-file",
        help="run this config with Detectron2 instead: a path, or the name of one of the plugin's",
    )
    parser.add_argument("--weights", help="the config's checkpoint (default: MODEL.WEIGHTS)")
    parser.add_argument("--opts", nargs="*", default=[], help="config keys and values")
    parser.add_argument(
        "--threshold", type=score, default=0.5, help="minimum score (default: %(default)s)"
    )


def load_predictor(args: argparse.Namespace) -> Predictor:
    """Load the predictor of `add_model_arguments`; it returns people scoring at least --threshold.

    If that is None, it returns all detections that the model returns in an evaluation. A config's
    model runs on the CPU if there is no GPU.

    Raises:
        CommandError: there is no such model, its checkpoint does not match its config, or the
            options contradict each other.
    """
    if args.config_file is None:
        if args.weights or args.opts:
            raise CommandError("--weights and --opts belong to a --config-file")
        with faults_in_one_line():
            return OnnxPredictor(args.model or default_model(), threshold=args.threshold or 0.0)
    if args.model:
        raise CommandError("--model and --config-file: give one of the two")
    require_detectron2()
    import torch

    from ..predictor import BodyPartsPredictor

    cfg = read_config(args)
    with faults_in_one_line():
        if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            cfg.MODEL.DEVICE = "cpu"
        if args.threshold is not None:
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.threshold
        return BodyPartsPredictor(cfg, args.threshold or 0.0)


def read_config(args: argparse.Namespace) -> CfgNode:
    """The config of ``--config-file``, ``--weights`` and ``--opts``. Needs Detectron2.

    Raises:
        CommandError: there is no such config, key or schema, or a value is invalid for its key.
    """
    from ..config import load_config

    with faults_in_one_line():
        cfg = load_config(args.config_file, args.weights, args.opts)
    try:
        get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA)
        get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA)
    except KeyError as e:
        raise CommandError(e.args[0]) from e
    return cfg
