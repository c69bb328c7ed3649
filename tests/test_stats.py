"""Counting records; the chart is looked at by eye as well, which no test replaces."""

from __future__ import annotations

import numpy as np
import pytest

from detectron2_bodyparts.records import (
    RecordError,
    Records,
    ignore_annotation,
    person_annotation,
    read_records,
    write_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17
from detectron2_bodyparts.stats import collect, draw_chart

SHAPE = (50, 60)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def annotate(**kinds):
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **kinds)


def records_of(*pictures: list, schema=BODYPARTS_7, exhaustive: bool = True) -> Records:
    records = Records(schema, COCO_17)
    for i, people in enumerate(pictures):
        records.add_image(f"{i}.jpg", *SHAPE, people, exhaustive=exhaustive)
    return records


def visible(*places: int, v: int = 2) -> np.ndarray:
    joints = np.zeros((17, 3))
    joints[list(places)] = (10, 20, v)
    return joints


@pytest.fixture
def records() -> Records:
    """Three people in three pictures, one of which is empty, and a crowd."""
    labelled = annotate(
        body=mask(0, 0, 20, 40),  # 800 pixels
        parts={"head": mask(0, 0, 20, 10), "torso": mask(0, 10, 20, 30)},
        states={"body": "known", "head": "known", "torso": "derived", "right_leg": "known"},
        keypoints=visible(0, 1, 2),
    )
    unsided = annotate(
        body=mask(0, 0, 10, 10),
        parts={"head": mask(0, 0, 10, 1)},
        unsided={"arm": mask(0, 5, 10, 10)},
        keypoints=visible(0, v=1),
    )
    joints = annotate(keypoints=visible(0, 1), bbox=(0, 0, 30, 45))
    crowd = ignore_annotation(COCO_17, SHAPE, mask(0, 0, 60, 50))
    return records_of([labelled, unsided], [], [joints, crowd])


def test_states_are_counted_by_channel(records):
    statistics = collect(records)
    assert statistics.people == 3 and statistics.ignore_regions == 1
    counts = {c: tuple(statistics.state_counts(c)) for c in BODYPARTS_7.channels}
    assert counts == {  # known, derived, unsided, empty, unknown
        "body": (2, 0, 0, 0, 1),
        "head": (2, 0, 0, 0, 1),
        "torso": (0, 1, 0, 0, 2),
        "right_arm": (0, 0, 1, 0, 2),
        "left_arm": (0, 0, 1, 0, 2),
        "right_leg": (0, 0, 0, 1, 2),
        "left_leg": (0, 0, 0, 0, 3),
    }


def test_areas_are_the_pixels_of_the_masks(records):
    statistics = collect(records)
    assert {k: v.tolist() for k, v in statistics.areas.items()} == {
        "body": [800, 100],
        "head": [200, 10],
        "torso": [400],
        "arm": [50],
    }
    assert {k: v.tolist() for k, v in statistics.shares.items()} == {
        "head": [0.25, 0.1],
        "torso": [0.5],
        "arm": [0.5],
    }
    assert statistics.names == [*BODYPARTS_7.channels, "arm"]


def test_parts_without_a_body_have_pixels_but_no_share():
    statistics = collect(
        records_of([annotate(parts={"head": mask(0, 0, 5, 5)}, bbox=(0, 0, 9, 9))])
    )
    assert statistics.areas["head"].tolist() == [25]
    assert statistics.shares == {}


def test_joints_and_people_are_counted(records):
    statistics = collect(records)
    assert statistics.people_per_picture.tolist() == [2, 0, 1]
    assert statistics.box_heights.tolist() == [40, 10, 45]
    assert statistics.visible_joints().tolist() == [3, 0, 2]
    counts = statistics.joint_counts()  # unlabelled, hidden, visible
    assert counts[0].tolist() == [0, 1, 2]
    assert counts[1].tolist() == [1, 0, 2]
    assert (counts[3:] == [3, 0, 0]).all()


def test_every_histogram_counts_everything_once(records):
    crowded = records_of([annotate(bbox=(0, 0, 9, h)) for h in (15, 16, 511, 512, 3000)] * 3)
    for one, pictures, people in ((records, 3, 3), (crowded, 1, 15)):
        statistics = collect(one)
        totals = [counts.sum() for _, counts in statistics.histograms().values()]
        assert totals == [pictures, people, people]
    number, height, joints = (dict(zip(*h, strict=True)) for h in statistics.histograms().values())
    assert number["10+"] == 1
    assert (height["<16"], height["<32"], height["<512"], height["512+"]) == (3, 3, 3, 6)
    assert joints["0"] == 15 and list(joints)[-1] == "17"


def test_pictures_that_are_not_exhaustive_are_counted():
    assert collect(records_of([], [], exhaustive=False)).not_exhaustive == 2
    assert collect(records_of([], [])).not_exhaustive == 0


def test_the_same_from_a_file(records, tmp_path):
    write_records(tmp_path / "records.json", records)
    assert str(collect(read_records(tmp_path / "records.json"))) == str(collect(records))


def test_the_table_has_percentages_and_quartiles(records):
    lines = {line[:20].strip(): line[20:].split() for line in str(collect(records)).splitlines()}
    assert lines["head"] == "66.7 0.0 0.0 0.0 33.3 58 105 152 13.8 17.5 21.2".split()
    assert lines["left_leg"] == "0.0 0.0 0.0 0.0 100.0".split()
    assert lines["arm"] == "50 50 50 50.0 50.0 50.0".split()
    assert lines["nose"] == "66.7 33.3 0.0".split()
    assert lines["people a picture"] == "0.5 1.0 1.5 2.0".split()


def test_nobody():
    for records in (records_of(), records_of([], [])):
        statistics = collect(records)
        assert statistics.people == 0
        assert "people                 0" in str(statistics)
        assert (draw_chart(statistics, "nobody") != 255).any()


def test_an_annotation_of_other_joints_is_named(records):
    records.annotations[1]["keypoints"] = [0, 0, 0]
    with pytest.raises(RecordError, match="annotation 2: expected 51 .* found 3"):
        collect(records)


def colored(chart: np.ndarray, channel: str) -> int:
    """Pixels of exactly the channel's colour in the left half of a chart, where the states are."""
    color = BODYPARTS_7.colors[BODYPARTS_7.index(channel)][::-1]
    return int((chart[:, : chart.shape[1] // 2] == color).all(axis=2).sum())


def test_bars_of_the_chart_are_as_long_as_channels_are_frequent():
    person = annotate(body=mask(0, 0, 20, 40), parts={"head": mask(0, 0, 20, 10)})
    unlabelled = annotate(body=mask(0, 0, 20, 40))
    whole = draw_chart(collect(records_of([person] * 4)), "x")
    part = draw_chart(collect(records_of([person, *[unlabelled] * 3])), "x")
    derived = {**person, "part_state": {"body": "known", "head": "derived"}}
    half = draw_chart(collect(records_of([derived] * 4)), "x")
    rim = 3 / 4 * colored(whole, "head") / 6  # of the hollow three quarters, about
    assert colored(part, "head") == pytest.approx(colored(whole, "head") / 4 + rim, rel=0.15)
    assert colored(half, "head") == pytest.approx(colored(whole, "head") / 2, rel=0.25)
    assert colored(part, "body") == colored(whole, "body")


def test_charts_of_other_schemas_and_huge_people():
    schema = BODYPARTS_11
    body = np.ones((4000, 5000), bool)
    parts = {"upper_arm": body}
    person = person_annotation(schema, COCO_17, body.shape, body=body, unsided=parts)
    statistics = collect(records_of([person], schema=schema))
    assert statistics.names[-1] == "upper_arm"
    chart = draw_chart(statistics, "huge")
    assert chart.ndim == 3 and chart.dtype == np.uint8
    assert chart.shape[0] > draw_chart(collect(records_of()), "x").shape[0]
