from __future__ import annotations

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.readers.coco import (
    PeopleTable,
    annotation_files,
    prepare_coco,
    read_image,
)
from detectron2_bodyparts.records import (
    RecordError,
    decode_mask,
    encode_mask,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17, PASCAL_PERSON_PART

from .conftest import rectangle

SPLIT = "train2017"
SHAPE = (20, 30)
block = partial(rectangle, SHAPE)
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]


def run_lengths(mask):
    """Uncompressed, as COCO has crowds: column by column, zeros first."""
    values = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *changes, len(values)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if values[0] else counts}


def joints(**points):
    """COCO's list of 51 numbers. ``left_eye=(x, y, v)``."""
    return [float(v) for name in COCO_17.keypoints for v in points.get(name, (0, 0, 0))]


FACE = joints(nose=(6, 5, 2), left_eye=(8, 4, 1))
SQUARE = [[2, 3, 10, 3, 10, 15, 2, 15]]


def person(number, image_id=1, **changes):
    annotation = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "area": 96.0,
        "bbox": [2, 3, 8, 12],
        "segmentation": SQUARE,
    }
    return {**annotation, **changes}


def write_annotations(root, kind, annotations, names=("a.jpg",), categories=CATEGORIES):
    path = root / "annotations" / f"{kind}_{SPLIT}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"id": i, "file_name": name, "height": SHAPE[0], "width": SHAPE[1], "license": 3}
        for i, name in enumerate(names, start=1)
    ]
    content = {"info": {"year": 2017}, "images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": categories}))
    return path


def write_pictures(root, names=("a.jpg",)):
    (root / SPLIT).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        image = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
        cv2.imwrite(str(root / SPLIT / name), image)


def only_picture(root, annotations=None, **options):
    """The shard of a dataset of one picture, with these instances if they are given."""
    if annotations is not None:
        write_annotations(root, "instances", annotations)
    write_pictures(root)
    table = PeopleTable(root / "people.sqlite")
    table.path.unlink(missing_ok=True)
    for path in annotation_files(root, SPLIT):
        table.add(path)
    schema = options.pop("schema", BODYPARTS_7)
    shard = read_image("a.jpg", root, SPLIT, table, schema, **options)
    (picture,) = shard.pictures
    return picture, shard.left_out


# ------------------------------------------------------------ people


def test_a_person_by_hand(tmp_path):
    write_annotations(tmp_path, "instances", [person(7)])
    write_annotations(tmp_path, "person_keypoints", [person(7, keypoints=FACE, num_keypoints=2)])
    picture, left_out = only_picture(tmp_path)
    assert (picture.file_name, picture.height, picture.width) == (f"{SPLIT}/a.jpg", *SHAPE)
    assert picture.exhaustive and left_out == []
    (annotation,) = picture.annotations
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), block(3, 15, 2, 10))
    assert annotation["bbox"] == [2, 3, 8, 12] and annotation["area"] == 96
    assert annotation["keypoints"] == FACE and annotation["num_keypoints"] == 2
    assert annotation["part_state"] == {"body": "known"} and annotation["part_segmentation"] == {}


def test_one_of_both_files_suffices(tmp_path):
    for kind, expected in (("instances", 0), ("person_keypoints", 2)):
        root = tmp_path / kind
        write_annotations(root, kind, [person(7, **({"keypoints": FACE} if expected else {}))])
        (annotation,) = only_picture(root)[0].annotations
        assert annotation["num_keypoints"] == expected
        assert decode_mask(annotation["segmentation"]).sum() == 96


def test_joints_are_joined_by_id(tmp_path):
    other = [[12, 3, 20, 3, 20, 15, 12, 15]]
    write_annotations(tmp_path, "instances", [person(7), person(8, segmentation=other)])
    keypoints = [
        # The mask here is another one on purpose: the instances' counts.
        person(8, keypoints=FACE, segmentation=[[0, 0, 5, 0, 5, 5, 0, 5]]),
        person(7, image_id=2, keypoints=FACE),  # of another picture: not this person's joints
        person(9, keypoints=joints(), segmentation=[[22, 3, 28, 3, 28, 9, 22, 9]]),
    ]
    write_annotations(tmp_path, "person_keypoints", keypoints)
    people = only_picture(tmp_path)[0].annotations
    assert [p["num_keypoints"] for p in people] == [0, 2, 0]
    assert [p["bbox"][0] for p in people] == [2, 12, 22]


def test_no_labelled_joint_is_unknown_joints(tmp_path):
    write_annotations(tmp_path, "person_keypoints", [person(7, keypoints=joints())])
    picture, left_out = only_picture(tmp_path, derive=True)
    (annotation,) = picture.annotations
    assert annotation["keypoints"] == [0] * 51 and annotation["num_keypoints"] == 0
    assert annotation["part_state"] == {"body": "known"}
    assert "ignore_segmentation" not in annotation and left_out == []


def test_crowds_are_regions_to_ignore(tmp_path):
    for mask in (block(2, 9, 5, 21), block(0, 3, 0, 4)):  # the second starts with a pixel
        crowd = person(7, iscrowd=1, segmentation=run_lengths(mask), keypoints=joints())
        picture, _ = only_picture(tmp_path, [person(3), crowd])
        one, many = picture.annotations
        assert (one["iscrowd"], many["iscrowd"]) == (0, 1) and picture.exhaustive
        np.testing.assert_array_equal(decode_mask(many["segmentation"]), mask)
        assert many["part_state"] == {}


def test_compressed_run_lengths(tmp_path):
    mask = block(4, 6, 1, 29)
    picture, _ = only_picture(tmp_path, [person(7, segmentation=encode_mask(mask))])
    np.testing.assert_array_equal(decode_mask(picture.annotations[0]["segmentation"]), mask)


def test_only_people_are_read(tmp_path):
    picture, left_out = only_picture(tmp_path, [person(7, category_id=18), person(8)])
    assert len(picture.annotations) == 1 and left_out == []
    picture, _ = only_picture(tmp_path, [person(7, category_id=18)])
    assert picture.annotations == [] and picture.exhaustive


# ------------------------------------------------------------ bad annotations

NAN = float("nan")
BAD_MASKS = {
    "none": None,
    "no polygon": [],
    "a box": [[2, 3, 8, 12]],
    "odd": [[2, 3, 10, 3, 10, 15, 2]],
    "text": [["2", 3, 10, 3, 10, 15]],
    "nan": [[2, 3, NAN, 3, 10, 15]],
    "a number": [5],
    "outside": [[50, 3, 60, 3, 60, 15, 50, 15]],
    "other size": {"size": [30, 20], "counts": [600]},
    "short": {"size": [20, 30], "counts": [100, 20]},
    "negative": {"size": [20, 30], "counts": [100, -20, 520]},
    "no counts": {"size": [20, 30]},
    "empty": {"size": [20, 30], "counts": [600]},
}


@pytest.mark.parametrize("segmentation", BAD_MASKS.values(), ids=BAD_MASKS)
def test_an_unusable_mask_leaves_box_and_joints(tmp_path, segmentation):
    bad = person(7, segmentation=segmentation, bbox=[-2, 3, 10, 12], keypoints=FACE)
    picture, left_out = only_picture(tmp_path, [bad, person(8)], derive=True)
    annotation, good = picture.annotations
    assert "segmentation" not in annotation and annotation["part_state"] == {}
    assert annotation["bbox"] == [0, 3, 8, 12] and annotation["num_keypoints"] == 2
    assert [note.where for note in left_out] == [f"{SPLIT}/a.jpg, annotation 7"]
    assert picture.exhaustive and "segmentation" in good


@pytest.mark.parametrize("box", [None, [], [1, 2, 3], [2, 3, 0, 12], [40, 3, 8, 8], [2, 3, NAN, 1]])
def test_a_person_without_mask_and_box(tmp_path, box):
    """Is left out, but the place is not background."""
    picture, left_out = only_picture(tmp_path, [person(7, segmentation=[], bbox=box), person(8)])
    assert len(picture.annotations) == 1 and not picture.exhaustive
    assert [note.where for note in left_out] == [f"{SPLIT}/a.jpg, annotation 7"]


def test_a_crowd_without_a_mask(tmp_path):
    crowd = person(7, iscrowd=1, segmentation={"size": [20, 30], "counts": [5]})
    picture, left_out = only_picture(tmp_path, [crowd])
    assert picture.annotations == [] and not picture.exhaustive and len(left_out) == 1


@pytest.mark.parametrize(
    "keypoints", [FACE[:-3], [*FACE[:-1], 3], [*FACE[:-2], NAN, 0], ["1"] * 51, 5]
)
def test_unusable_joints_are_unknown(tmp_path, keypoints):
    picture, left_out = only_picture(tmp_path, [person(7, keypoints=keypoints)])
    (annotation,) = picture.annotations
    assert annotation["num_keypoints"] == 0 and annotation["part_state"] == {"body": "known"}
    assert [note.where for note in left_out] == [f"{SPLIT}/a.jpg, annotation 7"]


def test_unusable_files(tmp_path):
    path = write_annotations(tmp_path, "instances", [person(7)])
    table = PeopleTable(tmp_path / "people.sqlite")
    text = path.read_text()
    other_joints = [{"id": 1, "name": "person", "keypoints": list(COCO_17.keypoints[::-1])}]
    contents = [
        "",
        text[: len(text) // 2],
        text[:-1],
        "[]",
        "{}",
        json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}),
        json.dumps({"images": [], "annotations": [], "categories": other_joints}),
        json.dumps({"annotations": [{"image_id": 1, "category_id": 1}], "categories": CATEGORIES}),
    ]
    for content in contents:
        path.write_text(content)
        with pytest.raises(RecordError, match="instances_train2017.json: expected COCO's JSON"):
            table.add(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="instances_train2017.json"):
        table.add(path)


# ------------------------------------------------------------ derived parts

ARMLESS = joints(
    nose=(10, 2, 2),
    right_shoulder=(6, 6, 2),
    left_shoulder=(14, 6, 2),
    right_hip=(7, 12, 2),
    left_hip=(13, 12, 2),
)


def test_derived_parts_are_marked(tmp_path):
    body = block(0, 20, 2, 20)
    someone = person(7, segmentation=encode_mask(body), keypoints=ARMLESS)
    picture, _ = only_picture(tmp_path, [someone], derive=True)
    (annotation,) = picture.annotations
    states = {"body": "known", "head": "derived", "torso": "derived"}
    assert annotation["part_state"] == states
    masks = {k: decode_mask(v) for k, v in annotation["part_segmentation"].items()}
    assert masks["head"][2, 10] and masks["torso"][9, 10]
    ignored = decode_mask(annotation["ignore_segmentation"])
    np.testing.assert_array_equal(masks["head"] | masks["torso"] | ignored, body)
    assert ignored[19, 10]  # below the hips: legs, unlabelled


def test_without_the_option_nothing_is_derived(tmp_path):
    picture, _ = only_picture(tmp_path, [person(7, keypoints=ARMLESS)])
    (annotation,) = picture.annotations
    assert annotation["part_state"] == {"body": "known"} and annotation["part_segmentation"] == {}
    assert "ignore_segmentation" not in annotation


# ------------------------------------------------------------ pictures, splits and files


@pytest.fixture
def dataset(tmp_path):
    names = ("d.jpg", "b.jpg", "a.jpg", "c.jpg")
    people = [person(7, 1), person(8, 2, keypoints=ARMLESS), person(9, 3, category_id=18)]
    crowd = person(10, 4, iscrowd=1, segmentation=run_lengths(block(1, 5, 1, 5)))
    write_annotations(tmp_path, "instances", [*people, crowd], names)
    write_pictures(tmp_path, names)
    return tmp_path


def file_names(root, split=SPLIT):
    path = root / f"coco_{split}.bodyparts-7.json"
    return [Path(image["file_name"]).name for image in read_records(path).images]


def test_pictures_without_people_are_kept(dataset):
    summary = prepare_coco(dataset, SPLIT, BODYPARTS_7)
    assert (summary.pictures, summary.people, summary.ignore_regions) == (4, 2, 1)
    assert file_names(dataset) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    records = read_records(dataset / "coco_train2017.bodyparts-7.json")
    assert validate_records(records, dataset) == []
    assert records.info["people_only"] is False and records.info["parts"] == "unknown"
    assert not [p.name for p in dataset.iterdir() if p.name.startswith(".")]


def test_people_only(dataset):
    prepare_coco(dataset, SPLIT, BODYPARTS_7, people_only=True)
    assert file_names(dataset) == ["b.jpg", "c.jpg", "d.jpg"]
    records = read_records(dataset / "coco_train2017.bodyparts-7.json")
    assert records.info["people_only"] is True


def test_limit(dataset):
    prepare_coco(dataset, SPLIT, BODYPARTS_7, limit=2)
    assert file_names(dataset) == ["a.jpg", "b.jpg"]


def test_the_name_tells_that_parts_are_derived(dataset):
    prepare_coco(dataset, SPLIT, BODYPARTS_7, derive=True)
    assert not (dataset / "coco_train2017.bodyparts-7.json").exists()
    records = read_records(dataset / "coco_train2017_derived.bodyparts-7.json")
    assert validate_records(records, dataset) == [] and records.info["parts"] == "derived"
    assert sum("torso" in a["part_state"] for a in records.annotations) == 1


def test_a_missing_picture_is_named(dataset):
    (dataset / SPLIT / "b.jpg").unlink()
    summary = prepare_coco(dataset, SPLIT, BODYPARTS_7)
    assert file_names(dataset) == ["a.jpg", "c.jpg", "d.jpg"]
    assert "b.jpg" in str(summary) and "no file" in str(summary)


def test_pictures_are_checked_if_asked(dataset):
    path = dataset / SPLIT / "b.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(dataset / SPLIT / "c.jpg"), np.zeros((20, 31, 3), np.uint8))
    assert prepare_coco(dataset, SPLIT, BODYPARTS_7).left_out == []
    summary = prepare_coco(dataset, SPLIT, BODYPARTS_7, check_pictures=True)
    assert file_names(dataset) == ["a.jpg", "d.jpg"]
    assert [Path(one.where).name for one in summary.left_out] == ["b.jpg", "c.jpg"]


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="instances_val2017.json.*README"):
        prepare_coco(tmp_path / "nowhere", "val2017", BODYPARTS_7)


def test_no_picture_there(dataset):
    shutil.rmtree(dataset / SPLIT)
    with pytest.raises(RecordError, match="a.jpg"):
        prepare_coco(dataset, SPLIT, BODYPARTS_7)


def test_a_table_goes_to_other_processes(tmp_path):
    folder = tmp_path / "with space # and %41"
    folder.mkdir()
    table = PeopleTable(folder / "people.sqlite")
    table.add(write_annotations(tmp_path, "instances", [person(7)]))
    copy = pickle.loads(pickle.dumps(table))
    assert copy.names() == ["a.jpg"] and copy.picture("a.jpg")[0] == SHAPE


def test_script(run_script, dataset, capsys):
    arguments = ("--root", dataset, "--split", SPLIT, "--workers", 1)
    for more in ((), ("--derive-parts", "--schema", "bodyparts-11", "pascal-person-part")):
        run_script("prepare_coco.py", *arguments, *more)
    assert sorted(path.name for path in dataset.glob("*.json")) == [
        "coco_train2017.bodyparts-7.json",
        "coco_train2017_derived.bodyparts-11.json",
        "coco_train2017_derived.pascal-person-part.json",
    ]
    assert capsys.readouterr().out.count("pictures") == 3
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script("prepare_coco.py", "--root", dataset / "nowhere")


# ------------------------------------------------------------ real files

REAL = {
    "samples/tiny_coco": (50, 26, 96, 57, 3),
    "data/coco_mini": (80, 36, 167, 86, 5),
}


@pytest.fixture(params=REAL)
def real(request, shared_dir, tmp_path):
    root = tmp_path / "coco"
    source = shared_dir / request.param
    root.mkdir()
    for name in ("annotations", SPLIT):
        os.symlink(source / name, root / name)
    return root, REAL[request.param]


def test_real_files_hold_what_pycocotools_finds(real):
    root, (pictures, with_people, people, with_joints, crowds) = real
    summary = prepare_coco(root, SPLIT, BODYPARTS_7, check_pictures=True)
    assert summary.left_out == [] and summary.ignore_regions == crowds
    assert (summary.pictures, summary.pictures_with_people) == (pictures, with_people)
    assert (summary.people, summary.people_with_joints) == (people, with_joints)

    path = root / "coco_train2017.bodyparts-7.json"
    records = read_records(path)
    assert validate_records(records, root) == []
    ours, theirs = COCO(str(path)), COCO(str(annotation_files(root, SPLIT)[1]))
    by_name = {Path(i["file_name"]).name: i["id"] for i in ours.dataset["images"]}
    compared = 0
    for image in theirs.dataset["images"]:
        expected = theirs.imgToAnns[image["id"]]
        found = ours.imgToAnns[by_name[image["file_name"]]]
        assert len(found) == len(expected)
        for a, b in zip(found, sorted(expected, key=lambda a: a["id"]), strict=True):
            np.testing.assert_array_equal(ours.annToMask(a), theirs.annToMask(b))
            assert a["iscrowd"] == b["iscrowd"] and a["num_keypoints"] == b["num_keypoints"]
            assert a["keypoints"] == b["keypoints"]
            compared += 1
    assert compared == people + crowds


@pytest.mark.parametrize("real", list(REAL)[:1], indirect=True)
@pytest.mark.parametrize(
    "schema", [BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART], ids=lambda s: s.name
)
def test_real_files_derived(real, schema):
    root, (_, _, people, with_joints, _) = real
    summary = prepare_coco(root, SPLIT, schema, derive=True)
    records = read_records(root / f"coco_train2017_derived.{schema.name}.json")
    assert validate_records(records, root) == []
    for part in schema.parts:
        assert summary.states[part, "known"] == 0
        assert 0.2 * with_joints < summary.states[part, "derived"] <= with_joints
    assert summary.states["body", "known"] == people
