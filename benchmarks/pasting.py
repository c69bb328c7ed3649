"""People's parts as a label map of the image against Detectron2's paste_masks_in_image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import scenes
import torch
from detectron2.layers import paste_masks_in_image
from measure import Row, Settings, compare

HEIGHT, WIDTH = 1080, 1920


def rows(settings: Settings) -> Iterator[Row]:
    """Ours returns one label map, the alternative a boolean (H, W) plane per mask."""
    count = 10 if settings.quick else 100
    people = scenes.found_people(count, HEIGHT, WIDTH)
    channels = people.part_probs.shape[1]
    masks = torch.from_numpy(people.part_probs).flatten(0, 1).to(settings.device)
    boxes = torch.from_numpy(people.boxes).repeat_interleave(channels, dim=0).to(settings.device)
    yield from compare(
        "label map",
        f"People.label_map / paste_masks_in_image, {count} people x {channels}, {WIDTH}x{HEIGHT}",
        lambda: replace(people).label_map(),
        lambda: paste_masks_in_image(masks, boxes, (HEIGHT, WIDTH)),
        settings,
        time_reach=1 / 5,
        memory_reach=1 / 10,
        seconds=20,
    )
