from __future__ import annotations

import json

import cv2
import pytest
import torch
from detectron2.modeling import build_model

from detectron2_bodyparts.cli import main


@pytest.fixture
def model_files(small_cfg, tmp_path) -> list[str]:
    """The command's options that name a small untrained model."""
    config, checkpoint = tmp_path / "model.yaml", tmp_path / "model.pth"
    config.write_text(small_cfg.dump())
    torch.save({"model": build_model(small_cfg).state_dict()}, checkpoint)
    return ["--config-file", str(config), "--weights", str(checkpoint), "--threshold", "0"]


def test_predict_draws_names_what_it_skips_and_says_so_in_its_exit_code(
    model_files, small_records, tmp_path, capsys
):
    _, root = small_records
    output = tmp_path / "drawn"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "bad.jpg").write_text("no picture")
    inputs = [f"{root}/0.png", f"{root}/1.png", str(tmp_path / "pictures")]
    options = ["--output", str(output), "--json", "--page", *model_files]
    assert main(["predict", *inputs, *options]) == 1
    printed = capsys.readouterr()
    assert "bad.jpg" in printed.err and "page.jpg" in printed.out
    names = {p.name for p in output.iterdir()}
    assert names == {"0.jpg", "1.jpg", "0.json", "1.json", "page.jpg"}
    image = cv2.imread(f"{root}/0.png")
    assert cv2.imread(str(output / "0.jpg")).shape == image.shape
    content = json.loads((output / "0.json").read_text())
    assert content["image_size"] == list(image.shape[:2])
    assert content["people"] and len(content["people"][0]["keypoints"]) == 3 * 17
    assert main(["predict", inputs[0], *options]) == 0


def test_inspect_of_an_unknown_dataset_names_those_there_are(capsys):
    assert main(["inspect", "nothing"]) == 2
    assert "voc_part_train" in capsys.readouterr().err
