"""Standard metrics on plain arrays and records, without Detectron2 and torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..records import Records
from .coco_ap import evaluate_ap
from .parsing import CIHP_PAINT_THRESHOLD, evaluate_parsing
from .pose import evaluate_pck
from .sides import left_right_confusion


def evaluate(
    records: Records,
    predictions: Sequence[Mapping[str, Any]],
    *,
    paint_threshold: float = CIHP_PAINT_THRESHOLD,
    joints: Collection[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Compute all metrics.

    Args:
        records: the ground truth.
        predictions: people in any of the records' images, as returned by `People.to_annotations`,
            in the records' schemas.
        paint_threshold: people with a lower score are not painted for mIoU.
        joints: names of the keypoints that the model predicts, if not all of the records': PCK is
            computed on these only. Keypoint AP, as in COCO, is on all: missing ones count as wrong.

    Returns:
        Percent, nan without ground truth: ``bbox``, ``body``, ``parts`` and ``keypoints`` of
        `evaluate_ap`, ``parsing`` of `evaluate_parsing`, ``pck`` of `evaluate_pck`, ``sides`` of
        `left_right_confusion` (its ``pairs`` is a count).

    Raises:
        ValueError: see `coco_ap.check_predictions`.
    """
    known = [j for j in records.keypoint_schema.keypoints if joints is None or j in joints]
    return {
        **evaluate_ap(records, predictions),
        "parsing": evaluate_parsing(records, predictions, paint_threshold=paint_threshold),
        "pck": evaluate_pck(records, predictions, joints=known),
        "sides": left_right_confusion(records, predictions),
    }
