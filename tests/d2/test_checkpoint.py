from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from detectron2_bodyparts import add_bodyparts_config, get_config_file
from detectron2_bodyparts.checkpoint import (
    BodyPartsCheckpointer,
    WholeCheckpointer,
    new_weights,
    read_onnx_weights,
)
from detectron2_bodyparts.cli import main
from detectron2_bodyparts.export import export_onnx
from detectron2_bodyparts.predictor import BodyPartsPredictor


def stock_model(name: str):
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def our_model(*opts):
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    cfg.merge_from_file(get_config_file("bodyparts_rcnn_R_50_FPN_1x.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return build_model(cfg)


def load(model, weights, tmp_path, caplog) -> str:
    path = tmp_path / "weights.pth"
    torch.save({"model": weights}, path)
    with caplog.at_level(logging.INFO, logger="detectron2_bodyparts.checkpoint"):
        BodyPartsCheckpointer(model).load(str(path))
    return caplog.text


def test_keypoint_rcnn_loads_head_included(tmp_path, caplog):
    theirs = stock_model("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml").state_dict()
    ours = our_model()
    report = load(ours, theirs, tmp_path, caplog)
    loaded = ours.state_dict()
    for name in theirs:
        if not name.startswith("pixel_"):
            assert torch.equal(loaded[name], theirs[name]), name
    assert "new, as expected" in report and "roi_heads.mask_head.decoder" in report
    assert "NOT EXPECTED" not in report and "not used" not in report


def test_mask_rcnn_gives_its_person_class(tmp_path, caplog):
    theirs = stock_model("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml").state_dict()
    ours = our_model()
    report = load(ours, dict(theirs), tmp_path, caplog)
    loaded = ours.state_dict()
    scores = "roi_heads.box_predictor.cls_score.weight"
    deltas = "roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(loaded[scores], theirs[scores][[0, 80]])
    assert torch.equal(loaded[deltas], theirs[deltas][:4])
    assert "person is kept" in report and "NOT EXPECTED" not in report
    expected = next(line for line in report.splitlines() if "new, as expected" in line)
    assert "roi_heads.mask_head.decoder" in expected
    assert "roi_heads.keypoint_head.conv_fcn1" in expected
    assert "not used" in report  # the stock mask head


def test_another_number_of_joints_renews_the_last_layer_only(tmp_path, caplog):
    theirs = stock_model("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml").state_dict()
    ours = our_model("MODEL.BODYPARTS.KEYPOINT_SCHEMA", "lsp-14")
    report = load(ours, theirs, tmp_path, caplog)
    expected = next(line for line in report.splitlines() if "new, as expected" in line)
    assert "roi_heads.keypoint_head.score_lowres" in expected
    assert "conv_fcn" not in expected and "NOT EXPECTED" not in report
    name = "roi_heads.keypoint_head.conv_fcn3.weight"
    assert torch.equal(ours.state_dict()[name], theirs[name])


def test_a_joint_head_of_other_sizes_is_new_as_expected(tmp_path, caplog):
    ours = our_model("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (64,))
    theirs = stock_model("COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml").state_dict()
    report = load(ours, theirs, tmp_path, caplog)
    expected = next(line for line in report.splitlines() if "new, as expected" in line)
    assert "roi_heads.keypoint_head.conv_fcn1" in expected and "NOT EXPECTED" not in report


def test_what_should_not_be_new_is_said_so(tmp_path, caplog):
    ours = our_model()
    weights = dict(ours.state_dict())
    del weights["backbone.bottom_up.res2.0.conv1.weight"]
    weights["proposal_generator.rpn_head.conv.weight"] = torch.zeros(1)
    report = load(ours, weights, tmp_path, caplog)
    unexpected = next(line for line in report.splitlines() if "NOT EXPECTED" in line)
    assert "2 in" in unexpected
    assert "backbone.bottom_up.res2" in unexpected and "proposal_generator.rpn_head" in unexpected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("roi_heads.box_head.fc1.weight", True),
        ("proposal_generator.rpn_head.conv.weight", True),
        ("backbone.fpn_lateral2.weight", True),
        ("backbone.bottom_up.res2.0.conv1.weight", False),
    ],
)
def test_a_backbone_alone_leaves_all_behind_it_new(name, expected):
    as_expected, unexpected = new_weights([name], {"backbone.bottom_up.stem.conv1.weight"})
    assert (as_expected, unexpected) == (([name], []) if expected else ([], [name]))


@pytest.fixture
def small_weights(small_cfg) -> dict[str, torch.Tensor]:
    return build_model(small_cfg).state_dict()


def test_the_predictor_loads_all_of_the_models_weights(small_cfg, small_weights, tmp_path):
    small_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save(
        {"model": {**small_weights, "other": torch.zeros(1)}, "iteration": 7},
        tmp_path / "model.pth",
    )
    small_cfg.freeze()
    predictor = BodyPartsPredictor(small_cfg)
    assert predictor.cfg.MODEL.WEIGHTS == small_cfg.MODEL.WEIGHTS
    loaded = predictor.model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in small_weights.items())


@pytest.mark.parametrize("fault", ["missing", "of another shape"])
def test_the_predictor_refuses_a_part_of_the_weights(small_cfg, small_weights, tmp_path, fault):
    name = "roi_heads.box_predictor.cls_score.weight"
    small_weights[name] = torch.zeros(81, 32)
    if fault == "missing":
        del small_weights[name]
    small_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": small_weights}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model.pth: .* of \d+, 1 are missing .*{name}$"):
        BodyPartsPredictor(small_cfg)


def test_the_predictor_refuses_what_is_no_checkpoint(small_cfg, tmp_path):
    small_cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        BodyPartsPredictor(small_cfg)
    small_cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint .*model.pth"):
        BodyPartsPredictor(small_cfg)
    for content in ("", "no model"):
        (tmp_path / "model.pth").write_text(content)
        with pytest.raises(ValueError, match="model.pth: torch cannot load it"):
            BodyPartsPredictor(small_cfg)


def test_predict_says_so_in_one_line(small_cfg, tmp_path, capsys):
    config, weights = tmp_path / "small.yaml", tmp_path / "model.pth"
    config.write_text(small_cfg.dump())
    small_cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA = "jhmdb-15"
    torch.save({"model": build_model(small_cfg).state_dict()}, weights)
    command = ["predict", str(tmp_path), "--config-file", str(config), "--output", str(tmp_path)]
    assert main([*command, "--weights", str(weights)]) == 2
    assert f"error: {weights}: its weights are not this config's" in capsys.readouterr().err
    assert main(command) == 2
    assert "error: MODEL.WEIGHTS is empty" in capsys.readouterr().err


@pytest.mark.parametrize("half", [False, True])
def test_an_exported_model_is_a_checkpoint(small_cfg, tmp_path, caplog, half):
    small_cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_mobilenet_v1_fpn_backbone", "MODEL.FPN.NORM", ""),
            *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_MASK_HEAD.IN_FEATURES", ("p2", "p3")),
            *("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6"]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256]]),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.ROI_MASK_HEAD.NORM", "GN"),
            *("MODEL.ROI_KEYPOINT_HEAD.NORM", "GN", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (32,)),
            *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        ]
    )
    trained, fresh = build_model(small_cfg), build_model(small_cfg)
    for parameter in trained.parameters():  # no two layers alike, as after training
        torch.nn.init.normal_(parameter, std=0.1)
    path = str(tmp_path / "model.onnx")
    export_onnx(trained, small_cfg, path, half=half)
    with caplog.at_level(logging.INFO, logger="detectron2_bodyparts.checkpoint"):
        BodyPartsCheckpointer(fresh).load(path)
    assert "weights: 122 of 122 loaded" in caplog.text and "not used" not in caplog.text
    loaded, tolerance = fresh.state_dict(), 1e-3 if half else 0
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(loaded[name], value, rtol=tolerance, atol=1e-7)
    WholeCheckpointer(build_model(small_cfg)).load(path)


def test_an_onnx_file_that_is_none(small_cfg, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match="expected an ONNX file"):
        WholeCheckpointer(build_model(small_cfg)).load(str(path))


def test_a_quantized_file_is_no_checkpoint(tmp_path):
    weight = onnx.numpy_helper.from_array(np.zeros((2, 3), np.int8), "model.w_quantized")
    graph = onnx.helper.make_graph([], "empty", [], [], [weight])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "int8.onnx")
    with pytest.raises(ValueError, match="quantized file is no checkpoint"):
        read_onnx_weights(tmp_path / "int8.onnx", {})


def test_an_exported_model_with_batch_norms_is_no_checkpoint(small_cfg, tmp_path):
    small_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    model = build_model(small_cfg)
    export_onnx(model, small_cfg, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"batch norms folded .*running_mean"):
        BodyPartsCheckpointer(model).load(str(tmp_path / "model.onnx"))
