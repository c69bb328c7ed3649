"""TensorFlow.js graph models: read their weights, and run the graph in torch.

Supports the networks used as teachers by this package: BodyPix and MoveNet.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

_DTYPES = {"DT_FLOAT": torch.float32, "DT_INT32": torch.int32}


def read_tfjs_weights(model: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights of a TensorFlow.js graph model, quantized or not.

    Args:
        model: path of its JSON, with the shards in the same folder.

    Returns:
        TensorFlow's names -> arrays, float32 or int32; convolutions as (height, width, in, out).

    Raises:
        ValueError: the shards' size is not what the JSON says.
    """
    model = Path(model)
    weights = {}
    for group in json.loads(model.read_bytes())["weightsManifest"]:
        data = b"".join((model.parent / name).read_bytes() for name in group["paths"])
        start = 0
        for entry in group["weights"]:
            quantized = entry.get("quantization", {})
            dtype = np.dtype(quantized.get("dtype", entry["dtype"]))
            count = int(np.prod(entry["shape"]))
            end = start + count * dtype.itemsize
            if end > len(data):
                raise ValueError(f"{model}: {group['paths']} end before {entry['name']}")
            values = np.frombuffer(data, dtype, count, start).astype(entry["dtype"])
            if "scale" in quantized:
                values = values * np.float32(quantized["scale"]) + np.float32(quantized["min"])
            weights[entry["name"]] = values.reshape(entry["shape"])
            start = end
        if start != len(data):
            raise ValueError(f"{model}: expected {start} bytes in {group['paths']}: {len(data)}")
    return weights


class TfjsGraph:
    """A TensorFlow.js graph model with one input."""

    def __init__(self, model: str | PathLike[str]) -> None:
        """
        Args:
            model: path of its JSON, with the shards in the same folder.
        """
        nodes = json.loads(Path(model).read_bytes())["modelTopology"]["node"]
        self._nodes = {node["name"]: node for node in nodes}
        weights = read_tfjs_weights(model)
        self._weights = {name: torch.from_numpy(values) for name, values in weights.items()}

    @torch.no_grad()
    def __call__(self, image: torch.Tensor, output: str = "Identity") -> torch.Tensor:
        """
        Args:
            image: the input, channels last.
            output: name of the node to compute.

        Raises:
            NotImplementedError: the graph has an operation used by neither BodyPix nor MoveNet.
        """
        values: dict[str, Any] = {}
        waiting = [output]
        while waiting:
            name = waiting[-1]
            if name in values:
                waiting.pop()
                continue
            node = self._nodes[name]
            sources = [s.partition(":") for s in node.get("input", ()) if not s.startswith("^")]
            missing = [source for source, _, _ in sources if source not in values]
            if missing:
                waiting += missing
                continue
            inputs = [
                values[source][int(part or 0)]
                if isinstance(values[source], tuple)
                else values[source]
                for source, _, part in sources
            ]
            values[name] = self._run(node, inputs, image)
        return values[output]

    def _run(self, node: Mapping[str, Any], inputs: Sequence[Any], image: torch.Tensor) -> Any:
        op, attributes = node["op"], node.get("attr", {})
        if op == "Placeholder":
            return image
        if op == "Const":
            return self._weights[node["name"]]
        if op in _CONVOLUTIONS:
            return _convolution(op, attributes, *inputs)
        if op not in _OPERATIONS:
            raise NotImplementedError(f"{node['name']}: {op}")
        return _OPERATIONS[op](attributes, *inputs)


_CONVOLUTIONS = ("Conv2D", "_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative")


def _convolution(
    op: str, attributes: Mapping[str, Any], x: torch.Tensor, kernel: torch.Tensor, *more: Any
) -> torch.Tensor:
    depthwise = "Depthwise" in op
    # A depthwise kernel's last two axes are swapped: channel, multiplier.
    weight = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
    stride = int(attributes["strides"]["list"]["i"][1])
    dilation = int(attributes.get("dilations", {}).get("list", {}).get("i", "1111")[1])
    x = x.permute(0, 3, 1, 2)
    if _text(attributes["padding"]) == "SAME":
        pads = []
        for size, cells in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + (cells - 1) * dilation + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.pad(x, pads)
    groups = x.shape[1] if depthwise else 1
    x = F.conv2d(x, weight, stride=stride, dilation=dilation, groups=groups).permute(0, 2, 3, 1)
    others = iter(more)
    for fused in attributes.get("fused_ops", {}).get("list", {}).get("s", ()):
        name = base64.b64decode(fused).decode()
        if name == "BiasAdd":
            x = x + next(others)
        elif name == "Relu6":
            x = x.clamp(0, 6)
        elif name == "Relu":
            x = x.relu()
        else:
            raise NotImplementedError(f"a convolution with {name}")
    return x


def _text(attribute: Mapping[str, str]) -> str:
    return base64.b64decode(attribute["s"]).decode()


def _ints(tensor: torch.Tensor) -> list[int]:
    return [int(v) for v in tensor]


def _axis(attributes: Mapping[str, Any]) -> int:
    return int(attributes.get("axis", {}).get("i", 0))


def _resize(_: Any, x: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(x.permute(0, 3, 1, 2), _ints(size), mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


# Operation -> function from its attributes and inputs to its output.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Identity": lambda _, x: x,
    "AddV2": lambda _, a, b: a + b,
    "BiasAdd": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "RealDiv": lambda _, a, b: a / b,
    "FloorDiv": lambda _, a, b: torch.div(a, b, rounding_mode="floor"),
    "SquaredDifference": lambda _, a, b: (a - b) ** 2,
    "Sqrt": lambda _, x: x.sqrt(),
    "Sigmoid": lambda _, x: x.sigmoid(),
    "Relu6": lambda _, x: x.clamp(0, 6),
    "Cast": lambda attributes, x: x.to(_DTYPES[attributes["DstT"]["type"]]),
    "ArgMax": lambda _, x, axis: x.argmax(int(axis)),
    "Reshape": lambda _, x, shape: x.reshape(_ints(shape)),
    "ExpandDims": lambda _, x, axis: x.unsqueeze(int(axis)),
    "Squeeze": lambda attributes, x: x.squeeze(
        tuple(int(i) for i in attributes["squeeze_dims"]["list"]["i"])
    ),
    "GatherNd": lambda _, x, index: x[tuple(index.long().unbind(-1))],
    "Unpack": lambda attributes, x: tuple(x.unbind(_axis(attributes))),
    "Pack": lambda attributes, *x: torch.stack(x, _axis(attributes)),
    "ConcatV2": lambda _, *x: torch.cat(x[:-1], int(x[-1])),
    "ResizeBilinear": _resize,
}
