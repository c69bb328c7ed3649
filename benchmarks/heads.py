"""The mask head against the head of MaskRCNN_body (2017), at the same output of 7x112x112."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.layers import ShapeSpec
from measure import Row, Settings, activations, compare
from torch.utils.flop_counter import FlopCounterMode

from detectron2_bodyparts.modeling import BodyPartsMaskHead
from detectron2_bodyparts.schema import BODYPARTS_7

_CHANNELS = 256


class _Side:
    """A head and the regions it runs on."""

    def __init__(self, decoder: str, side: int, conv_dim: int, count: int, device: str) -> None:
        shape = ShapeSpec(channels=_CHANNELS, height=side, width=side)
        self.head = BodyPartsMaskHead(
            shape, part_schema=BODYPARTS_7, decoder=decoder, conv_dim=conv_dim
        ).to(device)
        regions = torch.randn(count, _CHANNELS, side, side, device=device)
        # In training, gradients flow on into the backbone.
        self.regions = regions.requires_grad_()

    def forward(self) -> torch.Tensor:
        return self.head.decoder.upsample(self.head.trunk(self.regions))

    def step(self) -> None:
        logits = self.forward()
        logits.backward(torch.ones_like(logits))

    def gmac(self) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.forward()
        return counter.get_total_flops() / 2e9 / len(self.regions)


def rows(settings: Settings) -> Iterator[Row]:
    """Time, saved activations and operations, each per region."""
    count = 1 if settings.quick else 64 if settings.device == "cuda" else 4
    ours = _Side("efficient", 28, 64, count, settings.device)
    theirs = _Side("original", 56, 256, count, settings.device)
    words = f"efficient decoder / original decoder, {count} regions"
    yield from compare(
        "mask head, forward + backward",
        words,
        ours.step,
        theirs.step,
        settings,
        time_reach=1 / 8,
        per=count,
        seconds=10,
    )
    a, b = (activations(side.forward, side.head) / count for side in (ours, theirs))
    yield Row("mask head, saved activations", words, a, b, "MiB", 1 / 6)
    yield Row("mask head, operations", words, ours.gmac(), None, "GMAC", 0.5)
    yield Row("mask head, operations against the original's", words, ours.gmac(), theirs.gmac(),
              "GMAC", None)  # fmt: skip
