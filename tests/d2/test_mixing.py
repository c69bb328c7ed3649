"""Training on several datasets at once."""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from detectron2_bodyparts import engine
from detectron2_bodyparts.data import BodyPartsMapper, register_bodyparts_dataset
from detectron2_bodyparts.engine import Trainer
from detectron2_bodyparts.records import Records, write_records
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

from .conftest import HEIGHT, WIDTH, person

PICTURES = {"many": 8, "few": 2}


@pytest.fixture
def mixture(small_cfg, tmp_path):
    """A config that trains on 8 pictures of one dataset and 2 of another, these four times."""
    names = {}
    for kind, count in PICTURES.items():
        records = Records(BODYPARTS_7, COCO_17)
        for i in range(count):
            cv2.imwrite(str(tmp_path / f"{kind}_{i}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
            records.add_image(f"{kind}_{i}.png", HEIGHT, WIDTH, [person("everything")])
        write_records(tmp_path / f"{kind}.json", records)
        names[kind] = f"{tmp_path.name}_{kind}"
        register_bodyparts_dataset(names[kind], tmp_path / f"{kind}.json", tmp_path)
    small_cfg.DATASETS.TRAIN = tuple(names.values())
    small_cfg.DATASETS.TRAIN_REPEAT_FACTOR = [[names["few"], 4.0]]
    small_cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    small_cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    yield small_cfg
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def stream(cfg, num_pictures: int, start_iter: int = 0) -> list[str]:
    """File names of the first pictures a trainer would see."""
    loader = Trainer.build_train_loader(cfg, start_iter)
    pictures = itertools.chain.from_iterable(loader)
    return [p["file_name"].rsplit("/", 1)[-1] for p in itertools.islice(pictures, num_pictures)]


def test_the_weights_are_what_an_epoch_holds(mixture):
    epoch = stream(mixture, 16)
    assert Counter(name.split("_")[0] for name in epoch) == {"many": 8, "few": 8}
    assert Counter(epoch)["few_0.png"] == Counter(epoch)["few_1.png"] == 4


def test_the_order_follows_the_seed_and_nothing_else(mixture):
    first = stream(mixture, 32)
    np.random.seed(99)
    torch.manual_seed(99)
    assert stream(mixture, 32) == first
    mixture.DATALOADER.NUM_WORKERS = 2
    assert stream(mixture, 32) == first
    mixture.SEED += 1
    assert stream(mixture, 32) != first


def test_a_resumed_run_goes_on_where_it_was(mixture):
    assert stream(mixture, 20, start_iter=6) == stream(mixture, 32)[12:]


def test_two_processes_share_one_stream(mixture, monkeypatch):
    whole = stream(mixture, 32)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, value])
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        halves.append(stream(mixture, 16))
    assert [name for pair in zip(*halves, strict=True) for name in pair] == whole


def test_two_processes_augment_differently(mixture, monkeypatch):
    """Their workers count from the loader's seed on."""
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, value])
    arguments = []
    build = engine.build_detection_train_loader
    spy = functools.wraps(build)(lambda **given: arguments.append(given) or build(**given))
    monkeypatch.setattr(engine, "build_detection_train_loader", spy)
    for rank, start in ((0, 0), (1, 0), (0, 1), (1, 1)):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        Trainer.build_train_loader(mixture, start)
    assert len({given["seed"] for given in arguments}) == 4


def test_of_other_datasets_people_are_taken_and_weighted(mixture):
    """A COCO dataset as others register it: no name in its dictionaries, and other classes."""
    name = "of_others"
    pictures = copy.deepcopy(DatasetCatalog.get(mixture.DATASETS.TRAIN[0]))
    for picture in pictures:
        del picture["dataset_name"]
        picture["annotations"][0]["category_id"] = 1
        picture["annotations"] += [{**picture["annotations"][0], "category_id": 2}]
    DatasetCatalog.register(name, lambda: pictures)
    MetadataCatalog.get(name).thing_classes = ["bicycle", "person", "car"]
    mixture.DATASETS.TRAIN = (name,)
    mixture.DATASETS.TRAIN_REPEAT_FACTOR = []
    mixture.DATASETS.TRAIN_LOSS_WEIGHTS = [[name, 0.25]]
    try:
        batch = next(iter(Trainer.build_train_loader(mixture)))
        assert [p["instances"].gt_classes.tolist() for p in batch] == [[0]] * len(batch)
        assert [p["instances"].gt_loss_weights.tolist() for p in batch] == [[0.25]] * len(batch)
        MetadataCatalog.pop(name)
        MetadataCatalog.get(name).thing_classes = ["bicycle", "cow", "car"]
        with pytest.raises(ValueError, match="of_others' has no class 'person'"):
            Trainer.build_train_loader(mixture)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_loss_weights_follow_the_dataset(mixture):
    many, few = mixture.DATASETS.TRAIN
    mixture.DATASETS.TRAIN_LOSS_WEIGHTS = [[few, 0.25]]
    mapper = BodyPartsMapper(mixture)
    for name, weight in ((many, 1.0), (few, 0.25)):
        instances = mapper(DatasetCatalog.get(name)[0])["instances"]
        assert instances.gt_loss_weights.tolist() == [weight]


@pytest.mark.parametrize("key", ["TRAIN_LOSS_WEIGHTS", "TRAIN_REPEAT_FACTOR"])
def test_weights_of_datasets_that_are_not_trained_on_are_refused(mixture, key):
    mixture.DATASETS[key] = [["fewer", 0.25]]
    with pytest.raises(ValueError, match=f"{key}.*fewer"):
        BodyPartsMapper(mixture)
