from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from detectron2_bodyparts import add_bodyparts_config
from detectron2_bodyparts.modeling.bodypix import (
    PARTS,
    BodyPix,
    channel_of,
    mobilenet_state_dict,
)
from detectron2_bodyparts.modeling.mobilenet import MobileNetV1
from detectron2_bodyparts.modeling.tfjs import TfjsGraph, read_tfjs_weights
from detectron2_bodyparts.schema import BODYPARTS_11


@pytest.fixture
def bodypix_file(shared_dir) -> Path:
    path = shared_dir / "data/bodypix_mobilenet_v1_075/model-stride16.json"
    if not path.is_file():
        pytest.skip("no weights of BodyPix among the sample files")
    return path


def test_imported_weights_give_what_bodypix_gives(bodypix_file):
    image = np.random.RandomState(0).uniform(-1, 1, (65, 97, 3)).astype(np.float32)
    ours = BodyPix(read_tfjs_weights(bodypix_file))(torch.tensor(image).permute(2, 0, 1)[None])
    names = {
        "segments": "float_segments",
        "parts": "float_part_heatmaps",
        "joints": "float_heatmaps",
        "offsets": "float_short_offsets",
    }
    for name, node in names.items():
        theirs = TfjsGraph(bodypix_file)(torch.tensor(image)[None], node).permute(0, 3, 1, 2)
        assert ours[name].shape == theirs.shape == (1, theirs.shape[1], 5, 7)
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=1e-3)


def test_bodypix_has_twenty_four_parts_of_which_left_and_right_alternate():
    assert len(PARTS) == len(set(PARTS)) == 24
    assert PARTS[2:4] == ("left_upper_arm_front", "left_upper_arm_back")
    assert PARTS.index("right_upper_arm_front") == 4
    assert PARTS[12:14] == ("torso_front", "torso_back")
    assert PARTS[-2:] == ("left_foot", "right_foot")


def test_bodypix_parts_lie_in_the_channels_of_eleven():
    channels = [channel_of(part) for part in PARTS]
    assert {*channels} == {*BODYPARTS_11.parts}
    assert channels.count("head") == channels.count("torso") == 2
    assert channels.count("right_lower_arm") == channels.count("left_lower_leg") == 3
    assert channel_of("right_hand") == "right_lower_arm"
    assert channel_of("left_upper_leg_back") == "left_upper_leg"


def tiny_weights() -> dict[str, np.ndarray]:
    """Weights of a MobileNetV1 of width 1/32, as TensorFlow calls and orders them."""
    rng = np.random.RandomState(1)
    net = MobileNetV1(1 / 32)
    weights = {}
    for name, conv in [("Conv2d_0", net.stem)] + [
        (f"Conv2d_{i + 1}_{kind}", getattr(block, kind))
        for i, block in enumerate(net.blocks)
        for kind in ("depthwise", "pointwise")
    ]:
        deep = name.endswith("depthwise")
        kernel = rng.normal(size=conv.weight.shape).astype(np.float32)
        axes = (2, 3, 0, 1) if deep else (2, 3, 1, 0)
        prefix = "depthwise_" if deep else ""
        weights[f"MobilenetV1/{name}/{prefix}weights"] = kernel.transpose(axes)
        weights[f"MobilenetV1/{name}/{prefix or 'Conv2D_'}bias"] = rng.normal(size=len(kernel))
    return weights


def test_kernels_are_turned_round():
    weights = tiny_weights()
    state = mobilenet_state_dict(weights)
    MobileNetV1(1 / 32).load_state_dict(state)
    kernel = weights["MobilenetV1/Conv2d_6_pointwise/weights"]  # (1, 1, in, out)
    assert state["blocks.5.pointwise.weight"][3, 5, 0, 0] == kernel[0, 0, 5, 3]
    kernel = weights["MobilenetV1/Conv2d_6_depthwise/depthwise_weights"]  # (3, 3, in, 1)
    assert state["blocks.5.depthwise.weight"][5, 0, 0, 2] == kernel[0, 2, 5, 0]


def test_the_backbone_gives_a_map_for_every_level_and_freezes_from_below():
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_mobilenet_v1_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.MOBILENET.WIDTH = 0.25
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    backbone = build_backbone(cfg, ShapeSpec(channels=3))
    outputs = backbone(torch.zeros(1, 3, 128, 192))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        f"p{i}": (1, 16, 128 // 2**i, 192 // 2**i) for i in range(2, 7)
    }
    frozen = {n for n, p in backbone.bottom_up.named_parameters() if not p.requires_grad}
    assert all(n.startswith(("stem.", "blocks.0.", "blocks.1.", "blocks.2.")) for n in frozen)
    assert len(frozen) == 2 + 3 * 4
