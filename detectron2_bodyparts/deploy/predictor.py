"""Inference with an exported model: ONNX Runtime, no torch and no Detectron2.

    >>> predictor = OnnxPredictor("bodyparts.onnx")  # doctest: +SKIP
    >>> people = predictor(cv2.imread("picture.jpg"))  # doctest: +SKIP

The file is written by ``bodyparts export`` and is self-contained: it holds the names of its
channels and keypoints and the preprocessing of images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from PIL import Image

from ..people import People
from ..schema import KeypointSchema, PartSchema

# The key of a model's metadata that holds its `ModelInfo`.
METADATA_KEY = "detectron2_bodyparts"
# The optional input of a model: boxes must score higher.
THRESHOLD = "threshold"
# Incremented when older code cannot read new files, or would read them wrongly.
FILE_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The metadata of an exported model.

    Args:
        version: of the package that wrote the file.
        config: name of the config file the model was built from.
        part_schema, keypoint_schema: the names of the channels and the keypoints.
        min_size, max_size: pixels of a resized image's shorter side, and the maximum of its longer
            side: see `resize_shorter_side`.
        pixel_mean, pixel_std, channel_order, size_divisibility: preprocessing, for information: the
            graph does it itself and takes BGR in 0..255 of any size.
        weights: how they are stored, ``"float32"`` or ``"float16"``, which are computed with in
            float32, or ``"int8"``: those of convolutions, which are computed in 8 bits.
        score_threshold, nms_threshold, max_people: postprocessing of detections, also in the graph.
        region_margin: margin of the masks around the box; see `People`. 0 for files of format 1.
    """

    version: str
    config: str
    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    min_size: int
    max_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    channel_order: str
    size_divisibility: int
    weights: str
    score_threshold: float
    nms_threshold: float
    max_people: int
    region_margin: float = 0.0

    def to_metadata(self) -> dict[str, str]:
        """The entry for the model's metadata."""
        return {METADATA_KEY: json.dumps({"format": FILE_FORMAT, **asdict(self)})}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelInfo:
        """Parse what `to_metadata` wrote.

        Raises:
            ValueError: it was written by another program, has a newer format, or is damaged.
        """
        if METADATA_KEY not in metadata:
            raise ValueError(f"no model of detectron2_bodyparts: it has no metadata {METADATA_KEY}")
        try:
            content = _tuples(json.loads(metadata[METADATA_KEY]))
            file_format = content.pop("format")
            if file_format > FILE_FORMAT:
                raise ValueError(
                    f"expected format {FILE_FORMAT} or older, found {file_format}: it was written "
                    f"by detectron2_bodyparts {content.get('version')}, and takes that to read"
                )
            content["part_schema"] = PartSchema(**content["part_schema"])
            content["keypoint_schema"] = KeypointSchema(**content["keypoint_schema"])
            return cls(**content)
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as e:
            raise ValueError(f"damaged metadata {METADATA_KEY}: {e!r}") from e


def _tuples(value: Any) -> Any:
    """Convert JSON's lists to tuples, as schemas have them."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Predictor(Protocol):
    """The common interface of `OnnxPredictor` and `BodyPartsPredictor`."""

    part_schema: PartSchema
    keypoint_schema: KeypointSchema

    def __call__(self, image: np.ndarray) -> People:
        """(H, W, 3) BGR uint8 -> the people in the image."""


class OnnxPredictor:
    """Detects people like `detectron2_bodyparts.predictor.BodyPartsPredictor`, with one ONNX file.

    Several threads may call one predictor at the same time.

    Attributes:
        info: the file's metadata.
    """

    def __init__(
        self, path: str | PathLike[str], threads: int | None = None, threshold: float = 0.0
    ) -> None:
        """
        Args:
            path: a file written by ``bodyparts export`` or ``bodyparts quantize``.
            threads: CPU threads per image; None for ONNX Runtime's default.
            threshold: people with a lower score are left out; the fewer are left, the faster. The
                model itself applies `ModelInfo.score_threshold`, to box scores before masks lower
                them.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not such a file, or requires a newer detectron2_bodyparts.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no model {path}")
        self._threshold = threshold
        options = onnxruntime.SessionOptions()
        # Otherwise its threads busy-wait for the next image and slow down NumPy's work on this one:
        # a label map took ten times as long.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # no warnings: there is one for inputs that have a default
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # ONNX Runtime's errors have no common base class of their own
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {e}") from e
        try:
            self.info = ModelInfo.from_metadata(self._session.get_modelmeta().custom_metadata_map)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from e
        self._outputs = [output.name for output in self._session.get_outputs()]
        # Who would be left out in the end needs no masks: those never raise a score.
        optional = {i.name for i in self._session.get_overridable_initializers()}
        self._more_inputs = {}
        if THRESHOLD in optional and threshold > self.info.score_threshold:
            # The graph takes who is above, not at, its threshold.
            below = np.nextafter(np.float32(threshold), np.float32(0))
            self._more_inputs[THRESHOLD] = np.array(below)

    @property
    def part_schema(self) -> PartSchema:
        """The names of the model's channels."""
        return self.info.part_schema

    @property
    def keypoint_schema(self) -> KeypointSchema:
        """The names of the model's keypoints."""
        return self.info.keypoint_schema

    def __call__(self, image: np.ndarray) -> People:
        """Detect people in an image.

        Args:
            image: (H, W, 3) BGR uint8.

        Raises:
            ValueError: the image has another shape or type, or is empty.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"expected a picture (H, W, 3) of uint8, found {image.shape} of {image.dtype}"
            )
        height, width = image.shape[:2]
        resized = resize_shorter_side(image, self.info.min_size, self.info.max_size)
        answers = self._session.run(None, {"image": resized, **self._more_inputs})
        found = dict(zip(self._outputs, answers, strict=True))
        scale = np.array([width / resized.shape[1], height / resized.shape[0]], dtype=np.float32)
        boxes = (found["boxes"].reshape(-1, 2, 2) * scale).clip(0, (width, height)).reshape(-1, 4)
        keypoints = found.get("keypoints")
        if keypoints is not None:
            keypoints[:, :, :2] *= scale
        people = People(
            image_size=(height, width),
            boxes=boxes,
            scores=found["scores"],
            part_probs=found.get("part_probs"),
            keypoints=keypoints,
            part_schema=self.part_schema,
            keypoint_schema=self.keypoint_schema,
            margin=self.info.region_margin,
        )
        return people.confident(self._threshold)


def default_model() -> Path:
    """Path of the model shipped with the package, with 8-bit convolutions."""
    return Path(__file__).parents[1] / "models" / "bodyparts_int8.onnx"


def trainable_model() -> Path:
    """Path of the same model before quantization, which is also a checkpoint to train from."""
    return default_model().with_name("bodyparts.onnx")


def resize_shorter_side(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Resize an image for the model, exactly as Detectron2's ``ResizeShortestEdge`` does.

    Pillow's bilinear filter averages over all pixels of an image that it shrinks. No OpenCV filter
    gives the same result: with one, a model detects a different number of people in about one of
    eight images shrunk to less than half their side, and boxes move by up to a pixel.

    Args:
        image: (H, W, 3) uint8.
        min_size: length of the shorter side; 0 leaves the image unchanged.
        max_size: maximum length of the longer side.
    """
    if min_size == 0:
        return image
    height, width = image.shape[:2]
    scale = min_size / min(height, width)
    size = (scale * width, scale * height)
    if max(size) > max_size:
        shrink = max_size / max(size)
        size = (size[0] * shrink, size[1] * shrink)
    size = tuple(max(int(side + 0.5), 1) for side in size)
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
