"""Records made by a model: what becomes of each person, and of a run that goes wrong."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands import annotate
from detectron2_bodyparts.commands.annotate import annotations
from detectron2_bodyparts.deploy import default_model
from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import (
    Records,
    decode_mask,
    mask_box,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import COCO_17, LSP_14, PASCAL_PERSON_PART, PartSchema

HEIGHT, WIDTH = 60, 80
SCHEMA = PartSchema("halves", ("body", "upper", "lower"))


def found(*scores: float, masks: bool = True, joints: bool = True) -> People:
    """People beside each other, 20 by 40 pixels: the upper half, the lower one, and no gap."""
    count = len(scores)
    probs = np.zeros((count, 3, 4, 4), np.float32)
    probs[:, 0] = 1
    probs[:, 1, :2] = 1
    probs[:, 2, 2:] = 1
    left = 5 + 25.0 * np.arange(count)
    top, bottom = np.full(count, 10.0), np.full(count, 50.0)
    points = np.zeros((count, 17, 3))
    points[..., 0] = left[:, None] + 10
    points[..., 1] = 20.5
    points[:, :3, 2] = 0.02, 0.05, 0.9
    return People(
        (HEIGHT, WIDTH),
        np.stack([left, top, left + 20, bottom], axis=1),
        np.array(scores),
        probs if masks else None,
        points if joints else None,
        SCHEMA,
        COCO_17,
    )


def as_records(people: People, threshold: float = 0.7) -> Records:
    records = Records(SCHEMA, COCO_17)
    records.add_image(
        "1.png", HEIGHT, WIDTH, annotations(people, threshold=threshold, joint_threshold=0.05)
    )
    assert validate_records(records) == []
    return records


def test_people_are_labelled_from_the_threshold_on_and_ignored_below():
    people = found(0.9, 0.7, 0.69)
    sure, just, unsure = as_records(people, threshold=people.scores[1]).annotations
    assert [sure["iscrowd"], just["iscrowd"], unsure["iscrowd"]] == [0, 0, 1]
    assert [a["score"] for a in (sure, just, unsure)] == [0.9, 0.7, 0.69]
    assert sure["part_state"] == dict.fromkeys(SCHEMA.channels, "derived")
    assert sure["bbox"] == [5, 10, 20, 40]
    np.testing.assert_array_equal(decode_mask(sure["segmentation"]), people[0].body)
    for part in SCHEMA.parts:
        mask = decode_mask(sure["part_segmentation"][part])
        np.testing.assert_array_equal(mask, people[0].part(part))
    assert mask_box(decode_mask(sure["part_segmentation"]["lower"])) == (5, 30, 25, 50)
    np.testing.assert_array_equal(decode_mask(unsure["segmentation"]), people[2].body)
    assert unsure["num_keypoints"] == 0 and unsure["part_state"] == {}


def test_joints_of_a_low_score_are_left_unlabelled():
    (person,) = as_records(found(0.9)).annotations
    joints = np.reshape(person["keypoints"], (17, 3))
    assert person["num_keypoints"] == 2
    assert joints[0].tolist() == [0, 0, 0]  # a score of 0.02
    assert joints[1].tolist() == joints[2].tolist() == [14.5, 20, 2]  # pixel indices
    assert not joints[3:].any()


def test_whoever_has_no_pixel_of_body_is_a_region_to_ignore():
    people = found(0.9, 0.8)
    people.part_probs[0] = 0
    nobody, somebody = as_records(people).annotations
    assert (nobody["iscrowd"], somebody["iscrowd"]) == (1, 0)
    assert nobody["bbox"] == [5, 10, 20, 40]
    people.boxes[0] = 80, 10, 80, 50  # at the picture's edge, with no pixel at all
    assert len(as_records(people).annotations) == 1


def test_models_without_masks_or_without_joints():
    box_and_joints, region = as_records(found(0.9, 0.5, masks=False)).annotations
    assert "segmentation" not in box_and_joints and box_and_joints["part_state"] == {}
    assert box_and_joints["bbox"] == [5, 10, 20, 40] and box_and_joints["num_keypoints"] == 2
    assert region["iscrowd"] == 1 and region["bbox"] == [30, 10, 20, 40]
    (body_only,) = as_records(found(0.9, joints=False)).annotations
    assert body_only["part_state"]["body"] == "derived" and body_only["num_keypoints"] == 0


# ------------------------------------------------------------ the command


class FakePredictor:
    """Finds one sure and one unsure person on every picture, and keeps count of the pictures."""

    part_schema = PASCAL_PERSON_PART
    keypoint_schema = LSP_14

    def __init__(self) -> None:
        self.threshold: float | None = None
        self.seen: list[int] = []
        self.before_answer: Callable[[], None] = lambda: None

    def __call__(self, image: np.ndarray) -> People:
        self.seen.append(int(image[0, 0, 0]))
        self.before_answer()
        boxes = [[5, 10, 25, 50], [30, 10, 50, 50]]
        probs = np.full((2, len(self.part_schema.channels), 2, 2), 0.1)
        probs[:, 0] = 1
        joints = np.full((2, len(self.keypoint_schema), 3), 20.0)
        size = image.shape[:2]
        return People(size, boxes, [0.9, 0.6], probs, joints, self.part_schema, LSP_14)


@pytest.fixture
def predictor(monkeypatch) -> FakePredictor:
    fake = FakePredictor()

    def load(args) -> FakePredictor:
        fake.threshold = args.threshold
        return fake

    monkeypatch.setattr(annotate, "load_predictor", load)
    return fake


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of three pictures; a picture's brightness is its number."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (10, 9, 1):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
    return folder


def test_the_file_holds_pictures_settings_and_the_models_schemas(predictor, pictures, tmp_path):
    output = tmp_path / "records.json"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inputs = [str(pictures), str(pictures / "9.png")]  # one of them twice
    assert main(["annotate", *inputs, "--output", str(output), "--model", "their.onnx"]) == 0
    assert predictor.seen == [1, 9, 10] and predictor.threshold == 0.2
    records = read_records(output)
    assert (records.part_schema, records.keypoint_schema) == (PASCAL_PERSON_PART, LSP_14)
    names = [image["file_name"] for image in records.images]
    assert names == ["pictures/1.png", "pictures/9.png", "pictures/10.png"]
    assert all(image["exhaustive"] is True for image in records.images)
    assert [a["iscrowd"] for a in records.annotations] == [0, 1] * 3
    assert validate_records(records, tmp_path) == []
    info = {"model": "their.onnx", "threshold": 0.7, "ignore_threshold": 0.2}
    assert info.items() <= records.info.items()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(output))
    assert len(coco.getAnnIds(iscrowd=0)) == 3
    # Pictures that are not below the file have their whole path.
    other = elsewhere / "records.json"
    assert main(["annotate", *inputs, "--output", str(other), "--no-exhaustive"]) == 0
    records = read_records(other)
    assert records.images[0]["file_name"] == (pictures / "1.png").as_posix()
    assert all(image["exhaustive"] is False for image in records.images)
    assert validate_records(records, elsewhere) == []
    assert main(["inspect", str(other), "--output", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "page_001.jpg").is_file()


def test_bad_pictures_are_named_and_skipped(predictor, pictures, tmp_path, capsys):
    (pictures / "2.png").write_text("no picture")
    output = tmp_path / "records.json"
    inputs = [str(pictures), str(tmp_path / "missing.jpg")]
    assert main(["annotate", *inputs, "--output", str(output)]) == 1
    errors = capsys.readouterr().err
    assert str(pictures / "2.png") in errors and str(tmp_path / "missing.jpg") in errors
    assert predictor.seen == [1, 9, 10] and len(read_records(output).images) == 3
    # Without any good one there is no file.
    alone = ["annotate", str(pictures / "2.png"), "--output", str(tmp_path / "none.json")]
    assert main(alone) == 2
    assert "2.png" in capsys.readouterr().err
    assert not list(tmp_path.glob("none.json*"))


def test_a_stopped_run_leaves_the_old_file_and_goes_on_where_it_was(predictor, pictures, tmp_path):
    whole, output = tmp_path / "whole.json", tmp_path / "records.json"
    command = ["annotate", str(pictures), "--output"]
    assert main([*command, str(whole)]) == 0
    output.write_text("of an earlier run")

    def press_ctrl_c() -> None:
        if predictor.seen[-1] == 9:
            raise KeyboardInterrupt

    predictor.before_answer = press_ctrl_c
    assert main([*command, str(output)]) == 130
    assert output.read_text() == "of an earlier run"
    predictor.before_answer = lambda: None
    predictor.seen.clear()
    assert main([*command, str(output)]) == 0
    assert predictor.seen == [9, 10]
    assert output.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "whole.json", "records.json"}


@pytest.mark.parametrize(
    "change",
    [["--threshold", "0.8"], ["--ignore-threshold", "0.1"], ["--joint-threshold", "0.2"]]
    + [["--no-exhaustive"], ["--model", "model.onnx"]],
    ids=lambda change: change[0],
)
def test_a_stopped_run_with_other_settings_begins_again(predictor, pictures, tmp_path, change):
    def press_ctrl_c() -> None:
        if predictor.seen[-1] == 9:
            raise KeyboardInterrupt

    (tmp_path / "model.onnx").write_text("another one")
    command = ["annotate", str(pictures), "--output", str(tmp_path / "records.json")]
    predictor.before_answer = press_ctrl_c
    assert main(command) == 130
    predictor.before_answer = lambda: None
    predictor.seen.clear()
    change = [str(tmp_path / c) if c.endswith(".onnx") else c for c in change]
    assert main([*command, *change]) == 0
    assert predictor.seen == [1, 9, 10]


def test_a_model_of_the_same_name_is_told_by_its_content(predictor, pictures, tmp_path):
    digests = []
    for content in ("one", "another"):
        (tmp_path / "model.onnx").write_text(content)
        output = tmp_path / "records.json"
        options = ["--output", str(output), "--model", str(tmp_path / "model.onnx")]
        assert main(["annotate", str(pictures), *options]) == 0
        digests.append(json.loads(output.read_text())["info"]["sha256"])
    assert len(set(digests)) == 2


@pytest.mark.parametrize(
    "options, words",
    [
        (["--threshold", "0.1"], "--ignore-threshold <= --threshold"),
        (["--output", "records.txt"], "records.txt"),
    ],
)
def test_wrong_options_are_told_in_one_line(predictor, pictures, capsys, options, words):
    command = ["annotate", str(pictures), "--output", str(pictures / "records.json")]
    assert main([*command, *options]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1
    assert predictor.seen == []


@pytest.mark.parametrize("name", ["--threshold", "--ignore-threshold", "--joint-threshold"])
@pytest.mark.parametrize("value", ["1.1", "-0.1", "nan"])
def test_scores_are_from_0_to_1(predictor, pictures, capsys, name, value):
    command = ["annotate", str(pictures), "--output", str(pictures / "records.json")]
    with pytest.raises(SystemExit):
        main([*command, f"{name}={value}"])
    assert f"argument {name}: expected 0 to 1, found {value}" in capsys.readouterr().err


def test_a_folder_without_pictures_is_named(predictor, tmp_path, capsys):
    assert main(["annotate", str(tmp_path), "--output", str(tmp_path / "records.json")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_the_shipped_model_labels_a_person(tmp_path):
    shutil.copy(default_model().with_name("astronaut.jpg"), tmp_path)
    output = tmp_path / "records.json"
    assert main(["annotate", str(tmp_path), "--output", str(output)]) == 0
    records = read_records(output)
    assert validate_records(records, tmp_path) == []
    (person,) = (a for a in records.annotations if not a["iscrowd"])
    assert person["part_state"]["right_upper_arm"] == "derived"
    body = decode_mask(person["segmentation"])
    assert body[400, 200] and body[100, 220] and not body[50, 450]
