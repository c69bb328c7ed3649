"""The first stage of training: the part segmentation alone."""

from __future__ import annotations

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances


@META_ARCH_REGISTRY.register()
class PartSegmentationPretraining(GeneralizedRCNN):
    """`GeneralizedRCNN` that trains only `PartSegmentation` and the backbone.

    A step takes a third of the time of one with regions, and the quality of the masks is mostly
    decided here. The weights, which include the untrained heads', are for MODEL.WEIGHTS of the same
    config with MODEL.META_ARCHITECTURE "GeneralizedRCNN".

    At inference each image is one person, so that mIoU is that of the segmentation, on a coarse
    grid of S x S cells over the whole image. The other metrics are meaningless.
    """

    find_unused_parameters = True  # required by DistributedDataParallel

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
            For each image one person of score 1 whose box is the image; detections are ignored.
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
