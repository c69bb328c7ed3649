from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from detectron2_bodyparts.records import decode_mask
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17, LSP_14

pytest.importorskip("onnxruntime", reason="BodyPix is run by ONNX Runtime, which is not there")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_peer
import peer

JOINTS = ("right_elbow", "left_knee", "nose")


def labels_of(**boxes):
    labels = np.zeros((40, 40), np.uint8)
    for part, (x0, y0, x1, y1) in boxes.items():
        labels[y0:y1, x0:x1] = BODYPARTS_11.index(part)
    return labels


@pytest.mark.parametrize(
    "part, expected",
    [
        ("right_lower_arm", 1),
        ("left_upper_arm", -1),
        ("left_upper_leg", 0),
        ("torso", 0),
    ],
)
def test_sides_are_judged_where_the_joint_lies_in_a_limb_of_its_kind(part, expected):
    person = {"keypoints": [5, 6, 2, 30, 30, 0, 5, 6, 2]}
    labels = labels_of(**{part: (3, 3, 10, 10)})
    assert bench_peer.sides_at_joints([person], JOINTS, labels).tolist() == [expected]


def test_joints_outside_the_picture_lie_in_no_limb():
    person = {"keypoints": [-3, 6, 2, 50, 30, 2, 5, 6, 2]}
    labels = labels_of(right_lower_arm=(0, 0, 40, 40))
    assert bench_peer.sides_at_joints([person], JOINTS, labels).tolist() == [0, 0]


def test_sides_are_shares_of_those_judged_of_those_that_both_judge_and_of_all():
    ours = [np.array([1, -1, 0]), np.array([1, 1, 1, -1])]
    theirs = [np.array([0, -1, 1]), np.array([-1, 1, 0, 0])]
    rows = bench_peer._side_figures({"ours": ours, "BodyPix": theirs})
    shares = {
        row: tuple((f.split(" ")[0], f.split(" of ")[1]) for f in figures.values())
        for row, figures in rows.items()
    }
    assert shares == {
        "swapped %": (("33.3", "6"), ("50.0", "4")),
        "swapped %, both": (("33.3", "3"), ("66.7", "3")),
        "own side %": (("57.1", "7"), ("28.6", "7")),
    }


def test_iou_of_counts():
    iou = bench_peer.class_iou(np.array([[6, 2], [1, 3]]))
    np.testing.assert_allclose(iou, [100 * 6 / 9, 100 * 3 / 6])


def test_an_interval_of_equal_pictures_is_the_figure():
    counts = np.tile([1, 4], (7, 1))
    text = bench_peer.interval(counts, lambda s: 100 * s[0] / s[1])
    assert text == "25.0 [25.0, 25.0]"


def test_an_interval_holds_the_figure_and_is_wider_with_fewer_pictures():
    def width(count):
        counts = np.column_stack([np.arange(count) % 2, np.ones(count)])
        low, high = (
            bench_peer.interval(counts, lambda s: 100 * s[0] / s[1]).split("[")[1].split(",")
        )
        assert float(low) < 50 < float(high.rstrip("]"))
        return float(high.rstrip("]")) - float(low)

    assert width(20) > 2 * width(400)


def test_the_person_in_a_box():
    labels = labels_of(right_upper_arm=(3, 3, 10, 10), right_lower_arm=(10, 3, 20, 10))
    heat = np.full((17, 2, 2), -4.0)
    heat[:, 1, 1] = 2.0  # outside the box
    heat[:, 0, 1] = 0.0
    places = np.stack(np.broadcast_arrays(*np.meshgrid([4.0, 14.0], [5.0, 30.0]), np.zeros(1))[:2])
    places = np.repeat(places[:, None], 17, axis=1)
    maps = peer.Maps(labels, heat, places)
    person = peer.person_in_box(maps, np.array([2.0, 2.0, 15.0, 12.0]), BODYPARTS_7, LSP_14)
    assert person["bbox"] == [2, 2, 13, 10]
    assert set(person["part_segmentation"]) == {"right_arm"}
    mask = decode_mask(person["part_segmentation"]["right_arm"])
    assert mask.sum() == 12 * 7
    assert mask[5, 12]
    joints = np.reshape(person["keypoints"], (14, 3))
    known = [i for i, name in enumerate(LSP_14.keypoints) if name in COCO_17.keypoints]
    np.testing.assert_allclose(joints[known], [[14, 5, 0.5]] * len(known))
