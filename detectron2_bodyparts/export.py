"""A model as one ONNX file that runs without torch and Detectron2.

`detectron2_bodyparts.deploy.OnnxPredictor` reads it; ``bodyparts export`` is the command. The
weights keep their names, so that the file of a model without batch norms is a checkpoint to train
on from, too (`checkpoint.read_onnx_weights`).
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
from .modeling.pretraining import PartSegmentationPretraining
from .modeling.rescoring import rescored
from .schema import get_keypoint_schema, get_part_schema

# The first that has RoiAlign with the half pixel of Detectron2's ROIAlignV2 is 16; every ONNX
# Runtime since 1.12 (2022) reads 17.
OPSET = 17
# The operations whose second input is a weight, and the weights large.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
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
        pixels = image.permute(2, 0, 1)
        if self.channel_order == "RGB":
            pixels = pixels[[2, 1, 0]]  # ONNX Runtime takes seven times as long for a flip
        pixels = pixels.to(torch.float32)
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
        scores = torch.cat([found.scores, found.scores.new_zeros(1)])
        people.scores = scores[: count + (count == 0)]
        people = rescored(people, heads)
        answers = [people.get(name)[:count] for name in _head_fields(self.model).values()]
        return people.pred_boxes.tensor[:count], people.scores[:count], *answers


def _head_fields(model: nn.Module) -> dict[str, str]:
    """Names of the outputs that the model's heads give -> the fields they are set in."""
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
    """Write a model to one ONNX file, which takes pictures of any size, one at a time.

    Input: ``image`` (H, W, 3) uint8, BGR, already resized as `ModelInfo` says. Outputs, for the N
    people found, N = 0 included: ``boxes`` (N, 4) XYXY in pixels of the input, ``scores`` (N,) in
    0..1 and, where the model has them, ``part_probs`` (N, C, 112, 112), probabilities on the box
    enlarged by `ModelInfo.region_margin`, and ``keypoints`` (N, K, 3) of x, y in pixels of the
    input (continuous) and score.

    Args:
        model: a model of the plugin's; it is left as it is, wherever it is.
        cfg: its config. The model's thresholds for scores and non-maximum suppression, and the most
            people a picture, become part of the graph.
        path: the file; overwritten.
        config: name of the config file, for the model's metadata.
        half: store the weights as float16, in half the bytes. All is computed in float32 still;
            a joint may jump where two places are nearly as likely.
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
    name_weights(exported.graph, model.state_dict())
    for output, shape in zip(exported.graph.output, shapes, strict=True):
        for dim, size in zip(output.type.tensor_type.shape.dim[1:], shape, strict=True):
            dim.dim_value = size  # where the exporter is not sure, it makes up a name
    if half:
        halve_weights(exported.graph)
    onnx.helper.set_model_props(exported, info.to_metadata())
    onnx.save(exported, str(path))


def name_weights(graph: onnx.GraphProto, weights: Mapping[str, torch.Tensor]) -> None:
    """Give the weights of a graph their names in the model, in place, where these were lost.

    The exporter unfolds the weights of normalisation layers over a map, and numbers them.

    Args:
        graph: as torch has exported it from a `_Traceable`.
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
    """Store the weights of a graph as float16, in place, each with a cast to float32 behind it.

    ONNX Runtime does the casts once, when it loads the file. Biases are small and stay, as do
    weights that float16 cannot hold.
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
