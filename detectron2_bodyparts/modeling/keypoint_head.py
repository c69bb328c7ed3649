"""The keypoint head: one heatmap per keypoint, softmax over its positions."""

from __future__ import annotations

import math

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from ..schema import KeypointSchema, get_keypoint_schema
from ..structures import loss_weights
from .backbone import unmirrored


def keypoint_loss(
    logits: torch.Tensor,
    keypoints: torch.Tensor,
    boxes: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over positions, for labelled keypoints in their region (Mask R-CNN, 2017).

    Args:
        logits: (R, K, S, S).
        keypoints: (R, K, 3): x, y in continuous image coordinates, and v; v = 0 is not labelled.
        boxes: (R, 4) XYXY.
        weights: (R,), one per region; 1 if not given.

    Returns:
        The weighted sum over the labelled keypoints that lie in their region, and their number. If
        there are none, the sum is zero and still depends on the logits.
    """
    side = logits.shape[-1]
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    cells = (keypoints[..., :2] - low) / (high - low).clamp(min=1e-6) * side
    # A keypoint on the far edge belongs to the last cell.
    on_edge = keypoints[..., :2] == high
    cells = torch.where(on_edge, cells.new_tensor(side - 1), cells).floor()
    inside = ((cells >= 0) & (cells < side)).all(dim=-1) & (keypoints[..., 2] > 0)
    x, y = cells.to(torch.int64).unbind(-1)
    target = (y * side + x)[inside]
    loss = F.cross_entropy(logits.flatten(2)[inside], target, reduction="none")
    if weights is not None:
        loss = loss * weights[:, None].expand_as(inside)[inside]
    return loss.sum(), inside.sum()


def decode_keypoints(logits: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Decode heatmaps to keypoints, without a loop over people.

    The best cell is shifted by up to half a cell to the peak of the parabola through it and its
    neighbours, in x and y separately.

    Args:
        logits: (R, K, S, S).
        boxes: (R, 4) XYXY.

    Returns:
        (R, K, 3): x, y in continuous image coordinates, and score: the best cell's probability, in
        0..1, under the softmax over the region.
    """
    regions, joints, side = logits.shape[0], logits.shape[1], logits.shape[-1]
    flat = logits.flatten(2)
    best = flat.argmax(dim=2)
    score = flat.softmax(dim=2).gather(2, best[..., None])[..., 0]
    x, y = best % side, torch.div(best, side, rounding_mode="floor")

    def at(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        index = row.clamp(0, side - 1) * side + column.clamp(0, side - 1)
        return flat.gather(2, index[..., None])[..., 0]

    def shift(before: torch.Tensor, after: torch.Tensor, at_border: torch.Tensor) -> torch.Tensor:
        curvature = 2 * at(y, x) - before - after
        moved = 0.5 * (after - before) / curvature.clamp(min=1e-6)
        return torch.where(at_border, torch.zeros_like(moved), moved.clamp(-0.5, 0.5))

    dx = shift(at(y, x - 1), at(y, x + 1), (x == 0) | (x == side - 1))
    dy = shift(at(y - 1, x), at(y + 1, x), (y == 0) | (y == side - 1))
    cells = torch.stack([x + 0.5 + dx, y + 0.5 + dy], dim=-1) / side
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    points = low + cells * (high - low)
    return torch.cat([points, score[..., None]], dim=-1).reshape(regions, joints, 3)


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class BodyPartsKeypointHead(nn.Module):
    """One 56x56 heatmap per keypoint of the schema.

    Layers and their names are those of Detectron2's KRCNNConvDeconvUpsampleHead, so its weights
    load: 3x3 convolutions, a transposed one, bilinear upsampling to four times the region's side.
    For larger regions (a shared mask trunk of 28x28 or 56x56) unneeded upsampling steps are
    omitted. Returns ``loss_keypoint`` in training. At inference sets on the instances of each image

    * ``pred_keypoints``: (N, K, 3): x, y, score,
    * ``pred_keypoint_heatmaps``: (N, K, 56, 56) logits on the given ``pred_boxes``, like
      Detectron2's head.
    """

    heatmap_size = 56

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        keypoint_schema: KeypointSchema,
        conv_dims: tuple[int, ...],
        norm: str = "",
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and side of the regions; the side is 14, 28 or 56.
            keypoint_schema: the K keypoints.
            conv_dims: output channels of each 3x3 convolution.
            norm: normalization, see `detectron2.layers.get_norm`.
            loss_weight: multiplier of the loss.
        """
        super().__init__()
        doublings = math.log2(self.heatmap_size / input_shape.height)
        if doublings not in (0, 1, 2):
            raise ValueError(f"expected regions of side 14, 28 or 56, found {input_shape.height}")
        self.flip_permutation = keypoint_schema.flip_permutation
        self.loss_weight = loss_weight
        num_keypoints, channels = len(keypoint_schema), input_shape.channels
        layers: list[tuple[str, nn.Module]] = []
        for i, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(channels, dim, 3, padding=1, bias=not norm, norm=get_norm(norm, dim))
            layers += [(f"conv_fcn{i}", conv), (f"conv_fcn_relu{i}", nn.ReLU())]
            channels = dim
        if doublings:
            score = ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)
        else:
            score = Conv2d(channels, num_keypoints, 3, padding=1)
        layers.append(("score_lowres", score))
        for name, layer in layers:
            self.add_module(name, layer)
            if hasattr(layer, "weight"):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0)
        self._layers = [name for name, _ in layers]
        self._scale = 2.0 if doublings == 2 else None

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        return {
            "input_shape": input_shape,
            "keypoint_schema": get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA),
            "conv_dims": tuple(cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS),
            "norm": cfg.MODEL.ROI_KEYPOINT_HEAD.NORM,
            "loss_weight": cfg.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Regions (R, in, s, s) -> logits (R, K, 56, 56)."""
        for name in self._layers:
            x = getattr(self, name)(x)
        if self._scale is not None:
            x = F.interpolate(x, scale_factor=self._scale, mode="bilinear", align_corners=False)
        return x

    def forward(
        self, x: torch.Tensor, instances: list[Instances], mirrored: torch.Tensor | None = None
    ):
        """Compute losses or predictions of regions. See the class for the fields.

        Args:
            x: (R, in, s, s), the regions of all images, concatenated.
            instances: per image; in training with ``proposal_boxes`` and ``gt_keypoints``.
            mirrored: (R, in, s, s), the same regions in the mirror image; at inference the logits
                of both are averaged.

        Returns:
            In training a dict of losses, at inference the same instances with keypoints.
        """
        logits = self.layers(x)
        if self.training:
            people = [i for i in instances if len(i)]
            if not people:
                return {"loss_keypoint": logits.sum() * 0}
            loss, count = keypoint_loss(
                logits,
                torch.cat([i.gt_keypoints.tensor for i in people]),
                torch.cat([i.proposal_boxes.tensor for i in people]),
                loss_weights(people),
            )
            return {"loss_keypoint": loss / count.clamp(min=1) * self.loss_weight}
        if mirrored is not None:
            logits = (logits + unmirrored(self.layers(mirrored), self.flip_permutation)) / 2
        boxes = torch.cat([i.pred_boxes.tensor for i in instances])
        sizes = [len(i) for i in instances]
        points = decode_keypoints(logits, boxes).split(sizes)
        for found, joints, heatmaps in zip(instances, points, logits.split(sizes), strict=True):
            found.pred_keypoints = joints
            found.pred_keypoint_heatmaps = heatmaps
        return instances
