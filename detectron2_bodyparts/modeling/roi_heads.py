"""RoI heads for people: boxes, part masks and keypoints, from partially labelled images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_keypoint_head
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, Instances, pairwise_iou

from ..schema import get_part_schema
from .backbone import CLOSER, in_look, unmirrored
from .keypoint_head import BodyPartsKeypointHead, decode_keypoints
from .mask_head import BodyPartsMaskHead
from .proposals import lies_in, split_ignored
from .regions import Strip, enlarged, tell_margin
from .rescoring import rescored
from .segmentation import PartSegmentation

_SEGMENTATION = "part_segmentation"  # key of its probabilities among the feature maps
# What a closer look counts in the mean of both, for keypoints and parts, and for the body; and how
# many times larger in it than in the image others than the most confident person must be to get
# one: docs/experiments.md.
CLOSER_WEIGHT = 0.6
CLOSER_BODY_WEIGHT = 0.4
CLOSER_GAIN = 1.25


@ROI_HEADS_REGISTRY.register()
class BodyPartsROIHeads(StandardROIHeads):
    """Detectron2's standard heads, extended for partially labelled people and their parts.

    * Proposals in ignore regions (``gt_classes`` of -1) are not negatives for the box head.
    * At most ``max_regions_per_image`` regions of an image reach the mask and keypoint heads in
      training, spread over its people.
    * With ``share_mask_features`` the keypoint head works on the mask head's trunk: regions are
      pooled, and the trunk is run, once for both.
    * With ``part_segmentation`` the masks start from a part segmentation of the whole image.
    * With ``mirrored`` all heads also run on every region in the mirror image at inference, and
      both outputs are averaged: box deltas, and the logits of scores, masks and keypoints.
    * With ``closer_side`` masks and keypoints are instead averaged with those in a closer look
      (`SeveralLooksFPN.look_closer`) at the most confident people, in mirrored crops: mask
      probabilities, and the logits of keypoints. People in given boxes get one from `look_closer`
      only.
    * With ``region_margin`` the mask and keypoint heads see more than the box, which may cut off a
      foot. ``pred_part_masks`` and ``pred_keypoint_heatmaps`` are then on that region, which
      ``pred_region_margin`` (N,) gives; ``pred_masks``, which Detectron2 pastes into the box, are
      on the box.
    * With ``part_score_power`` scores depend on the masks (`weigh_by_parts`), with
      ``second_find_score`` those of people who lie inside others are lowered
      (`doubt_second_finds`); neither applies to given boxes.
    """

    @configurable
    def __init__(
        self,
        *,
        ignore_ioa: float = 0.5,
        max_regions_per_image: int = 0,
        share_mask_features: bool = False,
        part_segmentation: PartSegmentation | None = None,
        region_margin: float = 0.0,
        mirrored: bool = False,
        closer_side: int = 0,
        closer_score: float = 0.5,
        closer_people: int = 4,
        part_score_power: float = 0.0,
        second_find_score: float = 1.0,
        feature_strides: Mapping[str, int] | None = None,
        **kwargs,
    ) -> None:
        """
        Args:
            ignore_ioa: a proposal is not a negative if more than this fraction of its area lies in
                an ignore region.
            max_regions_per_image: maximum number of regions per image that train the mask and
                keypoint heads; 0 = no limit.
            share_mask_features: the keypoint head takes the mask head's trunk.
            part_segmentation: on the finest feature map that the mask head pools from.
            region_margin: enlargement of a box on each side, as a fraction of its width or height.
            mirrored: also use the first mirrored view (`SeveralLooksFPN`) at inference.
            closer_side: side, in pixels, of the closer looks at inference; 0 = none.
            closer_score: lowest score, as corrected by the masks, for a closer look.
            closer_people: maximum number of closer looks at an image. The most confident person
                always gets one; others only if they are more than `CLOSER_GAIN` times larger.
            part_score_power: scores are multiplied by the mean probability of any part over the
                body mask to this power, at inference.
            second_find_score: factor on the score of a person whose body mask lies entirely inside
                that of a more confident one, at inference.
            feature_strides: strides of the feature maps, in pixels, by name; for ``mirrored``.
            kwargs: those of `StandardROIHeads`.

        Raises:
            ValueError: the options need other heads, ``mirrored`` has no ``feature_strides``, or
                ``closer_people`` is not positive.
        """
        super().__init__(**kwargs)
        if part_segmentation is not None and not self.mask_on:
            raise ValueError("a part segmentation needs the mask head")
        if share_mask_features and not (self.mask_on and self.keypoint_on):
            raise ValueError("shared features need both the mask and the joint head")
        heads = [self.mask_head] if self.mask_on else []
        heads += [self.keypoint_head] if self.keypoint_on else []
        own = all(isinstance(h, (BodyPartsMaskHead, BodyPartsKeypointHead)) for h in heads)
        if mirrored and not (own and feature_strides):
            raise ValueError("MODEL.ROI_HEADS.MIRRORED needs the plugin's heads and all strides")
        if closer_side and closer_people < 1:
            raise ValueError(f"MODEL.ROI_HEADS.CLOSER_PEOPLE: at least 1, found {closer_people}")
        if closer_side and not own:
            raise ValueError("MODEL.FPN.CLOSER_SIDE needs the plugin's mask and keypoint heads")
        self.ignore_ioa = ignore_ioa
        self.max_regions_per_image = max_regions_per_image
        self.share_mask_features = share_mask_features
        self.part_segmentation = part_segmentation
        self.region_margin = region_margin
        self.mirrored = mirrored
        self.closer_side = closer_side
        self.closer_score = closer_score
        self.closer_people = closer_people
        self.part_score_power = part_score_power
        self.second_find_score = second_find_score
        self.feature_strides = dict(feature_strides or {})

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
            raise ValueError(
                "MODEL.PROPOSAL_GENERATOR.NAME: BodyPartsROIHeads need BodyPartsRPN; Detectron2's "
                "RPN would take regions to ignore for people"
            )
        ret = super().from_config(cfg, input_shape)
        ret["ignore_ioa"] = cfg.MODEL.BODYPARTS.IGNORE_IOA
        ret["part_score_power"] = cfg.MODEL.ROI_HEADS.PART_SCORE_POWER
        ret["second_find_score"] = cfg.MODEL.ROI_HEADS.SECOND_FIND_SCORE
        ret["region_margin"] = cfg.MODEL.BODYPARTS.REGION_MARGIN
        ret["max_regions_per_image"] = cfg.MODEL.BODYPARTS.MAX_REGIONS_PER_IMAGE
        ret["closer_side"] = cfg.MODEL.FPN.CLOSER_SIDE
        ret["closer_score"] = cfg.MODEL.ROI_HEADS.CLOSER_SCORE
        ret["closer_people"] = cfg.MODEL.ROI_HEADS.CLOSER_PEOPLE
        if cfg.MODEL.FPN.CLOSER_SIDE and CLOSER not in input_shape:
            raise ValueError(
                "MODEL.FPN.CLOSER_SIDE: only the plugin's own backbones look closer, "
                f"{cfg.MODEL.BACKBONE.NAME} does not"
            )
        looks = in_look(0, cfg.MODEL.ROI_HEADS.IN_FEATURES[0]) in input_shape
        if cfg.MODEL.FPN.MIRRORED_LOOKS and not looks:
            raise ValueError(
                "MODEL.FPN.MIRRORED_LOOKS: only the plugin's own backbones look several times, "
                f"{cfg.MODEL.BACKBONE.NAME} does not"
            )
        shared = cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES
        ret["share_mask_features"] = shared
        if shared:
            if not hasattr(ret.get("mask_head"), "trunk_shape"):
                raise ValueError(
                    "MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES needs MODEL.MASK_ON and a mask "
                    "head with a trunk, as BodyPartsMaskHead"
                )
            ret["keypoint_pooler"] = None
            ret["keypoint_head"] = build_keypoint_head(cfg, ret["mask_head"].trunk_shape)
        if cfg.MODEL.MASK_ON and cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT:
            finest = input_shape[ret["mask_in_features"][0]]
            ret["part_segmentation"] = PartSegmentation(
                finest.channels,
                finest.stride,
                get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA),
                side=ret["mask_head"].mask_side,
                loss_weight=cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT,
                derived_weight=cfg.MODEL.ROI_MASK_HEAD.DERIVED_LOSS_WEIGHT,
            )
        if cfg.MODEL.ROI_HEADS.MIRRORED:
            if not looks:
                raise ValueError("MODEL.ROI_HEADS.MIRRORED needs MODEL.FPN.MIRRORED_LOOKS")
            ret["mirrored"] = True
            ret["feature_strides"] = {name: shape.stride for name, shape in input_shape.items()}
        return ret

    @classmethod
    def _init_mask_head(cls, cfg, input_shape) -> dict:
        own = cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES
        if own:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.ROI_HEADS.IN_FEATURES = own
        return super()._init_mask_head(cfg, input_shape)

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Like `ROIHeads.label_and_sample_proposals`; targets of class -1 are ignore regions."""
        people, ignored = split_ignored(targets)
        kept = []
        for found, target, regions in zip(proposals, people, ignored, strict=True):
            boxes = found.proposal_boxes
            _, label = self.proposal_matcher(pairwise_iou(target.gt_boxes, boxes))
            kept.append(found[~((label == 0) & lies_in(boxes, regions, self.ignore_ioa))])
        return super().label_and_sample_proposals(kept, people)

    def forward(self, images, features, proposals, targets=None):
        """See `ROIHeads.forward`."""
        if not self.training:
            people, losses = super().forward(images, features, proposals, targets)
            return self.look_closer(features, [rescored(p, self) for p in people]), losses
        if not targets:
            raise ValueError("training needs targets")
        losses = {}
        if self.part_segmentation is not None:
            logits = self.part_segmentation(features[self.mask_in_features[0]])
            losses = self.part_segmentation.losses(logits, targets)
            features = {**features, _SEGMENTATION: logits.detach().softmax(dim=1)}
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses.update(self._forward_box(features, proposals))
        foreground, _ = select_foreground_proposals(proposals, self.num_classes)
        if self.max_regions_per_image:
            foreground = [spread_over_people(f, self.max_regions_per_image) for f in foreground]
        foreground = [self._regions(f, "proposal_boxes") for f in foreground]
        if self.share_mask_features:
            losses.update(self._forward_shared(features, foreground))
        else:
            losses.update(self._forward_mask(features, foreground))
            losses.update(self._forward_keypoint(features, foreground))
        return proposals, losses

    def forward_with_given_boxes(self, features, instances: list[Instances]) -> list[Instances]:
        """See `StandardROIHeads.forward_with_given_boxes`."""
        if self.part_segmentation is not None and self.mask_on:
            features = {**features, _SEGMENTATION: self.segment(features)}
        regions = [self._regions(i, "pred_boxes") for i in instances]
        if self.share_mask_features:
            regions = self._forward_shared(features, regions)
        else:
            regions = super().forward_with_given_boxes(features, regions)
        for found, given in zip(regions, instances, strict=True):
            found.pred_boxes = given.pred_boxes
            if self.mask_on or self.keypoint_on:
                tell_margin(found, self.region_margin)
        return regions

    def look_closer(self, features, people: list[Instances]) -> list[Instances]:
        """Average masks and keypoints with those in a closer look.

        Args:
            features: the backbone's.
            people: per image, with scores, masks and keypoints as the model has them.

        Returns:
            The same people, or the given ones if there are none or the model does not look closer.
        """
        wanted = self.closer_side and (self.mask_on or self.keypoint_on)
        if not wanted or not sum(map(len, people)):
            return people
        chosen = [self._chosen(p) for p in people]
        which = torch.cat(chosen).nonzero()[:, 0]
        boxes = [p.pred_boxes.tensor[c] for p, c in zip(people, chosen, strict=True)]
        strip = Strip(boxes, self.region_margin, self.closer_side, self.closer_people)
        crops = Instances((self.closer_side, self.closer_side), pred_boxes=Boxes(strip.boxes()))
        crops.pred_classes = torch.zeros_like(crops.pred_boxes.tensor[:, 0], dtype=torch.int64)
        (closer,) = self.forward_with_given_boxes(features[CLOSER](strip), [crops])

        sizes = [len(p) for p in people]
        for name, permutation in self._mirrored_fields().items():
            maps = torch.cat([p.get(name) for p in people])
            there = unmirrored(closer.get(name), permutation)
            weight = there.new_full((len(permutation), 1, 1), CLOSER_WEIGHT)
            if "masks" in name:
                weight[0] = CLOSER_BODY_WEIGHT
            mean = maps[which] * (1 - weight) + there * weight
            maps = maps.index_put((which,), mean)
            for one, of_one in zip(people, maps.split(sizes), strict=True):
                one.set(name, of_one)
        if self.keypoint_on:
            for one in people:
                regions = enlarged(one.pred_boxes.tensor, self.region_margin)
                one.pred_keypoints = decode_keypoints(one.pred_keypoint_heatmaps, regions)
        return people

    def _chosen(self, people: Instances) -> torch.Tensor:
        """(N,) bool: who gets a closer look."""
        boxes = enlarged(people.pred_boxes.tensor, self.region_margin)
        longer = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
        gains = longer * CLOSER_GAIN < self.closer_side
        first = torch.arange(boxes.shape[0], device=boxes.device) == 0
        chosen = (people.scores >= self.closer_score) & gains | first
        return chosen & (chosen.long().cumsum(0) <= self.closer_people)

    def _mirrored_fields(self) -> dict[str, tuple[int, ...]]:
        """The fields of maps -> the permutations of their channels under a flip."""
        fields = {}
        if self.mask_on:
            fields["pred_part_masks"] = self.mask_head.part_schema.flip_permutation
            fields["pred_masks"] = (0,)
        if self.keypoint_on:
            fields["pred_keypoint_heatmaps"] = self.keypoint_head.flip_permutation
        return fields

    @property
    def _mirrored_maps(self) -> bool:
        """Whether the mask and keypoint heads look at the mirror image, too: not if they look
        closer, where the time is better spent."""
        return self.mirrored and not self.closer_side

    def _regions(self, instances: Instances, name: str) -> Instances:
        """The same instances with their boxes (field ``name``) enlarged by the margin."""
        regions = Instances(instances.image_size, **instances.get_fields())
        regions.set(name, Boxes(enlarged(instances.get(name).tensor, self.region_margin)))
        return regions

    def segment(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Feature maps -> `PartSegmentation.probabilities` (B, C, h, w), mean over all views."""
        finest = self.mask_in_features[0]
        return self.part_segmentation.probabilities(features[finest], _looks(features, finest))

    def _forward_box(self, features, proposals: list[Instances]):
        if self.training or not self.mirrored:
            return super()._forward_box(features, proposals)
        boxes = [p.proposal_boxes for p in proposals]
        (scores, deltas), (scores_there, deltas_there) = (
            self.box_predictor(self.box_head(self.box_pooler(maps, places)))
            for maps, places in self._views(features, self.box_in_features, boxes, self.mirrored)
        )
        # dx, dy, dw, dh of each class; dx has the opposite sign in the mirror image.
        back = deltas.new_tensor([-1, 1, 1, 1]).repeat(deltas.shape[1] // 4)
        mean = (scores + scores_there) / 2, (deltas + deltas_there * back) / 2
        return self.box_predictor.inference(mean, proposals)[0]

    def _trunks_and_masks(self, features, instances: list[Instances]):
        """The mask head's trunk in every view, and the mask head's output."""
        boxes = [i.proposal_boxes if self.training else i.pred_boxes for i in instances]
        trunks = [
            self.mask_head.trunk(self.mask_pooler(maps, places))
            for maps, places in self._views(
                features, self.mask_in_features, boxes, self._mirrored_maps
            )
        ]
        segmentation = None
        if self.part_segmentation is not None:
            segmentation = self.part_segmentation.on_regions(features[_SEGMENTATION], boxes)
        return trunks, self.mask_head.forward_from_trunk(
            trunks[0], instances, segmentation, *trunks[1:]
        )

    def _forward_mask(self, features, instances: list[Instances]):
        if not self.mask_on or (self.part_segmentation is None and not self.mirrored):
            return super()._forward_mask(features, instances)  # with any mask head, or none
        return self._trunks_and_masks(features, instances)[1]

    def _forward_shared(self, features, instances: list[Instances]):
        trunks, losses = self._trunks_and_masks(features, instances)
        if not self.training:
            return self.keypoint_head(trunks[0], instances, *trunks[1:])
        selected = [_with_joints_inside(i) for i in instances]
        with_joints = [i[s] for i, s in zip(instances, selected, strict=True)]
        losses.update(self.keypoint_head(trunks[0][torch.cat(selected)], with_joints))
        return losses

    def _forward_keypoint(self, features, instances: list[Instances]):
        if not self.keypoint_on or not (self.training or self.mirrored):
            return super()._forward_keypoint(features, instances)  # with any keypoint head, or none
        if self.training:
            instances = [i[_with_joints_inside(i)] for i in instances]
        boxes = [i.proposal_boxes if self.training else i.pred_boxes for i in instances]
        regions, *mirrored = (
            self.keypoint_pooler(maps, places)
            for maps, places in self._views(
                features, self.keypoint_in_features, boxes, self._mirrored_maps
            )
        )
        return self.keypoint_head(regions, instances, *mirrored)

    def _views(
        self,
        features: Mapping[str, torch.Tensor],
        names: Sequence[str],
        boxes: list[Boxes],
        mirrored: bool,
    ) -> Iterator[tuple[list[torch.Tensor], list[Boxes]]]:
        """Feature maps ``names`` and the boxes on them, of the image and, with ``mirrored`` at
        inference, of its mirror image."""
        maps = [features[name] for name in names]
        yield maps, boxes
        if self.training or not mirrored:
            return
        there = [features[in_look(0, name)] for name in names]
        rows, columns = maps[0].shape[-2:]
        down, across = there[0].shape[-2] / rows, there[0].shape[-1] / columns
        width = columns * self.feature_strides[names[0]]
        places = []
        for of_picture in boxes:
            x0, y0, x1, y1 = of_picture.tensor.unbind(dim=1)
            sides = [(width - x1) * across, y0 * down, (width - x0) * across, y1 * down]
            places.append(Boxes(torch.stack(sides, dim=1)))
        yield there, places


def _looks(features: Mapping[str, torch.Tensor], name: str) -> list[torch.Tensor]:
    """The feature maps ``name`` of all mirrored views."""
    names = (in_look(i, name) for i in itertools.count())
    return [features[n] for n in itertools.takewhile(features.__contains__, names)]


def spread_over_people(instances: Instances, count: int) -> Instances:
    """Keep at most ``count`` regions, nobody's second before everybody's first.

    Large people have most of the proposals; small ones would hardly be trained on otherwise. One
    person's regions are taken in their order, which sampling has made random.

    Args:
        instances: regions with ``gt_boxes``, by which people are told apart.
        count: maximum number of regions.
    """
    if len(instances) <= count:
        return instances
    _, person = torch.unique(instances.gt_boxes.tensor, dim=0, return_inverse=True)
    turn = (person[:, None] == person[None, :]).tril(-1).sum(dim=1)
    return instances[turn.argsort(stable=True)[:count]]


def _with_joints_inside(instances: Instances) -> torch.Tensor:
    """(N,) bool: whether a region contains a labelled keypoint of its person."""
    boxes = instances.proposal_boxes.tensor[:, None]
    if len(instances) == 0:
        return torch.zeros(0, dtype=torch.bool, device=boxes.device)
    joints = instances.gt_keypoints.tensor
    inside = ((joints[..., :2] >= boxes[..., :2]) & (joints[..., :2] <= boxes[..., 2:])).all(-1)
    return (inside & (joints[..., 2] > 0)).any(dim=1)
