"""PCK: the percentage of correct keypoints, relative to the person's size.

A labelled keypoint (v > 0) is correct if the predicted one lies within 0.2 times a reference length
(inclusive). Two references are in use, and their results must not be compared with each other (a
published sub-JHMDB result is 96.0 with one and 80.1 with the other):

* ``bbox``: the longer side of the person's ground-truth box;
* ``torso``: the distance from left shoulder to right hip; that of the prediction if the
  ground-truth one is below one pixel or one of the two keypoints is not labelled.

The mean is over keypoints, not over people. Unlabelled keypoints are not evaluated; all keypoints
of a missed person are wrong; a prediction that matches nobody costs nothing (AP measures that).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..records import Records
from ..schema import KeypointSchema, unsided_name
from .coco_ap import check_predictions
from .matching import box_iou, takers

PCK_THRESHOLD = 0.2

# The rows of published tables. Keypoints that are in none of them have a row of their own.
_ROWS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_HEAD = ("nose", "eye", "ear", "face", "head_top")
_TORSO = ("left_shoulder", "right_hip")


class PCK:
    """Accumulates people one at a time and computes PCK.

    Two integers per keypoint and reference are stored; those of other processes can be pickled and
    merged.
    """

    def __init__(self, schema: KeypointSchema, *, joints: Collection[str] | None = None) -> None:
        """
        Args:
            schema: the keypoints of ground truth and predictions.
            joints: the names of the keypoints to evaluate, by default all. Published J-HMDB tables,
                for example, have neither neck nor belly.

        Raises:
            ValueError: the schema has no such keypoint.
        """
        strange = sorted(set(joints or ()) - set(schema.keypoints))
        if strange:
            raise ValueError(f"schema {schema.name} has no joints {strange}: {schema.keypoints}")
        self.schema = schema
        self._judged = np.array([joints is None or k in joints for k in schema.keypoints])
        self._total = np.zeros(len(schema), dtype=np.int64)
        has_torso = set(_TORSO) <= set(schema.keypoints)
        self._right = {
            reference: np.zeros(len(schema), dtype=np.int64)
            for reference in (("bbox", "torso") if has_torso else ("bbox",))
        }

    def add(self, true: np.ndarray, box: np.ndarray, found: np.ndarray | None) -> None:
        """Add a person.

        Args:
            true: (K, 3), x, y in pixels and v; labelled where v > 0.
            box: (4,), their ground-truth box, XYXY.
            found: (K, 2 or more), predicted x, y in the same coordinates; None: the person was
                missed.
        """
        labelled = (true[:, 2] > 0) & self._judged
        self._total += labelled
        if found is None:
            return
        distance = np.linalg.norm(found[:, :2] - true[:, :2], axis=1)
        for reference, right in self._right.items():
            if reference == "bbox":
                length = max(box[2] - box[0], box[3] - box[1])
            else:
                length = self._torso(true, found)
            right += labelled & (distance <= PCK_THRESHOLD * length)

    def _torso(self, true: np.ndarray, found: np.ndarray) -> float:
        shoulder, hip = (self.schema.keypoints.index(name) for name in _TORSO)
        if (true[[shoulder, hip], 2] > 0).all():
            length = np.linalg.norm(true[shoulder, :2] - true[hip, :2])
            if length >= 1:
                return float(length)
        return float(np.linalg.norm(found[shoulder, :2] - found[hip, :2]))

    def merge(self, other: PCK) -> None:
        """Add the people of another `PCK`.

        Raises:
            ValueError: it has another schema or evaluates other keypoints.
        """
        if self.schema != other.schema or (self._judged != other._judged).any():
            raise ValueError("the collections judge different joints")
        self._total += other._total
        for reference, right in self._right.items():
            right += other._right[reference]

    def result(self) -> dict[str, float]:
        """PCK in percent, nan if no keypoint is labelled.

        Returns:
            ``PCK@0.2_bbox``, the mean over all labelled keypoints, and the rows of the table,
            ``PCK@0.2_bbox-head`` (nose, eyes, ears, face, head top), ``-shoulder``, ``-elbow``,
            ``-wrist``, ``-hip``, ``-knee``, ``-ankle`` and other keypoints by name, as far as they
            are evaluated; and the same with ``torso``, if the schema has its keypoints.
        """
        rows = self._rows()
        results = {}
        for reference, right in self._right.items():
            name = f"PCK@{PCK_THRESHOLD}_{reference}"
            results[name] = _percent(right.sum(), self._total.sum())
            for row, joints in rows.items():
                results[f"{name}-{row}"] = _percent(right[joints].sum(), self._total[joints].sum())
        return results

    def _rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {row: [] for row in _ROWS}
        for k in np.flatnonzero(self._judged):
            name = unsided_name(self.schema.keypoints[k])
            rows.setdefault("head" if name in _HEAD else name, []).append(int(k))
        return {row: joints for row, joints in rows.items() if joints}


def evaluate_pck(
    records: Records,
    predictions: Sequence[Mapping[str, Any]],
    *,
    joints: Collection[str] | None = None,
) -> dict[str, float]:
    """Compute PCK of predictions in the records' keypoint schema.

    In each image, predictions with keypoints are matched to people by box IoU (`takers`). Crowds
    are left out.

    Args:
        records: the ground truth.
        predictions: as for `coco_ap.evaluate_ap`.
        joints: as for `PCK`.

    Returns:
        As `PCK.result`.

    Raises:
        ValueError: as `PCK` and `coco_ap.check_predictions`.
    """
    check_predictions(records, predictions)
    pck = PCK(records.keypoint_schema, joints=joints)
    groups: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in records.images}
    for prediction in predictions:
        if prediction.get("keypoints"):
            groups[prediction["image_id"]].append(prediction)
    for image_id, group in records.by_image().items():
        people = [a for a in group if not a["iscrowd"]]
        found_by = takers(people, groups[image_id], box_iou)
        for person, prediction in zip(people, found_by, strict=True):
            x, y, w, h = person["bbox"]
            found = None if prediction is None else _points(prediction)
            pck.add(_points(person), np.array([x, y, x + w, y + h]), found)
    return pck.result()


def _points(person: Mapping[str, Any]) -> np.ndarray:
    return np.array(person["keypoints"], dtype=float).reshape(-1, 3)


def _percent(part: int, whole: int) -> float:
    return 100 * float(part / whole) if whole else float("nan")
