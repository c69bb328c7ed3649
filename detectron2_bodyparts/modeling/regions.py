"""Boxes with a margin, on which masks and keypoints are predicted."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import nn


def enlarged(boxes: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
    """Enlarge (N, 4) XYXY boxes on each side by a fraction of their size, one for all or (N, 1)."""
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def on_boxes(masks: torch.Tensor, margin: float) -> torch.Tensor:
    """Resample (N, C, S, S) maps on `enlarged` boxes to the boxes themselves."""
    cells = torch.arange(masks.shape[-1], device=masks.device, dtype=masks.dtype)
    places = ((cells + 0.5) / masks.shape[-1] * 2 - 1) / (1 + 2 * margin)  # -1..1 is the region
    y, x = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(masks), -1, -1, -1)
    return nn.functional.grid_sample(masks, grid, align_corners=False)


def tell_margin(people: Instances, margin: float) -> None:
    """Record that maps are on `enlarged` boxes; resample ``pred_masks``, if any, to the boxes.

    See `BodyPartsROIHeads` for the fields. Does nothing if the margin is 0.
    """
    if not margin:
        return
    people.pred_region_margin = torch.full_like(people.pred_boxes.tensor[:, 0], margin)
    if people.has("pred_masks"):
        people.pred_masks = on_boxes(people.pred_masks, margin)
