"""Loading of weights, with a report of what is new or unused."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

logger = logging.getLogger(__name__)

_BOX_SCORES = "roi_heads.box_predictor.cls_score"
_BOX_DELTAS = "roi_heads.box_predictor.bbox_pred"
_MASK_HEAD = "roi_heads.mask_head."
_KEYPOINT_HEAD = "roi_heads.keypoint_head."
_SEGMENTATION = "roi_heads.part_segmentation."

# In files written by `export_onnx`: prefix of the weights' names, and suffix of float16 ones.
WEIGHTS, HALVED = "model.", ".float16"


def read_onnx_weights(
    path: str | os.PathLike[str], model_weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Read the weights of a file written by `export_onnx`, by their names in the model, as float32.

    Args:
        path: the file.
        model_weights: the model's ``state_dict``; the weights are reshaped to its shapes.

    Raises:
        ValueError: the file is not an ONNX file or a quantized one, or the model has batch norms,
            which the exporter folds into the preceding convolutions.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
    except DecodeError as e:
        raise ValueError("expected an ONNX file, found something else") from e
    if any(stored.data_type == onnx.TensorProto.INT8 for stored in graph.initializer):
        raise ValueError("a quantized file is no checkpoint; take the file it was made from")
    weights = {}
    for stored in graph.initializer:
        if stored.name.startswith(WEIGHTS):
            name = stored.name.removeprefix(WEIGHTS).removesuffix(HALVED)
            values = torch.from_numpy(onnx.numpy_helper.to_array(stored).copy()).float()
            like = model_weights.get(name)
            if like is not None and like.numel() == values.numel():
                values = values.reshape(like.shape)
            weights[name] = values
    folded = sorted(n for n in model_weights if n.endswith(".running_mean") and n not in weights)
    if folded:
        raise ValueError(
            "an exported file has its batch norms folded into the convolutions; take the "
            f"checkpoint it was exported from ({folded[0]}, ...)"
        )
    return weights


def keep_person_class(weights: dict[str, Any], model_weights: dict[str, torch.Tensor]) -> bool:
    """Reduce an 80-class COCO box predictor to its first class, person, for a one-class model.

    Args:
        weights: the checkpoint's weights, modified in place.
        model_weights: the model's ``state_dict``.

    Returns:
        Whether anything was reduced.
    """
    scores = f"{_BOX_SCORES}.weight"
    if scores not in weights or len(weights[scores]) != 81 or len(model_weights[scores]) != 2:
        return False
    for kind in ("weight", "bias"):
        values = weights[f"{_BOX_SCORES}.{kind}"]
        weights[f"{_BOX_SCORES}.{kind}"] = values[[0, 80]]  # person, background
        weights[f"{_BOX_DELTAS}.{kind}"] = weights[f"{_BOX_DELTAS}.{kind}"][:4]
    return True


def new_weights(missing: list[str], checkpoint: set[str]) -> tuple[list[str], list[str]]:
    """Split the weights not loaded from a checkpoint into those expected to be new and others.

    Expected are the part head and part segmentation, the keypoint head if the checkpoint has none
    or one with layers of other shapes, and everything after the bottom-up network if the checkpoint
    is a backbone only.

    Args:
        missing: names of weights that were not loaded because they are absent or of another shape.
        checkpoint: names of all weights in the checkpoint.

    Returns:
        (expected, unexpected) names.
    """
    detector = ("proposal_generator.", "roi_heads.")
    only_backbone = not any(name.startswith(detector) for name in checkpoint)
    has_joints = any(name.startswith(_KEYPOINT_HEAD) for name in checkpoint)

    def expected(name: str) -> bool:
        if only_backbone and name.startswith((*detector, "backbone.fpn_", "backbone.top_block")):
            return True
        if name.startswith(_KEYPOINT_HEAD):
            return not has_joints or name in checkpoint
        return name.startswith((_MASK_HEAD, _SEGMENTATION))

    return [n for n in missing if expected(n)], [n for n in missing if not expected(n)]


def missing_weights(incompatible: Any, model_weights: dict[str, torch.Tensor]) -> list[str]:
    """Names of the model's weights that a checkpoint lacks or has in another shape.

    Args:
        incompatible: the incompatible keys reported by fvcore's checkpointer.
        model_weights: the model's ``state_dict``.
    """
    shapes = [name for name, _, _ in incompatible.incorrect_shapes]
    return sorted({*incompatible.missing_keys, *shapes} & set(model_weights))


class _Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which also reads files written by ``bodyparts export``."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".onnx"):
            return {"model": read_onnx_weights(filename, self.model.state_dict())}
        return super()._load_file(filename)


class BodyPartsCheckpointer(_Checkpointer):
    """Detectron2's checkpointer, which also reports new weights as expected or unexpected.

    Of an 80-class COCO checkpoint, a one-class model gets the person class.
    """

    def _load_model(self, checkpoint: dict[str, Any]):
        own = self.model.state_dict()
        if not checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            if keep_person_class(checkpoint["model"], own):
                logger.info("box predictor: 80 COCO classes in the checkpoint, person is kept")
        names = set(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        missing = missing_weights(incompatible, own)
        logger.info(load_report(len(own), missing, sorted(incompatible.unexpected_keys), names))
        return incompatible


def load_report(total: int, missing: list[str], unused: list[str], checkpoint: set[str]) -> str:
    """Report what was loaded, what is new as expected, what is new unexpectedly, what is unused.

    Args:
        total: number of weights in the model.
        missing: names of those not loaded.
        unused: names in the checkpoint that the model does not have.
        checkpoint: all names in the checkpoint.
    """
    expected, unexpected = new_weights(missing, checkpoint)
    lines = [f"weights: {total - len(missing)} of {total} loaded"]
    for title, names in (
        ("new, as expected", expected),
        ("NEW, NOT EXPECTED", unexpected),
        ("in the checkpoint, not used", unused),
    ):
        if names:
            groups = sorted({".".join(name.split(".")[:3]) for name in names})
            lines.append(f"  {title}: {len(names)} in {', '.join(groups)}")
    return "\n".join(lines)


class WholeCheckpointer(_Checkpointer):
    """Checkpointer for inference: rejects a checkpoint that lacks any of the model's weights.

    Training may start from an incomplete one; at inference such a model silently detects nobody.
    """

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """See `DetectionCheckpointer.load`.

        Raises:
            ValueError: the path is empty, the file is not a checkpoint, or it lacks some of the
                model's weights.
            FileNotFoundError: the file does not exist.
        """
        if not path:
            raise ValueError("MODEL.WEIGHTS is empty: expected the checkpoint of a trained model")
        try:
            return super().load(path, checkpointables)
        except AssertionError as e:  # fvcore's way of reporting a missing file
            raise FileNotFoundError(f"no checkpoint {path}") from e
        except (EOFError, RuntimeError, pickle.UnpicklingError) as e:
            raise ValueError(f"{path}: torch cannot load it as a checkpoint") from e
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from e

    def _load_model(self, checkpoint: dict[str, Any]):
        incompatible = super()._load_model(checkpoint)
        own = self.model.state_dict()
        missing = missing_weights(incompatible, own)
        if missing:
            some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            raise ValueError(
                f"its weights are not this config's: of {len(own)}, {len(missing)} are missing or "
                f"of another shape: {some}"
            )
        return incompatible
