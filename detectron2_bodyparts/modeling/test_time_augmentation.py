"""Test-time augmentation: predictions averaged over several sizes and a flip of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import HFlipTransform, TransformList
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from ..schema import BODY, get_keypoint_schema, get_part_schema
from .backbone import unmirrored
from .keypoint_head import decode_keypoints
from .regions import enlarged, tell_margin
from .rescoring import rescored


class BodyPartsRCNNWithTTA(GeneralizedRCNNWithTTA):
    """Detectron2's `GeneralizedRCNNWithTTA` for part masks and keypoints; called like a model.

    As in Detectron2, people are detected in every view of the image and their boxes are merged by
    non-maximum suppression. The heads then run on the merged boxes in every view. Outputs of
    mirrored views are flipped back, which swaps the channels of right and left, and all are
    averaged: mask probabilities and keypoint heatmaps' logits, which are then decoded once. If two
    views place a wrist differently, the mean of decoded keypoints would lie between, where no wrist
    is. Detectron averages logits, too (``TEST.KPS_AUG.HEUR: HM_AVG``).
    There is no closer look (MODEL.FPN.CLOSER_SIDE).

    The output has the fields of the plain model, in coordinates of the image.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[dict], list[dict]] | None = None,
        batch_size: int = 2,
    ) -> None:
        """
        Args:
            cfg: the model's; ``TEST.AUG`` sets the views' sizes, and whether each is also flipped.
            model: a `GeneralizedRCNN` whose mask and keypoint heads, if any, are this plugin's.
            tta_mapper: makes the views of an image like `DatasetMapperTTA`: resized, and flipped at
                most once. If not given, that of ``TEST.AUG``.
            batch_size: number of views per batch. With two, a view is paired with its own mirror
                image, so neither is padded to another size.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False  # Detectron2's class rejects keypoints
        super().__init__(cfg, model, tta_mapper, batch_size)
        self.part_schema = get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA)
        self.keypoint_schema = get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA)

    def _inference_one_image(self, input: dict) -> dict[str, Instances]:
        size = input["height"], input["width"]
        views, transforms = self._get_augmented_inputs(input)
        with self._turn_off_roi_heads(["mask_on", "keypoint_on", "share_mask_features"]):
            found = self._get_augmented_boxes(views, transforms)
        people = self._merge_detections(*found, size)
        heads = self.model.roi_heads
        margin = getattr(heads, "region_margin", 0.0)
        if heads.mask_on or heads.keypoint_on:
            given = self._rescale_detected_boxes(views, people, transforms)
            outputs = self._batch_inference(views, given)
        if heads.mask_on:
            permutation = self.part_schema.flip_permutation
            masks = _average([o.pred_part_masks for o in outputs], transforms, permutation)
            body = self.part_schema.index(BODY)
            people.pred_part_masks = masks
            people.pred_masks = masks[:, body : body + 1]
        if heads.keypoint_on:
            permutation = self.keypoint_schema.flip_permutation
            logits = _average([o.pred_keypoint_heatmaps for o in outputs], transforms, permutation)
            people.pred_keypoint_heatmaps = logits
            people.pred_keypoints = decode_keypoints(
                logits, enlarged(people.pred_boxes.tensor, margin)
            )
        if heads.mask_on or heads.keypoint_on:
            tell_margin(people, margin)
        people = rescored(people, heads)
        return {"instances": detector_postprocess(people, *size)}


def _average(
    maps: list[torch.Tensor], transforms: list[TransformList], permutation: Sequence[int]
) -> torch.Tensor:
    """Average the views' maps on the same boxes, with mirrored ones flipped back.

    Args:
        maps: (N, C, S, S) per view.
        transforms: the transforms that made each view.
        permutation: permutation of the C channels under a flip.

    Returns:
        (N, C, S, S), on the boxes in the image itself.
    """
    total = torch.zeros_like(maps[0])
    for view, transform in zip(maps, transforms, strict=True):
        if any(isinstance(t, HFlipTransform) for t in transform.transforms):
            view = unmirrored(view, permutation)
        total += view
    return total / len(maps)
