from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from onnxruntime import InferenceSession

from detectron2_bodyparts import People, __version__
from detectron2_bodyparts.cli import main
from detectron2_bodyparts.deploy import OnnxPredictor
from detectron2_bodyparts.deploy.predictor import resize_shorter_side
from detectron2_bodyparts.export import export_onnx, halve_weights
from detectron2_bodyparts.predictor import BodyPartsPredictor
from detectron2_bodyparts.schema import get_keypoint_schema, get_part_schema

SIZES = [(96, 128), (128, 96), (31, 200), (9, 7), (211, 303)]

MODELS = {
    "everything": [],
    "shared features": ["MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True],
    "original": [
        *("MODEL.ROI_MASK_HEAD.DECODER", "original"),
        *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 56),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
    ],
    "masks only": ["MODEL.KEYPOINT_ON", False],
    "joints only": ["MODEL.MASK_ON", False],
    "boxes only": ["MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False],
    # As in the full models: regions of several levels, with as many samples as there are pixels.
    "all levels": [
        *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
        *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0),
        *("MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO", 0),
    ],
    "frozen norm, RGB": ["MODEL.RESNETS.NORM", "FrozenBN", "INPUT.FORMAT", "RGB"],
    "group norm": [
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
        *("MODEL.RESNETS.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "GN"),
        *("MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.ROI_MASK_HEAD.NORM", "GN"),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (32,), "MODEL.ROI_KEYPOINT_HEAD.NORM", "GN"),
    ],
    "segmentation": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
    ],
    "more than the box": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
        *("MODEL.BODYPARTS.REGION_MARGIN", 0.2),
    ],
    "three looks": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.FPN.MIRRORED_LOOKS", (1.0, 0.65)),
        *("MODEL.ROI_HEADS.MIRRORED", True),
    ],
    "mirrored, shared features": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
        *("MODEL.BODYPARTS.REGION_MARGIN", 0.2),
        *("MODEL.FPN.MIRRORED_LOOKS", (0.7,)),
        *("MODEL.ROI_HEADS.MIRRORED", True),
    ],
    "closer look": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
        *("MODEL.BODYPARTS.REGION_MARGIN", 0.1),
        *("MODEL.FPN.CLOSER_SIDE", 64),
    ],
    "closer look, own joint features": [
        *("MODEL.FPN.CLOSER_SIDE", 64),
        *("MODEL.ROI_HEADS.CLOSER_SCORE", 0.0, "MODEL.ROI_HEADS.CLOSER_PEOPLE", 2),
        *("MODEL.FPN.MIRRORED_LOOKS", (0.7,), "MODEL.ROI_HEADS.MIRRORED", True),
    ],
    "scores by masks": [
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.BODYPARTS.REGION_MARGIN", 0.2),
        *("MODEL.ROI_HEADS.SECOND_FIND_SCORE", 0.3),
        *("MODEL.ROI_HEADS.PART_SCORE_POWER", 0.5),
    ],
    "masks from finer levels than boxes": [
        *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        *("MODEL.ROI_MASK_HEAD.IN_FEATURES", ("p2",)),
        *("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES", True),
    ],
    "segmentation, own joint features": ["MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", 1.0],
    "other schemas": [
        *("MODEL.BODYPARTS.PART_SCHEMA", "bodyparts-11"),
        *("MODEL.BODYPARTS.KEYPOINT_SCHEMA", "union-21"),
    ],
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_predictor(cfg, score_threshold: float = 0.0) -> BodyPartsPredictor:
    """An untrained model whose answers differ clearly from person to person and cell to cell."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score_threshold
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    torch.manual_seed(3)
    model = build_model(cfg)
    scales = {"cls_score": 30, "bbox_pred": 30, "score_lowres": 5, "predictor": 30}
    for name, module in model.named_modules():
        scale = scales.get(name.rpartition(".")[2])
        if scale is not None:
            module.weight.data *= scale
        elif isinstance(module, torch.nn.Conv2d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.1)  # what is added to a segmentation
    cfg.MODEL.WEIGHTS = save_weights(model, Path(cfg.OUTPUT_DIR) / "random.pth")
    return BodyPartsPredictor(cfg)


def save_weights(model: torch.nn.Module, path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def exported(predictor: BodyPartsPredictor, path: Path, half: bool = False) -> OnnxPredictor:
    export_onnx(predictor.model, predictor.cfg, path, half=half)
    return OnnxPredictor(path, threads=1)


def assert_same(theirs: People, ours: People, slack: float = 1) -> None:
    """Boxes and joints within 0.01 px, scores within 1e-4, masks 1e-3; or ``slack`` times that."""

    def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
        return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=tolerance * slack)

    assert ours.image_size == theirs.image_size
    assert ours.part_schema == theirs.part_schema
    assert ours.keypoint_schema == theirs.keypoint_schema
    assert ours.margin == pytest.approx(theirs.margin)
    assert close(ours.boxes, theirs.boxes, 0.01)
    assert close(ours.scores, theirs.scores, 1e-4)
    for name, tolerance in (("part_probs", 1e-3), ("keypoints", 0.01)):
        a, b = getattr(theirs, name), getattr(ours, name)
        assert (a is None) == (b is None)
        assert a is None or close(a, b, tolerance), name


@pytest.mark.parametrize("name", MODELS)
def test_the_exported_model_gives_the_same_answer(small_cfg, tmp_path, name):
    small_cfg.merge_from_list(MODELS[name])
    predictor = random_predictor(small_cfg)
    onnx_predictor = exported(predictor, tmp_path / "model.onnx")
    for i, size in enumerate(SIZES):
        image = picture(*size, seed=i)
        people = predictor(image)
        assert len(people) == 5
        assert (people.part_probs is not None) == small_cfg.MODEL.MASK_ON
        assert (people.keypoints is not None) == small_cfg.MODEL.KEYPOINT_ON
        assert_same(people, onnx_predictor(image))


def test_nobody_one_and_many_from_one_file(small_cfg, tmp_path):
    pictures = [picture(96, 128, seed) // divisor for seed in range(4) for divisor in (1, 4, 64)]
    predictor = random_predictor(small_cfg)
    surest = np.sort([predictor(image).scores[0] for image in pictures])
    threshold = float(surest[len(surest) // 2] + surest[len(surest) // 2 - 1]) / 2
    predictor = random_predictor(small_cfg, threshold)
    onnx_predictor = exported(predictor, tmp_path / "model.onnx")
    counts = set()
    for image in pictures:
        people = onnx_predictor(image)
        assert_same(predictor(image), people)
        counts.add(len(people))
    assert {0, 1} < counts, counts


@pytest.mark.parametrize("name", ["everything", "closer look", "scores by masks"])
def test_with_a_threshold_the_graph_does_less_for_the_same_people(small_cfg, tmp_path, name):
    small_cfg.merge_from_list(MODELS[name])
    path, image = tmp_path / "model.onnx", picture(96, 128)
    everybody = exported(random_predictor(small_cfg, 0.01), path)(image)
    assert len(everybody) == 5
    for threshold in (0.005, *map(float, everybody.scores), 1.0):
        people = OnnxPredictor(path, threads=1, threshold=threshold)(image)
        assert_same(everybody.confident(threshold), people)
    session = InferenceSession(path)
    sure = session.run(["scores"], {"image": image, "threshold": np.array(1, np.float32)})[0]
    # Those who score more than CLOSER_SCORE see each other in the closer look.
    assert len(sure) == (5 if small_cfg.MODEL.FPN.CLOSER_SIDE else 0)
    assert len(session.run(["scores"], {"image": image})[0]) == 5


def test_no_proposals_at_all(small_cfg, tmp_path):
    predictor = random_predictor(small_cfg)
    deltas = predictor.model.proposal_generator.rpn_head.anchor_deltas
    with torch.no_grad():
        deltas.weight.zero_()
        deltas.bias.fill_(1e4)  # every proposal far outside of the picture
    image = picture(96, 128)
    assert len(predictor(image)) == 0
    assert len(exported(predictor, tmp_path / "model.onnx")(image)) == 0


def test_the_model_that_is_exported_stays_as_it_is(small_cfg, tmp_path):
    model = build_model(small_cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, small_cfg, tmp_path / "model.onnx")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_first_stage_is_not_exported(small_cfg, tmp_path):
    small_cfg.MODEL.META_ARCHITECTURE = "PartSegmentationPretraining"
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    with pytest.raises(ValueError, match="a first stage finds no people"):
        export_onnx(build_model(small_cfg), small_cfg, tmp_path / "model.onnx")


def test_the_file_says_what_it_is(small_cfg, tmp_path):
    small_cfg.merge_from_list(MODELS["other schemas"])
    small_cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.625
    path = tmp_path / "model.onnx"
    export_onnx(build_model(small_cfg), small_cfg, path, config="small.yaml")
    info = OnnxPredictor(path).info
    assert (info.version, info.config) == (__version__, "small.yaml")
    assert info.part_schema == get_part_schema("bodyparts-11")
    assert info.part_schema.colors == get_part_schema("bodyparts-11").colors
    assert info.keypoint_schema == get_keypoint_schema("union-21")
    assert (info.min_size, info.max_size, info.size_divisibility) == (96, 128, 32)
    assert info.pixel_mean == tuple(small_cfg.MODEL.PIXEL_MEAN)
    assert info.pixel_std == tuple(small_cfg.MODEL.PIXEL_STD)
    assert (info.channel_order, info.score_threshold) == ("BGR", 0.05)
    assert (info.nms_threshold, info.max_people) == (0.625, 20)
    session = InferenceSession(path)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("image", "tensor(uint8)", ["height", "width", 3])
    ]
    optional = session.get_overridable_initializers()
    assert [(i.name, i.type, i.shape) for i in optional] == [("threshold", "tensor(float)", [])]
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "boxes": ["people", 4],
        "scores": ["people"],
        "part_probs": ["people", 11, 112, 112],
        "keypoints": ["people", 21, 3],
    }


def test_pictures_are_resized_as_in_detectron2():
    rng = np.random.default_rng(0)
    for _ in range(50):
        image = picture(*rng.integers(2, 60, 2), seed=rng.integers(1000))
        expected = ResizeShortestEdge([20, 20], 33).get_transform(image).apply_image(image)
        assert np.array_equal(resize_shorter_side(image, 20, 33), expected)


def weights_and_biases(path: Path) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}


def test_half_precision_is_half_the_file_and_nearly_the_same_answer(small_cfg, tmp_path):
    predictor = random_predictor(small_cfg)
    whole = exported(predictor, tmp_path / "whole.onnx")
    half = exported(predictor, tmp_path / "half.onnx", half=True)
    assert (whole.info.weights, half.info.weights) == ("float32", "float16")
    kept, stored = (weights_and_biases(tmp_path / f"{n}.onnx") for n in ("whole", "half"))
    assert sum(w.nbytes for w in stored.values()) < 0.52 * sum(w.nbytes for w in kept.values())
    for name, values in kept.items():
        if values.ndim < 2:  # biases and the threshold stay as they are
            assert np.array_equal(stored[name], values)
        else:
            assert np.array_equal(stored[f"{name}.float16"], values.astype(np.float16))
    for i, size in enumerate(SIZES):
        image = picture(*size, seed=i)
        assert_same(predictor(image), half(image), slack=10)


def test_a_weight_too_large_for_half_precision_stays():
    weights = {"small": np.float32([[1]]), "large": np.float32([[1e5]])}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["image", "small"], ["between"]),
            onnx.helper.make_node("MatMul", ["between", "large"], ["answer"]),
        ],
        name="two weights",
        inputs=[],
        outputs=[],
        initializer=[onnx.numpy_helper.from_array(v, name) for name, v in weights.items()],
    )
    halve_weights(graph)
    assert [i.name for i in graph.initializer] == ["small.float16", "large"]
    assert [node.op_type for node in graph.node] == ["Cast", "MatMul", "MatMul"]


@pytest.fixture
def command(small_cfg, tmp_path) -> list[str]:
    """``bodyparts export`` of a small config to ``new/model.onnx``, without its weights."""
    config = tmp_path / "small.yaml"
    config.write_text(small_cfg.dump())
    return ["export", str(tmp_path / "new" / "model.onnx"), "--config-file", str(config)]


def test_the_command(small_cfg, command, tmp_path):
    predictor = random_predictor(small_cfg)
    command += ["--weights", predictor.cfg.MODEL.WEIGHTS, "--half"]
    assert main([*command, "--opts", "TEST.DETECTIONS_PER_IMAGE", "2"]) == 0
    onnx_predictor = OnnxPredictor(tmp_path / "new" / "model.onnx")
    info = onnx_predictor.info
    assert (info.config, info.max_people, info.weights) == ("small.yaml", 2, "float16")
    image = picture(96, 128)
    assert_same(predictor(image)[:2], onnx_predictor(image), slack=10)


def test_the_command_refuses_weights_of_another_config(small_cfg, command, tmp_path, capsys):
    small_cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA = "jhmdb-15"
    weights = save_weights(build_model(small_cfg), tmp_path / "joints.pth")
    assert main([*command, "--weights", weights]) == 2
    printed = capsys.readouterr().err
    assert weights in printed and "roi_heads.keypoint_head.score_lowres.bias" in printed
    assert main(command) == 2
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
