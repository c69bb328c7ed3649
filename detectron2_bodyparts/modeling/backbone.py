"""A small residual network for CPUs, and an FPN that looks at an image several times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import nn

from .regions import Strip

# The key, among the feature maps, of `SeveralLooksFPN.look_closer` at the same images.
CLOSER = "closer"


def in_look(number: int, name: str) -> str:
    """The name of feature map ``name``, e.g. "p2", in mirrored view ``number``, counted from 0."""
    return f"mirrored{number}_{name}"


def unmirrored(maps: torch.Tensor, permutation: Sequence[int]) -> torch.Tensor:
    """Flip (N, C, h, w) maps of a mirrored image back, and swap the channels of right and left.

    Args:
        maps: the predictions on the mirror image.
        permutation: permutation of the C channels under a flip, as a schema's ``flip_permutation``.
    """
    return maps[:, list(permutation)].flip(3)


class SeveralLooksFPN(FPN):
    """An FPN that at inference also runs on other views ("looks") of the image.

    Downscaled mirror images: averaging the part segmentation over all of them
    (`PartSegmentation.probabilities`), or the RoI heads over two (`BodyPartsROIHeads`), is more
    accurate, for a fraction of the time more. And a closer look at each person, in which nobody is
    small: `look_closer`.
    """

    def __init__(
        self, *args, mirrored_looks: Sequence[float] = (), closer_side: int = 0, **kwargs
    ) -> None:
        """
        Args:
            args, kwargs: those of `FPN`.
            mirrored_looks: the scale of each mirror image relative to the image.
            closer_side: height of `look_closer`'s strip, in pixels; 0 = no closer look.

        Raises:
            ValueError: a scale is not in (0, 1], or the side is not whole cells of the coarsest map
                of the bottom-up network.
        """
        super().__init__(*args, **kwargs)
        if not all(0 < size <= 1 for size in mirrored_looks):
            raise ValueError(
                f"MODEL.FPN.MIRRORED_LOOKS: above 0 and at most 1, found {tuple(mirrored_looks)}"
            )
        cell = self.size_divisibility
        if closer_side < 0 or closer_side % cell:
            raise ValueError(f"MODEL.FPN.CLOSER_SIDE: a multiple of {cell}, found {closer_side}")
        self.mirrored_looks = tuple(mirrored_looks)
        self.closer_side = closer_side

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, H, W) -> `FPN`'s feature maps, and those of each mirrored view (`in_look`).

        With a closer look, ``CLOSER`` is `look_closer` for these images.
        """
        if self.training:
            return super().forward(x)
        features = self._looks(x)
        if self.closer_side:
            features[CLOSER] = partial(self.look_closer, x)
        return features

    def _looks(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The feature maps of images and of each mirrored view."""
        features = super().forward(x)
        for i, share in enumerate(self.mirrored_looks):
            per_mille = round(share * 1000)
            size = [self._whole_cells(n * per_mille // 1000) for n in x.shape[-2:]]
            small = nn.functional.interpolate(x, size, mode="bilinear")
            look = super().forward(small.flip(3))
            features.update({in_look(i, name): map_ for name, map_ in look.items()})
        return features

    def _whole_cells(self, length: int) -> int:
        """Round up to what the network takes, in integer arithmetic, which can be traced."""
        cell = self.size_divisibility
        return (length + cell - 1) // cell * cell

    def look_closer(self, x: torch.Tensor, strip: Strip) -> dict[str, torch.Tensor]:
        """The feature maps (1, channels, h, w) of a strip of the images, and of its mirrored views.

        Args:
            x: (N, C, H, W), as for `forward`.
            strip: not empty.
        """
        shown = strip.cut(x)
        width = shown.shape[3]
        return self._looks(nn.functional.pad(shown, [0, self._whole_cells(width) - width]))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See `FPN.output_shape`; strides of mirrored views are in pixels of the scaled image.

        With a closer look, ``CLOSER`` has the finest map's shape.
        """
        shapes = super().output_shape()
        looks = range(len(self.mirrored_looks))
        others = {in_look(i, name): s for i in looks for name, s in shapes.items()}
        if self.closer_side:
            others[CLOSER] = next(iter(shapes.values()))
        return {**shapes, **others}


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """A residual network of basic blocks, of any width and depth, with an FPN (p2 to p6).

    Detectron2's smallest is ResNet-18, which takes seconds per step on a CPU; a narrow ResNet-50 is
    so deep that it learns slowly from scratch. Uses MODEL.RESNETS.BLOCKS_PER_STAGE,
    STEM_OUT_CHANNELS, RES2_OUT_CHANNELS (doubled at each stage) and NORM, and MODEL.FPN.

    Args:
        cfg: the config.
        input_shape: the image's channels.
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
        closer_side=fpn.CLOSER_SIDE,
    )
