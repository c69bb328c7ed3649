"""Boxes with a margin, where masks and joints are looked for."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import nn


def enlarged(boxes: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
    """(N, 4) XYXY boxes, each with a share of its sides more on every side; or (N, 1) of these."""
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def on_boxes(masks: torch.Tensor, margin: float) -> torch.Tensor:
    """(N, C, S, S) on `enlarged` boxes -> the same on the boxes."""
    cells = torch.arange(masks.shape[-1], device=masks.device, dtype=masks.dtype)
    places = ((cells + 0.5) / masks.shape[-1] * 2 - 1) / (1 + 2 * margin)  # -1..1 is the region
    y, x = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(masks), -1, -1, -1)
    return nn.functional.grid_sample(masks, grid, align_corners=False)


def tell_margin(people: Instances, margin: float) -> None:
    """Say that maps are on `enlarged` boxes; bring ``pred_masks``, if any, onto the boxes.

    See `BodyPartsROIHeads` for the fields. Without a margin there is nothing to say.
    """
    if not margin:
        return
    people.pred_region_margin = torch.full_like(people.pred_boxes.tensor[:, 0], margin)
    if people.has("pred_masks"):
        people.pred_masks = on_boxes(people.pred_masks, margin)
