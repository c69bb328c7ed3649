from __future__ import annotations

import argparse
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands.model import add_model_arguments, load_predictor
from detectron2_bodyparts.data import register_bodyparts_dataset
from detectron2_bodyparts.data.registered import registered_records
from detectron2_bodyparts.evaluation import BodyPartsEvaluator
from detectron2_bodyparts.records import (
    decode_mask,
    mask_box,
    read_records,
    validate_records,
    write_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, JHMDB_15

from .conftest import person


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


def test_the_threshold_is_of_scores_as_masks_have_lowered_them(model_files, small_records):
    image = cv2.imread(f"{small_records[1]}/0.png")
    options = [*model_files[:-2], "--opts", "MODEL.ROI_HEADS.PART_SCORE_POWER", "8.0"]
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)

    def scores(*threshold: str) -> np.ndarray:
        return load_predictor(parser.parse_args([*options, *threshold]))(image).scores

    everybody = scores("--threshold", "0")
    middle = float(np.median(everybody))
    assert everybody.min() < middle < 0.3  # what boxes score is about a half
    some = scores("--threshold", repr(middle))
    np.testing.assert_array_equal(some, everybody[everybody >= middle])


@pytest.fixture
def registered(tmp_path):
    """Registers a dataset under the name it returns, and takes it back."""
    names = []

    def register(function, *arguments, **options) -> str:
        names.append(f"{tmp_path.name}_{len(names)}")
        function(names[-1], *arguments, **options)
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "opts, words",
    [
        (["MODEL.DEVCE", "cpu"], "MODEL.DEVCE"),
        (["MODEL.DEVICE"], "odd length"),
        (["SOLVER.MAX_ITER", "many"], "many"),
        (["MODEL.BODYPARTS.PART_SCHEMA", "gloves"], "gloves"),
    ],
)
def test_what_is_wrong_with_a_config_is_said_in_one_line(
    model_files, tmp_path, opts, words, capsys
):
    (tmp_path / "x.jpg").touch()
    for command, file in ("predict", "x.jpg"), ("export", "x.onnx"):
        # model_files without --threshold, which export does not have
        assert main([command, str(tmp_path / file), *model_files[:4], "--opts", *opts]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_a_registered_dataset_is_the_same_as_its_file(small_records, registered):
    json_file, root = small_records
    records = read_records(json_file)
    records.images[1]["exhaustive"] = False
    records.annotations[2] = {**person("body"), "id": 3, "image_id": 3}
    records.annotations[3] = {**person("crowd"), "id": 4, "image_id": 4}
    write_records(json_file, records)
    found = registered_records(registered(register_bodyparts_dataset, json_file, root))
    assert found.part_schema == records.part_schema
    assert found.keypoint_schema == records.keypoint_schema
    assert [i["file_name"] for i in found.images] == [f"{root}/{i}.png" for i in range(4)]
    assert [i["exhaustive"] for i in found.images] == [True, False, True, True]
    for ours, theirs in zip(found.annotations, records.annotations, strict=True):
        assert list(ours["bbox"]) == theirs["bbox"]
        for key in ("image_id", "segmentation", "part_segmentation", "part_state", "keypoints"):
            assert ours[key] == theirs[key]
        assert ours["num_keypoints"] == theirs["num_keypoints"]
        assert ours["iscrowd"] == theirs["iscrowd"]


def test_of_a_coco_dataset_the_people_are_taken(tmp_path, registered):
    square = [[2, 3, 12, 3, 12, 23, 2, 23]]
    joints = [0, 0, 0] * 16 + [7, 8, 2]
    base = {"image_id": 1, "bbox": [2, 3, 10, 20], "area": 200, "iscrowd": 0}
    people = {"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints), "skeleton": []}
    annotations = [
        {**base, "id": 1, "category_id": 1, "segmentation": square, "keypoints": joints},
        {**base, "id": 2, "category_id": 18, "segmentation": square},
        {**base, "id": 3, "category_id": 1, "segmentation": square},
    ]
    content = {
        "images": [{"id": 1, "file_name": "0.png", "height": 96, "width": 128}],
        "annotations": [{"num_keypoints": 1, **a} for a in annotations],
        "categories": [people, {"id": 18, "name": "dog"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((96, 128, 3), np.uint8))
    name = registered(register_coco_instances, {}, tmp_path / "coco.json", tmp_path)
    records = registered_records(name)
    assert len(records.annotations) == 2  # without the dog
    labelled, unlabelled = records.annotations
    body = decode_mask(labelled["segmentation"])
    assert mask_box(body) == (2, 3, 12, 23) and body.sum() == 200
    assert labelled["part_state"] == {"body": "known"}
    assert labelled["keypoints"] == joints and labelled["num_keypoints"] == 1
    assert unlabelled["keypoints"] == [0] * 51
    assert validate_records(records) == []

    pages = tmp_path / "pages"
    assert main(["inspect", name, "--output", str(pages)]) == 0
    assert [p.name for p in pages.iterdir()] == ["page_001.jpg"]
    assert main(["stats", name, "--output", str(tmp_path / "stats.png")]) == 0


def test_a_registered_dataset_without_its_file_says_how_to_make_it(tmp_path, registered, capsys):
    command = "python make_it.py"
    name = registered(
        register_bodyparts_dataset, tmp_path / "no.json", tmp_path, prepare_command=command
    )
    assert main(["stats", name]) == 2
    assert command in capsys.readouterr().err


def test_inspect_of_an_unknown_dataset_names_those_there_are(capsys):
    assert main(["inspect", "nothing"]) == 2
    assert "voc_part_train" in capsys.readouterr().err


def test_evaluate_gives_the_evaluators_numbers(small_records, registered, tmp_path):
    json_file, root = small_records
    name = registered(register_bodyparts_dataset, json_file, root)
    # A model that has neither nose nor eyes, and finds people at random.
    evaluator = BodyPartsEvaluator(name, BODYPARTS_7, JHMDB_15, str(tmp_path))
    evaluator.reset()
    generator = torch.Generator().manual_seed(0)
    for picture in DatasetCatalog.get(name):
        size = picture["height"], picture["width"]
        x, y, w, h = picture["annotations"][0]["bbox"]
        people = Instances(size)
        people.pred_boxes = Boxes([[x, y, x + w, y + h], [0, 0, 20, 30]])
        people.scores = torch.tensor([0.9, 0.6])
        people.pred_part_masks = torch.rand(2, 7, 28, 28, generator=generator)
        people.pred_part_masks[:, 0] = 1
        place = torch.tensor([x, y, 0.1]) + torch.rand(2, 15, 3, generator=generator) * 30
        people.pred_keypoints = place
        evaluator.process([picture], [{"instances": people}])
    expected = evaluator.evaluate()

    output = tmp_path / "numbers.json"
    command = ["evaluate", "--annotations", json_file, "--json", str(output)]
    assert main([*command, "--predictions", str(tmp_path / "predictions.json")]) == 0
    numbers = json.loads(output.read_text())
    assert set(expected) - set(numbers) == {"precision"}
    assert 0 < numbers["parsing"]["mIoU"] < 100 and 0 < numbers["pck"]["PCK@0.2_bbox"] < 100
    for group, figures in numbers.items():
        assert figures.keys() == expected[group].keys()
        for key, value in figures.items():
            if value is None:
                assert np.isnan(expected[group][key])
            else:
                assert value == expected[group][key], (group, key)


def loaded(code: str) -> set[str]:
    """Which libraries a process has loaded that runs ``code`` as the `bodyparts` command."""
    run = f"import sys; sys.argv = ['/bin/bodyparts']; {code}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", run], capture_output=True, check=True, text=True)
    return {"torch", "detectron2"} & set(answer.stdout.split())


def test_the_command_loads_detectron2_only_where_it_is_needed():
    assert loaded("import detectron2_bodyparts.cli") == set()
    ask = "from detectron2_bodyparts.commands.common import require_detectron2 as r; r()"
    assert loaded(ask) == {"torch", "detectron2"}
    assert loaded("sys.argv = ['bodyparts.py']; import detectron2_bodyparts") == {
        "torch",
        "detectron2",
    }
