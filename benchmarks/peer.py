"""BodyPix as its users run it: one ONNX graph, and the postprocessing of its maps."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime

from detectron2_bodyparts.readers.taught import BODYPIX_STRIDE, bodypix_size
from detectron2_bodyparts.records import encode_mask
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17, KeypointSchema, PartSchema


class Maps(NamedTuple):
    """BodyPix's predictions for an (H, W) image.

    ``labels``: (H, W) uint8, channels of bodyparts-11. ``joints``: (17, h, w) logits of COCO's
    keypoints at every cell. ``places``: (2, 17, h, w) x and y of the cells plus offsets, in pixel
    indices of the image.
    """

    labels: np.ndarray
    joints: np.ndarray
    places: np.ndarray


def export_peer(model: str, path: Path) -> None:
    """Write the network as ONNX.

    Args:
        model: BodyPix's ``model-stride16.json``.
        path: the file to write. Its metadata hold the bodyparts-11 channel of each part.
    """
    import onnx
    import torch

    from detectron2_bodyparts.modeling.bodypix import PARTS, BodyPix, channel_of
    from detectron2_bodyparts.modeling.tfjs import read_tfjs_weights

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BodyPix(read_tfjs_weights(model))

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model(image).values())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Outputs(),
            (torch.zeros(1, 3, 65, 97),),
            str(path),
            dynamo=False,
            input_names=["image"],
            output_names=["segments", "parts", "joints", "offsets"],
            dynamic_axes={"image": {2: "height", 3: "width"}},
        )
    graph = onnx.load(path)
    channels = [str(BODYPARTS_11.index(channel_of(part))) for part in PARTS]
    onnx.helper.set_model_props(graph, {"channels": " ".join(channels)})
    onnx.save(graph, path)


class Peer:
    """BodyPix 0.75 in ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        """
        Args:
            path: a file written by `export_peer`.
            threads: number of threads of ONNX Runtime.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # as `OnnxPredictor`
        self._session = onnxruntime.InferenceSession(str(path), options)
        channels = self._session.get_modelmeta().custom_metadata_map["channels"]
        self._labels = np.array(channels.split(), np.uint8)

    def __call__(self, image: np.ndarray) -> Maps:
        """(H, W, 3) BGR uint8 -> its maps."""
        height, width = image.shape[:2]
        size = bodypix_size(height, width)
        pixels = cv2.resize(image, size)[:, :, ::-1].astype(np.float32) / 127.5 - 1
        segments, parts, joints, offsets = self._session.run(
            None, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        )
        up = _upsample(np.concatenate([segments[0], parts[0]]), size, (width, height))
        labels = self._labels[up[:, :, 1:].argmax(axis=2)]
        labels[up[:, :, 0] < 0] = 0
        rows, columns = np.mgrid[: joints.shape[2], : joints.shape[3]] * BODYPIX_STRIDE
        x = (columns + offsets[0, 17:]) * ((width - 1) / (size[0] - 1))
        y = (rows + offsets[0, :17]) * ((height - 1) / (size[1] - 1))
        return Maps(labels, joints[0], np.stack([x, y]))


def _upsample(maps: np.ndarray, inner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) -> (H, W, C); cells lie at every 16th pixel of the inner size, corners aligned."""
    step = [(inner[i] - 1) / BODYPIX_STRIDE / (size[i] - 1) for i in (0, 1)]
    warp = np.array([[step[0], 0, 0], [0, step[1], 0]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    channels = [
        cv2.warpAffine(m, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE) for m in maps
    ]
    return np.stack(channels, axis=2)


def person_in_box(
    maps: Maps, box: np.ndarray, schema: PartSchema, keypoint_schema: KeypointSchema
) -> dict[str, Any]:
    """The person that the maps show inside a box, in the form of `People.to_annotations`.

    Args:
        maps: of the image.
        box: XYXY, the ground truth: BodyPix tells people apart only by their skeletons.
        schema: of the parts, a view of bodyparts-11.
        keypoint_schema: of the keypoints.
    """
    x0, y0 = np.floor(np.maximum(box[:2], 0)).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    labels = np.zeros_like(maps.labels)
    labels[y0:y1, x0:x1] = maps.labels[y0:y1, x0:x1]
    names = schema.names_in(BODYPARTS_11)
    masks = {part: np.isin(labels, BODYPARTS_11.members[names[part]]) for part in schema.parts}
    inside = (maps.places >= box[:2, None, None, None]) & (maps.places <= box[2:, None, None, None])
    heat = np.where(inside.all(axis=0), maps.joints, -np.inf).reshape(len(COCO_17), -1)
    best = heat.argmax(axis=1)
    every = np.arange(len(COCO_17))
    points = maps.places.reshape(2, len(COCO_17), -1)[:, every, best].T
    scores = 1 / (1 + np.exp(-heat[every, best]))
    joints = np.column_stack([points, scores])
    return {
        "category_id": 1,
        "bbox": [float(v) for v in (*box[:2], *(box[2:] - box[:2]))],
        "score": 1.0,
        "segmentation": encode_mask(labels > 0),
        "part_segmentation": {p: encode_mask(m) for p, m in masks.items() if m.any()},
        "keypoints": keypoint_schema.take(joints, COCO_17).ravel().tolist(),
    }
