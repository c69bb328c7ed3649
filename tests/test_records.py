from __future__ import annotations

import contextlib
import copy
import io
import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.records import (
    RecordError,
    Records,
    decode_mask,
    decode_segmentation,
    encode_mask,
    ignore_annotation,
    label_map,
    mask_box,
    person_annotation,
    read_records,
    stream_records,
    validate_records,
    write_json,
    write_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, KeypointSchema, PartSchema

SHAPE = (6, 8)


def block(y0, y1, x0, x1, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def joints(**named):
    points = np.zeros((17, 3))
    for name, point in named.items():
        points[COCO_17.keypoints.index(name)] = point
    return points


def person(**kwargs):
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **kwargs)


def full_person():
    """A body of rows 1..4, columns 2..6, with an arm across the torso, joints and a known gap."""
    return person(
        body=block(1, 5, 2, 7),
        parts={"torso": block(1, 5, 2, 5), "right_arm": block(2, 3, 1, 6)},
        states={"body": "known", "torso": "known", "right_arm": "derived", "head": "known"},
        keypoints=joints(nose=(3.5, 1.25, 2), left_hip=(4, 4, 1)),
    )


def two_pictures():
    records = Records(BODYPARTS_7, COCO_17, info={"split": "train"})
    crowd = ignore_annotation(COCO_17, SHAPE, block(0, 2, 0, 2))
    records.add_image("a.jpg", *SHAPE, [full_person(), crowd])
    records.add_image("b.jpg", *SHAPE, [], exhaustive=False, frame=7)
    return records


# ------------------------------------------------------------ masks


@pytest.mark.parametrize(
    "mask", [block(1, 3, 2, 5), np.zeros(SHAPE, bool), np.ones(SHAPE, bool)], ids=str
)
def test_masks_survive(mask):
    rle = json.loads(json.dumps(encode_mask(mask)))
    assert rle["size"] == list(SHAPE)
    np.testing.assert_array_equal(decode_mask(rle), mask)
    np.testing.assert_array_equal(decode_segmentation(rle, *SHAPE), mask)


def test_uncompressed_rle_and_polygons():
    # Column by column: 13 zeros, 2 ones, 4 zeros, 2 ones, 27 zeros = rows 1, 2 of columns 2, 3.
    rle = {"size": list(SHAPE), "counts": [13, 2, 4, 2, 27]}
    np.testing.assert_array_equal(decode_mask(rle), block(1, 3, 2, 4))
    two = [[1, 1, 4, 1, 4, 3, 1, 3], [5, 4, 7, 4, 7, 6, 5, 6]]
    expected = block(1, 3, 1, 4) | block(4, 6, 5, 7)
    np.testing.assert_array_equal(decode_segmentation(two, *SHAPE), expected)


def test_encode_wants_two_dimensions():
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        encode_mask(np.zeros((1, 2, 3), bool))


def test_mask_box():
    assert mask_box(block(1, 3, 2, 5)) == (2, 1, 5, 3)
    assert mask_box(block(0, 1, 0, 1) | block(5, 6, 7, 8)) == (0, 0, 8, 6)
    assert mask_box(np.zeros(SHAPE, bool)) is None


def test_label_map_puts_arms_before_the_torso():
    parts = {
        "left_arm": block(0, 2, 0, 3),
        "head": block(0, 3, 0, 1),
        "torso": block(0, 6, 0, 8),
        "left_leg": block(1, 6, 0, 2),
    }
    expected = np.full(SHAPE, 2)
    expected[:3, 0] = 1
    expected[1:, :2] = 6
    expected[:2, :3] = 4
    labels = label_map(parts, BODYPARTS_7, SHAPE)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_label_map_errors():
    with pytest.raises(ValueError, match="'arm'"):
        label_map({"arm": block(0, 1, 0, 1)}, BODYPARTS_7, SHAPE)
    with pytest.raises(ValueError, match="'body'"):
        label_map({"body": block(0, 1, 0, 1)}, BODYPARTS_7, SHAPE)
    with pytest.raises(ValueError, match="mask of head"):
        label_map({"head": np.zeros((3, 3), bool)}, BODYPARTS_7, SHAPE)


# ------------------------------------------------------------ one person


def test_a_person_by_hand():
    annotation = full_person()
    assert annotation["bbox"] == [2, 1, 5, 4]
    assert annotation["area"] == 20
    assert annotation["iscrowd"] == 0 and annotation["category_id"] == 1
    masks = {k: decode_mask(v) for k, v in annotation["part_segmentation"].items()}
    assert sorted(masks) == ["right_arm", "torso"]
    # The arm is cut at the body's edge and cut out of the torso.
    np.testing.assert_array_equal(masks["right_arm"], block(2, 3, 2, 6))
    np.testing.assert_array_equal(masks["torso"], block(1, 5, 2, 5) & ~block(2, 3, 2, 6))
    assert annotation["part_state"]["right_arm"] == "derived"
    assert annotation["num_keypoints"] == 2
    assert annotation["keypoints"][:3] == [3.5, 1.25, 2]
    assert annotation["keypoints"][33:36] == [4, 4, 1]
    assert "unsided" not in annotation and "ignore_segmentation" not in annotation
    assert validate_records(two_pictures()) == []


def test_unknown_is_not_known_to_be_empty():
    body = block(0, 6, 0, 8)
    plain = person(body=body, parts={"head": block(0, 2, 0, 8)})
    assert plain["part_state"] == {"body": "known", "head": "known"}
    empty = person(body=body, parts={"head": np.zeros(SHAPE, bool)})
    assert empty["part_segmentation"] == {} and empty["part_state"]["head"] == "known"
    listed = person(body=body, states={"body": "known", "torso": "known"})
    assert listed["part_segmentation"] == {} and "head" not in listed["part_state"]


def test_a_covered_part_has_no_mask_left():
    hidden = person(
        body=block(0, 6, 0, 8),
        parts={"torso": block(2, 4, 2, 4), "left_arm": block(1, 5, 1, 5)},
    )
    assert list(hidden["part_segmentation"]) == ["left_arm"]
    assert hidden["part_state"]["torso"] == "known"


def test_unsided_parts_take_what_is_free():
    annotation = person(
        body=block(0, 6, 0, 6),
        parts={"right_arm": block(0, 2, 0, 2)},
        unsided={"arm": block(0, 4, 0, 8)},
    )
    assert annotation["part_state"]["arm"] == "known"
    free = block(0, 4, 0, 6) & ~block(0, 2, 0, 2)
    np.testing.assert_array_equal(decode_mask(annotation["unsided"]["arm"]), free)


def test_ignored_pixels():
    ignore = block(4, 6, 0, 8)
    kept = person(body=block(0, 6, 0, 8), ignore=ignore)
    np.testing.assert_array_equal(decode_mask(kept["ignore_segmentation"]), ignore)
    assert "ignore_segmentation" not in person(body=ignore, ignore=np.zeros(SHAPE, bool))


def test_box_where_the_body_is_unknown():
    given = person(bbox=(1, 2, 3, 2.5), keypoints=joints(nose=(0, 0, 2)))
    assert given["bbox"] == [1, 2, 3, 2.5] and given["area"] == 7.5
    assert "segmentation" not in given and given["part_state"] == {}
    # Pixels 2..4 by 3..3: a hull 3 wide and 1 high, a margin of 0.3.
    hull = person(keypoints=joints(nose=(2, 3, 2), left_eye=(4, 3, 1), right_eye=(7, 5, 0)))
    assert hull["bbox"] == [1.7, 2.7, 3.6, 1.6]
    # At the border the margin is cut.
    corner = person(keypoints=joints(nose=(0, 0, 2), left_eye=(7, 5, 2)))
    assert corner["bbox"] == [0, 0, 8, 6]


def test_the_body_gives_the_box_even_where_another_is_given():
    assert person(body=block(1, 2, 3, 4), bbox=(0, 0, 8, 6))["bbox"] == [3, 1, 1, 1]


def test_unlabelled_joints_keep_no_coordinates():
    annotation = person(body=block(0, 1, 0, 1), keypoints=joints(nose=(5, 5, 0)))
    assert annotation["keypoints"] == [0] * 51 and annotation["num_keypoints"] == 0


def test_nothing_to_go_by():
    with pytest.raises(ValueError, match="body mask is empty"):
        person(body=np.zeros(SHAPE, bool))
    with pytest.raises(ValueError, match="nothing gives a box"):
        person(keypoints=joints(nose=(1, 1, 0)))


def test_ignore_annotation():
    mask = block(2, 5, 1, 4)
    region = ignore_annotation(COCO_17, SHAPE, mask)
    assert region["iscrowd"] == 1 and region["bbox"] == [1, 2, 3, 3] and region["area"] == 9
    assert region["part_state"] == {} and region["num_keypoints"] == 0
    np.testing.assert_array_equal(decode_mask(region["segmentation"]), mask)


# ------------------------------------------------------------ files


def test_ids_count_from_one():
    records = two_pictures()
    assert [image["id"] for image in records.images] == [1, 2]
    assert [(a["id"], a["image_id"]) for a in records.annotations] == [(1, 1), (2, 1)]
    groups = records.by_image()
    assert [len(groups[i]) for i in (1, 2)] == [2, 0]
    assert records.images[1]["frame"] == 7 and records.images[1]["exhaustive"] is False


def test_round_trip_through_pycocotools(tmp_path):
    records = two_pictures()
    path = tmp_path / "new" / "records.json"
    write_records(path, records)

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert coco.getImgIds() == [1, 2] and coco.getCatIds() == [1]
    np.testing.assert_array_equal(coco.annToMask(coco.anns[1]), block(1, 5, 2, 7))
    category = coco.cats[1]
    assert category["name"] == "person" and category["keypoints"][0] == "nose"
    # COCO counts the joints of a skeleton from 1.
    assert [16, 14] in category["skeleton"] or [14, 16] in category["skeleton"]
    assert min(j for bone in category["skeleton"] for j in bone) == 1

    again = read_records(path)
    assert again.images == records.images and again.annotations == records.annotations
    assert again.part_schema is BODYPARTS_7 and again.keypoint_schema is COCO_17
    assert again.info["split"] == "train"
    write_records(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_scores_are_kept(tmp_path):
    records = two_pictures()
    for annotation, score in zip(records.annotations, (0.25, 1), strict=True):
        annotation["score"] = score
    assert validate_records(records) == []
    write_records(tmp_path / "records.json", records)
    again = read_records(tmp_path / "records.json")
    assert [annotation["score"] for annotation in again.annotations] == [0.25, 1]


def test_streamed_records_are_the_same(tmp_path):
    records = two_pictures()
    groups = records.by_image()
    without_ids = [
        {key: value for key, value in image.items() if key != "id"}
        | {
            "annotations": [
                {key: value for key, value in a.items() if key not in ("id", "image_id")}
                for a in groups[image["id"]]
            ]
        }
        for image in records.images
    ]
    path = tmp_path / "records.json"
    schemas = records.part_schema, records.keypoint_schema
    stream_records(path, *schemas, iter(without_ids), records.info)
    again = read_records(path)
    assert again.images == records.images and again.annotations == records.annotations
    assert again.to_dict() == records.to_dict()
    stream_records(path, *schemas, [])
    assert read_records(path).images == []


def test_a_stream_that_breaks_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.json"
    write_records(path, two_pictures())
    before = path.read_bytes()

    def breaks():
        yield {"file_name": "a.jpg", "height": 4, "width": 4, "annotations": []}
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stream_records(path, BODYPARTS_7, COCO_17, breaks())
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "content.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["content.json"]


def test_read_errors(tmp_path):
    path = tmp_path / "records.json"
    with pytest.raises(FileNotFoundError):
        read_records(path)

    def fails(content, message):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(RecordError, match=message) as error:
            read_records(path)
        assert str(path) in str(error.value)

    fails('{"images": [', "not JSON")
    fails([1], "found other JSON")
    fails({"images": [], "annotations": []}, "found other JSON")
    good = two_pictures().to_dict()
    for key, value, message in (
        ("version", 99, "expected version 1, found 99"),
        ("channels", ["body", "head"], "was written with"),
    ):
        fails({**good, "info": {**good["info"], key: value}}, message)
    (person,) = good["categories"]
    fails({k: v for k, v in good.items() if k != "categories"}, "no 'categories'")
    other = {**person, "keypoints": person["keypoints"][::-1]}
    fails({**good, "categories": [other]}, "coco-17 has joints .*, the file was written with")
    without = [{k: v for k, v in a.items() if k != "part_state"} for a in good["annotations"]]
    fails({**good, "annotations": without}, r"annotations\[0\] has no 'part_state'")
    without = [{k: v for k, v in i.items() if k != "exhaustive"} for i in good["images"]]
    fails({**good, "images": without}, r"images\[0\] has no 'exhaustive'")


# ------------------------------------------------------------ the validator


def plant(change):
    records = copy.deepcopy(two_pictures())
    change(records, records.annotations[0])
    return validate_records(records)


def overlap(records, annotation):
    masks = annotation["part_segmentation"]
    masks["torso"] = encode_mask(decode_mask(masks["torso"]) | decode_mask(masks["right_arm"]))


def outside(records, annotation):
    annotation["part_segmentation"]["right_arm"] = encode_mask(block(2, 3, 1, 6))


def unsided_overlap(records, annotation):
    annotation["unsided"] = {"arm": annotation["part_segmentation"]["right_arm"]}
    annotation["part_state"]["arm"] = "known"


FAULTS = {
    "image ids": (lambda r, a: r.images[1].update(id=1), "image ids repeat"),
    "annotation ids": (lambda r, a: r.annotations[1].update(id=1), "annotation ids repeat"),
    "no image": (lambda r, a: a.update(image_id=9), "no image 9"),
    "empty box": (lambda r, a: a.update(bbox=[2, 1, 0, 4]), "box [2, 1, 0, 4] is empty"),
    "box left": (lambda r, a: a.update(bbox=[-1, 1, 3, 3]), "outside 8x6"),
    "box right": (lambda r, a: a.update(bbox=[5, 1, 5, 3]), "outside 8x6"),
    "box below": (lambda r, a: a.update(bbox=[2, 3, 5, 5]), "outside 8x6"),
    "too few joints": (lambda r, a: a.update(keypoints=[0, 0, 0]), "expected 51 numbers"),
    "joint count": (lambda r, a: a.update(num_keypoints=3), "num_keypoints is 3"),
    "score": (lambda r, a: a.update(score=1.01), "score 1.01 is outside 0..1"),
    "negative score": (lambda r, a: a.update(score=-0.1), "score -0.1 is outside 0..1"),
    "channel": (lambda r, a: a["part_state"].update(tail="known"), "'tail' is no channel"),
    "state": (lambda r, a: a["part_state"].update(head="guessed"), "'guessed'"),
    "no body mask": (lambda r, a: a.pop("segmentation"), "body is known and has no mask"),
    "body not known": (lambda r, a: a["part_state"].pop("body"), "body is known and has no mask"),
    "no state": (lambda r, a: a["part_state"].pop("torso"), "'torso' has a mask but no state"),
    "mask size": (
        lambda r, a: a["part_segmentation"].update(torso=encode_mask(np.ones((8, 6), bool))),
        "mask of 'torso' is [8, 6], the picture is [6, 8]",
    ),
    "body size": (
        lambda r, a: a.update(segmentation=encode_mask(np.ones((8, 6), bool))),
        "mask of 'segmentation' is [8, 6], the picture is [6, 8]",
    ),
    "torn mask": (
        lambda r, a: a["part_segmentation"]["torso"].update(counts="abc"),
        "mask of 'torso' cannot be decoded",
    ),
    "no polygon": (
        lambda r, a: a.update(segmentation=[[1, 2]]),
        "mask of 'segmentation' cannot be decoded",
    ),
    "negative run": (
        lambda r, a: a["segmentation"].update(counts=[-1, 49]),
        "mask of 'segmentation' cannot be decoded",
    ),
    "crowd": (
        lambda r, a: a.update(iscrowd=1, segmentation=encode_mask(np.ones((8, 6), bool))),
        "mask of 'segmentation' is [8, 6]",
    ),
    "crowd without a mask": (
        lambda r, a: (a.update(iscrowd=1, part_state={}), a.pop("segmentation")),
        "a region to ignore has no mask",
    ),
    "outside": (outside, "'right_arm' reaches outside the body"),
    "overlap": (overlap, "overlaps another part"),
    "unsided": (unsided_overlap, "'arm' overlaps another part"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_validator_finds(name):
    change, message = FAULTS[name]
    faults = plant(change)
    assert any(message in fault for fault in faults), faults


def test_the_validator_names_the_picture():
    (fault,) = plant(overlap)
    assert fault.startswith("a.jpg, annotation 1: ")


def test_the_validator_looks_for_the_files(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert validate_records(two_pictures(), tmp_path) == ["image 2: no file b.jpg"]


def test_schemas_of_ones_own_are_read_from_the_file(tmp_path):
    schema = PartSchema("hands-of-this-test", ("body", "right_hand", "left_hand"))
    joints = KeypointSchema(
        "fingers-of-this-test",
        ("left_thumb", "right_thumb", "palm"),
        (("palm", "left_thumb"),),
        sigmas=(0.01, 0.01, 0.02),
    )
    write_records(tmp_path / "own.json", Records(schema, joints))
    records = read_records(tmp_path / "own.json")
    assert records.part_schema == schema and records.keypoint_schema == joints

    content = json.loads((tmp_path / "own.json").read_text())
    del content["info"]["keypoint_sigmas"]  # as in files of earlier versions
    (tmp_path / "own.json").write_text(json.dumps(content))
    assert read_records(tmp_path / "own.json").keypoint_schema.keypoints == joints.keypoints
    content["info"]["channels"] = ["body", "right_hand"]
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"own\.json: hands-of-this-test.*no counterpart"):
        read_records(tmp_path / "own.json")


def test_polygons_and_lists_of_runs_are_compressed_where_they_are_read(tmp_path):
    records = two_pictures()
    annotation = records.annotations[0]
    truth = copy.deepcopy(annotation)
    annotation["segmentation"] = [[2, 1, 7, 1, 7, 5, 2, 5]]  # COCO's polygon of block(1, 5, 2, 7)
    # rows 2 of columns 2 to 5, of six rows
    runs = {"size": [6, 8], "counts": [14, 1, 5, 1, 5, 1, 5, 1, 15]}
    assert (decode_mask(runs) == decode_mask(truth["part_segmentation"]["right_arm"])).all()
    annotation["part_segmentation"]["right_arm"] = runs
    records.annotations[1]["unsided"] = {"arm": [[1, 2]]}  # no polygon
    write_records(tmp_path / "records.json", records)
    again = read_records(tmp_path / "records.json").annotations
    assert again[0] == truth
    assert again[1]["unsided"] == {"arm": [[1, 2]]}
