"""Part masks of people, one byte per pixel.

Parts are mutually exclusive, so one byte describes a pixel of a person: six bits for the part, one
for the body, one for ignored pixels. Planes are cropped to their content; they are split into
channels only for the sampled regions, on their device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from .records import BODY, compress_segmentation, mask_box
from .schema import PartSchema, mirrored_name

if TYPE_CHECKING:
    from detectron2.structures import Instances

PART_BITS = 0x3F  # 0 = no part, 1..P = the channel's index, P+1.. = the schema's all_unions
BODY_BIT = 0x40
IGNORE_BIT = 0x80

# Number of regions whose targets are sampled at a time: each takes about 0.5 MiB.
_CHUNK = 64

UNKNOWN, KNOWN, DERIVED = 0, 1, 2
_STATE_CODES = {"known": KNOWN, "derived": DERIVED}


def target_names(schema: PartSchema) -> tuple[str, ...]:
    """Names of the planes of a mask target: the channels, then all unions of channels."""
    return (*schema.channels, *schema.all_unions)


@lru_cache
def target_codes(schema: PartSchema) -> tuple[tuple[int, ...], ...]:
    """For each of `target_names`, the codes of the channels and unions that it contains."""
    members = [(i,) for i in range(len(schema.channels))] + list(schema.all_unions.values())
    return tuple(
        tuple(code for code, inner in enumerate(members) if set(inner) <= set(outer))
        for outer in members
    )


def _target_flip(schema: PartSchema) -> tuple[int, ...]:
    """Permutation under a flip, ``flipped[t] = targets[flip[t]]``, over `target_names`."""
    names = target_names(schema)
    return tuple(names.index(mirrored_name(name)) for name in names)


def part_plane(
    annotation: Mapping[str, Any],
    schema: PartSchema,
    height: int,
    width: int,
    *,
    annotated_in: PartSchema | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a person's annotation to a byte plane.

    Args:
        annotation: a person of a record file, or of any COCO file (then only the body is known).
        schema: the schema of the plane.
        height, width: size of the image.
        annotated_in: the annotation's schema, if it is a coarser one, whose channels are channels
            and unions of ``schema``.

    Returns:
        plane: (H, W) uint8 of ``PART_BITS``, ``BODY_BIT`` and ``IGNORE_BIT``.
        state: (C + U,) uint8 of UNKNOWN, KNOWN or DERIVED, in the order of `target_names`.
    """
    names = target_names(schema)
    called = {name: name for name in names}
    if annotated_in is not None and annotated_in != schema:
        called = annotated_in.names_in(schema)
    segmentation = annotation.get("segmentation")
    # The coarse outline of a crowd in another COCO file does not say what is where in it.
    body_known = segmentation and not annotation.get("iscrowd", 0)
    states = annotation.get("part_state", {BODY: "known"} if body_known else {})
    codes = {called[name]: _STATE_CODES[state] for name, state in states.items()}
    state = np.array([codes.get(name, UNKNOWN) for name in names], np.uint8)
    masks = {**annotation.get("unsided", {}), **annotation.get("part_segmentation", {})}
    columns = np.zeros((width, height), dtype=np.uint8)  # RLE is column-major
    for name, rle in masks.items():
        where, mask = _mask_columns(rle, height, width)
        np.copyto(columns[where], names.index(called[name]), where=mask)
    for key, bit in (("segmentation", BODY_BIT), ("ignore_segmentation", IGNORE_BIT)):
        if annotation.get(key):
            where, mask = _mask_columns(annotation[key], height, width)
            columns[where] |= mask * np.uint8(bit)
    return columns.T, state


def _mask_columns(segmentation: Any, height: int, width: int) -> tuple[slice, np.ndarray]:
    """The columns of a mask that have pixels: their slice of the image, and (w, H) bool.

    `decode_segmentation` fills the whole image; for every part of every person, this would take
    most of the time of mapping an image.
    """
    if not isinstance(segmentation, Mapping):
        segmentation = compress_segmentation(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"expected a mask of {[height, width]}, found {segmentation['size']}")
    ends = np.cumsum(_run_lengths(segmentation["counts"]))
    if ends[-1] > height * width:
        raise ValueError(f"runs of {ends[-1]} pixels in a mask of {[height, width]}")
    ends = ends[: len(ends) // 2 * 2]  # runs alternate, so the mask's last one has an even number
    if len(ends) == 0:
        return slice(0), np.zeros((0, height), dtype=bool)
    first, last = ends[0] // height, -(-ends[-1] // height)
    lengths = np.diff([first * height, *ends, last * height])
    return slice(first, last), np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(
        -1, height
    )


def _run_lengths(counts: list[int] | str | bytes) -> np.ndarray:
    """The run lengths of a COCO RLE, alternately outside and inside the mask.

    In compressed RLE (``rleToString`` in pycocotools' maskApi.c) a number consists of 5-bit digits,
    lowest first, as characters from "0" on; 0x20 marks that more follow, 0x10 of the last one is
    the sign. From the fourth number on, the difference from the number two before is stored.
    """
    if isinstance(counts, list):
        return np.array(counts, dtype=np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero((digits & 0x20) == 0) + 1
    sizes = np.diff(ends, prepend=0)
    shifts = 5 * (np.arange(len(digits)) - np.repeat(ends - sizes, sizes))
    numbers = np.add.reduceat((digits & 0x1F) << shifts, ends - sizes)
    negative = (digits[ends - 1] & 0x10) != 0
    numbers[negative] -= 1 << 5 * sizes[negative]
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def mirror_parts(
    plane: np.ndarray, state: np.ndarray, schema: PartSchema
) -> tuple[np.ndarray, np.ndarray]:
    """Swap right and left in a plane's bytes and its state; pixels stay in place.

    Args:
        plane, state: as returned by `part_plane`.
        schema: their schema.
    """
    bits = np.arange(256, dtype=np.uint8)
    permutation = np.arange(PART_BITS + 1, dtype=np.uint8)
    flip = _target_flip(schema)
    permutation[: len(flip)] = flip
    table = (bits & ~np.uint8(PART_BITS)) | permutation[bits & PART_BITS]
    return cv2.LUT(plane, table), state[permutation[: len(state)]]


@dataclass
class _Store:
    """The planes of some people, concatenated in one vector."""

    data: torch.Tensor  # (total pixels,) uint8
    windows: torch.Tensor  # (N, 4) int64, XYXY, ends exclusive: pixels covered by a plane
    offsets: torch.Tensor  # (N,) int64: where a plane starts in data
    state: torch.Tensor  # (N, C + U) uint8


def loss_weights(instances: Sequence[Instances]) -> torch.Tensor:
    """(R,) weights, in the part and keypoint losses, of the regions of all images.

    These are ``gt_loss_weights``, set by the mapper from DATASETS.TRAIN_LOSS_WEIGHTS; 1 for
    instances without this field.
    """
    return torch.cat(
        [
            i.gt_loss_weights
            if i.has("gt_loss_weights")
            else torch.ones(len(i), device=i.proposal_boxes.device)
            for i in instances
        ]
    )


def target_weights(masks: PartMasks, derived_weight: float) -> torch.Tensor:
    """(N, C + U): 1 for known channels, ``derived_weight`` for derived ones, 0 for unknown ones."""
    state = masks.state
    return torch.where(state == DERIVED, derived_weight, (state != UNKNOWN).float())


class PartMasks:
    """Part masks of N people in one image.

    Indexing returns a view of the same store and copies no pixels, so matching hundreds of
    proposals to a few people, as Detectron2 does, is cheap.
    """

    def __init__(self, schema: PartSchema, store: _Store, index: torch.Tensor) -> None:
        self.schema = schema
        self._store = store
        self._index = index

    @classmethod
    def from_planes(
        cls, planes: Sequence[np.ndarray], states: Sequence[np.ndarray], schema: PartSchema
    ) -> PartMasks:
        """Build from planes, which are cropped to their content.

        Args:
            planes: N arrays (H, W) uint8, as returned by `part_plane`.
            states: N arrays (C + U,) uint8.
            schema: their schema.
        """
        crops, windows, offsets, offset = [], [], [], 0
        for plane in planes:
            x0, y0, x1, y1 = mask_box(plane) or (0, 0, 0, 0)
            windows.append((x0, y0, x1, y1))
            offsets.append(offset)
            crops.append(plane[y0:y1, x0:x1].reshape(-1))
            offset += crops[-1].size
        store = _Store(
            torch.from_numpy(np.concatenate([*crops, np.zeros(1, np.uint8)])),
            torch.tensor(windows, dtype=torch.int64).reshape(-1, 4),
            torch.tensor(offsets, dtype=torch.int64),
            torch.from_numpy(np.array(states, np.uint8).reshape(-1, len(target_names(schema)))),
        )
        return cls(schema, store, torch.arange(len(planes)))

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"PartMasks({len(self)} people, schema={self.schema.name})"

    @property
    def device(self) -> torch.device:
        """Device of the planes."""
        return self._store.data.device

    @property
    def state(self) -> torch.Tensor:
        """(N, C + U) uint8 of UNKNOWN, KNOWN or DERIVED, in the order of `target_names`."""
        return self._store.state[self._index]

    def to(self, *args: Any, **kwargs: Any) -> PartMasks:
        """The same masks on another device."""
        s = self._store
        device = torch.empty(0).to(*args, **kwargs).device
        if device == self.device:
            return self
        store = _Store(*(t.to(device) for t in (s.data, s.windows, s.offsets, s.state)))
        return PartMasks(self.schema, store, self._index.to(device))

    def __getitem__(self, item: int | slice | torch.Tensor) -> PartMasks:
        """Index by an int, slice, bool vector or vector of indices. Copies no pixels."""
        if isinstance(item, int):
            item = [item]
        return PartMasks(self.schema, self._store, self._index[item])

    @staticmethod
    def cat(masks: Sequence[PartMasks]) -> PartMasks:
        """Concatenate several `PartMasks` of the same schema."""
        first = masks[0]
        if any(m.schema != first.schema for m in masks):
            raise ValueError(f"cannot join masks of {sorted({m.schema.name for m in masks})}")
        if all(m._store is first._store for m in masks):
            return PartMasks(first.schema, first._store, torch.cat([m._index for m in masks]))
        pixels = np.cumsum([0, *(m._store.data.numel() for m in masks)])
        people = np.cumsum([0, *(len(m._store.offsets) for m in masks)])
        store = _Store(
            torch.cat([m._store.data for m in masks]),
            torch.cat([m._store.windows for m in masks]),
            torch.cat([m._store.offsets + int(p) for m, p in zip(masks, pixels, strict=False)]),
            torch.cat([m._store.state for m in masks]),
        )
        index = torch.cat([m._index + int(p) for m, p in zip(masks, people, strict=False)])
        return PartMasks(first.schema, store, index)

    @torch.no_grad()
    def crop_and_resize(self, boxes: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask targets of regions: a bilinear sample per cell and channel, true if at least 0.5.

        Args:
            boxes: (N, 4) XYXY absolute, continuous, one for each of the N people.
            size: side S of the targets.

        Returns:
            targets: (N, C + U, S, S) bool, in the order of `target_names`. Channels and unions
                that are unknown for all N people are false.
            valid: (N, S, S) bool, false where a sample touches an ignored pixel. Outside the
                person's plane is background.
        """
        if boxes.shape != (len(self), 4):
            raise ValueError(f"expected boxes ({len(self)}, 4), found {tuple(boxes.shape)}")
        codes = target_codes(self.schema)
        shape = (len(self), len(codes), size, size)
        targets = torch.zeros(shape, dtype=torch.bool, device=self.device)
        valid = torch.ones((len(self), size, size), dtype=torch.bool, device=self.device)
        known = (self.state != UNKNOWN).any(dim=0).tolist()
        codes = {c: of_target for c, of_target in enumerate(codes) if known[c]}
        for start in range(0, len(self), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            self[chunk]._sample(boxes[chunk], codes, targets[chunk], valid[chunk])
        return targets, valid

    def _sample(
        self,
        boxes: torch.Tensor,
        codes: Mapping[int, tuple[int, ...]],
        targets: torch.Tensor,
        valid: torch.Tensor,
    ) -> None:
        """Fill in ``targets`` and ``valid``, see `crop_and_resize`.

        Args:
            codes: index of each target to fill in -> the part codes of its pixels.
        """
        size = valid.shape[-1]
        xs, wx = self._sample_axis(boxes[:, 0], boxes[:, 2], size)
        ys, wy = self._sample_axis(boxes[:, 1], boxes[:, 3], size)
        corners = []
        for j in (0, 1):
            for i in (0, 1):
                weight = wy[j][:, :, None] * wx[i][:, None, :]
                corners.append((self._gather(ys + j, xs + i), weight))

        for values, weight in corners:
            valid &= ~((values >= IGNORE_BIT) & (weight > 0))

        parts = [(values & PART_BITS, weight) for values, weight in corners]
        body = [((values & BODY_BIT) != 0, weight) for values, weight in corners]
        for c, of_target in codes.items():
            share = torch.zeros_like(corners[0][1])
            if c == 0:
                for hit, weight in body:
                    share += hit * weight
            else:
                for part, weight in parts:
                    for code in of_target:
                        share += (part == code) * weight
            # The four weights sum to 1 only up to rounding, which must not turn 0.5 into false.
            targets[:, c] = share >= 0.5 - 1e-6

    def pixels(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(N, H, W) bytes of each person's plane at rows (H,) and columns (W,) of the image."""
        return self._gather(rows.expand(len(self), -1), columns.expand(len(self), -1))

    @staticmethod
    def _sample_axis(
        low: torch.Tensor, high: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """(N, S) index of the pixel at or before each sample, and weights of it and the next."""
        steps = (torch.arange(size, device=low.device, dtype=low.dtype) + 0.5) / size
        centers = low[:, None] + (high - low)[:, None] * steps - 0.5  # in pixel indices
        index = centers.floor()
        fraction = centers - index
        return index.to(torch.int64), (1 - fraction, fraction)

    def _gather(self, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        """(N, H, W) bytes at rows ys (N, H) and columns xs (N, W); 0 outside the planes."""
        x0, y0, x1, y1 = self._store.windows[self._index][:, :, None].unbind(1)
        in_x, in_y = (xs >= x0) & (xs < x1), (ys >= y0) & (ys < y1)
        inside = in_y[:, :, None] & in_x[:, None, :]
        rows = self._store.offsets[self._index][:, None] + (ys - y0) * (x1 - x0)
        flat = rows[:, :, None] + (xs - x0)[:, None, :]
        return self._store.data[flat.masked_fill_(~inside, 0)].masked_fill_(~inside, 0)
