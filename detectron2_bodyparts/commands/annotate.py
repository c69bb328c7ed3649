"""Pseudo-label images with a model, as annotations to train on.

People scoring at least --threshold get the model's body, parts and keypoints; their masks are
"derived", not "known", so that DERIVED_LOSS_WEIGHT weights them. People below it, down to
--ignore-threshold, become ignore regions. Everything else counts as background in training.

With --no-exhaustive it does not: nothing counts as a negative. Mix such files with others: a model
trained on them alone learns that everything is a person.

An interrupted run resumes when the same command is given again. Exit code: 1 if an image could not
be read, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..deploy import default_model
from ..drawing import JOINT_THRESHOLD
from ..people import People, Person
from ..readers.prepare import BadInput, Picture, Shard, prepare, read_picture
from ..records import ignore_annotation, person_annotation
from .common import INTERRUPTED, CommandError, faults_in_one_line, score
from .model import add_model_arguments, load_predictor
from .pictures import find_pictures

# The quick-start model on its 100 unseen synthetic images: of people scoring at least 0.7, 91 % are
# correct (0.5: 83 %). It misses 29 of 240; the ignore regions cover 27 of these, and 19 % of the
# images' area (with an ignore threshold of 0.05: 28, and 34 %).
THRESHOLD = 0.7
IGNORE_THRESHOLD = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("inputs", nargs="+", type=Path, help="images and folders of images")
    add_model_arguments(parser)
    parser.set_defaults(threshold=THRESHOLD)
    parser.add_argument("--output", required=True, type=Path, help="the annotation file to write")
    parser.add_argument(
        "--ignore-threshold",
        type=score,
        default=IGNORE_THRESHOLD,
        help="minimum score of a person to become an ignore region (default: %(default)s)",
    )
    parser.add_argument(
        "--joint-threshold",
        type=score,
        default=JOINT_THRESHOLD,
        help="keypoints with a lower score stay unlabelled (default: %(default)s)",
    )
    parser.add_argument(
        "--exhaustive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="where nobody is found counts as background (default: yes)",
    )


def run(args: argparse.Namespace) -> int:
    """Write a model's predictions as records. Returns the exit code; see the module docstring."""
    if args.output.suffix != ".json":
        raise CommandError(f"--output: expected a file *.json, found {args.output}")
    if args.ignore_threshold > args.threshold:
        raise CommandError("expected --ignore-threshold <= --threshold")
    # Absolute, so that an image given twice is labelled once.
    items = list(dict.fromkeys(os.path.abspath(path) for path in find_pictures(args.inputs)))
    if not items:
        raise CommandError(f"no picture in {', '.join(map(str, args.inputs))}")
    everybody = {**vars(args), "threshold": args.ignore_threshold}
    predictor = load_predictor(argparse.Namespace(**everybody))
    root = Path(os.path.abspath(args.output)).parent

    def annotate(item: str) -> Shard:
        path = Path(item)
        image = read_picture(path)
        if image is None:
            fault = "a file that cannot be decoded" if path.is_file() else "no file"
            raise BadInput(item, "a picture", fault)
        found = annotations(
            predictor(image), threshold=args.threshold, joint_threshold=args.joint_threshold
        )
        name = path.relative_to(root) if path.is_relative_to(root) else path
        height, width = image.shape[:2]
        return Shard([Picture(name.as_posix(), height, width, found, args.exhaustive)])

    try:
        with faults_in_one_line():
            summary = prepare(
                items,
                annotate,
                args.output,
                predictor.part_schema,
                predictor.keypoint_schema,
                info=settings(args),
            )
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED
    print(summary)
    for one in summary.left_out:
        print(f"skipped, not a readable picture: {one.where}", file=sys.stderr)
    return 1 if summary.left_out else 0


def annotations(
    people: People, *, threshold: float, joint_threshold: float
) -> list[dict[str, Any]]:
    """Convert people to the records' annotations, each with its ``score``.

    Args:
        people: all people down to the ignore threshold.
        threshold: people with a lower score, or without a pixel of body, become ignore regions:
            their silhouettes, or their boxes if there is no mask.
        joint_threshold: keypoints with a lower score are left unlabelled.
    """
    found = []
    for person in people:
        body = None if person.part_probs is None else person.body
        if person.score >= threshold and (body is None or body.any()):
            annotation = labelled_person(person, body, joint_threshold)
        else:
            region = box_mask(person) if body is None or not body.any() else body
            if not region.any():
                continue
            annotation = ignore_annotation(person.keypoint_schema, person.image_size, region)
        found.append({**annotation, "score": round(person.score, 4)})
    return found


def labelled_person(
    person: Person, body: np.ndarray | None, joint_threshold: float
) -> dict[str, Any]:
    """Convert a person with `records.person_annotation`; all of the model's channels are derived.

    Predicted keypoints are visible (v = 2): the model does not predict which are occluded.

    Args:
        body: the person's body mask, (H, W) bool; None if the model predicts no masks.
    """
    schema = person.part_schema
    parts, states, keypoints = {}, {}, None
    if body is not None:
        labels = person.label_map()
        parts = {name: labels == schema.index(name) for name in schema.parts}
        states = dict.fromkeys(schema.channels, "derived")
    if person.keypoints is not None:
        points, scores = person.keypoints[:, :2], person.keypoints[:, 2]
        keypoints = np.column_stack([points - 0.5, 2 * (scores >= joint_threshold)])
    x0, y0, x1, y1 = person.box
    return person_annotation(
        schema,
        person.keypoint_schema,
        person.image_size,
        body=body,
        parts=parts,
        states=states,
        keypoints=keypoints,
        bbox=(x0, y0, x1 - x0, y1 - y0),
    )


def box_mask(person: Person) -> np.ndarray:
    """(H, W) bool: the pixels that the person's box touches."""
    mask = np.zeros(person.image_size, dtype=bool)
    x0, y0 = np.floor(person.box[:2]).astype(int).clip(0)
    x1, y1 = np.ceil(person.box[2:]).astype(int)
    mask[y0:y1, x0:x1] = True
    return mask


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the labels depend on, for the ``info`` of the records."""
    if args.config_file:
        model = {"config": args.config_file, "weights": args.weights, "opts": args.opts}
        file = args.weights
    else:
        file = args.model or default_model()
        model = {"model": Path(file).name}
    # By content; otherwise an interrupted run could resume with another model of the same name.
    if file and Path(file).is_file():
        model["sha256"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return {
        "description": "labelled by a model",
        "annotated_by": f"detectron2_bodyparts {__version__}",
        **model,
        "threshold": args.threshold,
        "ignore_threshold": args.ignore_threshold,
        "joint_threshold": args.joint_threshold,
        "exhaustive": args.exhaustive,
    }
