"""Scores come from boxes alone; here the masks correct them."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import nn

from ..people import MASK_THRESHOLD
from .regions import enlarged

# Points in a row and in a column of a region at which silhouettes are compared.
_POINTS = 28


def rescored(people: Instances, heads: nn.Module) -> Instances:
    """People with the scores that the settings of their RoI heads ask for, in descending order."""
    people = weigh_by_parts(people, getattr(heads, "part_score_power", 0.0))
    return doubt_second_finds(people, getattr(heads, "second_find_score", 1.0))


def weigh_by_parts(people: Instances, power: float) -> Instances:
    """Multiply scores by how sure it is that there are parts where the body is, to a power.

    A box's score comes before its masks. A dog's box gets a silhouette, too, but few parts in it:
    as with the maskness of SOLO (Wang et al., 2020), which is of one mask alone, what the masks say
    puts people into a better order (docs/experiments.md). For schemas whose parts cover the body.

    Args:
        people: as `BodyPartsROIHeads` give them.
        power: of the mean, over the silhouette, of the probability of any part.

    Returns:
        The same people, in descending order of their new scores; 0 for those without a silhouette.
        Those of a model without masks, or with a ``power`` of 0, as they are.
    """
    if power == 0 or not people.has("pred_part_masks"):
        return people
    masks = people.pred_part_masks
    body = (masks[:, 0] >= MASK_THRESHOLD).to(masks.dtype)
    any_part = masks[:, 1:].sum(dim=1).clamp(max=1)
    sure = (any_part * body).sum(dim=(1, 2)) / body.sum(dim=(1, 2)).clamp(min=1)
    return _with_scores(people, people.scores * sure**power)


def doubt_second_finds(people: Instances, score: float) -> Instances:
    """Lower the scores of those whose silhouette lies in that of somebody surer.

    A box around a person's upper half has too little in common with one around all of the person
    for non-maximum suppression, but its silhouette is a part of the other one's; of two people, one
    in front of the other, silhouettes exclude each other. As in soft non-maximum suppression
    (Bodla et al., 2017) nobody is left out: a score is multiplied by 1 - (1 - ``score``) c^4, where
    c is the share that lies there. The power and ``score`` matter little (docs/experiments.md).

    Args:
        people: as `BodyPartsROIHeads` give them, in descending order of ``scores``.
        score: in 0..1, what is left of the score of somebody who lies there altogether.

    Returns:
        The same people, in descending order of their new scores; those of a model without masks, or
        with a ``score`` of 1, as they are.
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
    """How much of each silhouette lies in that of somebody before it.

    Args:
        bodies: (N, S, S) of 1 where a region's cell is of the person, else 0; float.
        regions: (N, 4) XYXY absolute.

    Returns:
        (N,) in 0..1, the largest share; 0 for the first and for empty silhouettes.
    """
    count, side = bodies.shape[0], bodies.shape[-1]
    steps = (torch.arange(_POINTS, device=regions.device) + 0.5) / _POINTS
    low, size = regions[:, :2], (regions[:, 2:] - regions[:, :2]).clamp(min=1e-3)
    points = low[:, None] + size[:, None] * steps[:, None]  # (N, P, 2): x and y by themselves
    # The cells of everybody's region (first axis) at the points of everybody's (second axis).
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
    """The people with other scores, the surest first."""
    surest_first = scores.argsort(descending=True)
    people = people[surest_first]
    people.scores = scores[surest_first]
    return people
