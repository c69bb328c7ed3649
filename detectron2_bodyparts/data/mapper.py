"""The dataset mapper: an image and its annotations -> training input."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, BoxMode, Instances, Keypoints

from ..modeling import BodyPartsROIHeads
from ..modeling.proposals import IGNORE_CLASS
from ..schema import (
    COCO_17,
    KeypointSchema,
    PartSchema,
    get_keypoint_schema,
    get_part_schema,
)
from ..structures import (
    UNKNOWN,
    PartMasks,
    mirror_parts,
    part_plane,
    target_names,
)
from .copy_paste import CopyPaste, Target, labelled_inside, visible_box
from .person_crop import PersonCrop
from .registered import joints_of

# Ignore region of an image that is not exhaustively labelled. It extends beyond the image because
# anchors do.
_EVERYWHERE = (-1e4, -1e4, 1e4, 1e4)


def is_mirroring(transforms: T.TransformList) -> bool:
    """Whether the transforms swap left and right, judged by their effect on three points."""
    corners = transforms.apply_coords(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    (ax, ay), (bx, by) = corners[1] - corners[0], corners[2] - corners[0]
    return ax * by - ay * bx < 0


class _SaturationOfBGR(T.RandomSaturation):
    """`T.RandomSaturation` for BGR images; Detectron2's assumes RGB."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """See `T.RandomSaturation.get_transform`; the image is BGR."""
        return super().get_transform(image[:, :, ::-1])


class BodyPartsMapper:
    """Reads, augments and packs one training image.

    The same Detectron2 augmentations are applied to the image, the part planes (nearest), the
    boxes and the keypoints. Mirroring swaps right and left channels and keypoints.

    Dataset dicts are those of `load_bodyparts_json`, in the model's part schema or a coarser one,
    whose channels are channels and unions of the model's. Of any other COCO dataset, boxes, body
    masks and keypoints are used, and parts are unknown. All annotations must be of people, which
    `engine.Trainer` ensures.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list[T.Augmentation | T.Transform],
        image_format: str,
        part_schema: PartSchema | None,
        keypoint_schema: KeypointSchema | None,
        keep_ignored: bool = True,
        loss_weights: Mapping[str, float] | None = None,
        keypoint_schemas: Mapping[str, KeypointSchema] | None = None,
        copy_paste: float = 0.0,
    ) -> None:
        """
        Args:
            augmentations: Detectron2 augmentations, geometric or not.
            image_format: the model's input format, "BGR" or "RGB".
            part_schema: the model's channels, or None for a model without masks.
            keypoint_schema: the model's keypoints, or None for a model without keypoints.
            keep_ignored: return ignore regions as instances of class -1, which the plugin's
                proposal generator and RoI heads support and Detectron2's do not.
            loss_weights: dataset name -> weight of its part masks and keypoints; 1 if not named.
            keypoint_schemas: dataset name -> schema of its keypoints, for dataset dicts without
                ``keypoint_schema``; COCO's if not named.
            copy_paste: probability of pasting people of an earlier image (`CopyPaste`); only for
                models with masks.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.part_schema = part_schema
        self.keypoint_schema = keypoint_schema
        self.keep_ignored = keep_ignored
        self.loss_weights = dict(loss_weights or {})
        self.keypoint_schemas = dict(keypoint_schemas or {})
        self.copy_paste = CopyPaste(copy_paste) if copy_paste and part_schema is not None else None

    @classmethod
    def from_config(cls, cfg) -> dict:
        augmentations = utils.build_augmentation(cfg, is_train=True)
        if cfg.INPUT.PIECE_SIDE:
            side, (low, high) = cfg.INPUT.PIECE_SIDE, cfg.INPUT.SCALE_RANGE
            piece = T.ResizeScale(low, high, side, side)
            if cfg.INPUT.PERSON_CROP[0]:
                piece = PersonCrop(*cfg.INPUT.PERSON_CROP, side, otherwise=piece)
            # The first augmentation resizes to INPUT.MIN_SIZE_TRAIN.
            augmentations[:1] = [piece, T.RandomCrop("absolute", (side, side))]
        probability, degrees = cfg.INPUT.ROTATION
        if probability:
            # A rotated image is larger; crops bound it again, whole images keep their size.
            rotation = T.RandomRotation([-degrees, degrees], expand=bool(cfg.INPUT.PIECE_SIDE))
            augmentations.insert(1, T.RandomApply(rotation, probability))
        if cfg.INPUT.CROP.ENABLED:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.INPUT.COLOR_JITTER > 0:
            low, high = 1 - cfg.INPUT.COLOR_JITTER, 1 + cfg.INPUT.COLOR_JITTER
            saturation = _SaturationOfBGR if cfg.INPUT.FORMAT == "BGR" else T.RandomSaturation
            augmentations += [
                T.RandomBrightness(low, high),
                T.RandomContrast(low, high),
                saturation(low, high),
            ]
        names = cfg.MODEL.BODYPARTS
        return {
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "part_schema": get_part_schema(names.PART_SCHEMA) if cfg.MODEL.MASK_ON else None,
            "keypoint_schema": (
                get_keypoint_schema(names.KEYPOINT_SCHEMA) if cfg.MODEL.KEYPOINT_ON else None
            ),
            "keep_ignored": issubclass(
                ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME), BodyPartsROIHeads
            ),
            "loss_weights": _loss_weights(cfg),
            "copy_paste": cfg.INPUT.COPY_PASTE,
            "keypoint_schemas": (
                {name: joints_of(name) for name in cfg.DATASETS.TRAIN}
                if cfg.MODEL.KEYPOINT_ON
                else None
            ),
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """
        Args:
            dataset_dict: one image in Detectron2's standard dataset format.

        Returns:
            The same without ``annotations``, with ``image`` (C, H, W) uint8 and ``instances``:
            ``gt_boxes``, ``gt_classes`` (0, or -1 for ignore regions), ``gt_loss_weights`` (N,),
            and ``gt_part_masks`` and ``gt_keypoints`` (N, K, 3) if the model has these heads. The
            fields are set even if N = 0.
        """
        dataset_dict = copy.copy(dataset_dict)
        annotations = dataset_dict.pop("annotations")
        image = utils.read_image(dataset_dict["file_name"], format=self.image_format)
        utils.check_image_size(dataset_dict, image)
        height, width = image.shape[:2]

        people = [_box(a) for a in annotations if not a.get("iscrowd", 0)]
        inputs = T.AugInput(image, boxes=np.array(people, np.float64).reshape(-1, 4))
        transforms = self.augmentations(inputs)
        mirrored = is_mirroring(transforms)
        shape = inputs.image.shape[:2]
        if "keypoint_schema" in dataset_dict:
            joint_schema = get_keypoint_schema(dataset_dict["keypoint_schema"])
        else:
            joint_schema = self.keypoint_schemas.get(dataset_dict.get("dataset_name"), COCO_17)
        annotated_in = dataset_dict.get("part_schema")
        if annotated_in is not None:
            annotated_in = get_part_schema(annotated_in)
        targets = []
        for annotation in annotations:
            ignored = bool(annotation.get("iscrowd", 0))
            if ignored and not self.keep_ignored:
                continue
            plane, state = None, None
            box = _transformed_box(annotation, transforms, shape)
            if self.part_schema is not None:
                plane, state = part_plane(
                    annotation, self.part_schema, height, width, annotated_in=annotated_in
                )
                if mirrored:
                    plane, state = mirror_parts(plane, state, self.part_schema)
                plane = transforms.apply_segmentation(plane)
                if state[0] != UNKNOWN:
                    box = visible_box(box, plane) or (0, 0, 0, 0)
            if box[2] - box[0] < 1 or box[3] - box[1] < 1:
                continue
            joints = self._joints(annotation, joint_schema, transforms, mirrored, shape)
            targets.append(Target(box, IGNORE_CLASS if ignored else 0, plane, state, joints))
        picture = inputs.image
        if self.copy_paste is not None:
            picture, targets = self.copy_paste(picture, targets)
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        if self.keep_ignored and not dataset_dict.get("exhaustive", True):
            targets.append(Target(_EVERYWHERE, IGNORE_CLASS))

        instances = Instances(shape)
        boxes, labels = [t.box for t in targets], [t.label for t in targets]
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = torch.tensor(labels, dtype=torch.int64)
        weight = self.loss_weights.get(dataset_dict.get("dataset_name"), 1.0)
        instances.gt_loss_weights = torch.full((len(targets),), weight)
        if self.part_schema is not None:
            instances.gt_part_masks = _pack(targets, self.part_schema)
        if self.keypoint_schema is not None:
            empty = np.zeros((len(self.keypoint_schema), 3))
            stacked = [empty if t.joints is None else t.joints for t in targets]
            instances.gt_keypoints = Keypoints(
                np.array(stacked, np.float32).reshape(-1, len(self.keypoint_schema), 3)
            )
        dataset_dict["instances"] = instances
        return dataset_dict

    def _joints(
        self,
        annotation: dict,
        schema: KeypointSchema,
        transforms: T.TransformList,
        mirrored: bool,
        shape: tuple[int, int],
    ) -> np.ndarray | None:
        """(K, 3) augmented keypoints, model's schema; v = 0 if unlabelled or outside the image."""
        if self.keypoint_schema is None or not annotation.get("keypoints"):
            return None
        points = np.array(annotation["keypoints"], dtype=np.float64).reshape(-1, 3)
        if len(points) != len(schema):
            raise ValueError(
                f"expected {len(schema)} joints of {schema.name}, found {len(points)}; which joints"
                " a dataset has, keypoint_names in its MetadataCatalog entry tells"
            )
        points[:, :2] = transforms.apply_coords(points[:, :2])
        points = labelled_inside(points, shape)
        if mirrored:
            points = points[list(schema.flip_permutation)]
        return self.keypoint_schema.take(points, schema)


def _loss_weights(cfg) -> dict[str, float]:
    """DATASETS.TRAIN_LOSS_WEIGHTS; it and TRAIN_REPEAT_FACTOR may name training datasets only."""
    for key in ("TRAIN_LOSS_WEIGHTS", "TRAIN_REPEAT_FACTOR"):  # the latter is read by Detectron2
        strange = sorted({name for name, _ in cfg.DATASETS[key]} - set(cfg.DATASETS.TRAIN))
        if strange:
            raise ValueError(f"DATASETS.{key}: {strange} are not in DATASETS.TRAIN")
    return {name: float(weight) for name, weight in cfg.DATASETS.TRAIN_LOSS_WEIGHTS}


def _box(annotation: dict) -> list[float]:
    """The annotation's box, XYXY absolute."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _transformed_box(
    annotation: dict, transforms: T.TransformList, shape: tuple[int, int]
) -> tuple[float, ...]:
    box = transforms.apply_box(np.array([_box(annotation)]))[0]
    return tuple(np.clip(box, 0, (shape[1], shape[0], shape[1], shape[0])))


def _pack(targets: list[Target], schema: PartSchema) -> PartMasks:
    """PartMasks with an entry for every target; all is unknown in one without a plane."""
    nothing = np.zeros((1, 1), np.uint8)
    unknown = np.zeros(len(target_names(schema)), np.uint8)
    return PartMasks.from_planes(
        [nothing if t.plane is None else t.plane for t in targets],
        [unknown if t.state is None else t.state for t in targets],
        schema,
    )
