"""A model as one ONNX file that runs without torch and Detectron2.

    python -m detectron2_bodyparts.export --config-file configs/bodyparts_rcnn_R_50_FPN_3x.yaml \\
        --weights model_final.pth --output bodyparts.onnx

`detectron2_bodyparts.deploy.OnnxPredictor` reads it.
"""

from __future__ import annotations

import argparse
import copy
import io
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import onnx
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from . import __version__
from .config import add_bodyparts_config, get_config_file
from .deploy import ModelInfo
from .schema import get_keypoint_schema, get_part_schema

# The first that has RoiAlign with the half pixel of Detectron2's ROIAlignV2 is 16; every ONNX
# Runtime since 1.12 (2022) reads 17.
OPSET = 17
# Height and width of the picture the graph is recorded on. Any will do: the graph asks for sizes.
EXAMPLE_SIZE = (150, 210)
# Detectron2's patch lets len() give a tensor there, or the number of people would be a constant.
_MODULES_WITH_LEN = tuple(
    f"detectron2_bodyparts.modeling.{name}" for name in ("mask_head", "keypoint_head", "roi_heads")
)


class _Traceable(nn.Module):
    """A `GeneralizedRCNN` on one picture: a tensor in, tensors out."""

    def __init__(self, model: nn.Module, channel_order: str) -> None:
        super().__init__()
        self.model = model
        self.channel_order = channel_order

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(H, W, 3) BGR uint8 -> boxes, scores and, where the model has them, masks and joints."""
        if self.channel_order == "RGB":
            image = image.flip(2)
        pixels = image.permute(2, 0, 1).to(torch.float32)
        images = self.model.preprocess_image([{"image": pixels}])
        features = self.model.backbone(images.tensor)
        proposals, _ = self.model.proposal_generator(images, features, None)
        heads = self.model.roi_heads
        (found,) = heads._forward_box(features, proposals)
        boxes = found.pred_boxes.tensor
        # ONNX Runtime fails on some operations without people: where nobody is found, the heads
        # look at a corner of the picture, and what they say of it is cut off again.
        count = boxes.shape[0]
        regions = torch.cat([boxes, boxes.new_tensor([[0, 0, 1, 1]])])[: count + (count == 0)]
        people = Instances(found.image_size, pred_boxes=Boxes(regions))
        people.pred_classes = torch.zeros_like(regions[:, 0], dtype=torch.int64)
        (people,) = heads.forward_with_given_boxes(features, [people])
        answers = [people.get(name)[:count] for name in _head_fields(self.model).values()]
        return boxes, found.scores, *answers


def _head_fields(model: nn.Module) -> dict[str, str]:
    """Names of the outputs that the model's heads give -> the fields they are set in."""
    heads, fields = model.roi_heads, {}
    if heads.mask_on:
        fields["part_probs"] = "pred_part_masks"
    if heads.keypoint_on:
        fields["keypoints"] = "pred_keypoints"
    return fields


class _WholeCheckpointer(DetectionCheckpointer):
    """Refuses a checkpoint that does not have all of the model's weights."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        other_shape = [name for name, _, _ in incompatible.incorrect_shapes]
        own = self.model.state_dict()
        missing = sorted({*incompatible.missing_keys, *other_shape} & set(own))
        if missing:
            raise ValueError(
                f"the weights are not this config's: {len(missing)} of {len(own)} are missing or "
                f"of another shape: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
            )
        return incompatible


def export_onnx(
    model: nn.Module, cfg: CfgNode, path: str | PathLike[str], *, config: str = ""
) -> None:
    """Write a model to one ONNX file, which takes pictures of any size, one at a time.

    Input: ``image`` (H, W, 3) uint8, BGR, already resized as `ModelInfo` says. Outputs, for the N
    people found, N = 0 included: ``boxes`` (N, 4) XYXY in pixels of the input, ``scores`` (N,) in
    0..1 and, where the model has them, ``part_probs`` (N, C, 112, 112), probabilities on the box,
    and ``keypoints`` (N, K, 3) of x, y in pixels of the input (continuous) and score.

    Args:
        model: a model of the plugin's; it is left as it is, wherever it is.
        cfg: its config. The model's thresholds for scores and non-maximum suppression, and the most
            people a picture, become part of the graph.
        path: the file; overwritten.
        config: name of the config file, for the model's metadata.
    """
    boxes = model.roi_heads.box_predictor
    info = ModelInfo(
        version=__version__,
        config=config,
        part_schema=get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA),
        keypoint_schema=get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA),
        min_size=cfg.INPUT.MIN_SIZE_TEST,
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        channel_order=cfg.INPUT.FORMAT,
        size_divisibility=model.backbone.size_divisibility,
        score_threshold=boxes.test_score_thresh,
        nms_threshold=boxes.test_nms_thresh,
        max_people=boxes.test_topk_per_image,
    )
    traceable = _Traceable(copy.deepcopy(model).cpu().eval(), cfg.INPUT.FORMAT)
    outputs = ["boxes", "scores", *_head_fields(model)]
    example = torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8)
    recorded = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), patch_builtin_len(_MODULES_WITH_LEN):
        # Every check of a shape in Detectron2 gives a warning, as does the use of TorchScript; but
        # torch's newer exporter cannot follow how many proposals there are.
        warnings.simplefilter("ignore")
        shapes = [answer.shape[1:] for answer in traceable(example)]
        torch.onnx.export(
            traceable,
            (example,),
            recorded,
            opset_version=OPSET,
            dynamo=False,
            input_names=["image"],
            output_names=outputs,
            dynamic_axes={
                "image": {0: "height", 1: "width"},
                **{name: {0: "people"} for name in outputs},
            },
        )
    exported = onnx.load_from_string(recorded.getvalue())
    for output, shape in zip(exported.graph.output, shapes, strict=True):
        for dim, size in zip(output.type.tensor_type.shape.dim[1:], shape, strict=True):
            dim.dim_value = size  # where the exporter is not sure, it makes up a name
    onnx.helper.set_model_props(exported, info.to_metadata())
    onnx.save(exported, str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: ``--config-file``, ``--weights``, ``--output`` and config keys."""
    parser = argparse.ArgumentParser(prog="bodyparts export", description=__doc__)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (OSError, ValueError) as e:
        parser.error(str(e))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    parser.add_argument(
        "--config-file", required=True, help="a path, or the name of one of our configs"
    )
    parser.add_argument("--weights", required=True, help="a checkpoint")
    parser.add_argument("--output", default="bodyparts.onnx", help="file (default: %(default)s)")
    parser.add_argument("--opts", nargs="*", default=[], help="config keys and values")


def run(args: argparse.Namespace) -> int:
    """Export the model of a config and a checkpoint; the exit code.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the checkpoint does not have all of the model's weights.
    """
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    config = args.config_file
    cfg.merge_from_file(config if Path(config).is_file() else get_config_file(config))
    cfg.merge_from_list(args.opts)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    _WholeCheckpointer(model).load(args.weights)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    export_onnx(model, cfg, args.output, config=Path(config).name)
    print(f"{args.output}: {Path(args.output).stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
