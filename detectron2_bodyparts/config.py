"""Every configuration key the plugin adds to Detectron2's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg


def add_bodyparts_config(cfg: CN) -> None:
    """Add the plugin's keys, with their defaults, to a Detectron2 config."""
    _C = cfg

    _C.MODEL.BODYPARTS = CN()
    # Names of the model's channels and keypoints: see detectron2_bodyparts.schema.
    _C.MODEL.BODYPARTS.PART_SCHEMA = "bodyparts-7"
    _C.MODEL.BODYPARTS.KEYPOINT_SCHEMA = "coco-17"
    # An anchor or proposal that would be a negative is ignored if this fraction of its area lies in
    # an ignore region, or in an image that is not exhaustively labelled.
    _C.MODEL.BODYPARTS.IGNORE_IOA = 0.5
    # Maximum number of regions per image for the mask and keypoint heads in training; 0 = no limit.
    # The memory of these heads is proportional to it.
    _C.MODEL.BODYPARTS.MAX_REGIONS_PER_IMAGE = 64
    # The mask and keypoint heads see the box enlarged on each side by this fraction of its width or
    # height: a predicted box may cut off a foot.
    _C.MODEL.BODYPARTS.REGION_MARGIN = 0.0

    # Loss weight of a part segmentation of the whole image, on which the regions' masks build; 0 =
    # no such segmentation.
    _C.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 0.0

    # At inference the part segmentation is averaged over the image and its mirror image at each of
    # these scales. Only with the plugin's own two backbones.
    _C.MODEL.FPN.MIRRORED_LOOKS = ()

    # At inference masks and keypoints are averaged with those in a closer look at a person: a
    # mirrored crop of the image in which the person's longer side has this many pixels, a multiple
    # of the backbone's coarsest stride. 0 = no closer look. Only with the plugin's own two
    # backbones and heads.
    _C.MODEL.FPN.CLOSER_SIDE = 0

    # Lowest score, as corrected by the masks, for a closer look (MODEL.FPN.CLOSER_SIDE).
    _C.MODEL.ROI_HEADS.CLOSER_SCORE = 0.5
    # Maximum number of closer looks at an image. The most confident person always gets one; others
    # only if they are more than 1.25 times larger in it than in the image.
    _C.MODEL.ROI_HEADS.CLOSER_PEOPLE = 4

    # At inference all RoI heads also look at the first of MODEL.FPN.MIRRORED_LOOKS; with a closer
    # look, the box head only.
    _C.MODEL.ROI_HEADS.MIRRORED = False

    # Scores are multiplied by the mean probability of any part over the body mask, to this power; 0
    # leaves them unchanged. For schemas whose parts cover the body.
    _C.MODEL.ROI_HEADS.PART_SCORE_POWER = 0.0

    # Factor on the score of a person whose body mask lies entirely inside that of a more confident
    # one, probably as a part of them; 1 leaves it unchanged.
    _C.MODEL.ROI_HEADS.SECOND_FIND_SCORE = 1.0

    # Basic blocks per stage of build_small_resnet_fpn_backbone.
    _C.MODEL.RESNETS.BLOCKS_PER_STAGE = (1, 1, 1, 1)

    # The decoder of BodyPartsMaskHead: "efficient", or "original" (MaskRCNN_body, 2017).
    _C.MODEL.ROI_MASK_HEAD.DECODER = "efficient"
    # Feature maps of the mask head, finest first; () = those of ROI_HEADS.
    _C.MODEL.ROI_MASK_HEAD.IN_FEATURES = ()
    _C.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT = 1.0
    # Loss weight of channels that were derived rather than labelled.
    _C.MODEL.ROI_MASK_HEAD.DERIVED_LOSS_WEIGHT = 0.5
    # Weight of the masks' Dice loss, added to the cross-entropy.
    _C.MODEL.ROI_MASK_HEAD.DICE_LOSS_WEIGHT = 0.0

    # With a part segmentation, the mask head's logits are added to it. At inference those of the
    # parts are scaled by this factor; those of the body, which says whose the parts are, are not.
    _C.MODEL.ROI_MASK_HEAD.PART_RESIDUAL = 1.0

    # The keypoint head uses the mask head's trunk instead of pooling regions of its own.
    _C.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = False
    _C.MODEL.ROI_KEYPOINT_HEAD.NORM = ""

    # Width multiplier of MobileNetV1 in build_mobilenet_v1_fpn_backbone.
    _C.MODEL.MOBILENET = CN()
    _C.MODEL.MOBILENET.WIDTH = 0.75

    # Minimum score of people painted into the label map for mIoU: 0.3 in the published code for
    # CIHP, 0.05 for MHP v2.
    _C.TEST.PAINT_THRESHOLD = 0.3

    # "SGD", Detectron2's own, or "ADAMW", which learns faster from scratch.
    _C.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone's bottom-up network relative to the rest; ADAMW only.
    _C.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Weights whose names begin with one of these are frozen, e.g. ("backbone.",); the running
    # statistics of its batch norms are still updated.
    _C.SOLVER.FROZEN = ()

    # Maximum relative change of brightness, contrast and saturation in training.
    _C.INPUT.COLOR_JITTER = 0.0

    # Large scale jitter (Ghiasi et al., 2021) in place of INPUT.MIN_SIZE_TRAIN: images are resized
    # to a longer side of SCALE_RANGE times this many pixels, then cropped to a square of this side.
    # 0 = whole images.
    _C.INPUT.PIECE_SIDE = 0
    _C.INPUT.SCALE_RANGE = (0.7, 1.7)
    # With PIECE_SIDE: the probability that a crop is made around a random person instead, and the
    # range of the longer side of this person's box, as a fraction of PIECE_SIDE: as people are
    # in a closer look.
    _C.INPUT.PERSON_CROP = (0.0, 0.5, 0.9)
    # Probability that a training image is rotated, and the largest angle to either side in degrees.
    # Boxes become those of the rotated masks; where the body is unknown, of the rotated boxes,
    # which are too large.
    _C.INPUT.ROTATION = (0.0, 0.0)
    # Probability of pasting people of an earlier image into a training image: `data.copy_paste`.
    _C.INPUT.COPY_PASTE = 0.0

    # How a mixture is sampled, with DATALOADER.SAMPLER_TRAIN "WeightedTrainingSampler": pairs of
    # dataset name and how often each of its images occurs per epoch, 1 where not named.
    # Detectron2 reads this key but does not define it.
    if "TRAIN_REPEAT_FACTOR" not in _C.DATASETS:
        _C.DATASETS.TRAIN_REPEAT_FACTOR = []
    # Pairs of dataset name and loss weight of its part masks and keypoints, 1 where not named: for
    # datasets that are labelled with less care.
    _C.DATASETS.TRAIN_LOSS_WEIGHTS = []


def load_config(config: str, weights: str | None = None, opts: Sequence[str] = ()) -> CN:
    """A config with the plugin's keys.

    Files of records among its datasets are registered (`data.register_files`), if they are there.

    Args:
        config: a path, or the name of one of ours, as `get_config_file` takes it.
        weights: its ``MODEL.WEIGHTS``, if another than it says.
        opts: other keys and their values in turns.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: a key that does not exist, a key without a value, or a value of another type.
    """
    cfg = get_cfg()
    add_bodyparts_config(cfg)
    path = config if Path(config).is_file() else get_config_file(config)
    try:
        cfg.merge_from_file(path)
        if weights is not None:
            cfg.MODEL.WEIGHTS = weights
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError) as e:  # yacs's
        raise ValueError(f"config {config} {' '.join(map(str, opts))}: {e.args[0]}") from e
    from .data import register_files  # which itself needs Detectron2's part of the plugin

    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    register_files(name for name in names if Path(name).is_file())
    return cfg


def get_config_file(name: str) -> str:
    """The path of one of the plugin's configs, e.g. ``"bodyparts_rcnn_R_50_FPN_3x.yaml"``.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those there are.
    """
    package = Path(str(resources.files("detectron2_bodyparts")))
    # An installed package has the configs inside; a checkout has them beside the package.
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return str(folder / name)
    known = sorted(
        str(path.relative_to(folder))
        for folder in (package / "configs", package.parent / "configs")
        for path in folder.glob("**/*.yaml")
    )
    raise FileNotFoundError(f"no config {name!r}; there are {known}")
