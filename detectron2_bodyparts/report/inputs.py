"""Inputs of an evaluation: records and a file of predictions, or two folders of label maps."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy
from tqdm import tqdm

from .. import __version__
from ..metrics import evaluate
from ..metrics.coco_ap import check_predictions
from ..metrics.instances import FoundPerson, TruePicture
from ..metrics.parsing import CIHP_PAINT_THRESHOLD, MHP_PAINT_THRESHOLD, ParsingMetrics
from ..readers.label_maps import (
    CIHP_CLASSES,
    MHP_V2_CLASSES,
    PASCAL_PERSON_PART_CLASSES,
    image_ids,
    person_maps,
    read_mhp_scores,
    read_people,
    read_person_maps,
    read_scores,
    read_truth,
)
from ..records import RecordError, Records, decode_mask, read_records

logger = logging.getLogger(__name__)


def evaluate_files(
    annotations: str | os.PathLike,
    predictions: str | os.PathLike,
    *,
    paint_threshold: float = CIHP_PAINT_THRESHOLD,
) -> tuple[Records, list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Read records and predictions and evaluate them.

    Returns:
        The records, the predictions, and the results of `metrics.evaluate`.

    Raises:
        FileNotFoundError: one of the files does not exist.
        RecordError: as `read_records` and `read_predictions`.
        ValueError: a mask of the records cannot be decoded.
    """
    records = read_records(annotations)
    found = read_predictions(predictions, records)
    joints = predicted_joints(records, found)
    return records, found, evaluate(records, found, paint_threshold=paint_threshold, joints=joints)


def settings(
    annotations: str | os.PathLike, predictions: str | os.PathLike, paint_threshold: float
) -> dict[str, str]:
    """An evaluation's date, inputs, settings and library versions: name -> value."""
    return {
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "annotations": _identity(annotations),
        "predictions": _identity(predictions),
        "paint threshold": f"{paint_threshold:g}",
        "detectron2_bodyparts": __version__,
        "Python": platform.python_version(),
        "numpy": np.__version__,
        "OpenCV": cv2.__version__,
        "pycocotools": metadata.version("pycocotools"),
        "scipy": scipy.__version__,
    }


def _identity(path: str | os.PathLike) -> str:
    """A file's path, size and hash."""
    content = Path(path).read_bytes()
    return f"{path}, {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"


def read_predictions(path: str | os.PathLike, records: Records) -> list[dict[str, Any]]:
    """Read ``predictions.json``, a list of people as returned by `People.to_annotations`.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: it is not such a list, or does not match the records; names the first fault.
    """
    try:
        predictions = json.loads(Path(path).read_bytes())
    except ValueError as e:
        raise RecordError(f"{path}: not JSON ({e})") from e
    if not isinstance(predictions, list):
        raise RecordError(f"{path}: expected a list of predictions, found other JSON")
    for i, prediction in enumerate(predictions):
        fault = _form_fault(prediction)
        if fault:
            raise RecordError(f"{path}: prediction {i}: {fault}")
    try:
        check_predictions(records, predictions)
        for i, prediction in enumerate(predictions):
            for channel, rle in _masks(prediction).items():
                _decode(rle, f"prediction {i}: mask of {channel}")
    except ValueError as e:
        raise RecordError(f"{path}: {e}") from e
    return predictions


def _form_fault(prediction: Any) -> str:
    """What is wrong with the JSON of one prediction; empty if it is valid."""
    if not isinstance(prediction, dict):
        return f"expected an object, found {type(prediction).__name__}"
    for key in ("image_id", "score"):
        if not isinstance(prediction.get(key), (int, float)):
            return f"expected a number {key!r}, found {prediction.get(key)!r}"
    for key, length in (("bbox", 4), ("keypoints", None)):
        values = prediction.get(key, None if length else [])
        numbers = isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)
        if not numbers or length not in (None, len(values)):
            return f"expected {length or 'a list of'} numbers in {key!r}, found {values!r:.60}"
    if not isinstance(prediction.get("part_segmentation", {}), dict):
        return "expected an object of masks in 'part_segmentation'"
    for channel, rle in _masks(prediction).items():
        if not isinstance(rle, dict) or not (
            isinstance(rle.get("counts"), str) and isinstance(rle.get("size"), list)
        ):
            return f"expected a compressed RLE of {channel}, found {rle!r:.60}"
    return ""


def _masks(prediction: Mapping[str, Any]) -> dict[str, Any]:
    body = {"body": prediction["segmentation"]} if "segmentation" in prediction else {}
    return {**body, **prediction.get("part_segmentation", {})}


def _decode(rle: Mapping[str, Any], where: str) -> None:
    try:
        decode_mask(rle)
    except ValueError as e:
        raise ValueError(f"{where} cannot be decoded: {e}") from e


def predicted_joints(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> Collection[str] | None:
    """The keypoints that the model predicts: `BodyPartsEvaluator` writes the others as zeros.

    Returns:
        The names of those that are not zero in all predictions; None if none has keypoints.
    """
    found = [p["keypoints"] for p in predictions if p.get("keypoints")]
    if not found:
        return None
    names = records.keypoint_schema.keypoints
    known = np.array(found, dtype=float).reshape(len(found), len(names), 3).any(axis=(0, 2))
    return [name for name, is_known in zip(names, known, strict=True) if is_known]


def evaluate_label_maps(
    layout: str,
    truth: str | os.PathLike,
    predictions: str | os.PathLike,
    *,
    paint_threshold: float | None = None,
) -> dict[str, float]:
    """Compute the parsing metrics of two folders of label maps.

    An image without predictions counts as one in which nobody was detected; the number of such
    images is logged.

    Args:
        layout: a key of ``LAYOUTS``, which defines the contents of the folders.
        truth, predictions: the folders.
        paint_threshold: as for `ParsingMetrics`; by default the layout's published one.

    Returns:
        As `ParsingMetrics.result`.

    Raises:
        FileNotFoundError: a folder does not exist.
        BadInput: a file in them cannot be read.
        ValueError: there is no ground truth, no prediction, or a prediction without ground truth.
    """
    chosen = LAYOUTS[layout]
    if paint_threshold is None:
        paint_threshold = chosen.paint_threshold
    metrics = ParsingMetrics(chosen.classes, paint_threshold=paint_threshold)
    true_ids, found_ids = chosen.ids(Path(truth), Path(predictions))
    for ids, folder in ((true_ids, truth), (found_ids, predictions)):
        if not ids:
            raise ValueError(f"{folder}: expected label maps of {layout}, found none")
    strange = sorted(set(found_ids) - set(true_ids))
    if strange:
        raise ValueError(f"{predictions}: {strange[0]} has no truth in {truth}")
    missing = len(set(true_ids) - set(found_ids))
    if missing:
        logger.warning(
            "%d of %d pictures have no prediction: nobody was found", missing, len(true_ids)
        )
    pictures = chosen.read(Path(truth), Path(predictions), true_ids, len(chosen.classes))
    for picture, people in tqdm(pictures, total=len(true_ids), disable=None):
        metrics.add(picture, people)
    return metrics.result()


def _pair_ids(truth: Path, predictions: Path) -> tuple[list[str], list[str]]:
    return image_ids(truth / "Human_ids"), image_ids(predictions / "Human_ids")


def _read_pairs(
    truth: Path, predictions: Path, ids: Sequence[str], num_classes: int
) -> Iterator[tuple[TruePicture, list[FoundPerson]]]:
    for image_id in ids:
        people = []
        if (predictions / "Human_ids" / f"{image_id}.png").exists():
            scores = read_scores(predictions / "Human_ids" / f"{image_id}.txt")
            people = read_people(predictions, image_id, num_classes, scores)
        yield read_truth(truth, image_id, num_classes), people


def _mhp_ids(truth: Path, predictions: Path) -> tuple[list[str], list[str]]:
    found = read_mhp_scores(predictions / "results.txt")
    return list(person_maps(truth / "parsing_annos")), sorted(found)


def _read_mhp(
    truth: Path, predictions: Path, ids: Sequence[str], num_classes: int
) -> Iterator[tuple[TruePicture, list[FoundPerson]]]:
    scores = read_mhp_scores(predictions / "results.txt")
    maps = person_maps(truth / "parsing_annos")
    folders = {"category_folder": "global_seg", "human_folder": "global_tag"}
    for image_id in ids:
        people = []
        if scores.get(image_id):
            people = read_people(predictions, image_id, num_classes, scores[image_id], **folders)
        yield read_person_maps(image_id, maps[image_id], num_classes), people


@dataclass(frozen=True)
class Layout:
    """The layout of a dataset's folders of label maps.

    Args:
        classes: the names of the part classes.
        paint_threshold: the published one.
        ids: lists the image ids of ground truth and predictions.
        read: yields the ground truth of the images with these ids, each with its predictions.
    """

    classes: tuple[str, ...]
    paint_threshold: float
    ids: Callable[[Path, Path], tuple[list[str], list[str]]]
    read: Callable[..., Iterator[tuple[TruePicture, list[FoundPerson]]]]


LAYOUTS = {
    "cihp": Layout(CIHP_CLASSES, CIHP_PAINT_THRESHOLD, _pair_ids, _read_pairs),
    "mhp": Layout(MHP_V2_CLASSES, MHP_PAINT_THRESHOLD, _mhp_ids, _read_mhp),
    # No published script for PASCAL-Person-Part paints people by score: CIHP's threshold is used.
    "ppp": Layout(PASCAL_PERSON_PART_CLASSES, CIHP_PAINT_THRESHOLD, _pair_ids, _read_pairs),
}
