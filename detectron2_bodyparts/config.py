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
    # Names of the channels and joints of the model: see detectron2_bodyparts.schema.
    _C.MODEL.BODYPARTS.PART_SCHEMA = "bodyparts-7"
    _C.MODEL.BODYPARTS.KEYPOINT_SCHEMA = "coco-17"
    # An anchor or proposal that would be a negative is left out if this share of its area lies in
    # a crowd, or in a picture that is not exhaustively labelled.
    _C.MODEL.BODYPARTS.IGNORE_IOA = 0.5
    # Regions of one picture that reach the mask and joint heads in training; 0 = no bound. The
    # memory of these heads is proportional to it.
    _C.MODEL.BODYPARTS.MAX_REGIONS_PER_IMAGE = 64
    # The mask and joint heads look at the box enlarged on every side by this share of its own side:
    # a found box may cut off a foot.
    _C.MODEL.BODYPARTS.REGION_MARGIN = 0.0

    # Weight of the loss of a part segmentation of the whole picture, from which the regions' masks
    # start; 0 = there is none.
    _C.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 0.0

    # Out of training the part segmentation is the mean of several looks: at the picture, and at its
    # mirror image at each of these shares of its size. Of the plugin's two backbones.
    _C.MODEL.FPN.MIRRORED_LOOKS = ()

    # Out of training all RoI heads look at the first of MODEL.FPN.MIRRORED_LOOKS, too.
    _C.MODEL.ROI_HEADS.MIRRORED = False

    # Scores are multiplied by the mean probability of parts over the silhouette, to this power; 0
    # leaves them as they are. For schemas whose parts cover the body.
    _C.MODEL.ROI_HEADS.PART_SCORE_POWER = 0.0

    # What is left of the score of somebody whose silhouette lies altogether in that of somebody
    # surer, who probably is a part of them; 1 = all of it.
    _C.MODEL.ROI_HEADS.SECOND_FIND_SCORE = 1.0

    # Basic blocks in each stage of build_small_resnet_fpn_backbone.
    _C.MODEL.RESNETS.BLOCKS_PER_STAGE = (1, 1, 1, 1)

    # The decoder of BodyPartsMaskHead: "efficient", or "original" (MaskRCNN_body, 2017).
    _C.MODEL.ROI_MASK_HEAD.DECODER = "efficient"
    # Feature maps of the mask head, finest first; () = those of ROI_HEADS.
    _C.MODEL.ROI_MASK_HEAD.IN_FEATURES = ()
    _C.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT = 1.0
    # Weight of channels that a reader derived rather than read.
    _C.MODEL.ROI_MASK_HEAD.DERIVED_LOSS_WEIGHT = 0.5
    # Weight of the Dice loss beside the cross-entropy of the masks.
    _C.MODEL.ROI_MASK_HEAD.DICE_LOSS_WEIGHT = 0.0

    # With a part segmentation, the mask head adds to it. Out of training this share of what it adds
    # to the parts counts; of what it adds to the body, which says whose they are, all does.
    _C.MODEL.ROI_MASK_HEAD.PART_RESIDUAL = 1.0

    # The joint head works on the mask head's trunk instead of regions of its own.
    _C.MODEL.ROI_KEYPOINT_HEAD.SHARE_MASK_FEATURES = False
    _C.MODEL.ROI_KEYPOINT_HEAD.NORM = ""

    # Width of build_mobilenet_v1_fpn_backbone, as a share of MobileNetV1's.
    _C.MODEL.MOBILENET = CN()
    _C.MODEL.MOBILENET.WIDTH = 0.75

    # People under this score are not painted into the label map whose mIoU is measured: 0.3 in the
    # published code for CIHP, 0.05 for MHP v2.
    _C.TEST.PAINT_THRESHOLD = 0.3

    # "SGD", Detectron2's own, or "ADAMW", which learns faster from nothing.
    _C.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of the backbone's bottom-up network, as a share of the others'; ADAMW's only.
    _C.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Weights whose names begin with one of these are not trained, as ("backbone.",); the running
    # means of its batch norms still move.
    _C.SOLVER.FROZEN = ()

    # Largest relative change of brightness, contrast and saturation in training.
    _C.INPUT.COLOR_JITTER = 0.0

    # In place of INPUT.MIN_SIZE_TRAIN, large scale jitter (Ghiasi et al., 2021): pictures are
    # resized to a longer side of SCALE_RANGE times so many pixels, and what is more than a square
    # of this side is cut off. 0 = whole pictures.
    _C.INPUT.PIECE_SIDE = 0
    _C.INPUT.SCALE_RANGE = (0.7, 1.7)
    # Probability that a training image is rotated, and the largest angle to either side in degrees.
    # Boxes become those of the rotated masks; where the body is unknown, of the rotated boxes,
    # which are too large.
    _C.INPUT.ROTATION = (0.0, 0.0)
    # Probability that a training picture gets people of an earlier one: `data.copy_paste`.
    _C.INPUT.COPY_PASTE = 0.0

    # How a mixture is sampled, with DATALOADER.SAMPLER_TRAIN "WeightedTrainingSampler": pairs of
    # dataset name and how often each of its pictures comes in an epoch, 1 where not named.
    # Detectron2 reads this key but does not define it.
    if "TRAIN_REPEAT_FACTOR" not in _C.DATASETS:
        _C.DATASETS.TRAIN_REPEAT_FACTOR = []
    # Pairs of dataset name and weight of its part masks and joints in the losses, 1 where not
    # named: for datasets that are labelled with less care.
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
