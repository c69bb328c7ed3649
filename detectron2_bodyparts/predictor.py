"""Images in, people out, with the model of a Detectron2 config."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from .checkpoint import WholeCheckpointer
from .people import People
from .schema import get_keypoint_schema, get_part_schema


class BodyPartsPredictor(DefaultPredictor):
    """`DefaultPredictor` for people: takes one or several images and returns `People`.

    >>> predictor = BodyPartsPredictor(cfg)  # weights from cfg.MODEL.WEIGHTS
    >>> people = predictor(cv2.imread("picture.jpg"))
    >>> people[0].part("left_arm")  # (H, W) bool
    """

    def __init__(self, cfg: CfgNode, threshold: float = 0.0) -> None:
        """
        Args:
            cfg: the model's config; ``MODEL.WEIGHTS`` must be a complete checkpoint of it.
            threshold: minimum score of returned people. ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``
                applies to box scores, before masks lower them.

        Raises:
            ValueError, FileNotFoundError: see `WholeCheckpointer.load`.
        """
        without_weights = cfg.clone()
        without_weights.defrost()
        without_weights.MODEL.WEIGHTS = ""  # DefaultPredictor would accept an incomplete one
        super().__init__(without_weights)
        self.cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS
        WholeCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.part_schema = get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA)
        self.keypoint_schema = get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA)
        self._threshold = threshold

    @torch.no_grad()
    def __call__(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        boxes: np.ndarray | Sequence[np.ndarray] | None = None,
    ) -> People | list[People]:
        """
        Args:
            images: (H, W, 3) BGR uint8, or several of them, which are run as one batch.
            boxes: people's boxes from another detector or a tracker, (N, 4) XYXY absolute, for each
                image; they are clipped to it. The model's own detection is skipped, and scores
                are 1.

        Returns:
            People, or a list of them if several images were given.
        """
        if isinstance(images, np.ndarray):
            return self([images], None if boxes is None else [boxes])[0]
        inputs = [self.model_input(image) for image in images]
        given = None
        if boxes is not None:
            given = [_given(b, i) for b, i in zip(boxes, inputs, strict=True)]
        found = self.model.inference(inputs, given, do_postprocess=False)
        return [self._people(f, i) for f, i in zip(found, inputs, strict=True)]

    def model_input(self, image: np.ndarray) -> dict:
        """(H, W, 3) BGR uint8 -> the model's input: resized, channels in the config's order.

        Raises:
            ValueError: the image is not of that shape.
        """
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected a picture (H, W, 3), found {image.shape}")
        height, width = image.shape[:2]
        if self.input_format == "RGB":
            image = image[:, :, ::-1]
        image = self.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        return {"image": tensor, "height": height, "width": width}

    def _people(self, instances: Instances, picture: dict) -> People:
        """The model's output in coordinates of the original image; masks are not pasted."""
        height, width = picture["height"], picture["width"]
        scale_y, scale_x = height / instances.image_size[0], width / instances.image_size[1]
        scaled = Instances((height, width), **instances.get_fields())
        scaled.pred_boxes.scale(scale_x, scale_y)
        scaled.pred_boxes.clip((height, width))
        if scaled.has("pred_keypoints"):
            scaled.pred_keypoints[:, :, 0] *= scale_x
            scaled.pred_keypoints[:, :, 1] *= scale_y
        people = People.from_instances(scaled, self.part_schema, self.keypoint_schema)
        return people.confident(self._threshold)


def _given(boxes: np.ndarray, picture: dict) -> Instances:
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32)).reshape(-1, 4)
    height, width = picture["image"].shape[1:]
    instances = Instances((height, width), pred_boxes=Boxes(boxes.clone()))
    instances.pred_boxes.scale(width / picture["width"], height / picture["height"])
    instances.pred_boxes.clip((height, width))  # masks are on the boxes as returned
    instances.scores = torch.ones(len(boxes))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    return instances
