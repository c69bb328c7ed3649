#!/usr/bin/env python3
"""Train or evaluate a body part model. Takes the same arguments as Detectron2's train_net.py.

    python train_net.py --config-file configs/bodyparts_rcnn_R_50_FPN_1x.yaml --num-gpus 8
    python train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth

On a machine without a GPU add ``MODEL.DEVICE cpu``; ``--num-gpus`` is then the number of processes.
"""

from __future__ import annotations

import os

import torch
from detectron2.engine import default_argument_parser, default_setup, hooks, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from detectron2_bodyparts.checkpoint import BodyPartsCheckpointer
from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.engine import Trainer


def setup(args):
    """The config of the command line, frozen."""
    cfg = load_config(args.config_file, opts=args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="detectron2_bodyparts")
    return cfg


def main(args):
    """Train or evaluate in one process."""
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = BodyPartsCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_with_TTA(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: trainer.test_with_TTA(cfg, trainer.model))]
        )
    return trainer.train()


def leave_group():
    """Leave the process group, if any: on a CPU, a process that exits within it may abort."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(args):
    """`main`, then `leave_group`."""
    results = main(args)
    leave_group()
    return results


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    if load_config(args.config_file, opts=args.opts).MODEL.DEVICE == "cpu":
        # If it sees a GPU, launch() uses NCCL, which does not work on a CPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
