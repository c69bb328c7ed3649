"""Correction of scores, which come from the boxes alone, by the masks."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import nn

from ..people import MASK_THRESHOLD
from .regions import enlarged

# Points per row and per column of a region at which body masks are compared.
_POINTS = 28


def rescored(people: Instances, heads: nn.Module) -> Instances:
    """Rescore people as their RoI heads are configured; returned in descending order of score."""
    people = weigh_by_parts(people, getattr(heads, "part_score_power", 0.0))
    return doubt_second_finds(people, getattr(heads, "second_find_score", 1.0))


def weigh_by_parts(people: Instances, power: float) -> Instances:
    """Multiply scores by the mean probability of any part over the body mask, to a power.

    A box's score does not depend on its masks. A dog's box gets a body mask, too, but parts are
    unlikely in it. Like the maskness of SOLO (Wang et al., 2020), which uses a single mask, this
    ranks people better (docs/experiments.md). For schemas whose parts cover the body.

    Args:
        people: the output of `BodyPartsROIHeads`.
        power: exponent of that mean; 0 leaves scores unchanged.

    Returns:
        The same people in descending order of their new scores, which are 0 where the body mask is
        empty. Unchanged if the model has no masks or ``power`` is 0.
    """
    if power == 0 or not people.has("pred_part_masks"):
        return people
    masks = people.pred_part_masks
    body = (masks[:, 0] >= MASK_THRESHOLD).to(masks.dtype)
    any_part = masks[:, 1:].sum(dim=1).clamp(max=1)
    sure = (any_part * body).sum(dim=(1, 2)) / body.sum(dim=(1, 2)).clamp(min=1)
    return _with_scores(people, people.scores * sure**power)


def doubt_second_finds(people: Instances, score: float) -> Instances:
    """Lower the scores of people whose body mask lies inside that of a more confident person.

    A box around a person's upper half overlaps too little with one around the whole person for
    non-maximum suppression, but its body mask is part of the other's; the body masks of two people,
    one in front of the other, exclude each other. As in soft non-maximum suppression (Bodla et al.,
    2017) nobody is removed: a score is multiplied by 1 - (1 - ``score``) c^4, where c is the
    fraction that lies inside. The power and ``score`` matter little (docs/experiments.md).

    Args:
        people: the output of `BodyPartsROIHeads`, in descending order of ``scores``.
        score: factor, in 0..1, on the score of a person who lies entirely inside.

    Returns:
        The same people in descending order of their new scores. Unchanged if the model has no masks
        or ``score`` is 1.
    """
    if score == 1 or not people.has("pred_part_masks"):
        return people
    regions = people.pred_boxes.tensor
    if people.has("pred_region_margin"):
        regions = enlarged(regions, people.pred_region_margin[:, None])
    bodies = (people.pred_part_masks[:, 0] >= MASK_THRESHOLD).to(regions.dtype)
    shares = shares_in_earlier(bodies, regions)
    return _with_scores(people, people.scores * (1 - (1 - score) * shares**4))


def shares_in_earlier(bodies: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """The fraction of each body mask that lies inside a single earlier one.

    Args:
        bodies: (N, S, S) float: 1 where a region's cell belongs to the person, else 0.
        regions: (N, 4) XYXY absolute.

    Returns:
        (N,) in 0..1, the largest over the earlier masks; 0 for the first and for empty masks.
    """
    count, side = bodies.shape[0], bodies.shape[-1]
    steps = (torch.arange(_POINTS, device=regions.device) + 0.5) / _POINTS
    low, size = regions[:, :2], (regions[:, 2:] - regions[:, :2]).clamp(min=1e-3)
    points = low[:, None] + size[:, None] * steps[:, None]  # (N, P, 2): x and y separately
    # Cells in each person's region (first axis) at the points of each person's (second axis).
    cells = (points[None] - low[:, None, None]) / size[:, None, None] * side
    in_x, in_y = ((cells >= 0) & (cells < side)).to(bodies.dtype).unbind(dim=3)
    x, y = cells.clamp(0, side - 1).long().unbind(dim=3)
    index = (y[..., :, None] * side + x[..., None, :]).flatten(1)  # (N, N * P * P)
    here = bodies.flatten(1).gather(1, index).reshape(count, count, _POINTS, _POINTS)
    here = here * in_y[..., :, None] * in_x[..., None, :]
    own_cells = (steps * side).long()
    own = bodies[:, own_cells][:, :, own_cells]  # (N, P, P)
    shares = (here * own).sum(dim=(2, 3)) / own.sum(dim=(1, 2)).clamp(min=1)
    order = torch.arange(count, device=regions.device)
    shares = shares * (order[:, None] < order).to(bodies.dtype)
    return torch.cat([shares.new_zeros(1, count), shares]).amax(dim=0)


def _with_scores(people: Instances, scores: torch.Tensor) -> Instances:
    """The people with new scores, in descending order of these."""
    surest_first = scores.argsort(descending=True)
    people = people[surest_first]
    people.scores = scores[surest_first]
    return people
