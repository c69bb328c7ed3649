from __future__ import annotations

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from detectron2_bodyparts.modeling import proposals


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("people", [0, 1, 7, 40])
def test_anchors_are_matched_as_by_the_whole_matrix(monkeypatch, low_quality, people):
    torch.manual_seed(people)

    def boxes(count):
        corners = torch.rand(count, 4) * 100
        corners[:, 2:] += corners[:, :2]
        return Boxes(corners.round())

    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    truths, anchors = boxes(people), boxes(503)
    expected = matcher(pairwise_iou(truths, anchors))
    monkeypatch.setattr(proposals, "_OVERLAPS", 50 * max(people, 1))
    found = proposals.match_anchors(matcher, truths, anchors)
    for ours, whole in zip(found, expected, strict=True):
        assert torch.equal(ours, whole) and ours.dtype == whole.dtype
