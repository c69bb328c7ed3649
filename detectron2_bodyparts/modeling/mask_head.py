"""The part mask head: C channels at 112x112 for every region."""

from __future__ import annotations

import math

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn import functional as F

from ..schema import BODY, PartSchema, get_part_schema
from ..structures import UNKNOWN, PartMasks, loss_weights, target_weights
from .backbone import unmirrored


def conv_3x3(in_channels: int, out_channels: int, norm: str, *, stride: int = 1) -> Conv2d:
    """A 3x3 convolution with ReLU and the normalization of `detectron2.layers.get_norm`."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


class _PixelShuffle(nn.Module):
    """(R, 4C, s, s) -> (R, C, 2s, 2s), like `torch.nn.PixelShuffle`.

    Built from simpler operations, which take ONNX Runtime half the time and in torch allow R = 0.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        upper_left, upper_right, lower_left, lower_right = x.unflatten(1, (-1, 4)).unbind(dim=2)
        upper = torch.stack([upper_left, upper_right], dim=4).flatten(3)
        lower = torch.stack([lower_left, lower_right], dim=4).flatten(3)
        return torch.stack([upper, lower], dim=3).flatten(2, 3)


class EfficientDecoder(nn.Module):
    """A decoder that is narrow at high resolution: the channels decrease as the side grows.

    ``trunk``: regions (R, in_channels, s, s) -> (R, conv_dim, s, s), by way of s/2 and s/4 with
    twice the channels, where a 3x3 convolution spans nearly half the person: telling left from
    right requires a view of the whole. ``upsample``: -> logits (R, C, 4s, 4s). Its upsampling is
    sub-pixel convolution (Shi et al., 2016), up to the last layer, because convolutions at 4s, even
    with few channels, would take most of the time. It has no normalization, with which its few
    channels learn several times more slowly.

    With 256 input channels, 28x28 regions, conv_dim 64 and 7 channels: 0.30 GMAC per region.
    """

    scale = 4

    def __init__(
        self, in_channels: int, num_channels: int, conv_dim: int, norm: str, residual: bool
    ) -> None:
        super().__init__()
        d = conv_dim
        self.trunk_channels = d
        self.reduce = conv_3x3(in_channels, d, norm)
        self.down_2 = conv_3x3(d, 2 * d, norm, stride=2)
        self.down_4 = nn.Sequential(
            conv_3x3(2 * d, 2 * d, norm, stride=2),
            conv_3x3(2 * d, 2 * d, norm),
            conv_3x3(2 * d, 2 * d, norm),
        )
        self.merge_2 = conv_3x3(2 * d, 2 * d, norm)
        self.lateral = Conv2d(2 * d, d, kernel_size=1)
        weight_init.c2_msra_fill(self.lateral)
        self.merge = conv_3x3(d, d, norm)
        self.upsample = nn.Sequential(
            conv_3x3(d, 2 * d, ""),
            _PixelShuffle(),
            conv_3x3(d // 2, d // 2, ""),
            _predictor(d // 2, num_channels, residual, cells=4),
            _PixelShuffle(),
        )

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """(R, in_channels, s, s) -> (R, trunk_channels, s, s)."""
        x = self.reduce(x)
        half = self.down_2(x)
        half = self.merge_2(half + resized(self.down_4(half), half))
        return self.merge(x + resized(self.lateral(half), x))


def resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, H, W), the size of ``like``."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class OriginalDecoder(nn.Module):
    """The decoder of MaskRCNN_body (2017), for comparison.

    ``trunk``: four 3x3 convolutions; ``upsample``: a transposed convolution to twice the side, then
    1x1 to the channels. With 56x56 regions and conv_dim 256: 8.24 GMAC per region.
    """

    scale = 2

    def __init__(
        self, in_channels: int, num_channels: int, conv_dim: int, norm: str, residual: bool
    ) -> None:
        super().__init__()
        self.trunk_channels = conv_dim
        dims = [in_channels] + [conv_dim] * 4
        self.convs = nn.Sequential(
            *(conv_3x3(i, o, norm) for i, o in zip(dims[:-1], dims[1:], strict=True))
        )
        deconv = ConvTranspose2d(conv_dim, conv_dim, kernel_size=2, stride=2)
        weight_init.c2_msra_fill(deconv)
        predictor = _predictor(conv_dim, num_channels, residual)
        self.upsample = nn.Sequential(deconv, nn.ReLU(), predictor)

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """(R, in_channels, s, s) -> (R, trunk_channels, s, s)."""
        return self.convs(x)


# Initial probability of each part: the fraction of a region assumed to be covered by it. Otherwise
# hundreds of steps are spent on learning that most of a region does not belong to any given part.
PART_PRIOR = 0.1


def _predictor(in_channels: int, num_channels: int, residual: bool, *, cells: int = 1) -> Conv2d:
    """1x1 convolution to the logits (or a residual) of ``cells`` mask cells per position.

    A residual is initially zero: the prior is in the logits it is added to.
    """
    predictor = Conv2d(in_channels, num_channels * cells, kernel_size=1)
    if residual:
        nn.init.zeros_(predictor.weight)
        nn.init.zeros_(predictor.bias)
        return predictor
    # Not Mask R-CNN's 0.001: with nearly equal weights, the channels of right and left get the same
    # gradients and stay alike for hundreds of steps.
    nn.init.normal_(predictor.weight, std=0.1)
    nn.init.constant_(predictor.bias, math.log(PART_PRIOR / (1 - PART_PRIOR)))
    nn.init.constant_(predictor.bias[:cells], 0)  # the body
    return predictor


# A decoder's `scale` is the ratio of the mask's side to the region's.
_DECODERS = {"efficient": EfficientDecoder, "original": OriginalDecoder}


def with_unions(
    logits: torch.Tensor, schema: PartSchema, known: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """Append to the channels' logits those of the known unions of channels.

    Parts are mutually exclusive; a union's odds are taken as the sum of its parts'. Where sides are
    not labelled, its gradient is shared between right and left in proportion to their odds; the
    maximum would give all of it to the one that happens to be ahead, and so invent a side.

    Args:
        logits: (R, C, H, W).
        schema: the channels.
        known: (C + U,) bool, in the order of `target_names`.

    Returns:
        Logits (R, C', H, W), and their C' indices into `target_names`.
    """
    num_channels = logits.shape[1]
    unions = list(schema.all_unions.values())
    used = known[num_channels:].nonzero().flatten().tolist()
    more = [logits[:, list(unions[u])].logsumexp(dim=1, keepdim=True) for u in used]
    columns = [*range(num_channels), *(num_channels + u for u in used)]
    return torch.cat([logits, *more], dim=1), columns


def part_mask_loss(
    logits: torch.Tensor,
    masks: PartMasks,
    boxes: torch.Tensor,
    region_weights: torch.Tensor | None = None,
    *,
    derived_weight: float = 1.0,
    dice_weight: float = 0.0,
) -> torch.Tensor:
    """Binary cross-entropy over known channels, known unions and valid pixels only.

    With ``dice_weight``, the soft Dice loss (Milletari et al., V-Net, 2016) of each known channel
    and union is added, in which a thin arm counts as much as a torso.

    Args:
        logits: (R, C, S, S), R > 0.
        masks: the R matched people.
        boxes: (R, 4) XYXY: the regions.
        region_weights: (R,); 1 if not given.
        derived_weight: weight of derived channels; labelled ones have 1.
        dice_weight: weight of the Dice loss, added to the cross-entropy.

    Returns:
        A scalar: the weighted sum over all known values (Dice: all known channels and unions),
        divided by their number, not by their weight, so batches of low weight contribute less. If
        nothing is known, it is zero and still depends on the logits.
    """
    targets, valid = masks.crop_and_resize(boxes, logits.shape[-1])
    known = (masks.state != UNKNOWN).to(logits.dtype)
    weights = target_weights(masks, derived_weight).to(logits.dtype)
    if region_weights is not None:
        weights = weights * region_weights[:, None]
    logits, columns = with_unions(logits, masks.schema, known.any(dim=0))
    targets, known, weights = (x[:, columns] for x in (targets, known, weights))
    targets = targets.to(logits.dtype)
    valid = valid[:, None].to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(
        logits, targets, weight=weights[:, :, None, None] * valid, reduction="sum"
    )
    num_values = (known.sum(dim=1) * valid.sum(dim=(1, 2, 3))).sum()
    loss = loss / num_values.clamp(min=1)
    if dice_weight:
        probabilities, targets = logits.sigmoid() * valid, targets * valid
        overlap = (probabilities * targets).sum(dim=(2, 3))
        total = probabilities.sum(dim=(2, 3)) + targets.sum(dim=(2, 3))
        dice = 1 - (2 * overlap + 1) / (total + 1)
        loss = loss + dice_weight * (dice * weights).sum() / known.sum().clamp(min=1)
    return loss


@ROI_MASK_HEAD_REGISTRY.register()
class BodyPartsMaskHead(nn.Module):
    """Masks of the body and its parts, one sigmoid channel each.

    Returns ``loss_mask`` in training. At inference sets on the instances of each image

    * ``pred_part_masks``: (N, C, S, S) probabilities on ``pred_boxes``, channels as in the schema,
    * ``pred_masks``: (N, 1, S, S), the body alone, as Detectron2's post-processing, COCOEvaluator
      and Visualizer expect it.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        part_schema: PartSchema,
        decoder: str = "efficient",
        conv_dim: int = 64,
        norm: str = "",
        loss_weight: float = 1.0,
        derived_loss_weight: float = 1.0,
        dice_loss_weight: float = 0.0,
        residual: bool = False,
        part_residual: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels and side of the pooled regions.
            part_schema: the channels.
            decoder: "efficient" or "original".
            conv_dim: width of the trunk.
            norm: normalization, see `detectron2.layers.get_norm`.
            loss_weight: multiplier of the loss.
            derived_loss_weight: weight of channels that were derived rather than labelled.
            dice_loss_weight: weight of the Dice loss, added to the cross-entropy.
            residual: its logits are added to a segmentation's; see `forward_from_trunk`.
            part_residual: factor, at inference, on the parts' logits that are added; those of the
                body, which says whose the parts are, are not scaled.
        """
        super().__init__()
        if decoder not in _DECODERS:
            raise ValueError(f"no decoder {decoder!r}; there are {sorted(_DECODERS)}")
        self.part_schema = part_schema
        self.decoder = _DECODERS[decoder](
            input_shape.channels, len(part_schema.channels), conv_dim, norm, residual
        )
        side = input_shape.height
        # The trunk's output, for a keypoint head that shares it.
        self.trunk_shape = ShapeSpec(self.decoder.trunk_channels, height=side, width=side)
        self.mask_side = side * self.decoder.scale
        self.loss_weight = loss_weight
        self.derived_loss_weight = derived_loss_weight
        self.dice_loss_weight = dice_loss_weight
        self.part_residual = part_residual

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        return {
            "input_shape": input_shape,
            "part_schema": get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA),
            "decoder": cfg.MODEL.ROI_MASK_HEAD.DECODER,
            "conv_dim": cfg.MODEL.ROI_MASK_HEAD.CONV_DIM,
            "norm": cfg.MODEL.ROI_MASK_HEAD.NORM,
            "loss_weight": cfg.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT,
            "derived_loss_weight": cfg.MODEL.ROI_MASK_HEAD.DERIVED_LOSS_WEIGHT,
            "dice_loss_weight": cfg.MODEL.ROI_MASK_HEAD.DICE_LOSS_WEIGHT,
            "residual": bool(cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT),
            "part_residual": cfg.MODEL.ROI_MASK_HEAD.PART_RESIDUAL,
        }

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled regions (R, in, s, s) -> features (R, trunk, s, s)."""
        return self.decoder.trunk(x)

    def forward(self, x: torch.Tensor, instances: list[Instances]):
        """Compute losses or predictions of regions. See the class for the fields.

        Args:
            x: (R, in, s, s), the pooled regions of all images, concatenated.
            instances: per image; in training with ``proposal_boxes`` and ``gt_part_masks``.

        Returns:
            In training a dict of losses, at inference the same instances with masks.
        """
        return self.forward_from_trunk(self.trunk(x), instances)

    def forward_from_trunk(
        self,
        features: torch.Tensor,
        instances: list[Instances],
        segmentation: torch.Tensor | None = None,
        mirrored: torch.Tensor | None = None,
    ):
        """Like `forward`, on the output of `trunk`.

        Args:
            features: (R, trunk, s, s).
            instances: as for `forward`.
            segmentation: (R, C, S, S) logits of the parts in the regions, no matter whose, to which
                the head adds its own.
            mirrored: (R, trunk, s, s), the same regions in the mirror image; the head's logits of
                both are averaged.
        """
        logits = self.decoder.upsample(features)
        if mirrored is not None:
            there = self.decoder.upsample(mirrored)
            logits = (logits + unmirrored(there, self.part_schema.flip_permutation)) / 2
        if segmentation is not None:
            if not self.training:
                logits = torch.cat([logits[:, :1], logits[:, 1:] * self.part_residual], dim=1)
            logits = logits + segmentation
        if self.training:
            return {"loss_mask": self.loss(logits, instances)}
        probabilities = logits.sigmoid()
        body = self.part_schema.index(BODY)
        sizes = [len(i) for i in instances]
        for found, masks in zip(instances, probabilities.split(sizes), strict=True):
            found.pred_part_masks = masks
            found.pred_masks = masks[:, body : body + 1]
        return instances

    def loss(self, logits: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """The weighted `part_mask_loss` of the matched regions."""
        people = [i for i in instances if len(i)]
        get_event_storage().put_scalar(
            "mask_head/num_regions", len(logits) / max(len(instances), 1)
        )
        if not people:
            return logits.sum() * 0
        loss = part_mask_loss(
            logits,
            PartMasks.cat([i.gt_part_masks for i in people]),
            torch.cat([i.proposal_boxes.tensor for i in people]),
            loss_weights(people),
            derived_weight=self.derived_loss_weight,
            dice_weight=self.dice_loss_weight,
        )
        return loss * self.loss_weight
