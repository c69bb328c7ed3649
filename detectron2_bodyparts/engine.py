"""The trainer behind train_net.py."""

from __future__ import annotations

import contextlib
import itertools
import os
import types
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import detection_utils as utils
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.utils.data import Sampler

from .checkpoint import BodyPartsCheckpointer
from .data import BodyPartsMapper
from .data.registered import only_people
from .evaluation import BodyPartsEvaluator
from .modeling import BodyPartsKeypointHead, BodyPartsMaskHead
from .modeling.test_time_augmentation import BodyPartsRCNNWithTTA
from .schema import get_keypoint_schema, get_part_schema


class Trainer(DefaultTrainer):
    """Detectron2's trainer with the plugin's mapper, evaluator and load report.

    It also runs several processes on CPUs, where ``SOLVER.AMP.ENABLED`` trains the backbone and the
    mask and keypoint heads in bfloat16. ``--resume`` continues the stream of training images, which
    Detectron2's samplers would restart. With a ``SEED`` every step is seeded separately, so on a
    CPU with DATALOADER.NUM_WORKERS 0 and no ASPECT_RATIO_GROUPING a resumed run ends with exactly
    the weights of an uninterrupted one. With workers or grouping, images keep their order (except
    for the few waiting in a group), but their augmentations differ.
    """

    def __init__(self, cfg) -> None:
        # DefaultTrainer's constructor passes a device ID to DistributedDataParallel, which rejects
        # it for modules on a CPU. The rest is as there.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        ddp_model = create_ddp_model(
            model,
            broadcast_buffers=False,
            device_ids=device_ids,
            find_unused_parameters=getattr(model, "find_unused_parameters", False),
        )
        step = SimpleTrainer
        if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
            _train_in_bfloat16(model)
        elif cfg.SOLVER.AMP.ENABLED:
            step = _AMPTrainer
        self._trainer = step(ddp_model, self.build_train_loader(cfg), optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = BodyPartsCheckpointer(
            ddp_model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())
        if cfg.SEED >= 0:
            self.register_hooks([_SeedEveryStep(cfg.SEED)])

    def resume_or_load(self, resume: bool = True) -> None:
        """See `DefaultTrainer.resume_or_load`; images already seen are skipped."""
        super().resume_or_load(resume)
        if self.start_iter:
            self._trainer.reset_data_loader(
                lambda: self.build_train_loader(self.cfg, start_iter=self.start_iter)
            )

    @classmethod
    def build_train_loader(cls, cfg, start_iter: int = 0):
        """Detectron2's loader with the plugin's mapper, starting at iteration ``start_iter``."""
        with _numpy_seed(cfg.SEED):  # WeightedTrainingSampler draws its seed from numpy
            arguments = build_detection_train_loader.from_config(
                cfg, mapper=BodyPartsMapper(cfg), dataset=training_pictures(cfg)
            )
        if start_iter:
            seen = start_iter * cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
            arguments["sampler"] = _Skip(arguments["sampler"], seen)
        # A separate generator: the loader would otherwise draw from the first step's random
        # numbers. Different in each process, or all of them would augment alike.
        seed = None
        if cfg.SEED >= 0:
            seed = (cfg.SEED + start_iter) * comm.get_world_size() + comm.get_rank()
        return build_detection_train_loader(**arguments, seed=seed)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        """Detectron2's loader and mapper; the training sets' keypoints need not agree."""
        mapper = DatasetMapper(
            is_train=False,
            augmentations=utils.build_augmentation(cfg, is_train=False),
            image_format=cfg.INPUT.FORMAT,
        )
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(
        cls, cfg, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """A `BodyPartsEvaluator` for any dataset registered with Detectron2."""
        return BodyPartsEvaluator(
            dataset_name,
            get_part_schema(cfg.MODEL.BODYPARTS.PART_SCHEMA),
            get_keypoint_schema(cfg.MODEL.BODYPARTS.KEYPOINT_SCHEMA),
            output_folder or folder_of(cfg, dataset_name, "inference"),
            paint_threshold=cfg.TEST.PAINT_THRESHOLD,
        )

    @classmethod
    def test_with_TTA(cls, cfg, model: nn.Module) -> dict[str, dict]:
        """Like `DefaultTrainer.test`, with the test-time augmentation of ``TEST.AUG``.

        Returns:
            The results, with ``_TTA`` appended to their names. Predictions are written to
            ``inference_TTA``.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST = 0  # every view is resized once, from the original image
        evaluators = [
            cls.build_evaluator(cfg, name, folder_of(cfg, name, "inference_TTA"))
            for name in cfg.DATASETS.TEST
        ]
        results = cls.test(cfg, BodyPartsRCNNWithTTA(cfg, model), evaluators)
        return {f"{name}_TTA": values for name, values in results.items()}

    @classmethod
    def build_model(cls, cfg) -> nn.Module:
        """Build the model and freeze SOLVER.FROZEN, without logging every layer.

        Raises:
            ValueError: an entry of SOLVER.FROZEN matches no weight of the model.
        """
        model = build_model(cfg)
        for beginning in cfg.SOLVER.FROZEN:
            held = [p for name, p in model.named_parameters() if name.startswith(beginning)]
            if not held:
                raise ValueError(f"SOLVER.FROZEN: no weight's name begins with {beginning!r}")
            for parameter in held:
                parameter.requires_grad_(False)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        """SGD, as Detectron2 builds it, or AdamW with the same weight decays and clipping."""
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if cfg.SOLVER.OPTIMIZER != "ADAMW":
            raise ValueError(f"SOLVER.OPTIMIZER: SGD or ADAMW, found {cfg.SOLVER.OPTIMIZER!r}")
        slower = cfg.SOLVER.BACKBONE_MULTIPLIER
        parameters = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            lr_factor_func=lambda name: slower if "backbone.bottom_up." in name else 1.0,
        )
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return optimizer(parameters, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)


def folder_of(cfg, dataset_name: str, root: str) -> str:
    """The output folder for a dataset's results; the dataset's name may be a file's path.

    Files of the same name in different folders are numbered in the order of DATASETS.TEST.
    """
    name = _last_name(dataset_name)
    alike = [other for other in cfg.DATASETS.TEST if _last_name(other) == name]
    if len(alike) > 1 and dataset_name in alike:
        name += f"_{alike.index(dataset_name) + 1}"
    return os.path.join(cfg.OUTPUT_DIR, root, name)


def _last_name(dataset_name: str) -> str:
    return os.path.basename(dataset_name).removesuffix(".json")


def training_pictures(cfg) -> list[dict]:
    """Dataset dicts of all training images, with annotations of people only and ``dataset_name``.

    Raises:
        ValueError: see `only_people`.
    """
    pictures = []
    proposals = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else ()
    for name, file in itertools.zip_longest(cfg.DATASETS.TRAIN, proposals):
        of_name = get_detection_dataset_dicts(
            [name],
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=(
                cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
            ),
            proposal_files=[file] if file else None,
        )
        pictures += ({**p, "dataset_name": name} for p in only_people(name, of_name))
    return pictures


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy temporarily, unless ``seed`` is negative; its state is restored on exit."""
    state = np.random.get_state()
    if seed >= 0:
        np.random.seed(seed)
    try:
        yield
    finally:
        if seed >= 0:
            np.random.set_state(state)


def _train_in_bfloat16(model: nn.Module) -> None:
    """Run the backbone and our heads' convolutions in bfloat16 in training.

    Detectron2's AMPTrainer supports CUDA only. Their outputs are converted to float32, in which the
    rest of the model runs: Detectron2's pooler casts boxes to the features' dtype, and bfloat16
    would round them to two pixels.
    """
    _in_bfloat16(model.backbone, "forward")
    heads = getattr(model, "roi_heads", None)
    mask_head = getattr(heads, "mask_head", None)
    if isinstance(mask_head, BodyPartsMaskHead):
        _in_bfloat16(mask_head.decoder, "trunk")
        _in_bfloat16(mask_head.decoder.upsample, "forward")
    keypoint_head = getattr(heads, "keypoint_head", None)
    if isinstance(keypoint_head, BodyPartsKeypointHead):
        _in_bfloat16(keypoint_head, "layers")


def _in_bfloat16(module: nn.Module, method: str) -> None:
    """Run ``method`` (tensor -> tensor or dict of tensors) in bfloat16 in training."""

    def autocast(self: nn.Module, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        compute = getattr(type(self), method)
        if not self.training:
            return compute(self, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = compute(self, x)
        if isinstance(found, torch.Tensor):
            return found.float()
        return {name: feature.float() for name, feature in found.items()}

    # A bound method, which a deep copy of the module rebinds to itself.
    setattr(module, method, types.MethodType(autocast, module))


class _AMPTrainer(AMPTrainer):
    """Also resumes runs on a CPU or without AMP, whose checkpoints have no gradient scaler."""

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict({"grad_scaler": self.grad_scaler.state_dict(), **state_dict})


class _SeedEveryStep(HookBase):
    """Makes a step's random numbers depend on the step only, not on earlier ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        step = self.trainer.iter * comm.get_world_size() + comm.get_rank()
        # Different for any two steps of any two seeds, if possible; numpy's limit is 2**32.
        seed_all_rng((self.seed * 1_000_003 + step) % 2**32)


class _Skip(Sampler):
    """Another sampler's indices without the first ``count``."""

    def __init__(self, sampler: Sampler, count: int) -> None:
        self.sampler = sampler
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.sampler, self.count, None)
