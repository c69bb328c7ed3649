"""Per-part COCO AP: what counts as truth, as a detection, and as neither."""

from __future__ import annotations

import numpy as np
import pytest
from pytest import approx

from detectron2_bodyparts.metrics.coco_ap import evaluate_ap
from detectron2_bodyparts.records import (
    Records,
    encode_mask,
    ignore_annotation,
    person_annotation,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, KeypointSchema

SHAPE = (60, 100)
ALL_KNOWN = dict.fromkeys(BODYPARTS_7.channels, "known")


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def part_masks(x: int, y: int = 10) -> dict[str, np.ndarray]:
    """Six 10x10 parts, two abreast, of a person of 20x30 pixels whose corner is (x, y)."""
    corners = {
        part: (x + 10 * (i % 2), y + 10 * (i // 2)) for i, part in enumerate(BODYPARTS_7.parts)
    }
    return {part: mask(cx, cy, cx + 10, cy + 10) for part, (cx, cy) in corners.items()}


def person(x: int, y: int = 10, without: tuple[str, ...] = (), states=ALL_KNOWN, joints=True):
    """A person's annotation; ``without`` names parts that have no mask."""
    parts = {part: m for part, m in part_masks(x, y).items() if part not in without}
    keypoints = np.zeros((17, 3))
    if joints:
        keypoints[:] = [(x + k, y + k, 2) for k in range(17)]
    return person_annotation(
        BODYPARTS_7,
        COCO_17,
        SHAPE,
        body=mask(x, y, x + 20, y + 30) if "body" in states else None,
        bbox=(x, y, 20, 30),
        parts=parts,
        states=states,
        keypoints=keypoints,
    )


def without_state(*channels: str) -> dict[str, str]:
    return {channel: "known" for channel in BODYPARTS_7.channels if channel not in channels}


def make_records(*pictures, exhaustive: bool = True) -> Records:
    """Each picture is a list of annotations; image ids count from 1."""
    records = Records(BODYPARTS_7, COCO_17)
    for i, picture in enumerate(pictures):
        records.add_image(f"{i}.jpg", *SHAPE, picture, exhaustive=exhaustive)
    return records


def detect(annotation, score: float = 0.9, image_id: int = 1) -> dict:
    """A prediction that is the annotation."""
    keys = ("category_id", "bbox", "segmentation", "part_segmentation", "keypoints")
    return {"image_id": image_id, "score": score} | {
        key: annotation[key] for key in keys if key in annotation
    }


def groups(results) -> dict[str, float]:
    return {kind: figures["AP"] for kind, figures in results.items()}


def test_the_truth_itself_is_perfect():
    people = [person(5), person(45)]
    others = [person(30, 20)]
    records = make_records(people, others)
    predictions = [detect(p) for p in people] + [detect(p, image_id=2) for p in others]
    results = evaluate_ap(records, predictions)
    assert set(results) == {"bbox", "body", "parts", "keypoints"}
    for figures in results.values():
        assert all(value == approx(100) for value in figures.values())
    assert set(results["bbox"]) == {"AP", "AP50", "AP75"}
    assert len(results["parts"]) == 3 + 3 * 6
    assert "AP75-left_leg" in results["parts"]


def test_known_values():
    # Two people. Of the first one, 8 of the head's 10 columns are predicted: IoU 0.8, a hit at the
    # seven thresholds 0.50 ... 0.80 (AP 100), not at the three above (the other head alone: see
    # below). The second head is predicted exactly, with the lower score.
    # At 0.85 ... 0.95 the surer head is a false alarm and the other a hit: precision 1/2 up to
    # recall 1/2, which is 51 of COCO's 101 recall points: AP = 0.5 * 51 / 101 = 25.2475 %.
    # Together (7 * 100 + 3 * 25.2475) / 10 = 77.5743.
    people = [person(5), person(45)]
    predictions = [detect(people[0], 0.9), detect(people[1], 0.8)]
    predictions[0]["part_segmentation"] = {
        **predictions[0]["part_segmentation"],
        "head": encode_mask(mask(5, 10, 13, 20)),
    }
    parts = evaluate_ap(make_records(people), predictions)["parts"]
    assert parts["AP-head"] == approx((700 + 3 * 50 * 51 / 101) / 10)
    assert parts["AP50-head"] == approx(100) and parts["AP75-head"] == approx(100)
    assert parts["AP-torso"] == approx(100)
    assert parts["AP"] == approx((5 * 100 + parts["AP-head"]) / 6)


def test_a_miss():
    # One of two people found: recall 1/2 at precision 1, 51 of 101 recall points.
    people = [person(5), person(45)]
    results = evaluate_ap(make_records(people), [detect(people[0])])
    assert groups(results) == approx(dict.fromkeys(results, 100 * 51 / 101))


def test_a_duplicate_of_higher_score_elsewhere_costs_precision():
    # The first person twice, then the second: hit, false alarm, hit. Precision is 1 up to recall
    # 1/2 (51 points) and 2/3 beyond (50 points).
    people = [person(5), person(45)]
    predictions = [detect(people[0], 0.9), detect(people[0], 0.8), detect(people[1], 0.7)]
    results = evaluate_ap(make_records(people), predictions)
    assert groups(results) == approx(dict.fromkeys(results, 100 * (51 + 50 * 2 / 3) / 101))


def test_no_predictions_are_zero_not_nan():
    results = evaluate_ap(make_records([person(5)]), [])
    assert all(value == 0 for figures in results.values() for value in figures.values())


@pytest.mark.parametrize("pictures", [[], [[]]])
def test_no_truth_is_nan(pictures):
    predictions = [detect(person(5))] if pictures else []
    results = evaluate_ap(make_records(*pictures), predictions)
    assert all(np.isnan(value) for figures in results.values() for value in figures.values())


def test_a_false_alarm_in_an_empty_picture_counts():
    # Surer than the hit: precision 1/2 at every recall.
    records = make_records([person(5)], [])
    predictions = [detect(person(5), 0.5), detect(person(45), 0.9, image_id=2)]
    assert groups(evaluate_ap(records, predictions)) == approx(
        dict.fromkeys(("bbox", "body", "parts", "keypoints"), 50)
    )


@pytest.mark.parametrize("channel", ["head", "left_arm", "body"])
def test_a_channel_that_is_unknown_is_neither_hit_nor_false_alarm(channel):
    unknown = person(45, without=(channel,), states=without_state(channel))
    records = make_records([person(5), unknown])
    found = detect(person(5), 0.5)
    everything = detect(person(45), 0.9)
    nothing = detect(unknown, 0.9)
    assert channel == "body" or channel not in nothing["part_segmentation"]
    assert channel != "body" or "segmentation" not in nothing
    predicted, silent = (evaluate_ap(records, [found, p]) for p in (everything, nothing))
    for figures, same in zip(predicted.values(), silent.values(), strict=True):
        assert figures == approx(same)
        assert all(value == approx(100) for value in figures.values())


def test_a_union_of_sides_leaves_both_sides_unknown():
    states = {**without_state("right_arm", "left_arm"), "arm": "known"}
    unsided = person(45, without=("right_arm", "left_arm"), states=states)
    parts = evaluate_ap(
        make_records([person(5), unsided]), [detect(person(5), 0.5), detect(person(45), 0.9)]
    )["parts"]
    assert parts["AP-right_arm"] == approx(100)


def test_an_unknown_channel_may_be_predicted_a_little_beyond_the_box():
    # The box is 20 wide, from 45: enlarged by a tenth it reaches from 43 to 67.
    unknown = person(45, without=("head",), states=without_state("head"))
    records = make_records([person(5), unknown])

    def head_ap(x0: int, x1: int) -> float:
        prediction = detect(unknown, 0.9)
        prediction["part_segmentation"] = {"head": encode_mask(mask(x0, 12, x1, 20))}
        return evaluate_ap(records, [detect(person(5), 0.5), prediction])["parts"]["AP-head"]

    assert head_ap(43, 67) == approx(100)
    assert head_ap(66, 90) == approx(50)


def test_a_channel_known_to_be_empty_makes_its_prediction_a_false_alarm():
    empty = person(45, without=("head",))
    records = make_records([person(5), empty])
    found = detect(person(5), 0.5)
    assert evaluate_ap(records, [found, detect(empty, 0.9)])["parts"]["AP-head"] == approx(100)
    results = evaluate_ap(records, [found, detect(person(45), 0.9)])
    assert results["parts"]["AP-head"] == approx(50)
    assert results["parts"]["AP-torso"] == approx(100)


def test_derived_channels_count_as_truth():
    derived = person(5, states={**ALL_KNOWN, "head": "derived"})
    parts = evaluate_ap(make_records([derived]), [])["parts"]
    assert parts["AP-head"] == 0


def test_an_empty_mask_is_no_detection():
    # Were the surer, empty head a detection, it would be a false alarm: AP 50.
    empty = detect(person(45), 0.9)
    empty["part_segmentation"] = {"head": encode_mask(np.zeros(SHAPE, dtype=bool))}
    results = evaluate_ap(make_records([person(5)]), [detect(person(5), 0.5), empty])
    assert results["parts"]["AP-head"] == approx(100)
    assert results["body"]["AP"] == approx(50)


def test_a_part_without_truth_is_left_out_of_the_mean():
    headless = person(5, without=("head",))
    parts = evaluate_ap(make_records([headless]), [detect(headless)])["parts"]
    assert np.isnan(parts["AP-head"])
    assert parts["AP"] == approx(100)


def test_crowds_ignore_whatever_is_found_in_them():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(40, 0, 100, 60))
    records = make_records([person(5), crowd])
    in_crowd = [detect(person(45), 0.9), detect(person(70), 0.95), detect(person(72), 0.97)]
    results = evaluate_ap(records, [detect(person(5), 0.5), *in_crowd])
    assert groups(results) == approx(dict.fromkeys(results, 100))
    only_crowd = evaluate_ap(make_records([crowd]), in_crowd)
    assert all(np.isnan(v) for v in groups(only_crowd).values())


@pytest.mark.parametrize("x1, expected", [(15, 100), (25, 100), (30, 40)])
def test_pixels_to_ignore_are_in_neither_mask(x1, expected):
    """Columns 5 to 15 are labelled, the next ten are not; beyond them is background."""
    truth = person_annotation(
        BODYPARTS_7,
        COCO_17,
        SHAPE,
        body=mask(5, 10, 15, 40),
        parts={"head": mask(5, 10, 15, 20)},
        ignore=mask(15, 0, 25, 60),
    )
    found = person_annotation(
        BODYPARTS_7,
        COCO_17,
        SHAPE,
        body=mask(5, 10, x1, 40),
        parts={"head": mask(5, 10, x1, 20)},
    )
    elsewhere = {**detect(person(70), 0.3), "part_segmentation": {}}
    results = evaluate_ap(make_records([truth]), [elsewhere, detect(found)])
    # Of the widest one 10 of 15 columns are met: an IoU of 0.67, from 0.5 to 0.65.
    assert results["body"]["AP"] == results["parts"]["AP-head"] == approx(expected)


def test_a_crowd_is_one_whatever_pixels_of_it_are_to_ignore():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(40, 0, 100, 60))
    crowd["ignore_segmentation"] = encode_mask(mask(40, 0, 50, 10))
    results = evaluate_ap(
        make_records([person(5), crowd]), [detect(person(5), 0.5), detect(person(70), 0.9)]
    )
    assert groups(results) == approx(dict.fromkeys(results, 100))


def test_nothing_is_a_false_alarm_in_a_picture_that_is_not_exhaustive():
    predictions = [detect(person(5), 0.5), detect(person(80, 30), 0.9)]
    for exhaustive, expected in ((False, 100), (True, 50)):
        results = evaluate_ap(make_records([person(5)], exhaustive=exhaustive), predictions)
        assert groups(results) == approx(dict.fromkeys(results, expected))


def test_people_without_labelled_joints_are_no_truth_for_joints():
    records = make_records([person(5), person(45, joints=False)])
    results = evaluate_ap(records, [detect(person(5), 0.5), detect(person(45), 0.9)])
    assert results["keypoints"]["AP"] == approx(100)
    assert results["bbox"]["AP"] == approx(100)
    unlabelled = make_records([person(45, joints=False)])
    assert np.isnan(evaluate_ap(unlabelled, [detect(person(45))])["keypoints"]["AP"])


@pytest.mark.parametrize("sigma, hits", [(0.05, 5), (0.1, 9)])
def test_joints_use_the_schemas_sigmas(sigma, hits):
    # A joint d = 3 pixels off in a person of 600 pixels: OKS = exp(-9 / (2 * 600 * (2 sigma)^2)),
    # which is 0.4724 and 0.8290 for the two sigmas of the two joints below, the other joint being
    # exact: the mean of it and 1 is at least 0.50 ... 0.70 (5) and 0.50 ... 0.90 (9).
    schema = KeypointSchema("two-joints", ("neck", "belly"), sigmas=(sigma, 0.3))
    body = mask(5, 10, 25, 40)
    points = np.array([[10, 12, 2], [10, 20, 2]])
    truth = person_annotation(BODYPARTS_7, schema, SHAPE, body=body, keypoints=points)
    records = Records(BODYPARTS_7, schema)
    records.add_image("a.jpg", *SHAPE, [truth])
    prediction = detect(truth)
    prediction["keypoints"] = [13, 12, 0.9, 10, 20, 0.9]
    assert evaluate_ap(records, [prediction])["keypoints"]["AP"] == approx(10 * hits)


def test_a_hundred_detections_a_picture_and_twenty_for_joints():
    false_alarms = [detect(person(70, 25), 0.9)] * 20
    results = evaluate_ap(make_records([person(5)]), [*false_alarms, detect(person(5), 0.5)])
    expected = {"bbox": 100 / 21, "body": 100 / 21, "parts": 100 / 21, "keypoints": 0}
    assert groups(results) == approx(expected)
    results = evaluate_ap(make_records([person(5)]), [*false_alarms * 5, detect(person(5), 0.5)])
    assert groups(results) == dict.fromkeys(expected, 0)


def test_predictions_without_masks_or_joints_have_boxes_only():
    prediction = {"image_id": 1, "bbox": [5, 10, 20, 30], "score": 0.9}
    results = groups(evaluate_ap(make_records([person(5)]), [prediction]))
    assert results == {"bbox": approx(100), "body": 0, "parts": 0, "keypoints": 0}


def test_arguments_stay_as_they_are():
    people = [person(5), person(45, without=("head",), states=without_state("head"))]
    records = make_records(people)
    predictions = [detect(p) for p in people]
    before = repr((records, predictions))
    evaluate_ap(records, predictions)
    assert repr((records, predictions)) == before


def test_predictions_that_do_not_fit_the_records_are_refused():
    records = make_records([person(5)])
    good = detect(person(5))
    small = encode_mask(np.ones((5, 5), dtype=bool))
    for change, message in [
        ({"image_id": 7}, "image 7 is not in the records"),
        ({"part_segmentation": {"tail": good["segmentation"]}}, "tail.*bodyparts-7"),
        ({"part_segmentation": {"head": small}}, r"head is \[5, 5\], expected \[60, 100\]"),
        ({"segmentation": small}, r"body is \[5, 5\]"),
        ({"keypoints": [1, 2, 3]}, "expected 51 numbers of joints, found 3"),
    ]:
        with pytest.raises(ValueError, match=f"prediction 1: .*{message}"):
            evaluate_ap(records, [good, {**good, **change}])
