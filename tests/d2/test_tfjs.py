from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detectron2_bodyparts.modeling.tfjs import TfjsGraph, read_tfjs_weights


def write_tfjs(folder: Path, values: np.ndarray, spoil: int = 0) -> Path:
    """A model of one weight, in 16 bits, with so many bytes more than it says."""
    low, scale = float(values.min()), float(np.ptp(values) / 65535)
    data = np.round((values - low) / scale).astype(np.uint16).tobytes()
    (folder / "shard.bin").write_bytes(data[: len(data) + spoil] + b"x" * max(spoil, 0))
    entry = {"name": "w", "shape": list(values.shape), "dtype": "float32"}
    entry["quantization"] = {"dtype": "uint16", "min": low, "scale": scale}
    manifest = [{"paths": ["shard.bin"], "weights": [entry]}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    return folder / "model.json"


def test_quantized_weights_are_read(tmp_path):
    values = np.random.RandomState(0).normal(size=(3, 4)).astype(np.float32)
    read = read_tfjs_weights(write_tfjs(tmp_path, values))
    np.testing.assert_allclose(read["w"], values, atol=np.ptp(values) / 65535)


@pytest.mark.parametrize("spoil", [-1, 1])
def test_a_shard_of_another_length_is_refused(tmp_path, spoil):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with pytest.raises(ValueError, match="shard.bin"):
        read_tfjs_weights(write_tfjs(tmp_path, values, spoil))


def write_graph(folder: Path, nodes: list[dict], weights: dict[str, np.ndarray]) -> Path:
    data = b"".join(values.tobytes() for values in weights.values())
    (folder / "shard.bin").write_bytes(data)
    entries = [
        {"name": name, "shape": list(values.shape), "dtype": str(values.dtype)}
        for name, values in weights.items()
    ]
    nodes = [*nodes, *({"name": name, "op": "Const"} for name in weights)]
    model = {
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["shard.bin"], "weights": entries}],
    }
    (folder / "model.json").write_text(json.dumps(model))
    return folder / "model.json"


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def convolution(op: str, stride: int, inputs: list[str], fused: tuple[str, ...] = ()) -> dict:
    attributes: dict[str, Any] = {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "padding": {"s": text("SAME")},
        "fused_ops": {"list": {"s": [text(name) for name in fused]}},
    }
    return {"name": "Identity", "op": op, "input": inputs, "attr": attributes}


INPUT = {"name": "image", "op": "Placeholder"}


def test_float16_and_integers_are_read(tmp_path):
    (tmp_path / "shard.bin").write_bytes(
        np.float16([0.5, -2]).tobytes() + np.int32([7, -1]).tobytes()
    )
    entries = [
        {"name": "w", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "shape", "shape": [2], "dtype": "int32"},
    ]
    manifest = {"weightsManifest": [{"paths": ["shard.bin"], "weights": entries}]}
    (tmp_path / "model.json").write_text(json.dumps(manifest))
    read = read_tfjs_weights(tmp_path / "model.json")
    assert read["w"].dtype == np.float32 and read["w"].tolist() == [0.5, -2]
    assert read["shape"].dtype == np.int32 and read["shape"].tolist() == [7, -1]


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_pads_as_tensorflow_does(tmp_path, size, stride):
    """SAME: as many cells as strides fit, and an odd pixel of padding goes to the end."""
    x = torch.arange(size, dtype=torch.float32).reshape(1, 1, size, 1).expand(1, size, size, 1)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, :, 0, 0] = 1, 10, 100
    nodes = [INPUT, convolution("Conv2D", stride, ["image", "kernel"])]
    found = TfjsGraph(write_graph(tmp_path, nodes, {"kernel": kernel}))(x)
    cells = -(-size // stride)
    before = max((cells - 1) * stride + 3 - size, 0) // 2
    row = np.pad(np.arange(size), (before, 3))
    expected = [row[i * stride : i * stride + 3] @ [1, 10, 100] for i in range(cells)]
    assert found.shape == (1, cells, cells, 1)
    assert found[0, 0, :, 0].tolist() == expected


def test_depthwise_and_fused(tmp_path):
    rng = np.random.RandomState(0)
    x = torch.tensor(rng.normal(size=(1, 5, 6, 3)), dtype=torch.float32)
    kernel = rng.normal(size=(3, 3, 3, 1)).astype(np.float32)
    bias = np.float32([9, -9, 0])
    nodes = [
        INPUT,
        convolution(
            "FusedDepthwiseConv2dNative", 1, ["image", "kernel", "bias"], ("BiasAdd", "Relu6")
        ),
    ]
    found = TfjsGraph(write_graph(tmp_path, nodes, {"kernel": kernel, "bias": bias}))(x)
    for channel in range(3):
        alone = F.conv2d(
            x[..., channel][:, None], torch.tensor(kernel[:, :, channel, 0])[None, None], padding=1
        )
        expected = (alone[:, 0] + bias[channel]).clamp(0, 6)
        torch.testing.assert_close(found[..., channel], expected)


def test_a_list_of_outputs_and_control_inputs(tmp_path):
    nodes = [
        INPUT,
        {"name": "rows", "op": "Unpack", "input": ["image", "^axis"], "attr": {"axis": {"i": "1"}}},
        {"name": "apart", "op": "Sub", "input": ["rows:1", "rows"]},
        {"name": "Identity", "op": "ArgMax", "input": ["apart", "axis"]},
    ]
    graph = TfjsGraph(write_graph(tmp_path, nodes, {"axis": np.array(1, np.int32)}))
    assert graph(torch.tensor([[[1.0, 2, 3], [1, 9, 3]]])).tolist() == [1]


def test_other_operations_are_named(tmp_path):
    nodes = [INPUT, {"name": "Identity", "op": "Cosh", "input": ["image"]}]
    with pytest.raises(NotImplementedError, match="Identity: Cosh"):
        TfjsGraph(write_graph(tmp_path, nodes, {}))(torch.zeros(1))
