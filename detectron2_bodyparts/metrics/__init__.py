"""The field's metrics on plain arrays and records: no Detectron2, no torch."""

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
    """Every metric that records and predictions allow.

    Args:
        records: the truth.
        predictions: people of any of the records' pictures, as `People.to_annotations` gives them,
            in the records' schemas.
        paint_threshold: people under this score are not painted for mIoU.
        joints: those that the model knows, if not all of the records': PCK judges no others. AP of
            joints judges all, as COCO's does: those that the model lacks count as missed.

    Returns:
        Percent, nan where there is no truth: ``bbox``, ``body``, ``parts`` and ``keypoints`` of
        `evaluate_ap`, ``parsing`` of `evaluate_parsing`, ``pck`` of `evaluate_pck`, ``sides`` of
        `left_right_confusion`.

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
