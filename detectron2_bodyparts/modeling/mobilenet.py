"""MobileNetV1 with an FPN: a pretrained backbone for laptop CPUs."""

from __future__ import annotations

from functools import partial

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from torch import nn

from .backbone import SeveralLooksFPN

# Howard et al., "MobileNets", 2017, table 1: output channels at width 1 and stride of the thirteen
# separable convolutions. As in BodyPix, the last two keep stride 16 and the preceding width.
_BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 7,
)
# Blocks (0-based) whose outputs an FPN can use: the last of each resolution.
_STAGES = {"res2": 2, "res3": 4, "res4": 12}


_relu6 = partial(nn.functional.relu6, inplace=True)


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one; ReLU6 after each."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return _relu6(self.pointwise(_relu6(self.depthwise(x))))


class MobileNetV1(Backbone):
    """MobileNetV1 (Howard et al., 2017) at stride 16, with batch norms folded into convolutions.

    Outputs ``res2`` (stride 4), ``res3`` (8) and ``res4`` (16). Padding is symmetric, which equals
    TensorFlow's SAME for images with sides of 16 k + 1 pixels.
    """

    def __init__(self, width: float = 1.0) -> None:
        """
        Args:
            width: multiplier of all channel numbers, e.g. 0.75.
        """
        super().__init__()
        self.stem = nn.Conv2d(3, int(32 * width), 3, stride=2, padding=1)
        channels = [int(32 * width), *(int(c * width) for c, _ in _BLOCKS)]
        self.blocks = nn.ModuleList(
            SeparableConv(i, o, stride)
            for i, o, (_, stride) in zip(channels[:-1], channels[1:], _BLOCKS, strict=True)
        )
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        self._out_features = list(_STAGES)
        self._out_feature_strides = {"res2": 4, "res3": 8, "res4": 16}
        self._out_feature_channels = {name: channels[i + 1] for name, i in _STAGES.items()}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W), RGB in -1..1 for imported weights -> a feature map per output."""
        outputs, ends = {}, {i: name for name, i in _STAGES.items()}
        x = _relu6(self.stem(x))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in ends:
                outputs[ends[i]] = x
        return outputs

    def freeze(self, at: int) -> None:
        """Freeze the stem (1) and the blocks up to a stride (2: 4, 3: 8, 4: 16); 0: nothing."""
        blocks = {0: None, 1: -1, 2: 2, 3: 4, 4: 12}[at]
        if blocks is None:
            return
        for module in (self.stem, *self.blocks[: blocks + 1]):
            module.requires_grad_(False)


@BACKBONE_REGISTRY.register()
def build_mobilenet_v1_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """`MobileNetV1` with an FPN (p2 to p6); p5 and p6 are strided convolutions on p4.

    Uses MODEL.MOBILENET.WIDTH, MODEL.BACKBONE.FREEZE_AT and MODEL.FPN.

    Args:
        cfg: the config.
        input_shape: the image's channels, which must be three.
    """
    if input_shape.channels != 3:
        raise ValueError(f"expected pictures of 3 channels, found {input_shape.channels}")
    bottom_up = MobileNetV1(cfg.MODEL.MOBILENET.WIDTH)
    bottom_up.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    out_channels = cfg.MODEL.FPN.OUT_CHANNELS
    backbone = SeveralLooksFPN(
        bottom_up,
        list(_STAGES),
        out_channels,
        cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(out_channels, out_channels, in_feature="p4"),
        mirrored_looks=cfg.MODEL.FPN.MIRRORED_LOOKS,
        closer_side=cfg.MODEL.FPN.CLOSER_SIDE,
    )
    # On a CPU, depthwise convolutions are two to three times as fast in this format.
    return backbone.to(memory_format=torch.channels_last)
