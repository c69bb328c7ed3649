"""Export of a model to one ONNX file that runs without torch and Detectron2.

`detectron2_bodyparts.deploy.OnnxPredictor` runs it; ``bodyparts export`` is the command. Weights
keep their names, so the file of a model without batch norms is also a checkpoint to train from
(`checkpoint.read_onnx_weights`).
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from os import PathLike

import numpy as np
import onnx
import torch
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.structures import Boxes, Instances
from torch import nn

from . import __version__
from .checkpoint import HALVED, WEIGHTS
from .deploy import ModelInfo
from .deploy.predictor import THRESHOLD
from .modeling.pretraining import PartSegmentationPretraining
from .modeling.rescoring import rescored
from .schema import get_keypoint_schema, get_part_schema

# RoiAlign has the half-pixel offset of Detectron2's ROIAlignV2 from opset 16 on; ONNX Runtime reads
# 17 since 1.12 (2022).
OPSET = 17
# Operators whose second input is a weight, and a large one.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Height and width of the image the graph is traced on. Arbitrary: sizes are dynamic in the graph.
EXAMPLE_SIZE = (150, 210)
# In these, Detectron2's patch makes len() return a tensor: else the number of people is a constant.
_MODULES_WITH_LEN = tuple(
    f"detectron2_bodyparts.modeling.{name}" for name in ("mask_head", "keypoint_head", "roi_heads")
)


class _Traceable(nn.Module):
    """A `GeneralizedRCNN` on one image: tensors in, tensors out."""

    def __init__(self, model: nn.Module, channel_order: str) -> None:
        super().__init__()
        self.model = model
        self.channel_order = channel_order

    def forward(self, image: torch.Tensor, threshold: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(H, W, 3) BGR uint8 and a score -> the boxes that score higher, their scores and, if the
        model has them, masks and keypoints."""
        pixels = image.permute(2, 0, 1)
        if self.channel_order == "RGB":
            pixels = pixels[[2, 1, 0]]  # a flip takes ONNX Runtime seven times as long
        pixels = pixels.to(torch.float32)
        images = self.model.preprocess_image([{"image": pixels}])
        features = self.model.backbone(images.tensor)
        proposals, _ = self.model.proposal_generator(images, features, None)
        heads = self.model.roi_heads
        if heads.closer_side:
            # Who gets a closer look is beside others in it: a missing one would change their masks.
            below = np.nextafter(np.float32(heads.closer_score), np.float32(0))
            threshold = threshold.clamp(max=float(below))
        heads.box_predictor.test_score_thresh = threshold
        (found,) = heads._forward_box(features, proposals)
        boxes = found.pred_boxes.tensor
        # ONNX Runtime fails on some operators without people: if nobody is detected, the heads run
        # on a corner of the image, and its outputs are cut off again.
        count = boxes.shape[0]
        regions = torch.cat([boxes, boxes.new_tensor([[0, 0, 1, 1]])])[: count + (count == 0)]
        people = Instances(found.image_size, pred_boxes=Boxes(regions))
        people.pred_classes = torch.zeros_like(regions[:, 0], dtype=torch.int64)
        (people,) = heads.forward_with_given_boxes(features, [people])
        scores = torch.cat([found.scores, found.scores.new_zeros(1)])
        people.scores = scores[: count + (count == 0)]
        (people,) = heads.look_closer(features, [rescored(people, heads)])
        answers = [people.get(name)[:count] for name in _head_fields(self.model).values()]
        return people.pred_boxes.tensor[:count], people.scores[:count], *answers


def _head_fields(model: nn.Module) -> dict[str, str]:
    """Names of the outputs of the model's heads -> the fields they are in."""
    heads, fields = model.roi_heads, {}
    if heads.mask_on:
        fields["part_probs"] = "pred_part_masks"
    if heads.keypoint_on:
        fields["keypoints"] = "pred_keypoints"
    return fields


def export_onnx(
    model: nn.Module,
    cfg: CfgNode,
    path: str | PathLike[str],
    *,
    config: str = "",
    half: bool = False,
) -> None:
    """Export a model to one ONNX file, which takes one image of any size at a time.

    Inputs: ``image`` (H, W, 3) uint8, BGR, already resized as `ModelInfo` says, and, optionally,
    ``threshold``, a float32: boxes must score higher to become people (or higher than
    ``CLOSER_SCORE``, if that is lower); the higher, the faster.
    Outputs, for the N detected people (N may be 0): ``boxes`` (N, 4) XYXY in pixels of the input,
    ``scores`` (N,) in 0..1 and, if the model has them, ``part_probs`` (N, C, 112, 112),
    probabilities on the boxes enlarged by `ModelInfo.region_margin`, and ``keypoints`` (N, K, 3):
    x, y in continuous pixel coordinates of the input, and score.

    Args:
        model: one of the plugin's models, on any device; it is not modified.
        cfg: its config. The model's non-maximum suppression threshold and its maximum number of
            people per image become part of the graph, its score threshold the default of the input.
        path: the file; overwritten.
        config: name of the config file, for the model's metadata.
        half: store the weights as float16, half the size. Computation remains in float32; a
            keypoint may jump where two positions are almost equally likely.

    Raises:
        ValueError: the model is a `PartSegmentationPretraining`, which detects no people.
    """
    if isinstance(model, PartSegmentationPretraining):
        raise ValueError("a first stage finds no people: export the model that is trained from it")
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
        weights="float16" if half else "float32",
        score_threshold=boxes.test_score_thresh,
        nms_threshold=boxes.test_nms_thresh,
        max_people=boxes.test_topk_per_image,
        region_margin=getattr(model.roi_heads, "region_margin", 0.0),
    )
    traceable = _Traceable(copy.deepcopy(model).cpu().eval(), cfg.INPUT.FORMAT)
    outputs = ["boxes", "scores", *_head_fields(model)]
    threshold = torch.tensor(info.score_threshold, dtype=torch.float32)
    example = torch.zeros((*EXAMPLE_SIZE, 3), dtype=torch.uint8), threshold
    recorded = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), patch_builtin_len(_MODULES_WITH_LEN):
        # Every shape check in Detectron2 raises a warning, as does the use of TorchScript; but
        # torch's newer exporter cannot handle the dynamic number of proposals.
        warnings.simplefilter("ignore")
        shapes = [answer.shape[1:] for answer in traceable(*example)]
        torch.onnx.export(
            traceable,
            example,
            recorded,
            opset_version=OPSET,
            dynamo=False,
            input_names=["image", THRESHOLD],
            output_names=outputs,
            dynamic_axes={
                "image": {0: "height", 1: "width"},
                **{name: {0: "people"} for name in outputs},
            },
        )
    exported = onnx.load_from_string(recorded.getvalue())
    name_weights(exported.graph, model.state_dict())
    # An initializer of an input is its default.
    exported.graph.initializer.append(onnx.numpy_helper.from_array(threshold.numpy(), THRESHOLD))
    for output, shape in zip(exported.graph.output, shapes, strict=True):
        for dim, size in zip(output.type.tensor_type.shape.dim[1:], shape, strict=True):
            dim.dim_value = size  # the exporter makes up names where it is unsure
    if half:
        halve_weights(exported.graph)
    onnx.helper.set_model_props(exported, info.to_metadata())
    onnx.save(exported, str(path))


def name_weights(graph: onnx.GraphProto, weights: Mapping[str, torch.Tensor]) -> None:
    """Restore, in place, names of weights in the model that a graph has lost.

    The exporter reshapes the weights of normalization layers to broadcast, and numbers them.

    Args:
        graph: the graph that torch exported from a `_Traceable`.
        weights: the model's ``state_dict``.
    """
    named = {weight.name for weight in graph.initializer}
    numbered = {
        weight.name: onnx.numpy_helper.to_array(weight).ravel()
        for weight in graph.initializer
        if not weight.name.startswith(WEIGHTS)
    }
    names = {}
    for name, value in weights.items():
        if WEIGHTS + name not in named:
            values = value.cpu().numpy().ravel()
            same = (n for n, v in numbered.items() if np.array_equal(v, values))
            number = next(same, None)
            if number is not None:
                del numbered[number]
                names[number] = WEIGHTS + name
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def halve_weights(graph: onnx.GraphProto) -> None:
    """Store the weights of a graph as float16, in place, each followed by a cast to float32.

    ONNX Runtime runs the casts once, when it loads the file. Biases, which are small, and weights
    out of float16's range remain as they are.
    """
    names = {node.input[1] for node in graph.node if node.op_type in _WEIGHTED}
    casts = []
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if weight.name in names and np.abs(values).max() <= np.finfo(np.float16).max:
            stored = weight.name + HALVED
            casts.append(
                onnx.helper.make_node("Cast", [stored], [weight.name], to=onnx.TensorProto.FLOAT)
            )
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
