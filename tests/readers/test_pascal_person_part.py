from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.readers import voc_part
from detectron2_bodyparts.readers.pascal_person_part import (
    prepare_pascal_person_part,
    read_boxes,
    read_image,
    read_split,
    share_out,
)
from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.records import (
    RecordError,
    decode_mask,
    mask_box,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    PASCAL_PERSON_PART,
    PartSchema,
)

from .conftest import assert_masks, masks_of, only_person, rectangle, voc_xml

SHAPE = (60, 80)
block = partial(rectangle, SHAPE)
HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)


def labels_of(*blocks):
    """A label map: (label, y0, y1, x0, x1), ..., later ones over earlier ones."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, *where in blocks:
        labels[block(*where)] = label
    return labels


# Without a lower leg: the picture ends at the knees.
PERSON = (
    (HEAD, 20, 30, 14, 20),
    (TORSO, 30, 45, 12, 22),
    (UPPER_ARM, 30, 36, 10, 12),
    (UPPER_ARM, 30, 36, 22, 24),
    (LOWER_ARM, 36, 44, 10, 12),
    (UPPER_LEG, 45, 60, 12, 22),
)
PERSON_BOX = [10, 20, 14, 40]


def write_image(root, image_id="a", labels=None, *, shape=SHAPE):
    labels = labels_of(*PERSON) if labels is None else labels
    for folder in ("JPEGImages", "pascal_person_part_gt"):
        (root / folder).mkdir(exist_ok=True)
    cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), np.full((*shape, 3), 90, np.uint8))
    path = root / "pascal_person_part_gt" / f"{image_id}.png"
    cv2.imwrite(str(path), labels)
    return path


def annotations_of(root, labels, boxes, schema=PASCAL_PERSON_PART):
    write_image(root, labels=labels)
    (picture,) = read_image("a", root, schema, {"a": boxes}).pictures
    people = [a for a in picture.annotations if not a["iscrowd"]]
    return people, [a for a in picture.annotations if a["iscrowd"]]


def unsided_of(annotation):
    return {name: decode_mask(rle) for name, rle in annotation["unsided"].items()}


# ------------------------------------------------------------ whose a pixel is


def test_boxes_apart():
    labelled = block(5, 20, 5, 15) | block(5, 20, 30, 40)
    shares, rest = share_out(labelled, np.array([[4, 4, 12, 18], [30, 5, 10, 15]]))
    np.testing.assert_array_equal(shares[0].own, block(5, 20, 5, 15))
    np.testing.assert_array_equal(shares[1].own, block(5, 20, 30, 40))
    assert not rest.any() and not any(share.shared.any() for share in shares)


def test_pixels_in_two_boxes_are_both_peoples_and_nobodys():
    labelled = block(10, 20, 10, 40)
    shares, rest = share_out(labelled, np.array([[10, 10, 18, 10], [22, 10, 18, 10]]))
    np.testing.assert_array_equal(shares[0].own, block(10, 20, 10, 22))
    np.testing.assert_array_equal(shares[1].own, block(10, 20, 28, 40))
    for share in shares:
        np.testing.assert_array_equal(share.shared, block(10, 20, 22, 28))
    assert not rest.any()


@pytest.mark.parametrize(("reach", "is_own"), [(1, True), (10, True), (11, False)])
def test_pixels_beside_a_box(reach, is_own):
    labelled = block(10, 20, 20, 30 + reach)
    (share,), rest = share_out(labelled, np.array([[20, 10, 10, 10]]))
    beside = block(10, 20, 30, 30 + reach)
    np.testing.assert_array_equal(share.own, labelled if is_own else labelled & ~beside)
    np.testing.assert_array_equal(rest, np.zeros(SHAPE, bool) if is_own else beside)


def test_a_piece_between_two_boxes_is_the_nearer_ones():
    boxes = np.array([[10, 10, 10, 10], [26, 10, 10, 10]])
    shares, rest = share_out(block(12, 15, 20, 22), boxes)
    np.testing.assert_array_equal(shares[0].own, block(12, 15, 20, 22))
    assert not shares[1].own.any() and not rest.any()


def test_a_piece_as_near_to_either_box_is_nobodys():
    boxes = np.array([[10, 10, 10, 10], [26, 10, 10, 10]])
    shares, rest = share_out(block(12, 15, 20, 26), boxes)
    assert not any(share.own.any() for share in shares)
    np.testing.assert_array_equal(rest, block(12, 15, 20, 26))


def test_corners_connect_a_piece():
    labelled = block(12, 15, 20, 28) | block(15, 18, 28, 33)
    shares, rest = share_out(labelled, np.array([[10, 10, 10, 10]]))
    assert not shares[0].own.any()
    np.testing.assert_array_equal(rest, labelled)


def test_a_picture_without_boxes():
    labelled = block(12, 15, 20, 26)
    shares, rest = share_out(labelled, np.zeros((0, 4), dtype=int))
    assert shares == []
    np.testing.assert_array_equal(rest, labelled)


# ------------------------------------------------------------ channels


def test_six_parts_by_hand(tmp_path):
    labels = labels_of(*PERSON)
    (person,), ignored = annotations_of(tmp_path, labels, [PERSON_BOX])
    assert_masks(
        person,
        {
            "head": block(20, 30, 14, 20),
            "torso": block(30, 45, 12, 22),
            "upper_arms": labels == UPPER_ARM,
            "lower_arms": block(36, 44, 10, 12),
            "upper_legs": block(45, 60, 12, 22),
        },
    )
    assert person["part_state"] == dict.fromkeys(PASCAL_PERSON_PART.channels, "known")
    np.testing.assert_array_equal(decode_mask(person["segmentation"]), labels > 0)
    assert "unsided" not in person and "ignore_segmentation" not in person
    assert person["num_keypoints"] == 0 and ignored == []


def test_eleven_know_limbs_without_sides(tmp_path):
    labels = labels_of(*PERSON)
    (person,), _ = annotations_of(tmp_path, labels, [PERSON_BOX], BODYPARTS_11)
    assert_masks(person, {"head": block(20, 30, 14, 20), "torso": block(30, 45, 12, 22)})
    unsided = unsided_of(person)
    assert sorted(unsided) == ["lower_arm", "upper_arm", "upper_leg"]
    np.testing.assert_array_equal(unsided["upper_arm"], labels == UPPER_ARM)
    # No lower leg: neither of them is there. Of the others nobody knows which side they are.
    known = ("body", "head", "torso", *unsided, "right_lower_leg", "left_lower_leg")
    assert person["part_state"] == dict.fromkeys(known, "known")


def test_seven_join_upper_and_lower_limbs(tmp_path):
    labels = labels_of(*PERSON)
    (person,), _ = annotations_of(tmp_path, labels, [PERSON_BOX], BODYPARTS_7)
    unsided = unsided_of(person)
    assert sorted(unsided) == ["arm", "leg"]
    np.testing.assert_array_equal(unsided["arm"], (labels == UPPER_ARM) | (labels == LOWER_ARM))
    np.testing.assert_array_equal(unsided["leg"], labels == UPPER_LEG)
    assert person["part_state"] == dict.fromkeys(("body", "head", "torso", "arm", "leg"), "known")


def test_a_persons_box_is_tight_only_where_all_is_known(tmp_path):
    loose = [5, 15, 25, 45]
    (person,), _ = annotations_of(tmp_path, labels_of(*PERSON), [loose])
    assert person["bbox"] == PERSON_BOX
    people, _ = annotations_of(tmp_path, labels_of(*PERSON), [loose, [20, 15, 30, 20]])
    assert people[0]["bbox"] == loose


def test_a_part_in_two_boxes_only_is_unknown(tmp_path):
    # Both have heads of their own; the arms between them may be anybody's, and so may legs not be.
    labels = labels_of((HEAD, 10, 20, 10, 20), (HEAD, 10, 20, 40, 50), (LOWER_ARM, 22, 30, 26, 34))
    boxes = [[10, 10, 25, 20], [25, 10, 25, 20]]
    people, ignored = annotations_of(tmp_path, labels, boxes)
    known = {"body", "head", "torso", "upper_arms", "upper_legs", "lower_legs"}
    for person, box, head in zip(people, boxes, ((10, 20), (40, 50)), strict=True):
        assert person["part_state"] == dict.fromkeys(known, "known")
        assert_masks(person, {"head": block(10, 20, *head)})
        arm = decode_mask(person["ignore_segmentation"])
        np.testing.assert_array_equal(arm, block(22, 30, 26, 34))
        assert person["bbox"] == box
    (crowd,) = ignored
    assert_masks(crowd, {"lower_arms": block(22, 30, 26, 34)})
    np.testing.assert_array_equal(decode_mask(crowd["segmentation"]), block(22, 30, 26, 34))
    for schema, union in ((BODYPARTS_11, "lower_arm"), (BODYPARTS_7, "arm")):
        for person in annotations_of(tmp_path, labels, boxes, schema)[0]:
            assert not {union, f"right_{union}", f"left_{union}"} & set(person["part_state"])


def test_a_person_within_anothers_box_keeps_the_box_alone(tmp_path):
    inner = [30, 15, 10, 20]
    labels = labels_of((TORSO, 10, 50, 10, 30), (TORSO, 15, 35, 30, 40))
    people, _ = annotations_of(tmp_path, labels, [[10, 10, 40, 40], inner])
    assert people[1]["bbox"] == inner
    assert people[1]["part_state"] == {} and "segmentation" not in people[1]
    assert people[1]["part_segmentation"] == {}
    np.testing.assert_array_equal(decode_mask(people[0]["segmentation"]), block(10, 50, 10, 30))


def test_a_box_without_labels_is_ignored(tmp_path):
    people, ignored = annotations_of(tmp_path, labels_of(*PERSON), [PERSON_BOX, [50, 5, 20, 40]])
    assert len(people) == 1
    (region,) = ignored
    np.testing.assert_array_equal(decode_mask(region["segmentation"]), block(5, 45, 50, 70))
    assert region["part_state"] == {}


def test_people_without_a_box_are_crowds_one_by_one(tmp_path):
    # The first one's head and torso are apart, as labels sometimes are.
    strangers = (
        (HEAD, 5, 10, 5, 10),
        (TORSO, 14, 20, 5, 10),
        (TORSO, 5, 20, 60, 70),
    )
    people, ignored = annotations_of(tmp_path, labels_of(*strangers), [])
    assert people == []
    assert [region["bbox"] for region in ignored] == [[5, 5, 5, 15], [60, 5, 10, 15]]
    assert ignored[0]["area"] == 5 * 5 + 6 * 5
    assert_masks(ignored[0], {"head": block(5, 10, 5, 10), "torso": block(14, 20, 5, 10)})
    assert set(ignored[0]["part_state"]) == set(PASCAL_PERSON_PART.channels)


def test_a_crowds_limbs_have_no_side(tmp_path):
    labels = labels_of((TORSO, 5, 20, 60, 70), (UPPER_ARM, 5, 20, 56, 60))
    _, (crowd,) = annotations_of(tmp_path, labels, [], BODYPARTS_11)
    np.testing.assert_array_equal(unsided_of(crowd)["upper_arm"], labels == UPPER_ARM)
    # No legs: both sides are known to be empty.
    assert {"right_upper_leg", "left_upper_leg", "upper_arm"} <= set(crowd["part_state"])
    assert not {"right_upper_arm", "left_upper_arm"} & set(crowd["part_state"])


def test_a_box_that_reaches_out_of_the_picture(tmp_path):
    labels = labels_of((TORSO, 0, 30, 0, 20))
    people, ignored = annotations_of(tmp_path, labels, [[-5, -5, 30, 40], [90, 70, 10, 10]])
    assert [person["bbox"] for person in people] == [[0, 0, 20, 30]] and ignored == []


# ------------------------------------------------------------ boxes


def test_boxes_of_voc_count_pixels_from_one(tmp_path):
    write_image(tmp_path)
    (tmp_path / "Annotations").mkdir()
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(voc_xml(("dog", 1, 1, 5, 5), ("person", 11, 21, 24, 60)))
    np.testing.assert_array_equal(read_boxes("a", tmp_path), [PERSON_BOX])
    assert only_person(read_image("a", tmp_path, BODYPARTS_7))["bbox"] == PERSON_BOX
    path.write_text(voc_xml(("dog", 1, 1, 5, 5)))
    assert read_boxes("a", tmp_path).shape == (0, 4)


@pytest.mark.parametrize("text", [None, "<annotation>", voc_xml(("person", 1, "", 3, 4)), "{}"])
def test_bad_boxes_of_voc(tmp_path, text):
    path = tmp_path / "Annotations" / "a.xml"
    path.parent.mkdir()
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match="a.xml: expected the boxes in VOC's XML, or person_boxes"):
        read_boxes("a", tmp_path)


@pytest.mark.parametrize("boxes", [[[1, 2, 3]], [1, 2, 3, 4], 5, [["x", 1, 2, 3]], None])
def test_bad_boxes_in_the_list(tmp_path, boxes):
    with pytest.raises(BadInput, match="person_boxes.json, a: expected a list"):
        read_boxes("a", tmp_path, {"a": boxes})


# ------------------------------------------------------------ files


@pytest.fixture
def dataset(tmp_path):
    names = [f"2008_{i:06d}" for i in range(17, 0, -1)]
    for name in names:
        write_image(tmp_path, name)
    (tmp_path / "train.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "test.txt").write_bytes(b"2008_000003\r\n\r\n2008_000009\r\n")
    boxes = {name: [PERSON_BOX] for name in names}
    (tmp_path / "person_boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def test_splits(dataset):
    listed = read_split(dataset, "trainval")
    assert read_split(dataset, "val") == [listed[0], listed[8], listed[16]]
    train = read_split(dataset, "train")
    assert train == [name for name in listed if name in train] and len(train) == 14
    assert not set(train) & set(read_split(dataset, "val"))
    assert read_split(dataset, "test") == ["2008_000003", "2008_000009"]
    with pytest.raises(ValueError, match="'all'"):
        read_split(dataset, "all")
    with pytest.raises(FileNotFoundError, match=r"nowhere/test.txt.*README"):
        read_split(dataset / "nowhere", "test")


def test_bad_files_are_named_and_skipped(dataset):
    names = read_split(dataset, "val")
    write_image(dataset, names[0], np.full(SHAPE, 7, np.uint8))
    (dataset / "JPEGImages" / f"{names[1]}.jpg").unlink()
    summary = prepare_pascal_person_part(dataset, "val", BODYPARTS_11)
    records = read_records(dataset / "pascal_person_part_val.bodyparts-11.json")
    assert [image["file_name"] for image in records.images] == [f"JPEGImages/{names[2]}.jpg"]
    assert validate_records(records, dataset) == []
    assert [note.reason for note in summary.left_out] == [
        "expected labels from 0 to 6",
        "expected a whole picture",
    ]


def test_a_picture_of_another_size(tmp_path):
    write_image(tmp_path, shape=(60, 79))
    with pytest.raises(BadInput, match=r"a.png: .*\(60, 80\), not \(60, 79\)"):
        read_image("a", tmp_path, BODYPARTS_7, {"a": [PERSON_BOX]})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_bad_list_of_boxes(dataset, text):
    (dataset / "person_boxes.json").write_text(text)
    with pytest.raises(RecordError, match="person_boxes.json: "):
        prepare_pascal_person_part(dataset, "val", BODYPARTS_7)


def test_a_schema_nobody_told_the_reader_about(dataset):
    with pytest.raises(ValueError, match="bodyparts-7.*not hands"):
        prepare_pascal_person_part(dataset, "train", PartSchema("hands", ("body",)))


def test_script(run_script, dataset, capsys):
    schemas = ("bodyparts-7", "bodyparts-11", "pascal-person-part")
    script = "prepare_pascal_person_part.py"
    run_script(script, "--root", dataset, "--schema", *schemas, "--workers", 1, "--limit", 2)
    written = sorted(path.name for path in dataset.glob("pascal*.json"))
    expected = [f"pascal_person_part_{s}.{n}.json" for s in ("train", "val") for n in schemas]
    assert written == sorted(expected)
    assert capsys.readouterr().out.count("nothing was left out") == 6
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script(script, "--root", dataset / "nowhere")


# ------------------------------------------------------------ real files


@pytest.fixture(scope="module")
def real(shared_dir):
    root = shared_dir / "data" / "pascal_person_part"
    return root, json.loads((root / "person_boxes.json").read_text())


@pytest.mark.parametrize(
    ("image_id", "expected"),
    # The second person of the first picture is within the first one's box.
    [("2008_000726", [0, None]), ("2009_001103", [1, 0])],
)
def test_pixels_are_given_to_the_right_person(shared_dir, real, image_id, expected):
    """Two pictures of which VOC-Part's people are at hand, too."""
    root, boxes = real
    (picture,) = read_image(image_id, root, PASCAL_PERSON_PART, boxes).pictures
    samples = shared_dir / "samples" / "voc_part"
    (truth,) = voc_part.read_image(image_id, samples, PASCAL_PERSON_PART).pictures
    bodies = [decode_mask(a["segmentation"]) for a in truth.annotations]
    people = [a for a in picture.annotations if not a["iscrowd"]]
    for person, owner in zip(people, expected, strict=True):
        if owner is None:
            assert "segmentation" not in person
        else:
            own = decode_mask(person["segmentation"])
            assert np.count_nonzero(own) > 5000 and not (own & ~bodies[owner]).any()


def test_real_pictures(real):
    root, boxes = real
    share_of_labels = []
    for image_id in ("2008_000008", "2008_000041", "2008_000142", "2008_000311", "2008_000561"):
        labels = cv2.imread(str(root / "pascal_person_part_gt" / f"{image_id}.png"), -1)
        (picture,) = read_image(image_id, root, PASCAL_PERSON_PART, boxes).pictures
        covered, given = np.zeros((2, *labels.shape), bool)
        for annotation in picture.annotations:
            for key in ("segmentation", "ignore_segmentation"):
                if key in annotation:
                    covered |= decode_mask(annotation[key])
            if annotation["iscrowd"]:
                continue
            for name, mask in masks_of(annotation).items():
                assert (labels[mask] == PASCAL_PERSON_PART.index(name)).all()
                assert not (given & mask).any()
                given |= mask
            if "ignore_segmentation" not in annotation:
                x0, y0, x1, y1 = mask_box(decode_mask(annotation["segmentation"]))
                assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert covered[labels > 0].all()
        # Of every labelled pixel somebody, or a crowd, knows the part.
        known = np.zeros(labels.shape, np.uint8)
        for annotation in picture.annotations:
            for name, mask in masks_of(annotation).items():
                known[mask] = PASCAL_PERSON_PART.index(name)
        np.testing.assert_array_equal(known, labels)
        share_of_labels.append(np.count_nonzero(given) / np.count_nonzero(labels))
    # The last one is a group whose boxes overlap.
    assert min(share_of_labels[:-1]) > 0.7 and share_of_labels[-1] > 0.3
