"""COCO datasets as others register them: other classes, other joints, or none."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.data import register_bodyparts_dataset
from detectron2_bodyparts.data.registered import joints_of, registered_records
from detectron2_bodyparts.engine import Trainer, folder_of
from detectron2_bodyparts.records import Records, person_annotation, write_records
from detectron2_bodyparts.schema import COCO_17, PartSchema

# Right before left, and one that the model does not have; names that are in another order.
JOINTS = ["right_wrist", "left_wrist", "belly", "nose"]
POINTS = {"right_wrist": (44, 33), "left_wrist": (65, 33), "belly": (55, 40), "nose": (54, 14)}
BOX = (40, 10, 30, 76)  # XYWH
DOG = (90, 60, 30, 30)


def annotation(class_id: int, box: tuple, **more) -> dict:
    x, y, w, h = box
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    numbers = {"image_id": 7, "category_id": class_id, "bbox": list(box), "area": w * h}
    return {**numbers, "iscrowd": 0, "segmentation": [outline], **more}


@pytest.fixture(params=["with joints", "without joints"])
def name(request, tmp_path):
    """A dataset of a dog and a person on one picture, whose id is 7; the dog comes first."""
    cv2.imwrite(str(tmp_path / "7.png"), np.full((96, 128, 3), 90, np.uint8))
    joints = {}
    if request.param == "with joints":
        points = [(*np.subtract(POINTS[joint], 0.5), 2) for joint in JOINTS]
        joints = {"keypoints": np.ravel(points).tolist(), "num_keypoints": 4}
    annotations = [annotation(1, DOG), annotation(2, BOX, **joints)]
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": 96, "width": 128}],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "person"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    name = f"other_{tmp_path.name}"
    register_coco_instances(name, {}, str(tmp_path / "coco.json"), str(tmp_path))
    if joints:
        MetadataCatalog.get(name).keypoint_names = JOINTS
        MetadataCatalog.get(name).keypoint_flip_map = [("right_wrist", "left_wrist")]
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def found(x: int, y: int, w: int, h: int) -> Instances:
    """What a model of COCO's joints gives that finds the box, filled, and the joints."""
    instances = Instances((96, 128))
    instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32))
    instances.scores = torch.ones(1)
    instances.pred_classes = torch.zeros(1, dtype=torch.int64)
    instances.pred_part_masks = torch.zeros(1, 7, 112, 112)
    instances.pred_part_masks[:, 0] = 1
    instances.pred_keypoints = torch.zeros(1, 17, 3)
    for joint in set(JOINTS) - {"belly"}:
        place = torch.tensor([*POINTS[joint], 1])
        instances.pred_keypoints[0, COCO_17.keypoints.index(joint)] = place
    return instances


def test_it_trains_on_people_and_on_joints_by_their_names(small_cfg, name):
    small_cfg.DATASETS.TRAIN = (name,)
    small_cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    small_cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    small_cfg.INPUT.RANDOM_FLIP = "none"
    instances = next(iter(Trainer.build_train_loader(small_cfg)))[0]["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[40, 10, 70, 86]]
    expected = torch.zeros(17, 3)
    if MetadataCatalog.get(name).get("keypoint_names"):
        for joint in set(JOINTS) - {"belly"}:
            place = torch.tensor([*POINTS[joint], 2])
            expected[COCO_17.keypoints.index(joint)] = place
    assert torch.equal(instances.gt_keypoints.tensor[0], expected)


def test_a_perfect_model_gets_all_and_one_that_finds_the_dog_nothing(small_cfg, name):
    evaluator = Trainer.build_evaluator(small_cfg, name)

    def evaluate(instances: Instances) -> dict:
        evaluator.reset()
        evaluator.process([{"image_id": 7}], [{"instances": instances}])
        return evaluator.evaluate()

    results = evaluate(found(*BOX))
    assert results["bbox"]["AP"] == results["body"]["AP"] == pytest.approx(100)
    assert np.isnan(results["parts"]["AP"])
    if MetadataCatalog.get(name).get("keypoint_names"):
        # Three of four: the model has no belly.
        assert results["keypoints"]["AP50"] == pytest.approx(100)
    else:
        assert np.isnan(results["keypoints"]["AP"])
    assert np.isnan(results["parsing"]["mIoU"])  # nothing is known of parts
    assert evaluate(found(*DOG))["bbox"]["AP"] == 0


def test_a_crowd_without_a_mask_is_its_box(small_cfg, name):
    """As some datasets have them; nothing that is found there counts."""
    with open(MetadataCatalog.get(name).json_file) as f:
        content = json.load(f)
    crowd = annotation(2, DOG, iscrowd=1, id=3)
    del crowd["segmentation"]
    content["annotations"].append(crowd)
    with open(MetadataCatalog.get(name).json_file, "w") as f:
        json.dump(content, f)
    evaluator = Trainer.build_evaluator(small_cfg, name)
    evaluator.reset()
    both = Instances.cat([found(*BOX), found(*DOG)])
    both.scores = torch.tensor([0.8, 0.9])
    evaluator.process([{"image_id": 7}], [{"instances": both}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["body"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("names", "pairs", "message"),
    [
        (["l_wrist", "r_wrist"], [], "'l_wrist': sides are written"),
        (["wristL", "wristR"], [("wristL", "wristR")], r"has \('wristL', 'wristR'\)"),
    ],
)
def test_sides_that_are_called_otherwise_are_refused(names, pairs, message):
    """They would not be exchanged where a picture is mirrored."""
    metadata = MetadataCatalog.get("sides of another kind")
    metadata.set(keypoint_names=names, keypoint_flip_map=pairs)
    with pytest.raises(ValueError, match=message):
        joints_of("sides of another kind")
    MetadataCatalog.remove("sides of another kind")


def test_files_of_one_name_have_results_of_their_own(small_cfg):
    names = ("a/val.json", "b/val.json", "c/test.json")
    small_cfg.DATASETS.TEST = names
    folders = [folder_of(small_cfg, name, "inference") for name in (*names, "d/val.json")]
    assert [Path(f).name for f in folders] == ["val_1", "val_2", "test", "val"]


def test_records_keep_the_pictures_numbers_and_cocos_areas(name):
    records = registered_records(name)
    assert [image["id"] for image in records.images] == [7]
    (person,) = records.annotations
    assert (person["image_id"], person["area"]) == (7, 30 * 76)


@pytest.fixture
def gloves(tmp_path):
    """A file of records of one picture, in a schema that is registered nowhere."""
    schema = PartSchema(f"gloves of {tmp_path.name}", ("body", "right_glove", "left_glove"))
    body = np.zeros((96, 128), bool)
    body[10:86, 40:70] = True
    records = Records(schema, COCO_17)
    person = person_annotation(schema, COCO_17, (96, 128), body=body, parts={"left_glove": body})
    records.add_image("pictures/1.png", 96, 128, [person])
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "1.png"), np.full((96, 128, 3), 90, np.uint8))
    path = str(tmp_path / "gloves.json")
    write_records(path, records)
    yield path
    for name in {path, "gloves_of_another_schema"} & set(DatasetCatalog.list()):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_file_of_records_is_a_dataset_and_brings_its_schema(small_cfg, gloves, tmp_path):
    schema = f"gloves of {tmp_path.name}"
    config = tmp_path / "config.yaml"
    small_cfg.DATASETS.TRAIN = small_cfg.DATASETS.TEST = (gloves,)
    small_cfg.MODEL.BODYPARTS.PART_SCHEMA = schema
    small_cfg.OUTPUT_DIR = str(tmp_path / "output")
    config.write_text(small_cfg.dump())
    for _ in range(2):  # the second time it is registered already
        cfg = load_config(str(config))
    model = Trainer.build_model(cfg)
    assert model.roi_heads.mask_head.part_schema.name == schema
    (batch,) = (next(iter(Trainer.build_train_loader(cfg))),)
    assert len(batch[0]["instances"].gt_part_masks) == 1
    results = Trainer.test(cfg, model.eval())
    assert {"bbox", "body", "parts"} <= set(results)
    folder = tmp_path / "output" / "inference" / "gloves"
    assert [p.name for p in folder.iterdir()] == ["predictions.json"]


def test_a_dataset_that_is_of_another_schema_than_was_said_is_refused(gloves, tmp_path):
    register_bodyparts_dataset("gloves_of_another_schema", gloves, tmp_path)
    with pytest.raises(ValueError, match="part_schema 'bodyparts-7', but of 'gloves of"):
        DatasetCatalog.get("gloves_of_another_schema")
