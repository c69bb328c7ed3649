"""Keypoint decoding from heatmaps against Detectron2's heatmaps_to_keypoints."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.structures.keypoints import heatmaps_to_keypoints
from measure import Row, Settings, compare

from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints

JOINTS, SIDE = 17, 56
_BUMP = 1.5  # standard deviation of the peaks in the artificial heatmaps, in cells


def heatmaps(count: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Artificial keypoint logits with known positions.

    Returns:
        (N, 17, 56, 56) logits, (N, 4) XYXY boxes of 40 to 500 pixels, (N, 17, 2) positions.
    """
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(count, 4, generator=generator)
    boxes[:, :2] *= 500
    boxes[:, 2:] = boxes[:, :2] + 40 + 460 * boxes[:, 2:]
    cells = (0.05 + 0.9 * torch.rand(count, JOINTS, 2, generator=generator)) * SIDE
    centers = torch.arange(SIDE) + 0.5
    dx = centers[None, None, None, :] - cells[..., 0, None, None]
    dy = centers[None, None, :, None] - cells[..., 1, None, None]
    logits = -(dx**2 + dy**2) / (2 * _BUMP**2)
    logits += 0.05 * torch.randn(logits.shape, generator=generator)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    places = low + cells / SIDE * (high - low)
    return logits.to(device), boxes.to(device), places.to(device)


def rows(settings: Settings) -> Iterator[Row]:
    """Time, and the mean error of the positions."""
    count = 10 if settings.quick else 100
    logits, boxes, places = heatmaps(count, settings.device)
    words = f"decode_keypoints / heatmaps_to_keypoints, {count} people x {JOINTS} joints"
    yield from compare(
        "joint decoding",
        words,
        lambda: decode_keypoints(logits, boxes),
        lambda: heatmaps_to_keypoints(logits, boxes),
        settings,
        time_reach=1 / 10,
    )
    errors = [
        (decode(logits, boxes)[..., :2] - places).norm(dim=-1).mean().item()
        for decode in (decode_keypoints, heatmaps_to_keypoints)
    ]
    yield Row("joint decoding, mean error", words, *errors, "px", 1.0)
