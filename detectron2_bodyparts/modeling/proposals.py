"""A region proposal network without negatives where the ground truth is unknown."""

from __future__ import annotations

import copy

import torch
from detectron2.config import configurable
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torchvision.ops import nms

# Class of an ignore region in an image's ground truth: a crowd, or the whole image where not
# everybody is labelled.
IGNORE_CLASS = -1


def split_ignored(targets: list[Instances]) -> tuple[list[Instances], list[Boxes]]:
    """Per image: the people, and the boxes of the ignore regions."""
    people = [t[t.gt_classes != IGNORE_CLASS] for t in targets]
    return people, [t.gt_boxes[t.gt_classes == IGNORE_CLASS] for t in targets]


def lies_in(boxes: Boxes, regions: Boxes, threshold: float) -> torch.Tensor:
    """(N,) bool: whether more than ``threshold`` of a box's area lies in one of the regions."""
    if len(regions) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return pairwise_ioa(regions, boxes).amax(dim=0) > threshold


# Maximum number of overlaps between people and anchors in memory. Detectron2 holds all of them
# several times: with 100 people and the 268,000 anchors of 800x1333, more than 500 MiB.
_OVERLAPS = 2**20


def match_anchors(
    matcher: Matcher, people: Boxes, anchors: Boxes
) -> tuple[torch.Tensor, torch.Tensor]:
    """``matcher(pairwise_iou(people, anchors))``, in memory independent of the number of people.

    Returns:
        For each anchor the index of its person (int64) and its label (int8).
    """
    step = max(_OVERLAPS // max(len(people), 1), 1)
    if step >= len(anchors):
        return matcher(pairwise_iou(people, anchors))
    chunks = [slice(i, i + step) for i in range(0, len(anchors), step)]
    # Which anchors are a person's best is known only at the end.
    plain = copy.copy(matcher)
    plain.allow_low_quality_matches = False
    found, best = [], people.tensor.new_zeros(len(people))
    for chunk in chunks:
        overlaps = pairwise_iou(people, anchors[chunk])
        found.append(plain(overlaps))
        best = torch.maximum(best, overlaps.amax(dim=1))
    index, label = (torch.cat(column) for column in zip(*found, strict=True))
    if matcher.allow_low_quality_matches:
        for chunk in chunks:
            is_best = pairwise_iou(people, anchors[chunk]) == best[:, None]
            label[chunk][is_best.any(dim=0)] = 1
    return index, label


@PROPOSAL_GENERATOR_REGISTRY.register()
class BodyPartsRPN(RPN):
    """Detectron2's RPN, except that anchors in ignore regions are not negatives, and faster."""

    @configurable
    def __init__(self, *, ignore_ioa: float = 0.5, **kwargs) -> None:
        """
        Args:
            ignore_ioa: an anchor is not a negative if more than this fraction of its area lies in
                an ignore region.
            kwargs: those of `RPN`.
        """
        super().__init__(**kwargs)
        self.ignore_ioa = ignore_ioa

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        ret = super().from_config(cfg, input_shape)
        return {**ret, "ignore_ioa": cfg.MODEL.BODYPARTS.IGNORE_IOA}

    @torch.no_grad()
    def predict_proposals(self, anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes):
        """Like `RPN.predict_proposals`, with the same result, but decodes only the boxes that
        non-maximum suppression sees, all levels at once, not those of all anchors."""
        limit = self.pre_nms_topk[self.training]
        best = []
        for level, (places, logits, deltas) in enumerate(
            zip(anchors, pred_objectness_logits, pred_anchor_deltas, strict=True)
        ):
            number = logits.shape[1]  # a tensor if traced
            count = min(number, limit) if isinstance(number, int) else number.clamp(max=limit)
            scores, index = logits.topk(count, dim=1)
            moves = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            best.append((scores, places.tensor[index], moves, torch.full_like(index, level)))
        scores, places, moves, levels = (
            torch.cat(of_all, dim=1) for of_all in zip(*best, strict=True)
        )
        boxes = self.box2box_transform.apply_deltas(moves.flatten(0, 1), places.flatten(0, 1))
        boxes = boxes.reshape(scores.shape[0], -1, 4)
        return list(map(self._suppressed, boxes, scores, levels, image_sizes))

    def _suppressed(self, boxes, scores, levels, image_size) -> Instances:
        """One image's proposals after non-maximum suppression, within each level."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if not finite.all():  # never, where it is traced
            if self.training:
                raise FloatingPointError("boxes or scores are Inf or NaN: training has diverged")
            boxes, scores, levels = boxes[finite], scores[finite], levels[finite]
        inside = Boxes(boxes)
        inside.clip(image_size)
        keep = inside.nonempty(self.min_box_size)
        boxes, scores, levels = inside.tensor[keep], scores[keep], levels[keep]
        # Boxes of different levels are moved apart, as in torchvision's `batched_nms`, whose branch
        # for no boxes would be in every exported model.
        apart = boxes.float() + levels[:, None] * (image_size[0] + image_size[1])
        keep = nms(apart, scores, self.nms_thresh)[: self.post_nms_topk[self.training]]
        proposals = Instances(image_size)
        proposals.proposal_boxes = Boxes(boxes[keep])
        proposals.objectness_logits = scores[keep]
        return proposals

    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Like `RPN.label_and_sample_anchors`; ``gt_classes`` of -1 are ignore regions."""
        anchors = Boxes.cat(anchors)
        people, ignored = split_ignored(gt_instances)
        labels, matched = [], []
        for targets, regions in zip(people, ignored, strict=True):
            index, label = match_anchors(self.anchor_matcher, targets.gt_boxes, anchors)
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
