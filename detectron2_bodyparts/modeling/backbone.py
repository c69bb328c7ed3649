"""A small residual network for machines without a GPU."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """A residual network of basic blocks, of any width and depth, with an FPN of p2 to p6.

    Detectron2's own starts at ResNet-18, which takes seconds a step on a CPU, and a ResNet-50 made
    narrow is so deep that it learns slowly from nothing. Uses MODEL.RESNETS.BLOCKS_PER_STAGE,
    STEM_OUT_CHANNELS, RES2_OUT_CHANNELS (doubled at each stage) and NORM, and MODEL.FPN.

    Args:
        cfg: the config.
        input_shape: channels of the picture.
    """
    resnets, fpn = cfg.MODEL.RESNETS, cfg.MODEL.FPN
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    stages, in_channels, out_channels = [], resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    for i, blocks in enumerate(resnets.BLOCKS_PER_STAGE):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=[1 if i == 0 else 2] + [1] * (blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=resnets.NORM,
            )
        )
        in_channels, out_channels = out_channels, 2 * out_channels
    bottom_up = ResNet(
        stem, stages, out_features=fpn.IN_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top_block=LastLevelMaxPool())
