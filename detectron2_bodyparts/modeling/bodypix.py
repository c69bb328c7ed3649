"""BodyPix 2 (Google, Apache-2.0): its weights for our backbone, and the model for comparison.

    python -m detectron2_bodyparts.modeling.bodypix model-stride16.json mobilenet_v1_075.pth

writes a checkpoint for MODEL.WEIGHTS of a config with `build_mobilenet_v1_fpn_backbone`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from .mobilenet import MobileNetV1
from .tfjs import read_tfjs_weights


def _front_and_back(*parts: str) -> tuple[str, ...]:
    return tuple(f"{part}_{end}" for part in parts for end in ("front", "back"))


# BodyPix's part channels, in its order.
PARTS = (
    "left_face",
    "right_face",
    *_front_and_back("left_upper_arm", "right_upper_arm", "left_lower_arm", "right_lower_arm"),
    "left_hand",
    "right_hand",
    *_front_and_back("torso"),
    *_front_and_back("left_upper_leg", "right_upper_leg", "left_lower_leg", "right_lower_leg"),
    "left_foot",
    "right_foot",
)
# Output -> last component of its weights' TensorFlow scope.
_HEADS = {
    "segments": "segment_2",
    "parts": "part_heatmap_2",
    "joints": "heatmap_2",
    "offsets": "offset_2",
}


def channel_of(part: str) -> str:
    """The channel of bodyparts-11 that contains one of ``PARTS``."""
    if part.endswith("_face"):
        return "head"
    part = part.removesuffix("_front").removesuffix("_back")
    return part.replace("_hand", "_lower_arm").replace("_foot", "_lower_leg")


def mobilenet_state_dict(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Convert BodyPix's weights to those of a `MobileNetV1` of the same width."""
    state = {}

    def take(name: str, scope: str, prefix: str) -> None:
        kernel = weights[f"MobilenetV1/{scope}/{prefix}weights"]
        # A depthwise kernel's last two axes are swapped: channel, 1.
        axes = (2, 3, 0, 1) if prefix else (3, 2, 0, 1)
        state[f"{name}.weight"] = torch.tensor(kernel.transpose(axes))
        bias = weights[f"MobilenetV1/{scope}/{prefix or 'Conv2D_'}bias"]
        state[f"{name}.bias"] = torch.tensor(bias)

    take("stem", "Conv2d_0", "")
    for i in range(13):
        take(f"blocks.{i}.depthwise", f"Conv2d_{i + 1}_depthwise", "depthwise_")
        take(f"blocks.{i}.pointwise", f"Conv2d_{i + 1}_pointwise", "")
    return state


class BodyPix(nn.Module):
    """BodyPix with a MobileNetV1 at stride 16: silhouettes, parts and keypoints, no instances."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        """
        Args:
            weights: as returned by `read_tfjs_weights`.
        """
        super().__init__()
        state = mobilenet_state_dict(weights)
        self.backbone = MobileNetV1(len(state["stem.bias"]) / 32)
        self.backbone.load_state_dict(state)
        self.heads = nn.ModuleDict()
        for name, scope in _HEADS.items():
            kernel = weights[f"MobilenetV1/{scope}/weights"]
            head = nn.Conv2d(kernel.shape[2], kernel.shape[3], 1)
            head.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
            head.bias.data = torch.tensor(weights[f"MobilenetV1/{scope}/Conv2D_bias"])
            self.heads[name] = head
        self.eval()

    @torch.no_grad()
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            image: (N, 3, H, W), RGB in -1..1, sides of 16 k + 1 pixels.

        Returns:
            Logits (N, C, h, w), one cell every 16 pixels, the first at pixel 0: ``segments``
            (1 channel), ``parts`` (24, see `PARTS`) and ``joints`` (COCO's 17); and ``offsets``
            (34: pixels from the cell to the keypoint, all y, then all x).
        """
        features = self.backbone(image)["res4"]
        return {name: head(features) for name, head in self.heads.items()}


def main() -> None:
    """Convert a model's JSON to a checkpoint, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="BodyPix's model-stride16.json, its weights beside it")
    parser.add_argument("output", help="the checkpoint to write")
    args = parser.parse_args()
    state = mobilenet_state_dict(read_tfjs_weights(args.model))
    model = {f"backbone.bottom_up.{name}": value for name, value in state.items()}
    torch.save({"model": model, "__author__": "BodyPix 2"}, args.output)


if __name__ == "__main__":
    main()
