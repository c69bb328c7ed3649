from __future__ import annotations

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.readers.voc import prepare_voc, read_image, read_people
from detectron2_bodyparts.records import RecordError, decode_mask, read_records, validate_records
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11

from .conftest import only_person, rectangle, voc_xml

SHAPE = 40, 80
PEOPLE = {
    "a": [("dog", 1, 1, 5, 5), ("person", 11, 21, 24, 40), ("person", 1, 1, 4, 6, 0)],
    "b": [("dog", 1, 1, 5, 5)],
    "c": [("person", 31, 2, 80, 9, 1)],
}


@pytest.fixture
def root(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, objects in PEOPLE.items():
        cv2.imwrite(str(tmp_path / f"JPEGImages/{name}.jpg"), np.zeros((*SHAPE, 3), np.uint8))
        (tmp_path / f"Annotations/{name}.xml").write_text(voc_xml(*objects))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nc\n\n")
    (tmp_path / "ImageSets/Main/dog_train.txt").write_text("a  1\nb  1\nc -1\n")
    return tmp_path


def test_boxes_count_pixels_from_one_and_of_people_only(root):
    boxes, difficult = read_people(root / "Annotations/a.xml")
    np.testing.assert_array_equal(boxes, [[10, 20, 14, 20], [0, 0, 4, 6]])
    assert difficult.tolist() == [False, False]
    boxes, difficult = read_people(root / "Annotations/b.xml")
    assert boxes.shape == (0, 4) and difficult.shape == (0,)


def test_of_a_person_the_box_is_known_and_nothing_else(root):
    (picture,) = read_image("a", root, BODYPARTS_11).pictures
    assert picture.exhaustive and (picture.height, picture.width) == SHAPE
    assert [person["bbox"] for person in picture.annotations] == [[10, 20, 14, 20], [0, 0, 4, 6]]
    for person in picture.annotations:
        assert person["part_state"] == {} and "segmentation" not in person
        assert person["iscrowd"] == 0 and not any(person["keypoints"])


def test_who_is_difficult_is_a_region_to_ignore(root):
    region = only_person(read_image("c", root, BODYPARTS_7))
    assert region["iscrowd"] == 1
    expected = rectangle(SHAPE, 1, 9, 30, 80)
    np.testing.assert_array_equal(decode_mask(region["segmentation"]), expected)


def test_pictures_without_people_are_kept(root, run_script, capsys):
    run_script("prepare_voc.py", "--root", root, "--split", "dog_train", "--workers", "1")
    records = read_records(root / "voc_dog_train.bodyparts-7.json")
    validate_records(records)
    groups = records.by_image()
    found = {i["file_name"]: len(groups[i["id"]]) for i in records.images}
    assert found == {"JPEGImages/a.jpg": 2, "JPEGImages/b.jpg": 0, "JPEGImages/c.jpg": 1}
    assert "nothing was left out" in capsys.readouterr().out


def test_listed_pictures_are_left_out(root, run_script):
    (root / "ImageSets/Main/all.txt").write_text("a\nb\nc\n")
    (root / "one.txt").write_text("a\n\nz\n")
    (root / "other").mkdir()
    (root / "other/one.txt").write_text("c 1\n")  # of the same name, as train.txt often is
    lists = [root / "one.txt", root / "other/one.txt"]
    run_script("prepare_voc.py", "--root", root, "--split", "all", "--leave-out", *lists)
    records = read_records(root / "voc_all_rest.bodyparts-7.json")
    assert [image["file_name"] for image in records.images] == ["JPEGImages/b.jpg"]
    assert records.info["left_out"] == {str(path): 1 for path in lists}
    summary = prepare_voc(root, "all", BODYPARTS_7, leave_out=lists[:1], limit=1)
    (image,) = read_records(summary.output).images
    assert image["file_name"] == "JPEGImages/b.jpg"
    with pytest.raises(FileNotFoundError, match="nothing.txt: expected a list of image ids"):
        prepare_voc(root, "train", BODYPARTS_7, leave_out=[root / "nothing.txt"])


def test_a_box_that_reaches_out_of_the_picture_is_cut(root):
    (root / "Annotations/b.xml").write_text(voc_xml(("person", -3, 5, 90, 60)))
    assert only_person(read_image("b", root, BODYPARTS_7))["bbox"] == [0, 4, 80, 36]


def test_a_box_outside_of_the_picture_is_left_out_by_itself(root):
    (root / "Annotations/b.xml").write_text(
        voc_xml(("person", 85, 2, 90, 4), ("person", 3, 5, 12, 20))
    )
    shard = read_image("b", root, BODYPARTS_7)
    assert only_person(shard)["bbox"] == [2, 4, 10, 16]
    assert not shard.pictures[0].exhaustive and len(shard.left_out) == 1


@pytest.mark.parametrize(
    "text",
    [
        None,
        "<annotation>",
        "{}",
        voc_xml(("person", 1, "", 3, 4)),
        voc_xml(("person", 1, 2, 3, 4, "x")),
    ],
)
def test_a_bad_file_is_named_and_skipped(root, text):
    path = root / "Annotations/a.xml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match="a.xml: expected "):
        read_image("a", root, BODYPARTS_7)
    summary = prepare_voc(root, "train", BODYPARTS_7)
    assert summary.pictures == 1 and [out.where for out in summary.left_out] == [str(path)]


def test_errors(root):
    with pytest.raises(FileNotFoundError, match="ImageSets/Main/val.txt"):
        prepare_voc(root, "val", BODYPARTS_7)
    (root / "JPEGImages/c.jpg").write_bytes(b"")
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(RecordError):
        prepare_voc(root, "train", BODYPARTS_7)
