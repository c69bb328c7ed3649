from __future__ import annotations

import json
import os
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import scipy.io
from pycocotools.coco import COCO

from detectron2_bodyparts.readers.jhmdb import (
    SPLITS,
    prepare_jhmdb,
    read_clip,
    read_clip_list,
    read_split,
)
from detectron2_bodyparts.readers.joints import drop_outside_joints, shift_joints
from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.records import (
    RecordError,
    decode_mask,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    JHMDB_15,
    PASCAL_PERSON_PART,
    PartSchema,
)

from .conftest import assert_masks, masks_of, rectangle

SHAPE = (12, 16)
block = partial(rectangle, SHAPE)
ACTION, CLIP = "catch", "Ball_catch_f_cm_np1_fr_med_0"
ITEM = f"{ACTION}/{CLIP}"

# Faces the camera: the right side is at the picture's left. Labels as in puppet_flow.mat.
LABEL_BLOCKS = {
    1: block(3, 8, 5, 9),  # torso
    2: block(0, 3, 6, 8),  # head
    3: block(3, 5, 3, 5),  # right upper arm
    4: block(3, 5, 9, 11),  # left upper arm
    5: block(8, 9, 5, 7),  # right upper leg
    6: block(8, 9, 7, 9),  # left upper leg
    7: block(5, 7, 3, 5),  # right lower arm
    8: block(5, 7, 9, 11),  # left lower arm
    9: block(9, 11, 5, 7),  # right lower leg
    10: block(9, 11, 7, 9),  # left lower leg
}
HANDS_AND_FEET = block(7, 8, 3, 5) | block(7, 8, 9, 11) | block(11, 12, 5, 9)
LABELS = np.zeros(SHAPE, np.uint8)
for number, where in LABEL_BLOCKS.items():
    LABELS[where] = number
BODY = (LABELS > 0) | HANDS_AND_FEET


def save(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)
    return path


def moved(plane, count):
    """(H, W, count): frame t is moved t pixels to the right."""
    return np.stack([np.roll(plane, t, axis=1) for t in range(count)], axis=-1)


def mask_file(root, item=ITEM):
    return root / "puppet_mask" / item / "puppet_mask.mat"


def flow_file(root, item=ITEM):
    return root / "puppet_flow_com" / item / "puppet_flow.mat"


def joint_file(root, item=ITEM):
    return root / "joint_positions" / item / "joint_positions.mat"


def frame_file(root, number, item=ITEM):
    return root / "Rename_Images" / item / f"{number:05d}.png"


def positions(count):
    """(2, 15, T), 1-based: joint k of frame t lies on the pixel of column k + t, row k // 2."""
    columns = np.arange(15)[:, None] + np.arange(count)
    rows = np.broadcast_to(np.arange(15)[:, None] // 2, columns.shape)
    return np.stack([columns, rows]) + 1.0


def write_clip(root, item=ITEM, *, count=3, labelled=None):
    """A clip in the dataset's own files; labels of parts in the first ``labelled`` frames."""
    labelled = count if labelled is None else labelled
    save(mask_file(root, item), part_mask=moved(BODY.astype(np.uint8), count))
    flow = np.zeros((*SHAPE, labelled))
    save(flow_file(root, item), part_mask=moved(LABELS, labelled), u=flow, v=flow)
    save(
        joint_file(root, item),
        pos_img=positions(count),
        pos_world=positions(count) / 100,
        scale=np.ones((1, count)),
        viewpoint="FR",
    )
    for number in range(1, count + 1):
        path = frame_file(root, number, item)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((*SHAPE, 3), 20 * number, np.uint8))


def write_splits(root, clips, *, action=ACTION):
    """clips: name -> its flags in the splits 1, 2 and 3."""
    folder = root / "splits"
    folder.mkdir(exist_ok=True)
    for i in range(3):
        lines = [f"{clip}.avi {flags[i]}\n" for clip, flags in clips.items()]
        (folder / f"{action}_test_split{i + 1}.txt").write_text("".join(lines) + "\n")


def write_video(root, frames, item=ITEM):
    path = root / "ReCompress_Videos" / f"{item}.avi"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def people(shard):
    return [annotation for picture in shard.pictures for annotation in picture.annotations]


def joints_of(annotation):
    return np.array(annotation["keypoints"]).reshape(-1, 3)


# ------------------------------------------------------------ masks


def test_seven_channels_by_hand(tmp_path):
    write_clip(tmp_path)
    annotation = people(read_clip(ITEM, tmp_path, BODYPARTS_7))[0]
    assert_masks(
        annotation,
        {
            "head": block(0, 3, 6, 8),
            "torso": block(3, 8, 5, 9),
            "right_arm": block(3, 7, 3, 5),
            "left_arm": block(3, 7, 9, 11),
            "right_leg": block(8, 11, 5, 7),
            "left_leg": block(8, 11, 7, 9),
        },
    )
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY)
    assert annotation["bbox"] == [3, 0, 8, 12]
    assert annotation["part_state"] == dict.fromkeys(BODYPARTS_7.channels, "known")


def test_other_schemas_by_hand(tmp_path):
    write_clip(tmp_path)
    assert_masks(
        people(read_clip(ITEM, tmp_path, BODYPARTS_11))[0],
        {
            "torso": LABEL_BLOCKS[1],
            "head": LABEL_BLOCKS[2],
            "right_upper_arm": LABEL_BLOCKS[3],
            "left_upper_arm": LABEL_BLOCKS[4],
            "right_upper_leg": LABEL_BLOCKS[5],
            "left_upper_leg": LABEL_BLOCKS[6],
            "right_lower_arm": LABEL_BLOCKS[7],
            "left_lower_arm": LABEL_BLOCKS[8],
            "right_lower_leg": LABEL_BLOCKS[9],
            "left_lower_leg": LABEL_BLOCKS[10],
        },
    )
    assert_masks(
        people(read_clip(ITEM, tmp_path, PASCAL_PERSON_PART))[0],
        {
            "torso": LABEL_BLOCKS[1],
            "head": LABEL_BLOCKS[2],
            "upper_arms": LABEL_BLOCKS[3] | LABEL_BLOCKS[4],
            "upper_legs": LABEL_BLOCKS[5] | LABEL_BLOCKS[6],
            "lower_arms": LABEL_BLOCKS[7] | LABEL_BLOCKS[8],
            "lower_legs": LABEL_BLOCKS[9] | LABEL_BLOCKS[10],
        },
    )


def test_hands_and_feet_are_ignored(tmp_path):
    write_clip(tmp_path)
    annotation = people(read_clip(ITEM, tmp_path, BODYPARTS_7))[0]
    ignored = decode_mask(annotation["ignore_segmentation"])
    np.testing.assert_array_equal(ignored, HANDS_AND_FEET)


def test_every_frame_has_its_own_masks_and_picture(tmp_path):
    write_clip(tmp_path, count=5)
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7, every=2)
    assert [p.file_name[-9:] for p in shard.pictures] == ["00001.png", "00003.png", "00005.png"]
    assert [p.annotations[0]["bbox"] for p in shard.pictures] == [
        [3, 0, 8, 12],
        [5, 0, 8, 12],
        [7, 0, 8, 12],
    ]
    heads = [masks_of(a)["head"] for a in people(shard)]
    np.testing.assert_array_equal(heads[2], block(0, 3, 10, 12))
    assert joints_of(people(shard)[2])[0].tolist() == [4, 0, 2]
    assert all((p.height, p.width) == SHAPE and not p.exhaustive for p in shard.pictures)


def test_the_last_frame_without_labels_has_unknown_parts(tmp_path):
    write_clip(tmp_path, count=3, labelled=2)
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    states = [set(a["part_state"]) for a in people(shard)]
    assert states == [set(BODYPARTS_7.channels)] * 2 + [{"body"}]
    last = people(shard)[-1]
    assert last["part_segmentation"] == {} and "ignore_segmentation" not in last
    assert last["num_keypoints"] == 14  # one has left the frame


def test_without_files_of_parts_and_joints_they_are_unknown(tmp_path):
    write_clip(tmp_path)
    flow_file(tmp_path).unlink()
    joint_file(tmp_path).unlink()
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    for annotation in people(shard):
        assert annotation["part_state"] == {"body": "known"}
        assert annotation["part_segmentation"] == {} and "ignore_segmentation" not in annotation
        assert annotation["keypoints"] == [0] * 45
    assert len(people(shard)) == 3
    assert [n.where for n in shard.left_out] == [
        str(flow_file(tmp_path)),
        str(joint_file(tmp_path)),
    ]


def test_a_label_that_is_not_there_is_known_to_be_empty(tmp_path):
    write_clip(tmp_path, count=2)
    labels = np.where(LABELS == 2, 0, LABELS)
    save(flow_file(tmp_path), part_mask=moved(labels, 2))
    annotation = people(read_clip(ITEM, tmp_path, BODYPARTS_7))[0]
    assert "head" not in annotation["part_segmentation"]
    assert annotation["part_state"]["head"] == "known"


def test_an_empty_body_is_left_out(tmp_path):
    write_clip(tmp_path)
    bodies = moved(BODY.astype(np.uint8), 3)
    bodies[:, :, 1] = 0
    save(mask_file(tmp_path), part_mask=bodies)
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    assert [p.file_name[-9:] for p in shard.pictures] == ["00001.png", "00003.png"]
    (note,) = shard.left_out
    assert note.where == f"{mask_file(tmp_path)}, frame 2"


# ------------------------------------------------------------ joints


def test_shift_joints():
    joints = np.array([[1.0, 1.0, 2.0], [320.0, 240.0, 0.0]])
    np.testing.assert_array_equal(shift_joints(joints), [[0, 0, 2], [319, 239, 0]])
    assert joints[0, 0] == 1


def test_drop_outside_joints():
    """A frame of 12 rows and 16 columns: half a pixel beyond the outermost centres is inside."""
    inside = [(0, 0), (15, 11), (-0.5, 5), (15.5, 11.5), (15, -0.5)]
    outside = [(-0.6, 5), (5, -0.6), (15.6, 5), (5, 11.6), (13, 14), (-300, 5)]
    joints = np.array([(*xy, 2.0) for xy in inside + outside])
    dropped = drop_outside_joints(joints, *SHAPE)
    assert dropped[:, 2].tolist() == [2] * len(inside) + [0] * len(outside)
    np.testing.assert_array_equal(dropped[:, :2], joints[:, :2])
    joints[:, 2] = 0
    assert not drop_outside_joints(joints, *SHAPE)[:, 2].any()


def test_joints_by_hand(tmp_path):
    write_clip(tmp_path)
    pos = positions(3)
    pos[:, JHMDB_15.keypoints.index("right_wrist"), 0] = 4.5, 6.25
    pos[:, JHMDB_15.keypoints.index("left_wrist"), 0] = 10.5, 6.25
    pos[:, JHMDB_15.keypoints.index("left_ankle"), 0] = 8, 20
    pos[:, JHMDB_15.keypoints.index("belly"), 0] = np.nan
    save(joint_file(tmp_path), pos_img=pos)
    found = joints_of(people(read_clip(ITEM, tmp_path, BODYPARTS_7))[0])
    assert found[11].tolist() == [3.5, 5.25, 2]  # right wrist: at the picture's left
    assert found[12].tolist() == [9.5, 5.25, 2]
    assert found[14].tolist() == [0, 0, 0]  # below the frame
    assert found[1].tolist() == [0, 0, 0]  # not a number
    assert found[3].tolist() == [3, 1, 2]
    assert (found[:, 2] == 2).sum() == 13


def test_cleaning_can_be_switched_off(tmp_path):
    write_clip(tmp_path)
    raw = joints_of(people(read_clip(ITEM, tmp_path, BODYPARTS_7, shift=False))[0])
    assert raw[0].tolist() == [1, 1, 2]
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7, drop_outside=False)
    assert [a["num_keypoints"] for a in people(shard)] == [15, 15, 15]
    assert joints_of(people(shard)[2])[14].tolist() == [16, 7, 2]
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    assert [a["num_keypoints"] for a in people(shard)] == [15, 15, 14]


# ------------------------------------------------------------ frames from videos


def video_clip(root, count, written, size=SHAPE):
    write_clip(root, count=count)
    shutil.rmtree(root / "Rename_Images")
    grey = [np.full((*size, 3), 40 * (i + 1), np.uint8) for i in range(written)]
    return write_video(root, grey)


def test_frames_from_a_video(tmp_path):
    video_clip(tmp_path, 5, 5)
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7, every=2)
    assert shard.left_out == []
    names = [f"frames/{ITEM}/{n:05d}.jpg" for n in (1, 3, 5)]
    assert [p.file_name for p in shard.pictures] == names
    for name, level in zip(names, (40, 120, 200), strict=True):
        assert abs(cv2.imread(str(tmp_path / name)).mean() - level) < 4
    assert sorted(p.name for p in (tmp_path / "frames" / ITEM).iterdir()) == [
        name[-9:] for name in names
    ]
    assert [a["bbox"][0] for a in people(shard)] == [3, 5, 7]


def test_a_video_that_ends_early_costs_its_missing_frames(tmp_path):
    path = video_clip(tmp_path, 5, 3)
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    assert [p.file_name[-9:] for p in shard.pictures] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert [n.where for n in shard.left_out] == [f"{path}, frame 4", f"{path}, frame 5"]


def test_a_video_that_cannot_be_read(tmp_path):
    path = video_clip(tmp_path, 2, 2)
    path.write_bytes(b"not a video")
    with pytest.raises(BadInput, match="expected a video"):
        read_clip(ITEM, tmp_path, BODYPARTS_7)
    path.unlink()
    with pytest.raises(BadInput, match="Rename_Images"):
        read_clip(ITEM, tmp_path, BODYPARTS_7)


# ------------------------------------------------------------ bad files


def test_a_bad_picture_costs_its_frame(tmp_path):
    write_clip(tmp_path, count=4)
    frame_file(tmp_path, 1).unlink()
    data = frame_file(tmp_path, 2).read_bytes()
    frame_file(tmp_path, 2).write_bytes(data[: len(data) // 2])
    cv2.imwrite(str(frame_file(tmp_path, 3)), np.zeros((16, 12, 3), np.uint8))
    shard = read_clip(ITEM, tmp_path, BODYPARTS_7)
    assert [p.file_name[-9:] for p in shard.pictures] == ["00004.png"]
    assert people(shard)[0]["bbox"][0] == 6
    assert sorted(n.where[-9:] for n in shard.left_out) == [f"0000{n}.png" for n in (1, 2, 3)]
    assert any("(16, 12), not (12, 16)" in n.found for n in shard.left_out)


def replace_masks(variable):
    return lambda root: save(mask_file(root), part_mask=variable)


def replace_labels(variable):
    return lambda root: save(flow_file(root), part_mask=variable)


def cut(path):
    """Leave the header, 128 bytes, and the beginning of the first variable."""
    path.write_bytes(path.read_bytes()[:180])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: mask_file(root).unlink(), "puppet_mask.mat: .*found no file"),
        (lambda root: cut(mask_file(root)), "puppet_mask.mat: expected a readable .mat"),
        (lambda root: save(mask_file(root), other=1), "puppet_mask.mat: .*'part_mask'"),
        (lambda root: save(mask_file(root), part_mask="text"), "'part_mask'"),
        (replace_masks(BODY), r"\(H, W, T\), found \(12, 16\)"),
        (lambda root: cut(flow_file(root)), "puppet_flow.mat: expected a readable .mat"),
        (replace_labels(moved(LABELS, 4)), r"puppet_flow.mat: .*\(12, 16, 4\), not \(12, 16, 3\)"),
        (replace_labels(moved(LABELS, 1)[:, :, 0]), r"puppet_flow.mat: .*\(12, 16\), not"),
        (replace_labels(moved(LABELS.T, 3)), r"\(16, 12, 3\), not"),
        (replace_labels(moved(LABELS + 1, 3)), "from 0 to 10, found 1 to 11"),
        (lambda root: cut(joint_file(root)), "joint_positions.mat: expected a readable .mat"),
        (lambda root: save(joint_file(root), pos_img=positions(2)), r"\(2, 15, 2\), not"),
    ],
    ids=[
        *("no masks", "cut masks", "other variable", "text", "one mask"),
        *("cut labels", "too many labels", "one label map", "turned labels", "label 11"),
        *("cut joints", "too few joints"),
    ],
)
def test_annotations_of_another_make(tmp_path, change, message):
    write_clip(tmp_path)
    change(tmp_path)
    with pytest.raises(BadInput, match=message):
        read_clip(ITEM, tmp_path, BODYPARTS_7)


# ------------------------------------------------------------ splits and files


@pytest.fixture
def dataset(tmp_path):
    clips = {"b_np1_0": (1, 2, 2), "a_(x)_@_np1_1": (1, 1, 0), "c_np1_2": (2, 1, 1)}
    write_splits(tmp_path, clips)
    write_splits(tmp_path, {"d_np1_0": (2, 2, 2)}, action="brush_hair")
    for clip in clips:
        write_clip(tmp_path, f"catch/{clip}", count=2)
    write_clip(tmp_path, "brush_hair/d_np1_0", count=2)
    return tmp_path


def test_splits(dataset):
    a, b, c, d = "catch/a_(x)_@_np1_1", "catch/b_np1_0", "catch/c_np1_2", "brush_hair/d_np1_0"
    found = {split: read_split(dataset, split) for split in SPLITS}
    assert found == {
        "train1": [b, a],
        "test1": [d, c],
        "train2": [a, c],
        "test2": [d, b],
        "train3": [c],
        "test3": [d, b],
    }


def test_a_list_of_clips(dataset):
    path = dataset / "sub.txt"
    path.write_text("c_np1_2.avi 1\n\ncatch/b_np1_0\n")
    clips = read_clip_list(path)
    assert clips == ["c_np1_2", "b_np1_0"]
    assert read_split(dataset, "train1", clips) == ["catch/b_np1_0"]
    assert read_split(dataset, "test1", clips) == ["catch/c_np1_2"]
    with pytest.raises(RecordError, match="found 1 in none: .'nobody'"):
        read_split(dataset, "train1", [*clips, "nobody"])
    prepare_jhmdb(dataset, "train1", BODYPARTS_7, clips=clips)
    records = read_records(dataset / "sub_jhmdb_train1.bodyparts-7.json")
    assert {i["file_name"].split("/")[2] for i in records.images} == {"b_np1_0"}


def test_a_dataset_that_is_not_there(dataset):
    with pytest.raises(ValueError, match="train1.*'train'"):
        read_split(dataset, "train")
    with pytest.raises(FileNotFoundError, match="nowhere.*README"):
        read_split(dataset / "nowhere", "train1")
    (dataset / "splits" / "catch_test_split1.txt").write_text("b_np1_0 train\n")
    with pytest.raises(RecordError, match="catch_test_split1.txt: .*'b_np1_0 train'"):
        read_split(dataset, "train1")
    with pytest.raises(ValueError, match="bodyparts-7.*not hands"):
        prepare_jhmdb(dataset, "train2", PartSchema("hands", ("body",)))


def test_one_bad_clip_is_reported_and_skipped(dataset):
    cut(flow_file(dataset, "catch/b_np1_0"))
    summary = prepare_jhmdb(dataset, "train1", BODYPARTS_7)
    records = read_records(dataset / "jhmdb_train1.bodyparts-7.json")
    folder = "Rename_Images/catch/a_(x)_@_np1_1"
    assert [i["file_name"] for i in records.images] == [
        f"{folder}/00001.png",
        f"{folder}/00002.png",
    ]
    assert validate_records(records, dataset) == []
    (note,) = summary.left_out
    assert note.where == str(flow_file(dataset, "catch/b_np1_0"))


@pytest.mark.parametrize(
    "schema", [BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART], ids=lambda s: s.name
)
def test_pycocotools_reads_the_same(dataset, schema):
    summary = prepare_jhmdb(dataset, "test1", schema, every=2)
    assert (summary.pictures, summary.people, summary.people_with_joints) == (2, 2, 2)
    path = dataset / f"jhmdb_test1.{schema.name}.json"
    assert validate_records(read_records(path), dataset) == []
    coco = COCO(str(path))
    assert coco.loadCats(1)[0]["keypoints"] == list(JHMDB_15.keypoints)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        np.testing.assert_array_equal(coco.annToMask(annotation), BODY)
        for k, (x, y, v) in enumerate(joints_of(annotation)):
            assert (x, y, v) == (k, k // 2, 2)
    assert all(image["exhaustive"] is False for image in coco.loadImgs(coco.getImgIds()))


def test_script(run_script, dataset, capsys):
    run_script("prepare_jhmdb.py", "--root", dataset, "--workers", 1, "--no-shift-joints")
    written = sorted(path.name for path in dataset.glob("*.json"))
    assert written == ["jhmdb_test1.bodyparts-7.json", "jhmdb_train1.bodyparts-7.json"]
    assert capsys.readouterr().out.count("pictures") == 2
    content = json.loads((dataset / written[1]).read_text())
    assert content["info"]["shift_joints"] is False
    assert content["info"]["drop_outside_joints"] is True
    assert content["annotations"][0]["keypoints"][:3] == [1, 1, 2]
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script("prepare_jhmdb.py", "--root", dataset / "nowhere")


# ------------------------------------------------------------ real files

GOALKEEPER = "catch/Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2"
FRISBEE = "catch/Frisbee_catch_f_cm_np1_ri_med_0"


@pytest.fixture
def samples(shared_dir, tmp_path):
    """The samples, laid out as the dataset is."""
    source = shared_dir / "samples" / "jhmdb"
    for folder in ("puppet_mask", "splits", "Rename_Images"):
        for path in (source / folder).rglob("*"):
            if path.is_file():
                target = tmp_path / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    video = tmp_path / "ReCompress_Videos" / f"{GOALKEEPER}.avi"
    video.parent.mkdir(parents=True)
    video.symlink_to(source / video.name)
    return source, tmp_path


def test_real_splits(samples):
    _, root = samples
    for number in (1, 2, 3):
        train, test = (read_split(root, f"{half}{number}") for half in ("train", "test"))
        assert len(train) + len(test) == len({*train, *test}) == 89
    assert GOALKEEPER in read_split(root, "train1") and GOALKEEPER in read_split(root, "test3")


def test_real_masks(samples):
    _, root = samples
    shard = read_clip(GOALKEEPER, root, BODYPARTS_7)
    assert len(shard.pictures) == 12 and {(p.height, p.width) for p in shard.pictures} == {
        (240, 320)
    }
    assert [a["area"] for a in people(shard)][:4] == [2451, 2488, 2444, 2482]
    assert len(shard.left_out) == 2 + 28  # no parts, no joints, and frames the samples lack


def test_a_real_video_gives_the_frames(samples):
    """Frame by frame the video's picture is the one in Rename_Images, and no neighbour's."""
    source, root = samples
    os.rename(root / "Rename_Images", root / "elsewhere")
    shard = read_clip(GOALKEEPER, root, BODYPARTS_7)
    assert len(shard.pictures) == 40  # its header says 48
    folder = source / "Rename_Images" / GOALKEEPER
    originals = [cv2.imread(str(folder / f"{n:05d}.png")).astype(int) for n in range(1, 13)]
    for i in range(12):
        found = cv2.imread(str(root / shard.pictures[i].file_name)).astype(int)
        differences = [np.abs(found - original).mean() for original in originals]
        assert np.argmin(differences) == i and differences[i] < 4


def test_real_joints_lie_on_the_body(samples):
    """Of the Frisbee clip's first frame the joints are known from another copy of the dataset."""
    source, root = samples
    content = json.loads((source / "coco_style" / "test_jhmdb_sub1.json").read_text())
    (known,) = (a for a in content["annotations"] if a["image_id"] == 2280001)
    one_based = np.array(known["keypoints"]).reshape(15, 3)[:, :2]
    save(joint_file(root, FRISBEE), pos_img=np.repeat(one_based.T[:, :, None], 37, axis=2))
    picture = frame_file(root, 1, FRISBEE)
    picture.parent.mkdir(parents=True)
    picture.symlink_to(source / "coco_style" / FRISBEE.split("/")[1] / "00001.png")

    (annotation,) = people(read_clip(FRISBEE, root, BODYPARTS_7))
    x, y, w, h = known["bbox"]
    assert annotation["bbox"] == [x - 1, y - 1, w, h]  # that copy's boxes are 1-based too
    body = decode_mask(annotation["segmentation"])
    joints = joints_of(annotation)
    np.testing.assert_allclose(joints[:, :2], one_based - 1, atol=0.006)
    columns, rows = np.rint(joints[:, :2]).astype(int).T
    assert body[rows, columns].all()
    # The man throws with his right hand, over his head, and holds the left one out.
    wrists = {name: joints[JHMDB_15.keypoints.index(name)] for name in JHMDB_15.keypoints}
    assert wrists["right_wrist"][1] < wrists["face"][1] < wrists["left_wrist"][1]


def test_sides_are_the_persons_own(samples):
    """Seen from behind the right side is at the picture's right."""
    source, root = samples
    content = json.loads((source / "coco_style" / "test_jhmdb_sub1.json").read_text())
    (behind,) = (a for a in content["annotations"] if a["image_id"] == 2300001)
    pos = np.array(behind["keypoints"]).reshape(15, 3)[:, :2].T[:, :, None]
    save(joint_file(root), pos_img=np.repeat(pos, 2, axis=2))
    save(mask_file(root), part_mask=np.ones((240, 320, 2), np.uint8))
    picture = frame_file(root, 1)
    picture.parent.mkdir(parents=True)
    name = "Goalkeeper_Training_Day_@_7_catch_f_cm_np1_ri_med_0"
    picture.symlink_to(source / "coco_style" / name / "00001.png")

    (annotation,) = people(read_clip(ITEM, root, BODYPARTS_7))
    joints = dict(zip(JHMDB_15.keypoints, joints_of(annotation), strict=True))
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        assert joints[f"right_{joint}"][0] > joints[f"left_{joint}"][0] + 5
    for above, below in zip(("face", "neck"), ("neck", "belly"), strict=True):
        assert joints[above][1] < joints[below][1]
