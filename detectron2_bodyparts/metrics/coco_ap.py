"""COCO average precision of boxes, silhouettes, parts and keypoints.

Computed by pycocotools: mean over IoU 0.50:0.95 (OKS for keypoints), 100 detections per image (20
for keypoints), all areas. What differs from COCO is the ground truth of a channel:

* Parts and body: one instance per person in whom the channel is known or derived and its mask is
  not empty. A person in whom it is unknown (or only the union of both sides is known) becomes an
  ignore region, their box enlarged by `UNKNOWN_MARGIN`: a mask predicted there is neither a true
  nor a false positive. If the channel is known to be empty there is no instance, and a mask
  predicted there is a false positive.
* A detection whose mask of the channel is empty or missing is not a detection of the channel.
* Boxes: every person counts. Keypoints: people with labelled keypoints count; a person without
  ignores, as in COCO, one detection that lies in their box enlarged to three times its size.
* Crowds (``iscrowd``) are ignore regions for everything, and so is all of an image that is not
  ``exhaustive``. Keypoints have no region to overlap with: for them an ignore region is its box,
  again enlarged to three times its size, and a detection is ignored to the extent that its
  keypoints lie inside.
* A person's ``ignore_segmentation`` is removed from both masks when a detection is compared with
  that person.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..records import PERSON_CATEGORY_ID, Records
from ..schema import BODY
from .matching import mask_iou

CURVE_IOU = 0.5
RECALLS = np.linspace(0, 1, 101)  # at which COCO samples the precision
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # also for OKS
MAX_DETECTIONS = 100  # per image, COCO's limit for boxes and masks
MAX_KEYPOINT_DETECTIONS = 20  # per image, COCO's limit for keypoints

# The box of a person in whom a channel is unknown is enlarged on each side by this fraction of its
# width and height: a predicted mask may extend a little beyond it, and 95 % of the mask must lie
# inside to be ignored at the highest threshold.
UNKNOWN_MARGIN = 0.1


def evaluate_ap(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Compute AP of boxes, body, parts and keypoints, by the rules of this module's docstring.

    Args:
        records: the ground truth.
        predictions: people in any of the records' images, as returned by `People.to_annotations`:
            ``image_id``, ``bbox``, ``score`` and, if predicted, ``segmentation``,
            ``part_segmentation``, ``keypoints``; in the records' schemas.

    Returns:
        Percent, nan without ground truth: ``{"bbox": {"AP", "AP50", "AP75"}, "body": {...},
        "parts": {"AP", "AP50", "AP75" (means over the parts with ground truth), "AP-head",
        "AP50-head", "AP75-head", ...}, "keypoints": {...}}``.

    Raises:
        ValueError: as `check_predictions`.
    """
    check_predictions(records, predictions)
    results = {"bbox": _box_ap(records, predictions)}
    results["body"] = _channel_ap(records, predictions, BODY)
    by_part = {part: _channel_ap(records, predictions, part) for part in records.part_schema.parts}
    results["parts"] = {
        name: _mean(figures[name] for figures in by_part.values())
        for name in ("AP", "AP50", "AP75")
    }
    for part, figures in by_part.items():
        results["parts"].update({f"{name}-{part}": value for name, value in figures.items()})
    results["keypoints"] = _keypoint_ap(records, predictions)
    return results


def check_predictions(records: Records, predictions: Sequence[Mapping[str, Any]]) -> None:
    """Check that predictions can be compared with records.

    Raises:
        ValueError: a prediction has an image ID or a part that the records lack, a mask of another
            size than its image, or another number of keypoints than the schema.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in records.images}
    joints = 3 * len(records.keypoint_schema)
    for i, prediction in enumerate(predictions):
        where = f"prediction {i}"
        if prediction["image_id"] not in sizes:
            raise ValueError(f"{where}: image {prediction['image_id']} is not in the records")
        size = sizes[prediction["image_id"]]
        masks = prediction.get("part_segmentation", {})
        strange = sorted(set(masks) - set(records.part_schema.parts))
        if strange:
            raise ValueError(
                f"{where}: {strange} are no parts of schema {records.part_schema.name}"
            )
        for channel in (BODY, *masks):
            mask = _mask_of(prediction, channel)
            if mask is not None and list(mask["size"]) != size:
                raise ValueError(f"{where}: mask of {channel} is {mask['size']}, expected {size}")
        found = len(prediction.get("keypoints", ()))
        if found not in (0, joints):
            raise ValueError(f"{where}: expected {joints} numbers of joints, found {found}")


def _box_ap(records: Records, predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    truths = _whole_picture_regions(records)
    truths += [
        {"image_id": a["image_id"], "bbox": a["bbox"], "iscrowd": a["iscrowd"]}
        for a in records.annotations
    ]
    return _average_precision(records, truths, [dict(p) for p in predictions], "bbox")


def precision_curves(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Precision of every channel at each of ``RECALLS``, at mask IoU `CURVE_IOU`.

    Args:
        records, predictions: as for `evaluate_ap`.

    Returns:
        channel -> (101,) precision, 0..1, as computed by pycocotools: the maximum at that recall or
        above, 0 if the recall is not reached. Its mean is AP50. All nan without ground truth.

    Raises:
        ValueError: as `check_predictions`.
    """
    check_predictions(records, predictions)
    curves = {}
    for channel in records.part_schema.channels:
        people = _channel_people(records, predictions, channel)
        precision = _precision(records, *people, "segm", thresholds=np.array([CURVE_IOU]))[0]
        curves[channel] = np.where(precision < 0, np.nan, precision)
    return curves


def _channel_ap(
    records: Records, predictions: Sequence[Mapping[str, Any]], channel: str
) -> dict[str, float]:
    return _average_precision(records, *_channel_people(records, predictions, channel), "segm")


def _channel_people(
    records: Records, predictions: Sequence[Mapping[str, Any]], channel: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ground truth and detections of a channel."""
    images = {image["id"]: image for image in records.images}
    truths = _whole_picture_regions(records)
    for annotation in records.annotations:
        image = images[annotation["image_id"]]
        if annotation["iscrowd"]:
            mask = annotation["segmentation"]
        elif channel in annotation["part_state"]:
            mask = _mask_of(annotation, channel)
        else:
            truths.append(_ignore_region(image, _enlarged(annotation["bbox"], UNKNOWN_MARGIN)))
            continue
        if mask is not None:
            truths.append({**annotation, "segmentation": mask})
    masks = [_mask_of(p, channel) for p in predictions]
    detections = [
        {**p, "segmentation": mask}
        for p, mask in zip(predictions, masks, strict=True)
        if mask is not None
    ]
    return truths, detections


def _keypoint_ap(records: Records, predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    unlabelled = {"keypoints": [0] * 3 * len(records.keypoint_schema), "num_keypoints": 0}
    truths = [{**region, **unlabelled} for region in _whole_picture_regions(records)]
    truths += [dict(annotation) for annotation in records.annotations]
    detections = [dict(p) for p in predictions if p.get("keypoints")]
    return _average_precision(records, truths, detections, "keypoints")


def _mask_of(person: Mapping[str, Any], channel: str) -> Mapping[str, Any] | None:
    """The RLE of a channel, or None if it is missing or empty."""
    if channel == BODY:
        mask = person.get("segmentation")
    else:
        mask = person.get("part_segmentation", {}).get(channel)
    return mask if mask is not None and mask_util.area(mask) > 0 else None


def _whole_picture_regions(records: Records) -> list[dict[str, Any]]:
    return [
        _ignore_region(image, (0, 0, image["width"], image["height"]))
        for image in records.images
        if not image["exhaustive"]
    ]


def _enlarged(bbox: Sequence[float], margin: float) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    return x - margin * w, y - margin * h, w * (1 + 2 * margin), h * (1 + 2 * margin)


def _ignore_region(image: Mapping[str, Any], bbox: Sequence[float]) -> dict[str, Any]:
    """A crowd that covers an XYWH box, clipped to the image."""
    height, width = image["height"], image["width"]
    x0, y0 = max(bbox[0], 0), max(bbox[1], 0)
    x1, y1 = min(bbox[0] + bbox[2], width), min(bbox[1] + bbox[3], height)
    bbox = [x0, y0, x1 - x0, y1 - y0]
    (mask,) = mask_util.frPyObjects(np.array([bbox], dtype=float), height, width)
    return {"image_id": image["id"], "bbox": bbox, "segmentation": mask, "iscrowd": 1}


def _average_precision(
    records: Records,
    truths: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    kind: str,
) -> dict[str, float]:
    """COCOeval's AP, AP50 and AP75 in percent; the arguments are as for `_precision`."""
    precision = _precision(records, truths, detections, kind, thresholds=IOU_THRESHOLDS)
    figures = {"AP": precision}
    for threshold in (0.5, 0.75):
        rows = np.isclose(IOU_THRESHOLDS, threshold)
        figures[f"AP{threshold * 100:.0f}"] = precision[rows]
    return {
        name: 100 * float(values.mean()) if (values > -1).all() else float("nan")
        for name, values in figures.items()
    }


def _precision(
    records: Records,
    truths: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    kind: str,
    *,
    thresholds: np.ndarray,
) -> np.ndarray:
    """(T, 101): COCOeval's precision at T thresholds and each recall, -1 without ground truth.

    ``kind`` is ``bbox``, ``segm`` or ``keypoints``. The dictionaries are modified: COCOeval adds
    its own keys.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _COCOeval(_coco(records, truths), _coco(records, detections), kind)
        parameters = evaluator.params
        parameters.iouThrs = thresholds
        parameters.areaRng, parameters.areaRngLbl = [[0, np.inf]], ["all"]
        parameters.maxDets = [MAX_DETECTIONS]
        if kind == "keypoints":
            parameters.maxDets = [MAX_KEYPOINT_DETECTIONS]
            parameters.kpt_oks_sigmas = np.array(records.keypoint_schema.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, 0, 0, 0]


class _COCOeval(COCOeval):
    """COCOeval that leaves a person's ``ignore_segmentation`` out of mask IoUs."""

    def computeIoU(self, image_id, category_id):  # noqa: N802  (pycocotools' name)
        ious = super().computeIoU(image_id, category_id)
        truths = self._gts[image_id, category_id]
        columns = [
            i for i, t in enumerate(truths) if "ignore_segmentation" in t and not t["iscrowd"]
        ]
        if self.params.iouType != "segm" or not len(ious) or not columns:
            return ious
        found = self._dts[image_id, category_id]
        order = np.argsort([-d["score"] for d in found], kind="mergesort")  # COCOeval's row order
        masks = [found[i]["segmentation"] for i in order[: len(ious)]]
        for column in columns:
            truth = truths[column]
            for row in np.flatnonzero(ious[:, column]):
                ious[row, column] = mask_iou(masks[row], truth["segmentation"], truth)
        return ious


def _coco(records: Records, people: list[dict[str, Any]]) -> COCO:
    # Ids count from 1: COCOeval treats a match with id 0 as no match.
    for i, person in enumerate(people, start=1):
        person.update(id=i, category_id=PERSON_CATEGORY_ID)
        person.setdefault("area", person["bbox"][2] * person["bbox"][3])
    coco = COCO()
    coco.dataset = {
        "images": records.images,
        "annotations": people,
        "categories": [{"id": PERSON_CATEGORY_ID, "name": "person"}],
    }
    coco.createIndex()
    return coco


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
