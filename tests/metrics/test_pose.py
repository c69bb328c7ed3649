"""PCK: both references, the table, and who is matched with whom."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pytest import approx

from detectron2_bodyparts.metrics.pose import PCK, evaluate_pck
from detectron2_bodyparts.records import Records, ignore_annotation, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, JHMDB_15, LSP_14, KeypointSchema

SHAPE = (100, 200)
BOX = np.array([10.0, 10.0, 50.0, 70.0])  # 40 x 60: the reference of bbox is 60, a fifth of it 12


def joints(schema=COCO_17, v=2) -> np.ndarray:
    """All joints labelled, one beside the other; left shoulder and right hip 30 pixels apart."""
    points = np.array([(12.0 + 2 * k, 20.0, v) for k in range(len(schema))])
    points[schema.keypoints.index("left_shoulder"), :2] = 20, 20
    points[schema.keypoints.index("right_hip"), :2] = 38, 44
    return points


def moved(points: np.ndarray, schema, name: str, dx: float, dy: float = 0.0) -> np.ndarray:
    points = points.copy()
    points[schema.keypoints.index(name), :2] += dx, dy
    return points


def pck(true, found, schema=COCO_17, box=BOX, **settings) -> dict[str, float]:
    collected = PCK(schema, **settings)
    collected.add(true, box, found)
    return collected.result()


def test_the_truth_is_perfect():
    for schema in (COCO_17, JHMDB_15, LSP_14):
        result = pck(joints(schema), joints(schema), schema)
        assert result == approx(dict.fromkeys(result, 100))


def test_the_limit_is_included_and_both_references_by_hand():
    # 0.2 * 60 = 12 of the box (its longer side), 0.2 * 30 = 6 of the torso (18, 24, 30).
    for dx, dy, bbox, torso in (
        (6, 0, 100, 100),
        (6.01, 0, 100, 0),
        (0, -12, 100, 0),
        (0, 12.01, 0, 0),
        (9, 9, 0, 0),  # 12.73 away: the distance counts, not each coordinate
    ):
        found = moved(joints(), COCO_17, "left_wrist", dx, dy)
        result = pck(joints(), found, joints=["left_wrist"])
        assert result["PCK@0.2_bbox"] == bbox, (dx, dy)
        assert result["PCK@0.2_torso"] == torso, (dx, dy)


def test_the_longer_side_counts_also_where_it_is_the_width():
    found = moved(joints(), COCO_17, "nose", 16)
    for box, right in (([0, 0, 80, 40], 100), ([0, 0, 79, 40], 0)):
        assert pck(joints(), found, box=np.array(box), joints=["nose"])["PCK@0.2_bbox"] == right


def test_a_torso_below_one_pixel_gives_way_to_the_predicted_one():
    schema = COCO_17
    shoulder, hip = (schema.keypoints.index(k) for k in ("left_shoulder", "right_hip"))
    found = moved(joints(), schema, "nose", 6)  # a torso of 30 is predicted
    for length, right in ((0.99, 100), (1.0, 0)):
        true = joints()
        true[hip, :2] = true[shoulder, :2] + (length, 0)
        assert pck(true, found, joints=["nose"])["PCK@0.2_torso"] == right, length
    unlabelled = joints()
    unlabelled[hip, 2] = 0
    unlabelled[hip, :2] = 0
    assert pck(unlabelled, found, joints=["nose"])["PCK@0.2_torso"] == 100


def test_a_schema_without_torso_has_only_the_box():
    schema = KeypointSchema("two", ("neck", "face"))
    points = np.array([[1.0, 1, 2], [2, 2, 2]])
    result = pck(points, points, schema)
    assert set(result) == {"PCK@0.2_bbox", "PCK@0.2_bbox-head", "PCK@0.2_bbox-neck"}


def test_the_table():
    # Wrong: the nose (one of five of the head), one elbow of two, both ankles. 13 of 17 are right.
    found = joints()
    for name in ("nose", "left_elbow", "left_ankle", "right_ankle"):
        found = moved(found, COCO_17, name, 50)
    result = pck(joints(), found)
    rows = {"head": 80, "shoulder": 100, "elbow": 50, "wrist": 100, "hip": 100, "knee": 100}
    for reference in ("bbox", "torso"):
        name = f"PCK@0.2_{reference}"
        table = {key: result[key] for key in result if key.startswith(name)}
        expected = {f"{name}-{row}": value for row, value in rows.items()}
        assert table == approx({name: 1300 / 17, **expected, f"{name}-ankle": 0})


def test_joints_of_no_row_have_their_own():
    result = pck(joints(JHMDB_15), None, JHMDB_15)
    rows = [key.removeprefix("PCK@0.2_").split("-")[-1] for key in result]
    table = ["bbox", "head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "neck", "belly"]
    assert rows == [*table, "torso", *table[1:]]


def test_joints_that_are_not_judged():
    limbs = [k for k in JHMDB_15.keypoints if k not in ("neck", "belly")]
    found = moved(joints(JHMDB_15), JHMDB_15, "belly", 50)
    assert pck(joints(JHMDB_15), found, JHMDB_15)["PCK@0.2_bbox"] == approx(1400 / 15)
    result = pck(joints(JHMDB_15), found, JHMDB_15, joints=limbs)
    assert result["PCK@0.2_bbox"] == 100
    assert "PCK@0.2_bbox-belly" not in result
    with pytest.raises(ValueError, match=r"jhmdb-15 has no joints \['nose'\]"):
        PCK(JHMDB_15, joints=["nose"])


def test_labelled_is_any_v_above_zero():
    true = joints()
    true[:, 2] = 0
    true[COCO_17.keypoints.index("left_knee"), 2] = 1
    result = pck(true, moved(joints(), COCO_17, "right_knee", 50))
    assert result["PCK@0.2_bbox"] == result["PCK@0.2_bbox-knee"] == 100
    assert np.isnan(result["PCK@0.2_bbox-head"])


def test_nobody_is_nan_and_nobody_found_is_zero():
    assert np.isnan(list(PCK(COCO_17).result().values())).all()
    result = pck(joints(), None)
    assert result == dict.fromkeys(result, 0)


def test_people_are_weighted_by_their_joints():
    # 17 joints right, one of one wrong.
    collected = PCK(COCO_17)
    collected.add(joints(), BOX, joints())
    one = joints()
    one[1:, 2] = 0
    collected.add(one, BOX, one + 50)
    assert collected.result()["PCK@0.2_bbox"] == approx(1700 / 18)


def test_pieces_give_the_figures_of_the_whole():
    rng = np.random.default_rng(0)
    pieces, whole = [PCK(COCO_17) for _ in range(3)], PCK(COCO_17)
    for i in range(30):
        found = joints() + rng.normal(0, 8, (17, 3))
        for collected in (pieces[i % 3], whole):
            collected.add(joints(v=i % 2), BOX, found)
    first, *others = pickle.loads(pickle.dumps(pieces))
    for other in others:
        first.merge(other)
    assert first.result() == whole.result()
    assert 0 < whole.result()["PCK@0.2_torso"] < whole.result()["PCK@0.2_bbox"] < 100
    with pytest.raises(ValueError, match="different joints"):
        first.merge(PCK(COCO_17, joints=["nose"]))
    with pytest.raises(ValueError, match="different joints"):
        first.merge(PCK(LSP_14))


# --- records


def annotation(x: int, v=2):
    body = np.zeros(SHAPE, dtype=bool)
    body[10:70, x : x + 40] = True
    points = joints(v=v) + (x - 10, 0, 0)
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, body=body, keypoints=points)


def predict(one, score=0.9, joints_dx=0.0):
    points = np.array(one["keypoints"]).reshape(-1, 3) + (joints_dx, 0, 0)
    points = points.ravel().tolist()
    return {"image_id": 1, "score": score, "bbox": one["bbox"], "keypoints": points}


def make_records(*annotations):
    records = Records(BODYPARTS_7, COCO_17)
    records.add_image("a.jpg", *SHAPE, annotations)
    return records


def bbox_pck(records, predictions, **settings):
    return evaluate_pck(records, predictions, **settings)["PCK@0.2_bbox"]


def test_each_person_has_the_surest_prediction_of_their_box():
    # Person 1 twice: the surer one has all joints wrong. Person 2 is right. Arrival is no matter.
    people = [annotation(10), annotation(100)]
    predictions = [
        predict(people[0], 0.8),
        predict(people[1], 0.7),
        predict(people[0], 0.9, joints_dx=50),
    ]
    for order in (predictions, predictions[::-1]):
        assert bbox_pck(make_records(*people), order) == 50


def test_a_prediction_takes_one_person():
    # Two people in the same place: the one prediction is one person's.
    people = [annotation(10), annotation(10)]
    assert bbox_pck(make_records(*people), [predict(people[0])]) == 50
    assert bbox_pck(make_records(*people), [predict(people[0])] * 2) == 100


def test_the_person_of_greatest_overlap_is_taken():
    people = [annotation(10), annotation(16)]
    predictions = [predict(people[1], 0.9), predict(people[0], 0.8)]
    records = make_records(*people)
    assert evaluate_pck(records, predictions)["PCK@0.2_torso"] == 100
    # 6 pixels off are within the torso's limit, 7 are not.
    people[1] = annotation(17)
    predictions = [predict(people[1], 0.9), predict(people[0], 0.8)]
    assert evaluate_pck(make_records(*people), predictions)["PCK@0.2_torso"] == 100


@pytest.mark.parametrize("width, right", [(20, 100), (19, 0)])
def test_boxes_overlap_by_half_at_least(width, right):
    # Of 40 columns.
    one = annotation(10)
    half = {**predict(one), "bbox": [10, 10, width, 60]}
    assert bbox_pck(make_records(one), [half]) == right


def test_crowds_people_without_joints_and_false_alarms_cost_nothing():
    crowd = np.zeros(SHAPE, dtype=bool)
    crowd[10:70, 10:50] = True
    records = make_records(
        ignore_annotation(COCO_17, SHAPE, crowd), annotation(10), annotation(100, v=0)
    )
    predictions = [predict(annotation(10), 0.5), predict(annotation(150), 0.9)]
    assert bbox_pck(records, predictions) == 100


def test_predictions_without_joints_find_nobody():
    one = annotation(10)
    boxes_only = {"image_id": 1, "score": 0.95, "bbox": one["bbox"]}
    assert bbox_pck(make_records(one), [boxes_only]) == 0
    assert bbox_pck(make_records(one), [boxes_only, predict(one, 0.5)]) == 100
    assert bbox_pck(make_records(one), []) == 0


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="image 7 is not in the records"):
        evaluate_pck(make_records(annotation(10)), [{**predict(annotation(10)), "image_id": 7}])
