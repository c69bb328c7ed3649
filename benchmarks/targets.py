"""Mask targets of the sampled regions against Detectron2's BitMasks, one per channel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scenes
import torch
from detectron2.structures import BitMasks
from measure import Row, Settings, compare

from detectron2_bodyparts.schema import BODYPARTS_7
from detectron2_bodyparts.structures import BODY_BIT, KNOWN, PartMasks, target_names

HEIGHT, WIDTH = 800, 1333
SIDE = 112


def part_masks(planes: list[np.ndarray]) -> PartMasks:
    """Ground truth of fully labelled people, from (H, W) channel indices."""
    state = np.full(len(target_names(BODYPARTS_7)), KNOWN, np.uint8)
    state[len(BODYPARTS_7.channels) :] = 0
    bytes_ = [plane | np.where(plane > 0, BODY_BIT, 0).astype(np.uint8) for plane in planes]
    return PartMasks.from_planes(bytes_, [state] * len(planes), BODYPARTS_7)


def rows(settings: Settings) -> Iterator[Row]:
    """From the ground truth of the image to the targets of its foreground regions."""
    people = scenes.figures(10, HEIGHT, WIDTH)
    planes = scenes.whole_planes(people, HEIGHT, WIDTH)
    person, boxes = scenes.regions(people, 16 if settings.quick else 128)
    person, boxes = person.to(settings.device), boxes.to(settings.device)
    ours = part_masks(planes).to(settings.device)
    theirs = [
        BitMasks(np.stack([p > 0 if c == 0 else p == c for p in planes])).to(settings.device)
        for c in range(len(BODYPARTS_7.channels))
    ]

    def their_targets() -> list[torch.Tensor]:
        # Channel by channel; indexing all seven at once, as fields of Instances, takes more memory.
        return [masks[person].crop_and_resize(boxes, SIDE) for masks in theirs]

    yield from compare(
        "mask targets",
        f"PartMasks / BitMasks x 7, {len(boxes)} regions, 10 people, {WIDTH}x{HEIGHT}",
        lambda: ours[person].crop_and_resize(boxes, SIDE),
        their_targets,
        settings,
        time_reach=1 / 4,
        memory_reach=1 / 10,
        seconds=10,
    )
