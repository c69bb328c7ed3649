"""Test-time augmentation: the answers for a picture at several sizes and mirrored, averaged."""

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
    """Detectron2's `GeneralizedRCNNWithTTA` with part masks and joints; called as a model is.

    People are found in every view of the picture, and their boxes merged by non-maximum
    suppression, as in Detectron2. The heads then look at the merged boxes in every view. What they
    give for a mirrored view is mirrored back, which exchanges the channels of right and left, and
    averaged: probabilities of masks, logits of joints' heatmaps, from which the joints are decoded
    once. The mean of decoded joints would put a wrist that two views see at two places between
    them, where no wrist is. Detectron averages logits, too (``TEST.KPS_AUG.HEUR: HM_AVG``).

    The output has the plain model's fields, in the coordinates of the picture.
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
            cfg: the model's. ``TEST.AUG`` has the views' sizes, and whether each is mirrored, too.
            model: a `GeneralizedRCNN` whose mask and joint heads, if any, are this plugin's.
            tta_mapper: the views of a picture, as `DatasetMapperTTA` gives them: resized, and
                mirrored at most once. That of ``TEST.AUG`` where not given.
            batch_size: views that go through the model together. With two, a view is with its own
                mirror image, so that neither is padded to the size of another.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False  # with joints, Detectron2's class refuses
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
    """The mean of the views' maps on the same boxes, mirrored ones mirrored back.

    Args:
        maps: (N, C, S, S) of each view.
        transforms: what made each view.
        permutation: of the C channels when a picture is mirrored.

    Returns:
        (N, C, S, S), as of the picture itself.
    """
    total = torch.zeros_like(maps[0])
    for view, transform in zip(maps, transforms, strict=True):
        if any(isinstance(t, HFlipTransform) for t in transform.transforms):
            view = unmirrored(view, permutation)
        total += view
    return total / len(maps)
