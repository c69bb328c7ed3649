"""A small residual network for machines without a GPU, and an FPN that looks several times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import nn


def in_look(number: int, name: str) -> str:
    """The name of a feature map, as "p2", in the mirrored look of that number, from 0 on."""
    return f"mirrored{number}_{name}"


def unmirrored(maps: torch.Tensor, permutation: Sequence[int]) -> torch.Tensor:
    """(N, C, h, w) of a mirrored picture -> as of the picture: right and left change places, too.

    Args:
        maps: what was found in the mirror image.
        permutation: of the C channels when a picture is mirrored, as ``flip_permutation``.
    """
    return maps[:, list(permutation)].flip(3)


class SeveralLooksFPN(FPN):
    """An FPN that, out of training, looks at the mirror image of the picture, too, made smaller.

    A part segmentation of all looks (`PartSegmentation.probabilities`) knows more than one of any,
    as do RoI heads of two (`BodyPartsROIHeads`), for a fraction of the time more.
    """

    def __init__(self, *args, mirrored_looks: Sequence[float] = (), **kwargs) -> None:
        """
        Args:
            args, kwargs: `FPN`'s own.
            mirrored_looks: the mirror image's size in each look, as a share of the picture's.

        Raises:
            ValueError: one of them is not above 0 and at most 1.
        """
        super().__init__(*args, **kwargs)
        if not all(0 < size <= 1 for size in mirrored_looks):
            raise ValueError(
                f"MODEL.FPN.MIRRORED_LOOKS: above 0 and at most 1, found {tuple(mirrored_looks)}"
            )
        self.mirrored_looks = tuple(mirrored_looks)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, H, W) -> `FPN`'s feature maps, and those of each mirrored look (`in_look`)."""
        features = super().forward(x)
        if self.training:
            return features
        mirror_image = x.flip(3)
        for i, share in enumerate(self.mirrored_looks):
            # In integers: export traces them, for pictures of any size.
            per_mille, cell = round(share * 1000), self.size_divisibility
            size = [(n * per_mille // 1000 + cell - 1) // cell * cell for n in x.shape[-2:]]
            small = nn.functional.interpolate(mirror_image, size, mode="bilinear")
            look = super().forward(small)
            features.update({in_look(i, name): map_ for name, map_ in look.items()})
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See `FPN.output_shape`; a mirrored look's stride is that of its own picture."""
        shapes = super().output_shape()
        looks = range(len(self.mirrored_looks))
        return {**shapes, **{in_look(i, name): s for i in looks for name, s in shapes.items()}}


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
    return SeveralLooksFPN(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        fpn.NORM,
        top_block=LastLevelMaxPool(),
        mirrored_looks=fpn.MIRRORED_LOOKS,
    )
