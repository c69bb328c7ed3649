"""Whole training runs, as small as they can be."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import SimpleTrainer
from detectron2.evaluation import verify_results
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detectron2_bodyparts.data import (
    BodyPartsMapper,
    load_bodyparts_json,
    register_bodyparts_dataset,
)
from detectron2_bodyparts.engine import Trainer, _AMPTrainer
from detectron2_bodyparts.evaluation import BodyPartsEvaluator
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, JHMDB_15

from .conftest import HEIGHT, ROOT, WIDTH, figure


@pytest.fixture
def prepared(small_cfg, small_records, tmp_path) -> tuple[Path, dict]:
    """A folder like $DETECTRON2_DATASETS with records, and a config file to train on them."""
    json_file, root = small_records
    folder = tmp_path / "datasets" / "synthetic"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads(Path(json_file).read_text())
        for image in content["images"]:
            image["file_name"] = f"{root}/{image['file_name']}"
        (folder / f"synthetic_{split}.bodyparts-7.json").write_text(json.dumps(content))
    small_cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    config = tmp_path / "config.yaml"
    config.write_text(small_cfg.dump())
    return config, {
        **os.environ,
        "DETECTRON2_DATASETS": str(folder.parent),
        "CUDA_VISIBLE_DEVICES": "",
    }


def train(prepared, output: Path, *opts: str, processes: int = 1, resume: bool = False) -> str:
    config, environment = prepared
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(config)]
    command += ["--num-gpus", str(processes), "--dist-url", "auto"]
    command += ["--resume"] if resume else []
    command += ["OUTPUT_DIR", str(output), *opts]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["model"]


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(prepared, tmp_path):
    train(prepared, tmp_path / "whole")
    # Stopped after two of four steps: the schedule is the whole one's.
    stopped = ("SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.TEST", "()")
    train(prepared, tmp_path / "resumed", *stopped)
    folder = tmp_path / "resumed"
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    train(prepared, folder, *stopped, resume=True)
    whole, resumed = (weights(tmp_path / n / "model_final.pth") for n in ("whole", "resumed"))
    half = weights(folder / "model_0000001.pth")
    assert whole.keys() == resumed.keys()
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name
    assert any(not torch.equal(whole[n], half[n]) for n in whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_segmentation_is_trained_first_and_the_regions_from_there(
    prepared, tmp_path, processes
):
    segmentation = ("MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT", "1.0")
    first = (*segmentation, "MODEL.META_ARCHITECTURE", "PartSegmentationPretraining")
    first = (*first, "SOLVER.CHECKPOINT_PERIOD", "1")
    evaluated = train(prepared, tmp_path / "first", *first, processes=processes)
    assert "mIoU" in evaluated
    start, end = (weights(tmp_path / f"first/model_{step}.pth") for step in ("0000000", "final"))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    trained = ("backbone.bottom_up.", "backbone.fpn_", "roi_heads.part_segmentation.")
    assert moved and all(name.startswith(trained) for name in moved)
    assert all(any(name.startswith(t) for name in moved) for t in trained)
    final = str(tmp_path / "first/model_final.pth")
    second = (*segmentation, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1", "MODEL.WEIGHTS", final)
    output = train(prepared, tmp_path / "second", *second)
    assert f"weights: {len(end)} of {len(end)} loaded" in output


def test_a_segmentation_is_evaluated_as_one_person_of_the_whole_picture(
    small_cfg, small_records, monkeypatch
):
    name = "evaluates_a_segmentation"
    register_bodyparts_dataset(name, *small_records)
    small_cfg.MODEL.META_ARCHITECTURE = "PartSegmentationPretraining"
    small_cfg.MODEL.BODYPARTS.SEGMENTATION_LOSS_WEIGHT = 1.0
    small_cfg.DATASETS.TEST = (name,)
    model = build_model(small_cfg)
    places = iter(range(10, 90, 20))

    def truth(features):
        logits = torch.full((1, 7, HEIGHT // 4, WIDTH // 4), -9.0)
        parts = figure(next(places))
        logits[:, 0] = 0.0
        for part, mask in parts.items():
            channel = torch.tensor(mask)[2::4, 2::4]  # the pixel at a cell's centre
            logits[0, BODYPARTS_7.index(part)][channel] = 9.0
        return logits.softmax(dim=1)

    monkeypatch.setattr(model.roi_heads, "segment", truth)
    found = Trainer.test(small_cfg, model)["parsing"]
    assert found["mIoU"] > 65  # limbs are two cells wide: one cell aside would give 40
    DatasetCatalog.remove(name)


def test_there_is_nothing_to_pretrain_without_a_segmentation(small_cfg):
    small_cfg.MODEL.META_ARCHITECTURE = "PartSegmentationPretraining"
    with pytest.raises(ValueError, match="SEGMENTATION_LOSS_WEIGHT"):
        build_model(small_cfg)


def test_weights_can_be_held(small_cfg, small_records):
    name = "holds_weights"
    register_bodyparts_dataset(name, *small_records)
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.SOLVER.FROZEN = ("backbone.fpn_", "roi_heads.box_")
    trainer = Trainer(small_cfg)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with EventStorage():
        trainer.run_step()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    held = {n for n in before if n.startswith(("backbone.fpn_", "roi_heads.box_"))}
    assert held and not held & moved
    for trained in ("backbone.bottom_up.", "proposal_generator."):
        assert any(n.startswith(trained) for n in moved)
    DatasetCatalog.remove(name)
    small_cfg.SOLVER.FROZEN = ("backbone.fnp_",)
    with pytest.raises(ValueError, match="fnp_"):
        Trainer.build_model(small_cfg)


def test_on_a_cpu_amp_trains_in_bfloat16_and_evaluates_in_float32(small_cfg, small_records):
    name = "trains_in_bfloat16"
    register_bodyparts_dataset(name, *small_records)
    small_cfg.DATASETS.TRAIN = (name,)
    picture = torch.randn(1, 3, 64, 64)
    model = Trainer(small_cfg).model
    exact = model.backbone(picture)

    small_cfg.SOLVER.AMP.ENABLED = True
    trainer = Trainer(small_cfg)
    trainer.model.load_state_dict(model.state_dict())
    backbone, inner = trainer.model.backbone, []
    backbone.fpn_lateral2.register_forward_hook(lambda _, __, output: inner.append(output.dtype))
    rounded = backbone(picture)
    assert inner == [torch.bfloat16]
    for level, feature in exact.items():
        assert rounded[level].dtype == torch.float32
        torch.testing.assert_close(rounded[level], feature, atol=0.2, rtol=0.1)
        assert not torch.equal(rounded[level], feature)
    heads = trainer.model.roi_heads
    in_heads = [
        heads.mask_head.decoder.reduce,
        heads.mask_head.decoder.upsample[0],
        heads.keypoint_head.score_lowres,
    ]
    types = []
    for layer in in_heads:
        layer.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    before = backbone.fpn_lateral2.weight.detach().clone()
    with EventStorage():
        trainer.run_step()
    assert types == [torch.bfloat16] * 3
    assert not torch.equal(backbone.fpn_lateral2.weight, before)

    trainer.model.eval()
    backbone(picture)
    assert inner[-1] == torch.float32
    twin = copy.deepcopy(trainer.model).backbone
    for parameter in twin.parameters():
        torch.nn.init.zeros_(parameter)
    assert not twin(picture)["p2"].any() and backbone(picture)["p2"].any()
    DatasetCatalog.remove(name)


def test_two_processes_train_and_agree_on_the_weights(prepared, tmp_path):
    script = tmp_path / "check.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from detectron2.engine import launch
from detectron2.utils import comm
import train_net
from train_net import Trainer

def main(args):
    cfg = train_net.setup(args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    start = trainer.model.module.roi_heads.mask_head.decoder.reduce.weight.detach().clone()
    trainer.train()
    model = trainer.model.module
    vector = torch.cat([p.detach().flatten() for p in model.parameters()])
    vectors = comm.all_gather(vector)
    assert len(vectors) == 2 and torch.equal(*vectors), "the processes' weights differ"
    assert not torch.equal(start, model.roi_heads.mask_head.decoder.reduce.weight)
    if comm.is_main_process():
        print("AGREED", len(vector))
    train_net.leave_group()

if __name__ == "__main__":
    args = train_net.default_argument_parser().parse_args()
    launch(main, 2, dist_url="auto", args=(args,))
"""
    )
    config, environment = prepared
    command = [sys.executable, str(script), "--config-file", str(config)]
    command += ["OUTPUT_DIR", str(tmp_path / "two"), "SOLVER.IMS_PER_BATCH", "4"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "AGREED" in result.stdout, result.stdout[-2000:] + result.stderr[-4000:]
    assert "sides" in result.stdout + result.stderr  # evaluated, by both


def test_two_processes_give_exactly_the_figures_of_one(prepared, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(
        f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from detectron2.engine import launch
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
import train_net

def main(args):
    cfg = train_net.setup(args)
    seed_all_rng(0)  # Detectron2 gives every process a seed of its own
    results = train_net.Trainer.test(cfg, train_net.Trainer.build_model(cfg))
    assert comm.get_world_size() == args.num_gpus
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(results))
    train_net.leave_group()

if __name__ == "__main__":
    args = train_net.default_argument_parser().parse_args()
    launch(main, args.num_gpus, dist_url="auto", args=(args,))
"""
    )
    config, environment = prepared
    results = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        # Random weights; a threshold of 0 lets some of what they find through.
        command = [sys.executable, str(script), "--config-file", str(config)]
        command += ["--num-gpus", str(processes), "OUTPUT_DIR", str(output)]
        command += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
        single = {**environment, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, env=single, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        results.append(json.loads((output / "results.json").read_text()))
        predictions = output / "inference" / "synthetic_val" / "predictions.json"
        assert len(json.loads(predictions.read_text())) > 4
    # As text, because some figures are nan.
    assert json.dumps(results[0]) == json.dumps(results[1])
    assert results[0].keys() >= {"bbox", "parts", "keypoints", "parsing", "pck", "precision"}


def perfect_output(annotations: list[dict]) -> Instances:
    """Instances that repeat the truth of one picture, as a model would give them."""
    from detectron2_bodyparts.records import decode_mask

    height, width = annotations[0]["segmentation"]["size"]
    found = Instances((height, width))
    boxes, masks, joints = [], [], []
    for annotation in annotations:
        x, y, w, h = (int(v) for v in annotation["bbox"])
        boxes.append([x, y, x + w, y + h])
        planes = []
        for channel in BODYPARTS_7.channels:
            rle = annotation["part_segmentation"].get(channel, annotation["segmentation"])
            crop = decode_mask(rle)[y : y + h, x : x + w].astype(np.float32)
            rows = np.arange(112) * h // 112
            columns = np.arange(112) * w // 112
            planes.append(crop[rows][:, columns])
        masks.append(planes)
        joints.append(np.reshape(annotation["keypoints"], (-1, 3)) + (0.5, 0.5, 0))
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    found.scores = torch.ones(len(boxes))
    found.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
    found.pred_part_masks = torch.tensor(np.array(masks))
    found.pred_keypoints = torch.tensor(np.array(joints), dtype=torch.float32)
    return found


@pytest.fixture
def registered(small_records, tmp_path) -> str:
    from detectron2_bodyparts.data import register_bodyparts_dataset

    name = f"test_{tmp_path.name}"
    register_bodyparts_dataset(name, *small_records)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_the_evaluator_gives_a_perfect_model_all_and_swapped_sides_away(
    small_cfg, registered, small_records, tmp_path
):
    truth = json.loads(Path(small_records[0]).read_text())
    evaluator = BodyPartsEvaluator(registered, BODYPARTS_7, COCO_17, str(tmp_path / "eval"))

    def evaluate(change=lambda instances: None):
        evaluator.reset()
        for annotation in truth["annotations"]:
            instances = perfect_output([annotation])
            change(instances)
            picture = {"image_id": annotation["image_id"]}
            evaluator.process([picture], [{"instances": instances}])
        return evaluator.evaluate()

    results = evaluate()
    assert results["bbox"]["AP"] == results["keypoints"]["AP"] == 100
    assert results["body"]["AP50"] == results["parts"]["AP50"] == 100
    assert results["sides"]["confusion"] == 0 and results["sides"]["pairs"] == 8

    def swap_sides(instances):
        flipped = list(BODYPARTS_7.flip_permutation)
        instances.pred_part_masks = instances.pred_part_masks[:, flipped]

    swapped = evaluate(swap_sides)
    assert swapped["sides"]["confusion"] == 100
    assert swapped["body"] == results["body"]
    assert swapped["parts"]["AP50-left_arm"] == 0 and swapped["parts"]["AP50-head"] == 100

    # The form that TEST.EXPECTED_RESULTS checks.
    small_cfg.TEST.EXPECTED_RESULTS = [["parts", "AP50", 100.0, 0.1]]
    assert verify_results(small_cfg, results)
    saved = json.loads((tmp_path / "eval" / "predictions.json").read_text())
    assert len(saved) == 4 and "part_segmentation" in saved[0]


def test_the_evaluator_matches_joints_by_name(registered, small_records):
    truth = json.loads(Path(small_records[0]).read_text())
    evaluator = BodyPartsEvaluator(registered, BODYPARTS_7, JHMDB_15)
    evaluator.reset()
    for annotation in truth["annotations"]:
        instances = perfect_output([annotation])
        source = np.array(JHMDB_15.match(COCO_17))
        joints = instances.pred_keypoints[:, source]
        instances.pred_keypoints = joints
        evaluator.process([{"image_id": annotation["image_id"]}], [{"instances": instances}])
    # All but the nose are joints of J-HMDB, too: 6 of 7 labelled ones are met.
    assert evaluator.evaluate()["keypoints"]["AP50"] == 100


def test_another_part_schema_than_the_datasets_is_refused(registered):
    from detectron2_bodyparts.schema import PASCAL_PERSON_PART

    with pytest.raises(ValueError, match="pascal-person-part.*bodyparts-7"):
        BodyPartsEvaluator(registered, PASCAL_PERSON_PART, COCO_17)


def test_a_missing_dataset_names_the_command_that_makes_it():
    with pytest.raises(FileNotFoundError, match=r"prepare_voc_part\.py --schema bodyparts-7"):
        DatasetCatalog.get("voc_part_val")


def test_detectron2s_own_loader_opens_the_file_and_agrees(small_records):
    from detectron2.data.datasets import load_coco_json

    ours, theirs = load_bodyparts_json(*small_records), load_coco_json(*small_records)
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        assert a["file_name"] == b["file_name"]
        for one, other in zip(a["annotations"], b["annotations"], strict=True):
            for key in ("bbox", "bbox_mode", "keypoints", "segmentation", "iscrowd"):
                assert one[key] == other[key], key


def test_the_mapper_takes_a_plain_coco_dataset(small_cfg, small_records):
    from detectron2.data.datasets import load_coco_json

    instances = BodyPartsMapper(small_cfg)(load_coco_json(*small_records)[0])["instances"]
    assert instances.gt_part_masks.state[0].tolist() == [1] + [0] * 8
    assert (instances.gt_keypoints.tensor[0, :, 2] > 0).sum() == 7


def test_what_is_where_in_a_crowd_of_another_coco_dataset_is_unknown(small_cfg, small_records):
    from detectron2.data.datasets import load_coco_json

    picture = load_coco_json(*small_records)[0]
    picture["annotations"][0]["iscrowd"] = 1
    instances = BodyPartsMapper(small_cfg)(picture)["instances"]
    assert instances.gt_classes.tolist()[0] == -1
    assert not instances.gt_part_masks.state[0].any()


def test_a_run_without_amp_is_resumed_with_it():
    def stepper(kind, **kwargs):
        model = torch.nn.Linear(1, 1)
        return kind(model, [], torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **kwargs)

    before, scaler = stepper(SimpleTrainer), torch.amp.GradScaler("cpu")
    before.iter = 7
    after = stepper(_AMPTrainer, grad_scaler=scaler)
    after.load_state_dict(before.state_dict())
    assert after.iter == 7 and scaler.get_scale() == torch.amp.GradScaler("cpu").get_scale()
    scaler.scale(torch.ones(()))
    scaler.update(512.0)
    again = stepper(_AMPTrainer, grad_scaler=torch.amp.GradScaler("cpu"))
    again.load_state_dict(after.state_dict())
    assert again.grad_scaler.get_scale() == 512
