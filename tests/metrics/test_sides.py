"""Left/right confusion, and that AP alone would not tell it from other faults."""

from __future__ import annotations

import numpy as np
import pytest
from pytest import approx

from detectron2_bodyparts.metrics.coco_ap import evaluate_ap
from detectron2_bodyparts.metrics.sides import left_right_confusion
from detectron2_bodyparts.records import (
    Records,
    encode_mask,
    ignore_annotation,
    person_annotation,
)
from detectron2_bodyparts.report.examples import compare
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, PASCAL_PERSON_PART, mirrored_name

SHAPE = (60, 100)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def person(x: int, without: tuple[str, ...] = (), states=None):
    """A person of 20x40 pixels, facing the camera: their right side is the picture's left."""
    parts = {
        "right_arm": mask(x, 10, x + 10, 30),
        "left_arm": mask(x + 10, 10, x + 20, 30),
        "right_leg": mask(x, 30, x + 10, 50),
        "left_leg": mask(x + 10, 30, x + 20, 50),
    }
    parts = {name: m for name, m in parts.items() if name not in without}
    states = dict.fromkeys(BODYPARTS_7.channels, "known") if states is None else states
    body = mask(x, 10, x + 20, 50)
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, body=body, parts=parts, states=states)


def make_records(*annotations, schema=BODYPARTS_7) -> Records:
    records = Records(schema, COCO_17)
    records.add_image("a.jpg", *SHAPE, annotations)
    return records


def detect(annotation, score: float = 0.9, swap: tuple[str, ...] = ()) -> dict:
    """A prediction that is the annotation, the parts in ``swap`` under the other side's name."""
    masks = {
        mirrored_name(name) if name in swap else name: rle
        for name, rle in annotation["part_segmentation"].items()
    }
    return {
        "image_id": 1,
        "score": score,
        "bbox": annotation["bbox"],
        "segmentation": annotation["segmentation"],
        "part_segmentation": masks,
    }


ARMS = ("right_arm", "left_arm")
LEGS = ("right_leg", "left_leg")


def half_ignored(x: int) -> dict:
    """`person`, of whom the lower 24 of 40 rows are not labelled."""
    parts = {"right_arm": mask(x, 10, x + 10, 26), "left_arm": mask(x + 10, 10, x + 20, 26)}
    return person_annotation(
        BODYPARTS_7,
        COCO_17,
        SHAPE,
        body=mask(x, 10, x + 20, 26),
        parts=parts,
        ignore=mask(x - 5, 26, x + 25, 60),
    )


@pytest.mark.parametrize("swap", [(), ARMS])
def test_pixels_to_ignore_hide_nobody(swap):
    found = detect(person(5), swap=swap)
    result = left_right_confusion(make_records(half_ignored(5), half_ignored(45)), [found])
    assert result["pairs"] == 1 and result["confusion-arm"] == (100 if swap else 0)
    comparison = compare(make_records(half_ignored(5)), [found], threshold=0.5)[0]
    assert not comparison.missed and not comparison.false_alarms
    assert comparison.quality == (0 if swap else approx(1))


def test_the_truth_is_not_confused():
    people = [person(5), person(45)]
    result = left_right_confusion(make_records(*people), [detect(p) for p in people])
    assert result == {"confusion": 0, "confusion-arm": 0, "confusion-leg": 0, "pairs": 4}


def test_exchanged_sides_are_wholly_confused_and_the_body_does_not_notice():
    people = [person(5), person(45)]
    records = make_records(*people)
    predictions = [detect(p, swap=ARMS + LEGS) for p in people]
    result = left_right_confusion(records, predictions)
    assert result == {"confusion": 100, "confusion-arm": 100, "confusion-leg": 100, "pairs": 4}
    ap = evaluate_ap(records, predictions)
    assert ap["body"]["AP"] == approx(100)
    assert ap["parts"]["AP"] == 0


def test_shares_are_of_the_pairs_judged():
    # Person 1: arms exchanged. Person 2: right. Person 3: no left leg, so its legs are not judged.
    people = [person(5), person(40), person(75, without=("left_leg",))]
    predictions = [detect(people[0], swap=ARMS), detect(people[1]), detect(people[2])]
    result = left_right_confusion(make_records(*people), predictions)
    assert result["confusion-arm"] == approx(100 / 3)
    assert result["confusion-leg"] == 0
    assert result["confusion"] == approx(100 / 5)
    assert result["pairs"] == 5


def test_pairs_the_prediction_lacks_are_not_judged():
    prediction = detect(person(5))
    prediction["part_segmentation"]["left_arm"] = encode_mask(np.zeros(SHAPE, bool))
    del prediction["part_segmentation"]["right_leg"]
    result = left_right_confusion(make_records(person(5)), [prediction])
    assert result["pairs"] == 0
    assert np.isnan([result["confusion"], result["confusion-arm"], result["confusion-leg"]]).all()


def test_the_greater_overlap_decides():
    # Of the true left arm (columns 15 to 25) 4 columns are predicted left, and 6 of the right arm.
    for columns, confused in (((9, 19), 100), ((11, 21), 0)):
        prediction = detect(person(5))
        prediction["part_segmentation"] = {
            "left_arm": encode_mask(mask(columns[0], 10, columns[1], 30)),
            "right_arm": encode_mask(mask(5, 10, 7, 30)),
        }
        result = left_right_confusion(make_records(person(5)), [prediction])
        assert result["confusion-arm"] == confused
        assert result["pairs"] == 1


def test_each_person_is_matched_once_by_the_surest():
    surest, second = detect(person(5), 0.9, swap=ARMS), detect(person(5), 0.8)
    for predictions in ([surest, second], [second, surest]):
        result = left_right_confusion(make_records(person(5)), predictions)
        assert result["confusion-arm"] == 100
        assert result["pairs"] == 2


def test_people_side_by_side_are_told_apart():
    # Overlapping people 6 pixels apart: the greatest IoU, not the first above the threshold.
    people = [person(20), person(26)]
    predictions = [detect(people[1], 0.9), detect(people[0], 0.8)]
    assert left_right_confusion(make_records(*people), predictions)["confusion"] == 0


def test_far_detections_and_crowds_are_not_matched():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(40, 0, 100, 60))
    records = make_records(person(5), crowd)
    # 11 of 20 columns beside the person: IoU 9 / 31; and one in the crowd.
    result = left_right_confusion(records, [detect(person(16)), detect(person(50))])
    assert result["pairs"] == 0


def test_a_crowd_takes_no_detection_from_a_person():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(5, 10, 25, 50))
    assert left_right_confusion(make_records(crowd, person(5)), [detect(person(5))])["pairs"] == 2


def test_people_whose_body_is_unknown_are_matched_by_box():
    unknown = dict(person(5))
    del unknown["segmentation"], unknown["part_state"]["body"]
    assert left_right_confusion(make_records(unknown), [detect(person(5))])["pairs"] == 2


def test_nothing_to_judge():
    assert left_right_confusion(make_records(), [])["pairs"] == 0
    assert left_right_confusion(make_records(person(5)), [])["pairs"] == 0
    unsided = left_right_confusion(Records(PASCAL_PERSON_PART, COCO_17), [])
    assert set(unsided) == {"confusion", "pairs"} and np.isnan(unsided["confusion"])


def test_a_picture_the_records_lack_is_an_error():
    with pytest.raises(ValueError, match="image 1 is not in the records"):
        left_right_confusion(Records(BODYPARTS_7, COCO_17), [detect(person(5))])
