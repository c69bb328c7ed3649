from __future__ import annotations

import shutil
import zipfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.readers.chalearn import (
    VAL_SEQUENCES,
    find_sequences,
    prepare_chalearn,
    read_sequence,
    read_split,
)
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
    PASCAL_PERSON_PART,
    PartSchema,
)

from .conftest import assert_masks, masks_of, only_person, rectangle

SHAPE = (12, 16)
block = partial(rectangle, SHAPE)

# Faces the camera: the right side is at the picture's left. Limbs by their number.
ACTOR = {
    1: block(0, 2, 3, 5),  # head
    2: block(2, 7, 2, 6),  # torso
    3: block(6, 7, 6, 7),  # left hand
    4: block(6, 7, 1, 2),  # right hand
    5: block(4, 6, 6, 7),  # left forearm
    6: block(4, 6, 1, 3),  # right forearm, in front of the chest
    7: block(2, 4, 6, 7),  # left upper arm
    8: block(2, 4, 1, 2),  # right upper arm
    9: block(11, 12, 4, 6),  # left foot
    10: block(11, 12, 2, 4),  # right foot
    11: block(9, 11, 4, 6),  # left lower leg
    12: block(9, 11, 2, 4),  # right lower leg
    13: block(7, 9, 4, 6),  # left thigh
    14: block(7, 9, 2, 4),  # right thigh
}
BODY = np.logical_or.reduce(list(ACTOR.values()))


def shifted(limbs, columns):
    return {limb: np.roll(mask, columns, axis=1) for limb, mask in limbs.items()}


def png(mask, value=255):
    return cv2.imencode(".png", mask.astype(np.uint8) * value)[1].tobytes()


def jpg(level=90, shape=SHAPE):
    return cv2.imencode(".jpg", np.full((*shape, 3), level, np.uint8))[1].tobytes()


def files_2014(frame, actors, *, value=255, picture=None):
    """Name -> bytes of one frame, e.g. frame "01_0001". ``actors``: W -> limbs by number."""
    files = {f"imagesjpg/{frame}.jpg": jpg() if picture is None else picture}
    for actor, limbs in actors.items():
        for limb, mask in limbs.items():
            files[f"maskspng/{frame}_{actor}_{limb}.png"] = png(mask, value)
    return files


def files_2015(frame, actors):
    files = {f"images/{frame}.jpg": jpg()}
    empty = np.zeros(SHAPE, bool)
    for actor, limbs in actors.items():
        wide = np.hstack([limbs.get(limb, empty) for limb in range(1, 15)])
        files[f"masks/{frame}_{actor}.png"] = png(wide)
    return files


def write_folder(root, name, files):
    for path, data in files.items():
        (root / name / path).parent.mkdir(parents=True, exist_ok=True)
        (root / name / path).write_bytes(data)
    return name


def write_zip(root, name, files):
    root.mkdir(exist_ok=True)
    with zipfile.ZipFile(root / name, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return name


# ------------------------------------------------------------ masks


@pytest.mark.parametrize("edition", [files_2014, files_2015])
@pytest.mark.parametrize(
    ("name", "write"), [("Seq01.zip", write_zip), ("Seq01", write_folder)], ids=["zip", "folder"]
)
def test_seven_channels_by_hand(tmp_path, edition, name, write):
    write(tmp_path, name, edition("01_0001", {1: ACTOR}))
    shard = read_sequence(name, tmp_path, BODYPARTS_7)
    annotation = only_person(shard)
    right_arm = block(2, 7, 1, 2) | block(4, 6, 2, 3)
    assert_masks(
        annotation,
        {
            "head": block(0, 2, 3, 5),
            "torso": block(2, 7, 2, 6) & ~right_arm,
            "right_arm": right_arm,
            "left_arm": block(2, 7, 6, 7),
            "right_leg": block(7, 12, 2, 4),
            "left_leg": block(7, 12, 4, 6),
        },
    )
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY)
    assert annotation["bbox"] == [1, 0, 6, 12]
    assert annotation["part_state"] == dict.fromkeys(BODYPARTS_7.channels, "known")
    assert annotation["num_keypoints"] == 0 and "ignore_segmentation" not in annotation
    assert shard.left_out == [] and shard.pictures[0].exhaustive


def test_other_schemas_by_hand(tmp_path):
    name = write_folder(tmp_path, "Seq01", files_2014("01_0001", {1: ACTOR}))
    torso = ACTOR[2] & ~ACTOR[6]
    assert_masks(
        only_person(read_sequence(name, tmp_path, BODYPARTS_11)),
        {
            "head": ACTOR[1],
            "torso": torso,
            "left_lower_arm": ACTOR[3] | ACTOR[5],
            "right_lower_arm": ACTOR[4] | ACTOR[6],
            "left_upper_arm": ACTOR[7],
            "right_upper_arm": ACTOR[8],
            "left_lower_leg": ACTOR[9] | ACTOR[11],
            "right_lower_leg": ACTOR[10] | ACTOR[12],
            "left_upper_leg": ACTOR[13],
            "right_upper_leg": ACTOR[14],
        },
    )
    assert_masks(
        only_person(read_sequence(name, tmp_path, PASCAL_PERSON_PART)),
        {
            "head": ACTOR[1],
            "torso": torso,
            "upper_arms": ACTOR[7] | ACTOR[8],
            "lower_arms": ACTOR[3] | ACTOR[4] | ACTOR[5] | ACTOR[6],
            "upper_legs": ACTOR[13] | ACTOR[14],
            "lower_legs": ACTOR[9] | ACTOR[10] | ACTOR[11] | ACTOR[12],
        },
    )


@pytest.mark.parametrize("edition", [files_2014, files_2015])
def test_a_missing_or_empty_limb_is_known_to_be_empty(tmp_path, edition):
    limbs = {limb: ACTOR[limb] for limb in (1, 2, 3)}
    limbs[4] = np.zeros(SHAPE, bool)
    name = write_folder(tmp_path, "Seq01", edition("01_0001", {1: limbs}))
    annotation = only_person(read_sequence(name, tmp_path, BODYPARTS_7))
    assert sorted(annotation["part_segmentation"]) == ["head", "left_arm", "torso"]
    assert annotation["part_state"] == dict.fromkeys(BODYPARTS_7.channels, "known")
    body = decode_mask(annotation["segmentation"])
    np.testing.assert_array_equal(body, ACTOR[1] | ACTOR[2] | ACTOR[3])


def test_masks_are_whatever_is_not_zero(tmp_path):
    name = write_folder(tmp_path, "Seq01", files_2014("01_0001", {1: ACTOR}, value=1))
    annotation = only_person(read_sequence(name, tmp_path, BODYPARTS_7))
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY)


@pytest.mark.parametrize("edition", [files_2014, files_2015])
def test_two_actors_are_two_people(tmp_path, edition):
    actors = {2: shifted(ACTOR, 8), 1: ACTOR}
    name = write_folder(tmp_path, "Seq01", edition("01_0001", actors))
    (picture,) = read_sequence(name, tmp_path, BODYPARTS_7).pictures
    assert [a["bbox"] for a in picture.annotations] == [[1, 0, 6, 12], [9, 0, 6, 12]]
    assert masks_of(picture.annotations[1])["right_arm"].any(axis=0).argmax() == 9


def test_an_actor_without_pixels_is_not_there(tmp_path):
    empty = {limb: np.zeros(SHAPE, bool) for limb in ACTOR}
    files = files_2014("01_0001", {1: ACTOR, 2: empty}) | files_2014("01_0002", {1: empty})
    name = write_folder(tmp_path, "Seq01", files)
    shard = read_sequence(name, tmp_path, BODYPARTS_7, every=1)
    assert [len(p.annotations) for p in shard.pictures] == [1, 0]
    assert shard.left_out == [] and all(p.exhaustive for p in shard.pictures)


# ------------------------------------------------------------ frames


def sequence_files(numbers, sequence="01"):
    files = {}
    for number in numbers:
        picture = jpg(level=10 * number)
        files |= files_2014(f"{sequence}_{number:04d}", {1: ACTOR}, picture=picture)
    return files


@pytest.mark.parametrize(
    ("every", "taken"), [(6, [1, 7, 13]), (1, list(range(1, 15))), (20, [1])], ids=str
)
def test_every_so_manieth_frame(tmp_path, every, taken):
    name = write_folder(tmp_path, "Seq01", sequence_files(range(14, 0, -1)))
    shard = read_sequence(name, tmp_path, BODYPARTS_7, every=every)
    names = [f"Seq01/imagesjpg/01_{number:04d}.jpg" for number in taken]
    assert [p.file_name for p in shard.pictures] == names


def test_frames_of_a_zip_are_copied(tmp_path):
    files = {f"Seq01/{path}": data for path, data in sequence_files(range(1, 14)).items()}
    files["__MACOSX/Seq01/imagesjpg/._01_0001.jpg"] = b"not a picture"
    files["Seq01/readme.txt"] = b"text"
    name = write_zip(tmp_path, "Seq01.zip", files)
    shard = read_sequence(name, tmp_path, BODYPARTS_7)
    names = [f"frames/Seq01/01_{number:04d}.jpg" for number in (1, 7, 13)]
    assert [p.file_name for p in shard.pictures] == names and shard.left_out == []
    written = sorted(p for p in (tmp_path / "frames").rglob("*") if p.is_file())
    assert written == [tmp_path / n for n in names]
    assert written[1].read_bytes() == files["Seq01/imagesjpg/01_0007.jpg"]


def test_frames_without_masks_are_not_taken(tmp_path):
    files = sequence_files(range(1, 5))
    for number in (1, 3):
        for limb in ACTOR:
            del files[f"maskspng/01_{number:04d}_1_{limb}.png"]
    name = write_folder(tmp_path, "Seq01", files)
    shard = read_sequence(name, tmp_path, BODYPARTS_7, every=1)
    assert [p.file_name[-8:] for p in shard.pictures] == ["0002.jpg", "0004.jpg"]
    (note,) = shard.left_out
    assert str(note) == f"{tmp_path / 'Seq01'}: 2 of 4 frames"


# ------------------------------------------------------------ bad files

FLAWS = {
    "no picture": (lambda files: files.pop("imagesjpg/01_0002.jpg"), "01_0002"),
    "picture": (
        lambda files: files.update({"imagesjpg/01_0002.jpg": jpg()[:-20]}),
        "imagesjpg/01_0002.jpg",
    ),
    "empty picture": (
        lambda files: files.update({"imagesjpg/01_0002.jpg": b""}),
        "imagesjpg/01_0002.jpg",
    ),
    "mask": (
        lambda files: files.update({"maskspng/01_0002_1_6.png": png(ACTOR[6])[:40]}),
        "maskspng/01_0002_1_6.png",
    ),
    "mask size": (
        lambda files: files.update({"maskspng/01_0002_1_6.png": png(ACTOR[6].T)}),
        "maskspng/01_0002_1_6.png",
    ),
    "wide mask size": (
        lambda files: files.update({"masks/01_0002_2.png": png(np.tile(BODY, (1, 13)))}),
        "masks/01_0002_2.png",
    ),
    "limb 15": (
        lambda files: files.update({"maskspng/01_0002_1_15.png": png(BODY)}),
        "maskspng/01_0002_1_15.png",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize(
    ("name", "write"), [("Seq01.zip", write_zip), ("Seq01", write_folder)], ids=["zip", "folder"]
)
def test_a_bad_file_costs_its_frame(tmp_path, flaw, name, write):
    change, where = FLAWS[flaw]
    files = sequence_files(range(1, 4))
    change(files)
    write(tmp_path, name, files)
    shard = read_sequence(name, tmp_path, BODYPARTS_7, every=1)
    assert [p.file_name[-8:] for p in shard.pictures] == ["0001.jpg", "0003.jpg"]
    (note,) = shard.left_out
    assert note.where == str(tmp_path / name / where)


def test_damage_inside_a_zip_costs_its_frame(tmp_path):
    """Stored without compression, so the mask's bytes are found in the zip."""
    files = sequence_files(range(1, 4))
    name = write_zip(tmp_path, "Seq01.zip", files)
    data = bytearray((tmp_path / name).read_bytes())
    entry = data.index(b"maskspng/01_0002_1_6.png")
    data[data.index(b"IDAT", entry) + 6] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    shard = read_sequence(name, tmp_path, BODYPARTS_7, every=1)
    assert [p.file_name[-8:] for p in shard.pictures] == ["0001.jpg", "0003.jpg"]
    assert "01_0002_1_6.png" in shard.left_out[0].where and "CRC" in shard.left_out[0].found


def test_sequences_that_cannot_be_read(tmp_path):
    (tmp_path / "Seq01.zip").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(BadInput, match="Seq01.zip: expected a zip"):
        read_sequence("Seq01.zip", tmp_path, BODYPARTS_7)
    write_zip(tmp_path, "Seq02.zip", {"imagesjpg/02_0001.jpg": jpg()})
    with pytest.raises(BadInput, match="Seq02.zip: expected masks.*found 1 frames"):
        read_sequence("Seq02.zip", tmp_path, BODYPARTS_7)


# ------------------------------------------------------------ splits and files


@pytest.fixture
def dataset(tmp_path):
    """Sequences 1 to 5: a zip and a folder, one broken, one without masks."""
    write_zip(tmp_path, "Seq01.zip", sequence_files(range(1, 8), "01"))
    (tmp_path / "Seq02.zip").write_bytes(b"broken")
    write_zip(tmp_path, "Seq03.zip", {"imagesjpg/03_0001.jpg": jpg()})
    write_folder(tmp_path, "Seq04", sequence_files(range(1, 3), "04"))
    write_folder(tmp_path, "Seq05", sequence_files(range(1, 3), "05"))
    (tmp_path / "frames").mkdir()
    return tmp_path


def test_splits(dataset):
    assert find_sequences(dataset) == {
        1: "Seq01.zip",
        2: "Seq02.zip",
        3: "Seq03.zip",
        4: "Seq04",
        5: "Seq05",
    }
    assert 4 in VAL_SEQUENCES
    assert read_split(dataset, "val") == ["Seq04"]
    assert read_split(dataset, "train") == ["Seq01.zip", "Seq02.zip", "Seq03.zip", "Seq05"]
    assert read_split(dataset, "val", [1, 5]) == ["Seq01.zip", "Seq05"]
    assert read_split(dataset, "train", [1, 5]) == ["Seq02.zip", "Seq03.zip", "Seq04"]


def test_the_folder_is_taken_where_its_zip_is_still_there(dataset):
    write_folder(dataset, "Seq01", sequence_files([1]))
    assert find_sequences(dataset)[1] == "Seq01"


def test_a_dataset_that_is_not_there(dataset):
    with pytest.raises(FileNotFoundError, match="nowhere.*README"):
        read_split(dataset / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="Seq05.*--val-sequences"):
        read_split(dataset, "val", [77])
    with pytest.raises(ValueError, match="'test'"):
        read_split(dataset, "test")
    with pytest.raises(ValueError, match="bodyparts-7.*not hands"):
        prepare_chalearn(dataset, "train", PartSchema("hands", ("body",)))


def test_bad_sequences_are_named_and_skipped(dataset):
    summary = prepare_chalearn(dataset, "train", BODYPARTS_7, workers=2)
    records = read_records(dataset / "chalearn_train.bodyparts-7.json")
    assert [i["file_name"] for i in records.images] == [
        "frames/Seq01/01_0001.jpg",
        "frames/Seq01/01_0007.jpg",
        "Seq05/imagesjpg/05_0001.jpg",
    ]
    assert validate_records(records, dataset) == []
    assert [Path(note.where).name for note in summary.left_out] == ["Seq02.zip", "Seq03.zip"]
    assert "hidden test set" in str(summary)


def test_nothing_readable_is_an_error(dataset):
    with pytest.raises(RecordError, match=r"Seq02.zip(.|\n)*Seq03.zip"):
        prepare_chalearn(dataset, "val", BODYPARTS_7, val_sequences=[2, 3])


@pytest.mark.parametrize(
    "schema", [BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART], ids=lambda s: s.name
)
def test_pycocotools_reads_the_same(dataset, schema):
    summary = prepare_chalearn(dataset, "val", schema, every=1)
    assert (summary.pictures, summary.people, summary.people_with_joints) == (2, 2, 0)
    coco = COCO(str(dataset / f"chalearn_val.{schema.name}.json"))
    annotations = coco.loadAnns(coco.getAnnIds())
    assert len(annotations) == 2
    for annotation in annotations:
        np.testing.assert_array_equal(coco.annToMask(annotation), BODY)
        assert annotation["area"] == BODY.sum()
        union = np.logical_or.reduce(list(masks_of(annotation).values()))
        np.testing.assert_array_equal(union, BODY)


def test_script(run_script, dataset, capsys):
    arguments = ("--root", dataset, "--workers", 1)
    run_script("prepare_chalearn.py", *arguments, "--every", 1, "--val-sequences", 1, 4)
    records = read_records(dataset / "chalearn_val.bodyparts-7.json")
    assert len(records.images) == 9
    assert records.info["every"] == 1 and records.info["val_sequences"] == [1, 4]
    assert len(read_records(dataset / "chalearn_train.bodyparts-7.json").images) == 2
    assert capsys.readouterr().out.count("pictures") == 2
    shutil.rmtree(dataset / "Seq04")
    with pytest.raises(SystemExit, match="error: .*--val-sequences"):
        run_script("prepare_chalearn.py", *arguments, "--split", "val")
