"""The first stage of a training: the part segmentation alone."""

from __future__ import annotations

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances


@META_ARCH_REGISTRY.register()
class PartSegmentationPretraining(GeneralizedRCNN):
    """`GeneralizedRCNN` whose training is that of `PartSegmentation` and the features under it.

    Such a step takes a third of the time of one with regions, and what decides how good the masks
    become is learned there. The weights, those of the untrained heads among them, are what the
    same config takes as MODEL.WEIGHTS with MODEL.META_ARCHITECTURE "GeneralizedRCNN".

    At inference a picture is one person, so that mIoU is the segmentation's; its S x S cells over
    a whole picture are coarse. Of the other metrics none has a meaning.
    """

    find_unused_parameters = True  # what a DistributedDataParallel of it needs

    def __init__(self, *args, **kwargs) -> None:
        """See `GeneralizedRCNN`.

        Raises:
            ValueError: the RoI heads have no part segmentation.
        """
        super().__init__(*args, **kwargs)
        if getattr(self.roi_heads, "part_segmentation", None) is None:
            raise ValueError("no part segmentation: set MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT")

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """See `GeneralizedRCNN.forward`; the only loss is ``loss_segmentation``."""
        if not self.training:
            return self.inference(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(self.preprocess_image(batched_inputs).tensor)
        segmentation = self.roi_heads.part_segmentation
        logits = segmentation(features[self.roi_heads.mask_in_features[0]])
        return segmentation.losses(logits, targets)

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict] | list[Instances]:
        """See `GeneralizedRCNN.inference`.

        Returns:
            Of every picture one person of score 1, whose box is the picture, whatever was detected.
        """
        images = self.preprocess_image(batched_inputs)
        wholes = [Boxes(images.tensor.new_tensor([[0, 0, w, h]])) for h, w in images.image_sizes]
        p = self.roi_heads.segment(self.backbone(images.tensor))
        masks = self.roi_heads.part_segmentation.on_regions(p, wholes).sigmoid()
        people = [
            Instances(
                size,
                pred_boxes=whole,
                scores=whole.tensor.new_ones(1),
                pred_classes=torch.zeros(1, dtype=torch.int64, device=self.device),
                pred_part_masks=of_one[None],
            )
            for size, whole, of_one in zip(images.image_sizes, wholes, masks, strict=True)
        ]
        if not do_postprocess:
            return people
        return self._postprocess(people, batched_inputs, images.image_sizes)
