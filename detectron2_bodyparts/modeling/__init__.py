"""The model's modules. Importing this registers them with Detectron2."""

from . import backbone, mobilenet  # noqa: F401  (they register themselves)
from .keypoint_head import BodyPartsKeypointHead
from .mask_head import BodyPartsMaskHead
from .pretraining import PartSegmentationPretraining
from .proposals import BodyPartsRPN
from .roi_heads import BodyPartsROIHeads

__all__ = [
    "BodyPartsKeypointHead",
    "BodyPartsMaskHead",
    "BodyPartsROIHeads",
    "BodyPartsRPN",
    "PartSegmentationPretraining",
]
