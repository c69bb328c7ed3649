"""8-bit convolutions: the shipped model quantized, on the two photographs that come with it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts import cli
from detectron2_bodyparts.deploy import OnnxPredictor, default_model, trainable_model
from detectron2_bodyparts.records import Records, write_records
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17

onnx = pytest.importorskip("onnx", reason="quantization needs onnx, which is not installed")
from detectron2_bodyparts.quantization import quantize  # noqa: E402

PHOTOGRAPHS = sorted(default_model().parent.glob("*.jpg"))


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "new" / "int8.onnx"
    command = ["quantize", str(path), *map(str, PHOTOGRAPHS)]
    assert cli.main(command) == 0
    return path


def test_all_convolutions_are_quantized(quantized):
    made_by = {o: n.op_type for n in onnx.load(quantized).graph.node for o in n.output}
    convs = [n for n in onnx.load(quantized).graph.node if n.op_type == "Conv"]
    assert len(convs) > 100
    assert {made_by[name] for conv in convs for name in conv.input} == {"DequantizeLinear"}
    # Each is directly before its output's quantization: nothing is left between in float.
    read_by = {i: n.op_type for n in onnx.load(quantized).graph.node for i in n.input}
    assert {read_by[conv.output[0]] for conv in convs} == {"QuantizeLinear"}


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda p: p.stem)
def test_finds_the_same_as_the_original(quantized, photograph):
    image = cv2.imread(str(photograph))
    ours, original = (
        OnnxPredictor(path)(image).confident(0.5) for path in (quantized, trainable_model())
    )
    assert len(ours) == len(original) == 1
    (x0, y0, x1, y1), (u0, v0, u1, v1) = ours[0].box, original[0].box
    both = (min(x1, u1) - max(x0, u0)) * (min(y1, v1) - max(y0, v0))
    either = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - both
    assert both / either > 0.8  # two images are few to calibrate with
    drawn, expected = ours.label_map(), original.label_map()
    foreground = (drawn > 0) | (expected > 0)
    assert (drawn == expected)[foreground].mean() > 0.85


def test_the_command_keeps_quiet(tmp_path, caplog):
    assert cli.main(["quantize", str(tmp_path / "x.onnx"), str(PHOTOGRAPHS[0])]) == 0
    assert not caplog.records


def test_metadata(quantized):
    info, original = OnnxPredictor(quantized).info, OnnxPredictor(trainable_model()).info
    assert (info.weights, original.weights) == ("int8", "float16")
    assert info.part_schema == original.part_schema
    assert quantized.stat().st_size < trainable_model().stat().st_size


def test_errors(tmp_path, capsys):
    with pytest.raises(ValueError, match="no images"):
        quantize(trainable_model(), tmp_path / "x.onnx", [])
    with pytest.raises(ValueError, match="bodyparts_int8.onnx: quantized already"):
        quantize(default_model(), tmp_path / "x.onnx", [])
    with pytest.raises(FileNotFoundError, match="no model"):
        quantize(tmp_path / "none.onnx", tmp_path / "x.onnx", [])
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for inputs, words in (
        (empty, "no images"),
        (text, "text.jpg: not an image"),
        (tmp_path / "none", "none: no such file"),
    ):
        assert cli.main(["quantize", str(tmp_path / "x.onnx"), str(inputs)]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["quantize", str(tmp_path / "x"), str(PHOTOGRAPHS[0]), "--max-images", "0"])
    assert "--max-images: expected at least 1, found 0" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_images_are_spread_evenly(tmp_path, monkeypatch):
    records = Records(BODYPARTS_11, COCO_17)
    for i in range(7):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((2, 2, 3), i, np.uint8))
        if i != 4:
            records.add_image(f"{i}.png", 2, 2, [])
    write_records(tmp_path / "six.json", records)
    seen = []

    def record(model, output, images):
        seen.extend(int(image[0, 0, 0]) for image in images)
        Path(output).touch()

    monkeypatch.setattr("detectron2_bodyparts.quantization.quantize", record)
    command = ["quantize", str(tmp_path / "x.onnx"), str(tmp_path), "--max-images", "3"]
    assert cli.main(command) == 0
    assert seen == [0, 3, 6]
    seen.clear()
    command = ["quantize", str(tmp_path / "x.onnx"), str(tmp_path / "six.json"), "--max-images"]
    assert cli.main([*command, "3"]) == 0
    assert seen == [0, 2, 5]
