"""COCO average precision of boxes, silhouettes, parts and joints.

The figures are pycocotools' own: mean over IoU 0.50:0.95 (over OKS for joints), 100 detections a
picture (20 for joints), all areas. What differs from COCO is what counts as the truth of a channel:

* Parts and body: one truth a person in whom the channel is known or derived and its mask is not
  empty. A person in whom it is unknown (also where only the union of both sides is known) becomes
  an ignore region, their box enlarged by `UNKNOWN_MARGIN`: a mask predicted there is neither a hit
  nor a false alarm. Where the channel is known to be empty there is no truth, and a mask predicted
  there is a false alarm.
* A detection whose mask of the channel is empty or missing is no detection of the channel.
* Boxes: every person counts. Joints: people with labelled joints count; one without ignores, as
  COCO does, one detection that lies in their box enlarged to three times its size.
* Crowds (``iscrowd``) are ignore regions of everything; so is the whole of a picture that is not
  ``exhaustive``. Joints have no region to overlap: for them a region is its box, again enlarged to
  three times its size, and a detection is ignored as far as its joints lie in there.
* Pixels to ignore of a person (``ignore_segmentation``) are in neither mask where one is held
  against that person's.
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
RECALLS = np.linspace(0, 1, 101)  # at which COCO takes the precision
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of OKS, too
MAX_DETECTIONS = 100  # a picture, as COCO counts boxes and masks
MAX_KEYPOINT_DETECTIONS = 20  # a picture, as COCO counts joints

# The box of a person in whom a channel is unknown is enlarged on each side by this share of its
# width and height: a predicted mask may reach a little beyond, and must lie inside by 95 % to be
# ignored at the highest threshold.
UNKNOWN_MARGIN = 0.1


def evaluate_ap(
    records: Records, predictions: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """AP of everything that records and predictions have in common; see the module for the rules.

    Args:
        records: the truth.
        predictions: people of any of the records' pictures, as `People.to_annotations` gives them:
            ``image_id``, ``bbox``, ``score`` and, where predicted, ``segmentation``,
            ``part_segmentation``, ``keypoints``; in the records' schemas.

    Returns:
        Percent, nan where there is no truth: ``{"bbox": {"AP", "AP50", "AP75"}, "body": {...},
        "parts": {"AP", "AP50", "AP75" (means over the parts that have a truth), "AP-head",
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
    """Look whether predictions can be held against records.

    Raises:
        ValueError: a prediction is of a picture or has a part that the records do not know, or its
            masks or joints are not of the records' size or number.
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
        channel -> (101,) precision, 0..1, as pycocotools has it: the greatest at that recall or
        above, 0 where the recall is not reached. Its mean is AP50. All nan without truth.

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
    """Truths and detections of a channel."""
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
    """The RLE of a channel, None where it is missing or empty."""
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
    """A crowd that covers an XYWH box, clipped to the picture."""
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
    """(T, 101): COCOeval's precision at T thresholds and each recall, -1 where there is no truth.

    ``kind`` is ``bbox``, ``segm`` or ``keypoints``. The dictionaries are changed: COCOeval writes
    its own keys into them.
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
    """COCOeval, but for the pixels to ignore of a truth (``ignore_segmentation``)."""

    def computeIoU(self, image_id, category_id):  # noqa: N802  (pycocotools' name)
        ious = super().computeIoU(image_id, category_id)
        truths = self._gts[image_id, category_id]
        columns = [
            i for i, t in enumerate(truths) if "ignore_segmentation" in t and not t["iscrowd"]
        ]
        if self.params.iouType != "segm" or not len(ious) or not columns:
            return ious
        found = self._dts[image_id, category_id]
        order = np.argsort([-d["score"] for d in found], kind="mergesort")  # as COCOeval's rows
        masks = [found[i]["segmentation"] for i in order[: len(ious)]]
        for column in columns:
            truth = truths[column]
            for row in np.flatnonzero(ious[:, column]):
                ious[row, column] = mask_iou(masks[row], truth["segmentation"], truth)
        return ious


def _coco(records: Records, people: list[dict[str, Any]]) -> COCO:
    # Ids count from 1: COCOeval takes a match with id 0 for none.
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
