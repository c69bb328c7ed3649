"""Boxes with a margin, on which masks and keypoints are predicted."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import nn

# The border of a crop in a `Strip`, on each side, as a fraction of the region's longer side: what
# is around a limb helps to tell it.
BORDER = 0.05
# The width of each crop in a `Strip` is a multiple of this many pixels, the coarsest stride of the
# backbones' bottom-up networks.
CELL = 32
# Small people are not enlarged more than this in a `Strip` and in training (`data.person_crop`):
# there is nothing to be learned from a few pixels.
MAX_SCALE = 4.0


def enlarged(boxes: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
    """Enlarge (N, 4) XYXY boxes on each side by a fraction of their size, one for all or (N, 1)."""
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


class Strip:
    """A strip of crops around regions, side by side, each scaled to the strip's height.

    One image for any number of people, of no more pixels than they need: standing people are
    narrow.
    """

    def __init__(self, boxes: torch.Tensor, margin: float, side: int) -> None:
        """
        Args:
            boxes: (R, 4) XYXY absolute.
            margin: the regions are these boxes `enlarged` by it.
            side: height of the strip, in pixels.
        """
        size = boxes[:, 2:] - boxes[:, :2]
        region = size * (1 + 2 * margin)
        self.side = side
        self.centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        longer = region.amax(dim=1).clamp(min=1) * (1 + 2 * BORDER)
        self.scale = (side / longer).clamp(max=MAX_SCALE)
        self.size = size * self.scale[:, None]
        widths = region[:, 0] * self.scale + side * (1 - 1 / (1 + 2 * BORDER))
        # Half a pixel less, so that rounding errors do not decide on a cell.
        widths = ((widths - 0.5) / CELL).ceil().long() * CELL
        self.ends = widths.cumsum(0)
        self.middle = self.ends - widths / 2

    def boxes(self) -> torch.Tensor:
        """(R, 4) XYXY: the boxes in the strip."""
        middle = torch.stack([self.middle, torch.full_like(self.middle, self.side / 2)], dim=1)
        return torch.cat([middle - self.size / 2, middle + self.size / 2], dim=1)

    def mirrored_boxes(self) -> torch.Tensor:
        """(R, 4) XYXY: the boxes in the strip's mirror image, to its right."""
        x0, y0, x1, y1 = self.boxes().unbind(dim=1)
        end = 2 * self.ends[-1]
        return torch.stack([end - x1, y0, end - x0, y1], dim=1)

    def cut(self, image: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) -> the strip (1, C, side, W'); what is outside the image is 0."""
        columns = torch.arange(self.ends[-1], device=image.device)
        whose = (columns[:, None] >= self.ends).sum(dim=1)
        rows = torch.arange(self.side, device=image.device) + 0.5 - self.side / 2
        x = self.centre[whose, 0] + (columns + 0.5 - self.middle[whose]) / self.scale[whose]
        y = self.centre[whose, 1] + rows[:, None] / self.scale[whose]
        height, width = image.shape[-2:]
        grid = torch.stack([(x * 2 / width - 1).expand_as(y), y * 2 / height - 1], dim=2)
        return nn.functional.grid_sample(image, grid[None], align_corners=False)


def on_boxes(masks: torch.Tensor, margin: float) -> torch.Tensor:
    """Resample (N, C, S, S) maps on `enlarged` boxes to the boxes themselves."""
    cells = torch.arange(masks.shape[-1], device=masks.device, dtype=masks.dtype)
    places = ((cells + 0.5) / masks.shape[-1] * 2 - 1) / (1 + 2 * margin)  # -1..1 is the region
    y, x = torch.meshgrid(places, places, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(masks), -1, -1, -1)
    return nn.functional.grid_sample(masks, grid, align_corners=False)


def tell_margin(people: Instances, margin: float) -> None:
    """Record that maps are on `enlarged` boxes; resample ``pred_masks``, if any, to the boxes.

    See `BodyPartsROIHeads` for the fields. Does nothing if the margin is 0.
    """
    if not margin:
        return
    people.pred_region_margin = torch.full_like(people.pred_boxes.tensor[:, 0], margin)
    if people.has("pred_masks"):
        people.pred_masks = on_boxes(people.pred_masks, margin)
