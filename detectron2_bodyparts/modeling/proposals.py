"""A region proposal network that takes nothing for a negative where nothing is known."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou

# The class of a region to ignore among a picture's ground truth: a crowd, or the whole picture
# where not everybody is labelled.
IGNORE_CLASS = -1


def split_ignored(targets: list[Instances]) -> tuple[list[Instances], list[Boxes]]:
    """Per picture: the people, and the boxes of the regions to ignore."""
    people = [t[t.gt_classes != IGNORE_CLASS] for t in targets]
    return people, [t.gt_boxes[t.gt_classes == IGNORE_CLASS] for t in targets]


def lies_in(boxes: Boxes, regions: Boxes, threshold: float) -> torch.Tensor:
    """(N,) bool: boxes of which more than ``threshold`` of the area lies in one of the regions."""
    if len(regions) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return pairwise_ioa(regions, boxes).amax(dim=0) > threshold


@PROPOSAL_GENERATOR_REGISTRY.register()
class BodyPartsRPN(RPN):
    """Detectron2's RPN; anchors in regions to ignore are no negatives."""

    @configurable
    def __init__(self, *, ignore_ioa: float = 0.5, **kwargs) -> None:
        """
        Args:
            ignore_ioa: an anchor is no negative if more than this share of it lies in a region to
                ignore.
            kwargs: `RPN`'s own.
        """
        super().__init__(**kwargs)
        self.ignore_ioa = ignore_ioa

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        ret = super().from_config(cfg, input_shape)
        return {**ret, "ignore_ioa": cfg.MODEL.BODYPARTS.IGNORE_IOA}

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """As `RPN.label_and_sample_anchors`; ``gt_classes`` of -1 are regions to ignore."""
        anchors = Boxes.cat(anchors)
        people, ignored = split_ignored(gt_instances)
        labels, matched = [], []
        for targets, regions in zip(people, ignored, strict=True):
            index, label = self.anchor_matcher(pairwise_iou(targets.gt_boxes, anchors))
            label[(label == 0) & lies_in(anchors, regions, self.ignore_ioa)] = -1
            if self.anchor_boundary_thresh >= 0:
                inside = anchors.inside_box(targets.image_size, self.anchor_boundary_thresh)
                label[~inside] = -1
            labels.append(self._subsample_labels(label))
            if len(targets):
                matched.append(targets.gt_boxes[index].tensor)
            else:
                matched.append(torch.zeros_like(anchors.tensor))
        return labels, matched
