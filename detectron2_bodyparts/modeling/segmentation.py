"""Semantic segmentation of the whole image into parts, of all people together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import nn

from ..schema import PartSchema
from ..structures import BODY_BIT, IGNORE_BIT, KNOWN, PART_BITS, UNKNOWN, target_codes
from .backbone import unmirrored
from .mask_head import conv_3x3, resized
from .proposals import IGNORE_CLASS

# Probabilities are clamped this far from 0 and 1 before conversion to logits.
_EPSILON = 1e-4


class PartSegmentation(nn.Module):
    """Semantic segmentation of a feature map into the background and the schema's parts.

    The losses of regions reach the features of a few regions per image; this one reaches every
    cell, of every person and of the background, at little cost. The mask head starts from its
    logits on a region and adds whose the parts are. RP R-CNN (Yang et al., 2020) has such a branch
    and pools its features rather than its logits.

    Classes are mutually exclusive, so a label that allows several of them ("an arm", "not a head")
    is supervision, too: the loss is the cross-entropy of the sum of their probabilities.

    It gets no gradients from the regions' losses: another person's arm is a part in the image, but
    not in the region.
    """

    def __init__(
        self,
        in_channels: int,
        stride: int,
        part_schema: PartSchema,
        *,
        side: int = 112,
        loss_weight: float = 1.0,
        derived_weight: float = 1.0,
    ) -> None:
        """
        Args:
            in_channels: channels of the feature map.
            stride: stride of the feature map, in pixels.
            part_schema: the channels; in place of the body, the first class is the background.
            side: side S of the regions' masks and of the grid over an image for the loss.
            loss_weight: multiplier of the loss.
            derived_weight: weight, in 0..1, of what is known from derived channels only.
        """
        super().__init__()
        # With a group norm, as in the regions' heads, so few channels learn much more slowly.
        self.conv = conv_3x3(in_channels, in_channels, norm="")
        self.predictor = Conv2d(in_channels, len(part_schema.channels), 1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)
        self.flip_permutation = part_schema.flip_permutation
        self.side = side
        self.pooler = ROIPooler((side, side), [1 / stride], 1, "ROIAlignV2")
        self.loss_weight = loss_weight
        self.derived_weight = derived_weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, h, w) -> logits (B, C, h, w) of the background and the parts."""
        return self.predictor(self.conv(features))

    def probabilities(
        self, features: torch.Tensor, mirrored: Sequence[torch.Tensor] = ()
    ) -> torch.Tensor:
        """Probabilities of the background and the parts, averaged over several views.

        Args:
            features: (B, in_channels, h, w), of the image.
            mirrored: (B, in_channels, h', w') each, of its mirror image at any size.

        Returns:
            (B, C, h, w) in 0..1, which sum to 1 at each cell.
        """
        p = _softmax(self(features))
        for look in mirrored:
            there = unmirrored(_softmax(self(look)), self.flip_permutation)
            p = p + resized(there, p)
        return p / (1 + len(mirrored))

    def on_regions(self, p: torch.Tensor, boxes: list[Boxes]) -> torch.Tensor:
        """Pool `probabilities` on the boxes of all images, concatenated, to (R, C, S, S).

        Returns independent logits of the schema's channels; the body is everything but background.
        """
        p = torch.cat([1 - p[:, :1], p[:, 1:]], dim=1).clamp(_EPSILON, 1 - _EPSILON)
        return self.pooler([p.log() - (1 - p).log()], boxes)

    def losses(self, logits: torch.Tensor, targets: Sequence[Instances]) -> dict[str, torch.Tensor]:
        """
        Args:
            logits: the output of `forward`.
            targets: per image, with ``gt_boxes``, ``gt_classes`` (-1: ignore region) and
                ``gt_part_masks``; an image's weight is the first of its ``gt_loss_weights``, if
                any.

        Returns:
            ``loss_segmentation``: -log of the probability of the classes that are possible in a
            cell, times the image's weight, averaged over the cells (of a grid over each image)
            where something is known. ``derived_weight`` is the weight of this loss with derived
            channels, 1 - ``derived_weight`` that of the loss without.
        """
        wholes = [Boxes(logits.new_tensor([[0, 0, *t.image_size[::-1]]])) for t in targets]
        log_p = self.pooler([logits], wholes).log_softmax(dim=1)
        pairs = [possible_classes(t, self.side) for t in targets]
        by_known, by_all = (torch.stack(sets) for sets in zip(*pairs, strict=True))
        weights = torch.stack([_loss_weight(t, log_p.device) for t in targets])[:, None, None]

        def surprise(possible: torch.Tensor) -> torch.Tensor:
            of_cells = -log_p.masked_fill(~possible, -torch.inf).logsumexp(dim=1)
            return (of_cells * weights).sum()

        loss = torch.lerp(surprise(by_known), surprise(by_all), self.derived_weight)
        cells = (~by_all.all(dim=1)).sum().clamp(min=1)
        return {"loss_segmentation": loss / cells * self.loss_weight}


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the channels of (B, C, h, w), in a ninth of the time of ONNX Runtime's own."""
    odds = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return odds / odds.sum(dim=1, keepdim=True)


def _loss_weight(target: Instances, device: torch.device) -> torch.Tensor:
    """An image's weight, the same for all its instances; 1 if it has none."""
    given = target.has("gt_loss_weights") and len(target) > 0
    return target.gt_loss_weights[0] if given else torch.ones((), device=device)


@torch.no_grad()
def possible_classes(target: Instances, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes that each cell of a grid over the image may have, given the labels.

    * A person's pixels have the classes that agree with their known channels; ignored pixels, any.
    * Where people overlap, the classes of either are possible.
    * An ignore region with known channels says what is there, not whose; it overrides people.
    * Elsewhere is background, except in the boxes of people and regions whose body is unknown.

    Args:
        target: as the mapper makes it.
        side: S, the number of cells per row and per column over the image.

    Returns:
        Two (C, S, S) bool, from labelled channels and from labelled and derived ones; the first
        class is the background. At least one class is possible everywhere.
    """
    masks, (height, width) = target.gt_part_masks, target.image_size
    device = masks.device
    x, y = ((torch.arange(side, device=device) + 0.5) * n / side for n in (width, height))
    plane = masks.pixels(y.long(), x.long())
    no_body = masks.state[:, 0] == UNKNOWN
    covered = (plane & PART_BITS != 0) | (plane & BODY_BIT != 0) & ~no_body[:, None, None]
    covered |= plane >= IGNORE_BIT
    boxes = target.gt_boxes.tensor[no_body, :, None]
    in_x, in_y = (x >= boxes[:, 0]) & (x < boxes[:, 2]), (y >= boxes[:, 1]) & (y < boxes[:, 3])
    hidden = (in_y[:, :, None] & in_x[:, None, :]).any(dim=0)

    num_classes = len(masks.schema.channels)
    bits = 1 << torch.arange(num_classes, device=device)
    anything = (1 << num_classes) - 1
    answers = []
    for of_codes in _classes_of_codes(masks.schema, masks.state):
        sets = (of_codes * bits).sum(dim=2)
        people = torch.zeros((side, side), dtype=torch.int64, device=device)
        crowds = people.clone()
        for bytes_, there, of_code, kind in zip(
            plane, covered, sets, target.gt_classes.tolist(), strict=True
        ):
            here = of_code[(bytes_ & PART_BITS).long()].masked_fill(bytes_ >= IGNORE_BIT, anything)
            (crowds if kind == IGNORE_CLASS else people).bitwise_or_(here * there)
        rest = torch.where(hidden, anything, 1)
        classes = torch.where(crowds != 0, crowds, torch.where(people != 0, people, rest))
        answers.append((classes & bits[:, None, None]) != 0)
    return answers[0], answers[1]


@lru_cache
def _agreement(schema: PartSchema) -> torch.Tensor:
    """(C + U, 64, C) bool: whether a code in ``PART_BITS`` and a class agree about each target.

    They do if both belong to it, or neither does. The first target is the body, the first class the
    background.
    """
    targets, num_classes = target_codes(schema), len(schema.channels)
    inside = torch.zeros((len(targets), PART_BITS + 1), dtype=torch.bool)
    for target, codes in enumerate(targets):
        inside[target, list(codes)] = True
    classes = inside[:, :num_classes].clone()
    inside[0], classes[0], classes[0, 0] = True, True, False  # the body is all but background
    return inside[:, :, None] == classes[:, None, :]


def _classes_of_codes(schema: PartSchema, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes that a pixel may have, for each code in ``PART_BITS``.

    It belongs to every known target that contains its code, and to no other known one. If that
    leaves no class, less is used: only the body, where a body pixel is in none of the parts, and
    nothing derived, where it contradicts the labels.

    Args:
        schema: the channels.
        state: (N, C + U), see `PartMasks.state`.

    Returns:
        Two (N, 64, C) bool, as `possible_classes`.
    """
    agrees = _agreement(schema).to(state.device)
    possible = agrees[0] | (state[:, 0] == UNKNOWN)[:, None, None]
    answers = []
    for known in (state == KNOWN, state != UNKNOWN):
        fewer = (agrees | ~known[:, :, None, None]).all(dim=1)
        possible = torch.where(fewer.any(dim=2, keepdim=True), fewer, possible)
        answers.append(possible)
    return answers[0], answers[1]
