"""Boxes with a margin, on which masks and keypoints are predicted, and crops around them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from detectron2.structures import Instances
from torch import nn

# The border of a crop in a `Strip`, on each side, as a fraction of the region's longer side: what
# is around a limb helps to tell it. With a margin of 0.1 no more is needed (docs/experiments.md).
BORDER = 0.02
# Small people are not enlarged more than this in a `Strip` and in training (`data.person_crop`):
# there is nothing to be learned from a few pixels.
MAX_SCALE = 4.0


def enlarged(boxes: torch.Tensor, margin: float | torch.Tensor) -> torch.Tensor:
    """Enlarge (N, 4) XYXY boxes on each side by a fraction of their size, one for all or (N, 1)."""
    more = (boxes[:, 2:] - boxes[:, :2]) * margin
    return torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], dim=1)


def crop(
    images: torch.Tensor, box: torch.Tensor, height: int | torch.Tensor, width: int | torch.Tensor
) -> torch.Tensor:
    """Crop images to a box and resize them bilinearly. No gradients flow through it.

    Args:
        images: (N, C, H, W).
        box: (4,) XYXY in pixels, the same for all images. The crop is mirrored if x0 > x1.
        height, width: of the crop, in pixels; tensors if traced.

    Returns:
        (N, C, height, width); 0 beyond the centres of the images' outermost pixels.
    """
    size = _stacked([*images.shape[:2], height, width], box.device)
    low, high = box[[1, 0]], box[[3, 2]]
    half = (high - low) / (2 * size[2:])
    samples = torch.stack([low + half, high - half]) - 0.5  # the first and the last
    last_pixel = (_stacked(images.shape[2:], box.device) - 1).clamp(min=1)
    ends = nn.functional.pad(samples / last_pixel, [2, 0]).flatten()
    return torch.ops.detectron2_bodyparts.resize_region(images, ends, size)


def _stacked(numbers: Iterable[int | torch.Tensor], device: torch.device) -> torch.Tensor:
    """A tensor of integers, which are tensors if traced."""
    return torch.stack([torch.as_tensor(n, device=device) for n in numbers])


def _resize_region(images: torch.Tensor, ends: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """ONNX's Resize with ``tf_crop_and_resize``.

    Args:
        images: (N, C, H, W).
        ends: (8,), the first sample on each axis, then the last one on each, where 0 and 1 are the
            first and the last pixel.
        size: (4,) int64: N, C, h, w.

    Returns:
        (N, C, h, w).
    """
    for axis, count in ((2, int(size[2])), (3, int(size[3]))):
        first, last, length = ends[axis], ends[axis + 4], images.shape[axis]
        share = torch.arange(count, device=ends.device) / (count - 1) if count > 1 else 0.5
        place = ((first + (last - first) * share) * (length - 1)).reshape(count)
        inside = (place >= 0) & (place <= length - 1)
        low = place.floor()
        near, far = (
            images.index_select(axis, (low + i).clamp(0, length - 1).long()) for i in (0, 1)
        )
        shape = (-1, 1) if axis == 2 else (-1,)
        weight = (place - low).to(images.dtype).reshape(shape)
        images = torch.lerp(near, far, weight) * inside.reshape(shape)
    return images


def _export_resize_region(g, images, ends, size):
    """`_resize_region` for `torch.onnx.export`."""
    no_scales = g.op("Constant", value_t=torch.empty(0))
    mode = {"mode_s": "linear", "coordinate_transformation_mode_s": "tf_crop_and_resize"}
    return g.op("Resize", images, ends, no_scales, size, **mode)


# An operator of our own, because torch has none that is exported to this one; GridSample takes ONNX
# Runtime three times as long.
_LIBRARY = torch.library.Library("detectron2_bodyparts", "DEF")
_LIBRARY.define("resize_region(Tensor images, Tensor ends, Tensor size) -> Tensor")
_LIBRARY.impl("resize_region", _resize_region, "CompositeExplicitAutograd")
torch.onnx.register_custom_op_symbolic(
    "detectron2_bodyparts::resize_region", _export_resize_region, 13
)


class Strip:
    """A strip of mirrored crops around people, side by side, each scaled to the strip's height.

    One image for any number of people, of no more pixels than they need: standing people are
    narrow.
    """

    def __init__(self, boxes: list[torch.Tensor], margin: float, side: int, places: int) -> None:
        """
        Args:
            boxes: per image (R, 4) XYXY absolute, R <= ``places``.
            margin: the regions are these boxes `enlarged` by it.
            side: height of the strip, in pixels.
            places: number of crops of each image, for a loop over people could not be exported;
                those that are left over are one pixel wide.
        """
        self.side, self.places = side, places
        nobody = boxes[0].new_zeros(places, 4)
        people = torch.cat([torch.cat([b, nobody])[:places] for b in boxes])
        people = people.reshape(-1, 4)  # tells ONNX Runtime the shape
        order = torch.arange(places, device=people.device)
        self.taken = torch.cat([order < b.shape[0] for b in boxes])
        size = people[:, 2:] - people[:, :2]
        region = size * (1 + 2 * margin)
        longer = region.amax(dim=1).clamp(min=1)
        borders = 2 * BORDER * longer
        scale = (side / (longer + borders)).clamp(max=MAX_SCALE)
        widths = ((region[:, 0] + borders) * scale).ceil().long()
        self.widths = torch.where(self.taken, widths, 1)
        extent = torch.stack([self.widths, torch.full_like(self.widths, side)], dim=1)
        centre, half = (people[:, :2] + people[:, 2:]) / 2, extent / 2 / scale[:, None]
        self.crops = torch.cat([centre - half, centre + half], dim=1)
        middle = torch.stack([self.widths.cumsum(0) - self.widths / 2, extent[:, 1] / 2], dim=1)
        half = size * scale[:, None] / 2
        self.people = torch.cat([middle - half, middle + half], dim=1)

    def boxes(self) -> torch.Tensor:
        """(sum of R, 4) XYXY: the boxes in the strip."""
        return self.people[self.taken]

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the strip (1, C, side, W'); what is outside an image is 0."""
        mirrored = self.crops[:, [2, 1, 0, 3]]
        crops = [
            crop(images[i : i + 1], mirrored[k], self.side, self.widths[k])
            for i in range(images.shape[0])
            for k in range(i * self.places, (i + 1) * self.places)
        ]
        return torch.cat(crops, dim=3)


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
