"""8-bit convolutions for an exported model: faster on CPUs with instructions for them.

``bodyparts quantize`` is the command. Needs onnx, but neither torch nor Detectron2.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from .deploy import OnnxPredictor
from .deploy.predictor import resize_shorter_side

# What such a file's metadata say of its weights.
QUANTIZED = "int8"
# Each Clip (ReLU6) or Relu becomes part of the convolution before it. Left in float, it would leave
# the convolution's whole range to 8 bits, and the shipped model would lose a third of its mIoU.
_OPERATORS = ("Conv", "Clip", "Relu")


class _Images(CalibrationDataReader):
    """Images, resized for the model, as ONNX Runtime's calibration reads them."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def quantize(
    model: str | PathLike[str], output: str | PathLike[str], images: Iterable[np.ndarray]
) -> None:
    """Quantize the convolutions of an exported model after training (static quantization).

    Weights become int8, with one scale per output channel (Jacob et al., 2018), and activations
    uint8, with the range they have on the images. The rest of the graph is unchanged.

    Args:
        model: a file written by ``bodyparts export``.
        output: the file to write. It is no checkpoint to train from.
        images: (H, W, 3) BGR uint8, as in the model's later use: some 64 photographs with people.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is not such a file, or quantized already, or there are no images.
    """
    info = OnnxPredictor(model).info
    if info.weights == QUANTIZED:
        raise ValueError(f"{model}: quantized already; take the file it was made from")
    resized = [resize_shorter_side(image, info.min_size, info.max_size) for image in images]
    if not resized:
        raise ValueError("no images to calibrate with")
    with tempfile.TemporaryDirectory() as folder:
        # Weights stored as float16 are cast in the graph: this computes them.
        folded = os.path.join(folder, "folded.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = folded
        options.log_severity_level = 3  # no warnings: there is one for inputs that have a default
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        quantized = os.path.join(folder, "quantized.onnx")
        quantize_static(
            folded,
            quantized,
            _Images(resized),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        graph = onnx.load(quantized)
    onnx.helper.set_model_props(graph, replace(info, weights=QUANTIZED).to_metadata())
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(output))
