"""Crops around one person, in which people have about the same size whatever the image."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

from ..modeling.regions import MAX_SCALE


class PersonCrop(T.Augmentation):
    """With some probability a square around a random person, else another augmentation.

    It trains for a closer look at each person (MODEL.FPN.CLOSER_SIDE), in which nobody is
    small. People are chosen with equal probability, so those in groups are seen more often than in
    whole images. As in a closer look, nobody is enlarged more than ``MAX_SCALE`` times.
    """

    def __init__(
        self,
        probability: float,
        low: float,
        high: float,
        side: int,
        otherwise: T.Augmentation,
    ) -> None:
        """
        Args:
            probability: of a crop around a person, in an image that has any.
            low, high: the longer side of the person's box, as a fraction of the crop's side, is
                drawn uniformly from this range.
            side: of the crop, in pixels; smaller where the resized image is.
            otherwise: the augmentation of the other images.

        Raises:
            ValueError: the probability is not in 0..1, or not 0 < low <= high.
        """
        super().__init__()
        if not (0 <= probability <= 1 and 0 < low <= high):
            raise ValueError(
                "INPUT.PERSON_CROP: a probability, and the smallest and largest fraction, found "
                f"{(probability, low, high)}"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform | T.TransformList:
        """
        Args:
            image: (H, W, 3).
            boxes: (N, 4) XYXY absolute, of the people.
        """
        sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        visible = np.flatnonzero(sizes * MAX_SCALE >= self.low * self.side)
        if len(visible) == 0 or np.random.uniform() >= self.probability:
            return self.otherwise.get_transform(image)
        chosen = np.random.choice(visible)
        scale = np.random.uniform(self.low, self.high) * self.side / sizes[chosen]
        scale = min(scale, MAX_SCALE)
        # Cropping first: a small person's whole image would be huge at this scale.
        height, width = image.shape[:2]
        window = np.minimum(np.ceil(self.side / scale).astype(int), (width, height))
        lows = []
        for first, last, size, whole in zip(
            boxes[chosen, :2], boxes[chosen, 2:], window, (width, height), strict=True
        ):
            # Anywhere in the image such that the person is inside, or covers the window.
            low, high = np.clip(sorted((last - size, first)), 0, whole - size)
            lows.append(int(np.random.uniform(low, high)))
        size = np.minimum(np.round(window * scale).astype(int), self.side)
        return T.TransformList(
            [
                T.CropTransform(*lows, *(int(n) for n in window)),
                T.ResizeTransform(int(window[1]), int(window[0]), int(size[1]), int(size[0])),
            ]
        )
