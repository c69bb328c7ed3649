"""The predictor of exported models, on graphs made by hand: no torch, no Detectron2."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.deploy import ModelInfo, OnnxPredictor, default_model, trainable_model
from detectron2_bodyparts.deploy.predictor import METADATA_KEY, resize_shorter_side
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17, KeypointSchema, PartSchema

onnx = pytest.importorskip("onnx", reason="the graphs are made with onnx, which is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

INFO = ModelInfo(
    version="0.1.0",
    config="some.yaml",
    part_schema=PartSchema("hands", ("body", "right_hand", "left_hand"), ((1, 2, 3),) * 3),
    keypoint_schema=KeypointSchema("ends", ("nose", "neck"), (("neck", "nose"),), (0.1, 0.2)),
    min_size=20,
    max_size=40,
    pixel_mean=(1.0, 2.0, 3.0),
    pixel_std=(1.0, 1.0, 1.0),
    channel_order="BGR",
    size_divisibility=32,
    weights="float32",
    score_threshold=0.05,
    nms_threshold=0.5,
    max_people=5,
)


def write_model(path: Path, metadata: dict[str, str], answers: dict[str, np.ndarray]) -> Path:
    """A graph that gives the same answer for every picture, but for its scores.

    A picture's size and brightness are added to the scores: width + height / 100 + mean / 10^6, so
    that a test sees what the model was given.
    """

    def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))

    nodes = [constant(name, value) for name, value in answers.items() if name != "scores"]
    nodes += [
        constant("base", answers["scores"]),
        constant("weights", np.array([0.01, 1, 0], np.float32)),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sizes", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["seen_size"], keepdims=0),
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        constant("million", np.array(1e-6, np.float32)),
        helper.make_node("Mul", ["mean", "million"], ["seen_mean"]),
        helper.make_node("Add", ["seen_size", "seen_mean"], ["seen"]),
        helper.make_node("Add", ["base", "seen"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["people", *value.shape[1:]])
        for name, value in answers.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "answers", [image], outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def answers(boxes: list[list[float]]) -> dict[str, np.ndarray]:
    people = len(boxes)
    return {
        "boxes": np.array(boxes, np.float32).reshape(people, 4),
        "scores": np.zeros(people, np.float32),
        "part_probs": np.linspace(0, 1, people * 3 * 16, dtype=np.float32).reshape(-1, 3, 4, 4),
        "keypoints": np.tile(np.float32([[4, 6, 0.5], [0, 10, 0.25]]), (people, 1, 1)),
    }


@pytest.fixture
def model(tmp_path) -> Path:
    found = answers([[10, 5, 20, 15], [-3, -3, 60, 60]])
    return write_model(tmp_path / "model.onnx", INFO.to_metadata(), found)


def test_files_of_the_first_format_show_the_box_alone(tmp_path):
    content = json.loads(replace(INFO, region_margin=0.25).to_metadata()[METADATA_KEY])
    assert ModelInfo.from_metadata({METADATA_KEY: json.dumps(content)}).region_margin == 0.25
    del content["region_margin"]
    metadata = {METADATA_KEY: json.dumps({**content, "format": 1})}
    model = write_model(tmp_path / "old.onnx", metadata, answers([[10, 5, 20, 15]]))
    assert OnnxPredictor(model)(np.zeros((20, 30, 3), np.uint8)).margin == 0


def test_the_masks_margin_is_the_files(tmp_path):
    metadata = replace(INFO, region_margin=0.25).to_metadata()
    model = write_model(tmp_path / "model.onnx", metadata, answers([[10, 5, 20, 15]]))
    assert OnnxPredictor(model)(np.zeros((20, 30, 3), np.uint8))[0].margin == 0.25


def test_people_are_in_the_coordinates_of_the_picture_as_it_was(model):
    people = OnnxPredictor(model)(np.full((30, 45, 3), 200, np.uint8))
    assert people.image_size == (30, 45)
    # The model saw 20 by 30: two thirds.
    assert people.boxes.tolist() == [[15, 7.5, 30, 22.5], [0, 0, 45, 30]]
    joints = np.array([[6, 9, 0.5], [0, 15, 0.25]])
    assert np.allclose(people.keypoints, [joints, joints], atol=1e-5)
    assert people.scores == pytest.approx([30.2002] * 2, abs=1e-5)
    assert people.part_probs.shape == (2, 3, 4, 4)
    assert people.part_probs[1, 2, 3, 3] == 1
    assert people.part_schema == INFO.part_schema and people.keypoint_schema == INFO.keypoint_schema


def test_width_and_height_have_scales_of_their_own_because_sizes_are_rounded(model):
    people = OnnxPredictor(model)(np.zeros((33, 47, 3), np.uint8))
    assert people.scores[0] == pytest.approx(28.2, abs=1e-5)  # 28.48 x 20
    x, y = 47 / 28, 33 / 20
    assert people.boxes[0] == pytest.approx([10 * x, 5 * y, 20 * x, 15 * y])
    assert people.keypoints[0, 0] == pytest.approx([4 * x, 6 * y, 0.5])


@pytest.mark.parametrize("name", ["astronaut.jpg", "photographer.jpg"])
def test_the_shipped_model_finds_the_same_people_above_a_threshold(name):
    image = cv2.imread(str(default_model().with_name(name)))
    everybody = OnnxPredictor(default_model())(image)
    assert len(everybody) > 1
    for threshold in (0.01, 0.3, *map(float, everybody.scores[:2]), 1.0):
        people, expected = (
            OnnxPredictor(default_model(), threshold=threshold)(image),
            everybody.confident(threshold),
        )
        assert len(people) == len(expected) == (everybody.scores >= threshold).sum()
        for field in ("boxes", "scores", "part_probs", "keypoints"):
            found, there = getattr(people, field), getattr(expected, field)
            np.testing.assert_allclose(found, there, atol=1e-4)


def test_a_file_without_a_threshold_leaves_out_people_itself(model):
    image = np.zeros((20, 30, 3), np.uint8)
    assert len(OnnxPredictor(model, threshold=30.1)(image)) == 2
    assert len(OnnxPredictor(model, threshold=30.3)(image)) == 0


def test_nobody(tmp_path):
    path = write_model(tmp_path / "nobody.onnx", INFO.to_metadata(), answers([]))
    people = OnnxPredictor(path)(np.zeros((30, 45, 3), np.uint8))
    assert len(people) == 0 and people.part_probs.shape == (0, 3, 4, 4)
    assert people.to_json()["people"] == []
    assert not people.label_map().any()


@pytest.mark.parametrize("missing", ["part_probs", "keypoints"])
def test_a_model_without_masks_or_joints(tmp_path, missing):
    found = answers([[10, 5, 20, 15]])
    del found[missing]
    people = OnnxPredictor(write_model(tmp_path / "m.onnx", INFO.to_metadata(), found))(
        np.zeros((20, 20, 3), np.uint8)
    )
    assert getattr(people, missing) is None
    assert len(people) == 1


def test_info_survives_the_file(model):
    assert OnnxPredictor(model, threads=1).info == INFO
    # Equal schemas may still have other colors.
    assert OnnxPredictor(model).part_schema.colors == INFO.part_schema.colors
    other = replace(INFO, keypoint_schema=COCO_17)
    assert ModelInfo.from_metadata(other.to_metadata()).keypoint_schema == COCO_17


def metadata_with(**changes: object) -> dict[str, str]:
    content = json.loads(INFO.to_metadata()[METADATA_KEY])
    return {METADATA_KEY: json.dumps({**content, **changes})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"author": "somebody"}, "no model of detectron2_bodyparts"),
        (metadata_with(format=3, version="7.5"), r"format 2 or older, found 3.*7\.5"),
        (metadata_with(format=None), "damaged"),
        (metadata_with(part_schema={"name": "x"}), "damaged.*channels"),
        (metadata_with(part_schema={"name": "x", "channels": ["head"]}), "first channel"),
        (metadata_with(min_sise=1), "damaged.*min_sise"),
        ({METADATA_KEY: "{"}, "damaged"),
        ({METADATA_KEY: "[]"}, "damaged"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path, metadata, message):
    path = write_model(tmp_path / "other.onnx", metadata, answers([]))
    with pytest.raises(ValueError, match=f"(?s)other.onnx: .*{message}"):
        OnnxPredictor(path)


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.onnx"):
        OnnxPredictor(tmp_path / "nothing.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(ValueError, match="text.onnx"):
        OnnxPredictor(text)


@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)
def test_what_is_no_picture(model, image):
    with pytest.raises(ValueError, match="expected a picture"):
        OnnxPredictor(model)(image)
    with pytest.raises(ValueError, match="expected a picture"):
        OnnxPredictor(model)(np.zeros((0, 9, 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((10, 15), (20, 30)),
        ((15, 10), (30, 20)),
        ((20, 20), (20, 20)),
        ((10, 40), (10, 40)),  # 20x80 would be too long
        ((30, 300), (4, 40)),
        ((1, 1000), (1, 40)),  # 0.04 pixels high
        ((7, 11), (20, 31)),  # 31.43
        ((7, 12), (20, 34)),  # 34.29
        ((8, 11), (20, 28)),  # 27.5 is rounded up
    ],
)
def test_sizes_after_resizing(size, expected):
    assert resize_shorter_side(np.zeros((*size, 3), np.uint8), 20, 40).shape == (*expected, 3)


def test_a_shrunk_picture_is_averaged_over_all_its_pixels():
    row = np.uint8([0, 0, 255, 255])
    image = np.repeat(np.tile(row, (4, 1))[..., None], 3, axis=2)
    # A triangle two pixels to each side of 1.0: 3/4, 3/4 and 1/4 at 0.5, 1.5 and 2.5.
    expected = [round(255 / 7), round(255 * 6 / 7)]
    assert resize_shorter_side(image, 2, 9).tolist() == [[[v] * 3 for v in expected]] * 2
    assert resize_shorter_side(image, 0, 9) is image


def test_neither_torch_nor_detectron2_is_needed(model):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None\n"
        "import numpy as np; from detectron2_bodyparts.deploy import OnnxPredictor\n"
        "print(len(OnnxPredictor(sys.argv[1])(np.zeros((30, 45, 3), np.uint8))))"
    )
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, str(model)]
    assert subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.strip() == b"2"


def test_the_model_that_comes_with_the_package():
    """Of an astronaut who faces the camera: whose right is at the picture's left."""
    assert default_model().stat().st_size <= 10e6
    predictor = OnnxPredictor(default_model(), threshold=0.5)
    original = OnnxPredictor(trainable_model()).info
    assert (predictor.info.weights, original.weights) == ("int8", "float16")
    assert predictor.info == replace(original, weights="int8")
    assert (predictor.part_schema, predictor.keypoint_schema) == (BODYPARTS_11, COCO_17)
    picture = cv2.imread(str(default_model().with_name("astronaut.jpg")))
    (person,) = predictor(picture)
    assert person.part("head")[110, 220] and person.part("torso")[330, 220]
    assert person.part("right_upper_arm")[300, 60]
    assert not person.body[50, 450]
    for joint, place in {
        "nose": (225, 118),
        "right_eye": (205, 100),
        "left_eye": (245, 102),
    }.items():
        np.testing.assert_allclose(person.joint(joint)[:2], place, atol=20)
    assert person.joint("right_shoulder")[0] < person.joint("left_shoulder")[0]

    (mirrored,) = predictor(np.ascontiguousarray(picture[:, ::-1]))
    right = person.part("right_upper_arm")
    there = {side: mirrored.part(f"{side}_upper_arm")[:, ::-1] for side in ("right", "left")}
    assert (right & there["left"]).sum() > 0.6 * right.sum()
    assert not (right & there["right"]).any()
