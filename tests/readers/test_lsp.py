from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.io

from detectron2_bodyparts.readers.lsp import (
    MAX_BONE,
    is_implausible,
    prepare_lsp,
    read_image,
    read_joints,
    select_split,
)
from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.records import RecordError, decode_mask, read_records, validate_records
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, LSP_14, UNION_21

from .conftest import only_person

SHAPE = (60, 50)  # H, W
COUNT = 20

# Faces the camera: the person's right is at the picture's left. In the dataset's order, 1-based.
STANDING = np.array(
    [
        *([15, 55], [16, 45], [17, 35]),  # right ankle, knee, hip
        *([23, 35], [24, 45], [25, 55]),  # left hip, knee, ankle
        *([10, 34], [11, 25], [15, 15]),  # right wrist, elbow, shoulder
        *([25, 15], [29, 25], [30, 34]),  # left shoulder, elbow, wrist
        *([20, 13], [20, 4]),  # neck, head top
    ],
    dtype=float,
)


def people(count=COUNT, flag=1):
    """(N, 14, 3); each a pixel to the right of the one before, as far as the picture goes."""
    joints = np.full((count, 14, 3), float(flag))
    joints[..., :2] = STANDING + np.array([1, 0]) * np.arange(count)[:, None, None]
    return joints


def write_dataset(root, joints, *, original=False, names=None):
    """The dataset's own files: (14, 3, N) of the extended set, (3, 14, N) of the original."""
    (root / "images").mkdir(parents=True)
    layout = (2, 1, 0) if original else (1, 2, 0)
    scipy.io.savemat(root / "joints.mat", {"joints": joints.transpose(layout)})
    digits = 4 if original else 5
    for i in range(len(joints)):
        name = names[i] if names else f"im{i + 1:0{digits}d}.jpg"
        cv2.imwrite(str(root / "images" / name), np.full((*SHAPE, 3), 90, np.uint8))
    if names:
        (root / "names.txt").write_text("\n".join(names) + "\n")
    return root


def joints_of(annotation):
    values = np.array(annotation["keypoints"]).reshape(-1, 3)
    return dict(zip(LSP_14.keypoints, values, strict=True))


def read_one(joints, root, **cleaning):
    write_dataset(root, joints[None])
    return read_image("im00001.jpg", root, BODYPARTS_11, {"im00001.jpg": joints}, **cleaning)


@pytest.fixture
def joints():
    return people(1, flag=2)[0]


# ------------------------------------------------------------ a person


def test_a_person_by_hand(tmp_path, joints):
    joints[6] = 0  # the right wrist is not labelled
    shard = read_one(joints, tmp_path)
    annotation = only_person(shard)
    found = joints_of(annotation)
    np.testing.assert_array_equal(found["right_ankle"], [14, 54, 2])
    np.testing.assert_array_equal(found["left_shoulder"], [24, 14, 2])
    np.testing.assert_array_equal(found["head_top"], [19, 3, 2])
    np.testing.assert_array_equal(found["right_wrist"], 0)
    assert annotation["num_keypoints"] == 13
    assert annotation["part_state"] == {} and "segmentation" not in annotation
    # Columns 10 to 29 and rows 3 to 54, enlarged by a tenth of 52 pixels.
    np.testing.assert_allclose(annotation["bbox"], [10 - 5.2, 0, 20 + 10.4, 60])
    assert not shard.pictures[0].exhaustive and shard.left_out == []


def test_joints_reach_a_model_of_all_joints(tmp_path, joints):
    values = np.array(only_person(read_one(joints, tmp_path))["keypoints"]).reshape(-1, 3)
    taken = dict(zip(UNION_21.keypoints, UNION_21.take(values, LSP_14), strict=True))
    np.testing.assert_array_equal(taken["left_hip"], [22, 34, 2])
    np.testing.assert_array_equal(taken["head_top"], [19, 3, 2])
    assert sum(v > 0 for _, _, v in taken.values()) == 14


def test_joints_are_shifted_unless_told_not_to(tmp_path, joints):
    shifted = joints_of(only_person(read_one(joints, tmp_path / "a")))
    as_they_are = joints_of(only_person(read_one(joints, tmp_path / "b", shift=False)))
    np.testing.assert_array_equal(as_they_are["neck"] - shifted["neck"], [1, 1, 0])


def test_joints_outside_the_picture_are_not_labelled(tmp_path, joints):
    joints[11, 0] = 52  # the left wrist, in a picture of 50 columns
    dropped = joints_of(only_person(read_one(joints, tmp_path / "a")))
    kept = joints_of(only_person(read_one(joints, tmp_path / "b", drop_outside=False)))
    assert dropped["left_wrist"][2] == 0 and kept["left_wrist"][2] == 2


def test_a_bone_that_is_too_long(tmp_path, joints):
    assert not is_implausible(joints)
    joints[8, :2] = 49, 59  # the right shoulder beyond the feet
    assert is_implausible(joints)
    shard = read_one(joints, tmp_path / "a")
    assert shard.pictures == []
    assert [note.where for note in shard.left_out] == ["images/im00001.jpg"]
    assert only_person(read_one(joints, tmp_path / "b", drop_implausible=False))


def test_bones_are_compared_with_the_persons_own():
    joints = np.zeros((14, 3))
    # Two bones of length 1 and one of length r: r is the longest, 1 the median.
    for name, x in (("right_ankle", 0), ("right_knee", 1), ("right_hip", 2)):
        joints[LSP_14.keypoints.index(name)] = x, 0, 2
    hip = LSP_14.keypoints.index("left_hip")
    for scale in (1, 40):
        for ratio, expected in ((MAX_BONE - 0.01, False), (MAX_BONE + 0.01, True)):
            joints[hip] = 2, ratio, 2
            assert is_implausible(joints * (scale, scale, 1)) == expected
    joints[hip, 2] = 0
    assert not is_implausible(joints)
    assert not is_implausible(np.zeros((14, 3)))


def test_a_person_without_joints_is_left_out(tmp_path):
    shard = read_one(np.zeros((14, 3)), tmp_path)
    assert shard.pictures == []
    assert [note.reason for note in shard.left_out] == ["no joint is labelled"]


# ------------------------------------------------------------ joints.mat


def test_the_extended_set_flags_what_is_labelled(tmp_path):
    joints = people()
    joints[3, 5, 2] = 0
    dataset, names, found = read_joints(write_dataset(tmp_path / "lspet", joints))
    assert dataset == "lspet" and (names[0], names[-1]) == ("im00001.jpg", "im00020.jpg")
    np.testing.assert_array_equal(found[..., :2], joints[..., :2])
    np.testing.assert_array_equal(found[..., 2], 2 * joints[..., 2])


def test_the_original_set_flags_what_is_hidden(tmp_path):
    joints = people(flag=0)
    joints[3, 5, 2] = 1
    dataset, names, found = read_joints(write_dataset(tmp_path / "lsp", joints, original=True))
    assert dataset == "lsp" and (names[0], names[-1]) == ("im0001.jpg", "im0020.jpg")
    np.testing.assert_array_equal(found[..., :2], joints[..., :2])
    np.testing.assert_array_equal(found[..., 2], 2 - joints[..., 2])


def test_joints_that_are_no_numbers_are_not_labelled(tmp_path):
    joints = people()
    joints[2, 4, 0] = np.nan
    _, _, found = read_joints(write_dataset(tmp_path / "lspet", joints))
    np.testing.assert_array_equal(found[2, 4], 0)


def test_a_copy_with_some_of_the_pictures(tmp_path):
    names = ["im00005.jpg", "im00001.jpg"]
    root = write_dataset(tmp_path / "lspet", people(2), names=names)
    assert read_joints(root)[1] == names
    (root / "names.txt").write_text("im00005.jpg\n")
    with pytest.raises(RecordError, match="names.txt: expected 2 names.*found 1"):
        read_joints(root)


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/joints.mat.*README"):
        read_joints(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("not MATLAB's"), "a readable .mat file"),
        (lambda path: scipy.io.savemat(path, {"other": 1}), "with 'joints', found KeyError"),
        (
            lambda path: scipy.io.savemat(path, {"joints": np.zeros((14, 2, 5))}),
            r"\(14, 3, N\) or \(3, 14, N\), found \(14, 2, 5\)",
        ),
    ],
    ids=["text", "other variable", "shape"],
)
def test_joints_of_another_make(tmp_path, write, message):
    write(tmp_path / "joints.mat")
    with pytest.raises(RecordError, match=f"joints.mat: expected .*{message}"):
        read_joints(tmp_path)


# ------------------------------------------------------------ splits and files


def test_splits():
    assert list(select_split("lspet", "val", 25)) == [0, 10, 20]
    train = list(select_split("lspet", "train", 25))
    assert sorted([0, 10, 20, *train]) == list(range(25))
    assert list(select_split("lsp", "train", 6)) == [0, 1, 2]
    assert list(select_split("lsp", "test", 6)) == [3, 4, 5]
    for dataset, split in (("lspet", "test"), ("lsp", "val")):
        with pytest.raises(RecordError, match=f"a split of {dataset}.*found '{split}'"):
            select_split(dataset, split, 6)


def test_a_bad_picture_is_named_and_skipped(tmp_path):
    root = write_dataset(tmp_path / "lspet", people())
    (root / "images" / "im00001.jpg").write_bytes(b"")
    summary = prepare_lsp(root, "val", BODYPARTS_7)
    records = read_records(root / "lspet_val.bodyparts-7.json")
    assert [image["file_name"] for image in records.images] == ["images/im00011.jpg"]
    assert not records.images[0]["exhaustive"] and records.keypoint_schema == LSP_14
    # The eleventh person stands ten pixels to the right of the first.
    assert joints_of(records.annotations[0])["neck"][0] == 29
    assert validate_records(records, root) == []
    assert "im00001.jpg" in str(summary)


def test_missing_pictures_are_left_out(tmp_path):
    root = write_dataset(tmp_path / "lspet", people(2))
    with pytest.raises(BadInput, match="im00003.jpg"):
        read_image("im00003.jpg", root, BODYPARTS_7, {"im00003.jpg": people(1)[0]})


def test_parts_along_the_bones(tmp_path):
    root = write_dataset(tmp_path / "lspet", people())
    prepare_lsp(root, "train", BODYPARTS_11, derive=True)
    records = read_records(root / "lspet_train_derived.bodyparts-11.json")
    person = records.annotations[0]
    assert person["part_state"] == dict.fromkeys(BODYPARTS_11.parts, "derived")
    assert "segmentation" not in person
    x, y = (STANDING[6] + STANDING[7]) / 2 + [1, 0] - 1  # of the second picture, from 0
    lower_arm = decode_mask(person["part_segmentation"]["right_lower_arm"])
    assert lower_arm[round(y), round(x)]
    ignored = decode_mask(person["ignore_segmentation"])
    parts = [decode_mask(mask) for mask in person["part_segmentation"].values()]
    np.testing.assert_array_equal(ignored, ~np.any(parts, axis=0))


def test_script(run_script, tmp_path):
    extended = write_dataset(tmp_path / "lspet", people())
    run_script("prepare_lsp.py", "--root", extended, "--no-shift-joints", "--workers", 1)
    assert len(read_records(extended / "lspet_train.bodyparts-7.json").images) == 18
    val = read_records(extended / "lspet_val.bodyparts-7.json")
    assert joints_of(val.annotations[0])["neck"][0] == 20
    original = write_dataset(tmp_path / "lsp", people(flag=0), original=True)
    splits = ("train", "test")
    run_script("prepare_lsp.py", "--root", original, "--split", *splits, "--workers", 1)
    for split in splits:
        assert len(read_records(original / f"lsp_{split}.bodyparts-7.json").images) == 10
    with pytest.raises(SystemExit, match="error: expected a split of lsp"):
        run_script("prepare_lsp.py", "--root", original, "--split", "val", "--workers", 1)


# ------------------------------------------------------------ real files


def test_real_joints(shared_dir):
    root = shared_dir / "data" / "lspet"
    dataset, names, joints = read_joints(root)
    assert dataset == "lspet" and joints.shape == (2500, 14, 3)
    assert (names[0], names[1]) == ("im00001.jpg", "im00005.jpg")
    assert sum(map(is_implausible, joints)) == 26
    index = names.index("im00441.jpg")
    annotation = only_person(
        read_image(names[index], root, BODYPARTS_7, {names[index]: joints[index]})
    )
    found = joints_of(annotation)
    # A woman who faces the camera upright.
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee"):
        assert found[f"right_{joint}"][0] < found[f"left_{joint}"][0]
    assert found["head_top"][1] < found["neck"][1] < found["left_knee"][1]
