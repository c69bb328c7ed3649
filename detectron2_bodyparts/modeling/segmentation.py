"""Which parts are where in the whole picture, of all people together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from ..schema import PartSchema
from ..structures import UNKNOWN, target_weights
from .mask_head import conv_3x3, with_unions


class PartSegmentation(nn.Module):
    """Semantic segmentation of a feature map into the schema's channels.

    A region's loss reaches the features of a few regions a picture; this one reaches every cell, of
    every person and of the background, at little cost. Its logits on a region are where the mask
    head starts from: the head adds whose the parts are. RP R-CNN (Yang et al., 2020) has such a
    branch, and pools its features rather than its logits.

    The regions' losses do not reach it: another person's arm is a part here, and none in a region.
    """

    def __init__(
        self,
        in_channels: int,
        stride: int,
        part_schema: PartSchema,
        *,
        side: int = 112,
        norm: str = "",
        loss_weight: float = 1.0,
        derived_weight: float = 1.0,
    ) -> None:
        """
        Args:
            in_channels: of the feature map.
            stride: of the feature map, in pixels.
            part_schema: the channels.
            side: S, of the regions' masks, and of the grid over a picture for the loss.
            norm: normalisation, as `detectron2.layers.get_norm` takes it.
            loss_weight: multiplier of the loss.
            derived_weight: weight of derived channels; known ones have 1.
        """
        super().__init__()
        self.conv = conv_3x3(in_channels, in_channels, norm)
        self.predictor = Conv2d(in_channels, len(part_schema.channels), 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias, -2.0)
        self.side = side
        self.pooler = ROIPooler((side, side), [1 / stride], 1, "ROIAlignV2")
        self.part_schema = part_schema
        self.loss_weight = loss_weight
        self.derived_weight = derived_weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) -> logits (B, C, h, w)."""
        return self.predictor(self.conv(features))

    def on_regions(self, logits: torch.Tensor, boxes: list[Boxes]) -> torch.Tensor:
        """Logits (B, C, h, w) of the pictures -> (R, C, S, S) on all their boxes, end to end."""
        return self.pooler([logits], boxes)

    def losses(self, logits: torch.Tensor, targets: Sequence[Instances]) -> dict[str, torch.Tensor]:
        """
        Args:
            logits: of `forward`.
            targets: per picture, with ``gt_boxes``, ``gt_classes`` (-1: to ignore) and
                ``gt_part_masks``.

        Returns:
            ``loss_segmentation``: cross-entropy summed over the channels, and unions, that are
            known, averaged over the known cells of a grid over each picture.
        """
        wholes = [Boxes(logits.new_tensor([[0, 0, *t.image_size[::-1]]])) for t in targets]
        logits = self.on_regions(logits, wholes)
        pairs = [whole_picture(t, self.side, self.derived_weight) for t in targets]
        truth, weights = (torch.stack(column) for column in zip(*pairs, strict=True))
        logits, columns = with_unions(logits, self.part_schema, weights.sum(dim=(0, 2, 3)) > 0)
        truth, weights = (x[:, columns].to(logits.dtype) for x in (truth, weights))
        loss = F.binary_cross_entropy_with_logits(logits, truth, weight=weights, reduction="sum")
        cells = (weights > 0).any(dim=1).sum().clamp(min=1)
        return {"loss_segmentation": loss / cells * self.loss_weight}


@torch.no_grad()
def whole_picture(
    target: Instances, side: int, derived_weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is known of a whole picture, of all its people together.

    Args:
        target: as the mapper makes it.
        side: S, the number of cells in a row and in a column over the picture.
        derived_weight: weight of what was derived.

    Returns:
        targets: (C + U, S, S) bool, in the order of `target_names`: whether it is anybody's.
        weights: (C + U, S, S): 1 known, 0 unknown. Nothing is known in regions to ignore, in boxes
            of people without a known body, and at pixels to ignore of anybody.
    """
    height, width = target.image_size
    masks = target.gt_part_masks
    whole = target.gt_boxes.tensor.new_tensor([[0, 0, width, height]]).expand(len(masks), 4)
    truth, valid = masks.crop_and_resize(whole, side)
    known = target_weights(masks, derived_weight)
    seen = (target.gt_classes >= 0) & (masks.state[:, 0] != UNKNOWN)
    boxes = target.gt_boxes.tensor[~seen, :, None]
    x, y = ((torch.arange(side, device=boxes.device) + 0.5) * n / side for n in (width, height))
    in_x, in_y = (x >= boxes[:, 0]) & (x < boxes[:, 2]), (y >= boxes[:, 1]) & (y < boxes[:, 3])
    hidden = (in_y[:, :, None] & in_x[:, None, :]).any(dim=0) | ~valid[seen].all(dim=0)
    truth, known = truth[seen], known[seen]
    # Where somebody's body is, no more is known than of that person.
    unknown = (truth[:, :1] * (1 - known)[:, :, None, None]).amax(dim=0) if seen.any() else 0
    weights = (1 - unknown) * ~hidden
    shape = masks.state.shape[1], side, side
    return (truth & (known > 0)[:, :, None, None]).any(dim=0), weights.expand(shape)
