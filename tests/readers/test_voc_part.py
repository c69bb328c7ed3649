from __future__ import annotations

import os
import shutil
from functools import partial

import cv2
import numpy as np
import pytest
import scipy.io

from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.readers.voc_part import prepare_voc_part, read_image, read_split
from detectron2_bodyparts.records import (
    RecordError,
    decode_mask,
    person_annotation,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    PASCAL_PERSON_PART,
    PartSchema,
    unsided_name,
)

from .conftest import assert_masks, masks_of, only_person, rectangle

SHAPE = (12, 16)
block = partial(rectangle, SHAPE)
SIDED = ("lear", "leye", "lebrow", "llarm", "luarm", "lhand", "llleg", "luleg", "lfoot")
PERSON_PARTS = (
    *("head", "nose", "mouth", "hair", "torso", "neck"),
    *(side + name[1:] for name in SIDED for side in "lr"),
)


def struct_row(entries, names):
    """MATLAB's 1xN struct array; without entries 0x0, as the original files have it."""
    array = np.array([entries], dtype=[(name, "O") for name in names])
    return array if entries else array.reshape(0, 0)


def write_image(root, image_id, objects, *, shape=SHAPE):
    """A dataset's picture. ``objects``: (class, mask, [(part name, mask), ...])."""
    for folder in ("JPEGImages", "Annotations_Part"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "JPEGImages" / f"{image_id}.jpg"), np.full((*shape, 3), 90, np.uint8))
    entries = []
    for name, mask, parts in objects:
        parts = [(part, part_mask.astype(np.uint8)) for part, part_mask in parts]
        parts = struct_row(parts, ("part_name", "mask"))
        entries.append((name, 15, mask.astype(np.uint8), parts))
    objects = struct_row(entries, ("class", "class_ind", "mask", "parts"))
    path = root / "Annotations_Part" / f"{image_id}.mat"
    anno = {"imname": image_id, "objects": objects}
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)
    return path


# Faces the camera: the right arm is at the picture's left. It reaches across the chest, and its
# forearm is inside the torso's mask.
BODY = block(0, 12, 2, 12)
PERSON = (
    "person",
    BODY,
    [
        ("head", block(0, 3, 5, 9)),
        ("leye", block(1, 2, 7, 8)),
        ("hair", block(0, 1, 4, 10)),
        ("neck", block(3, 4, 6, 8)),
        ("torso", block(3, 8, 4, 10)),
        ("ruarm", block(3, 7, 2, 4)),
        ("rlarm", block(6, 7, 3, 7)),
        ("rhand", block(6, 7, 7, 9)),
        ("luarm", block(3, 7, 10, 12)),
        ("ruleg", block(8, 10, 4, 7)),
        ("rfoot", block(11, 12, 4, 7)),
        ("luleg", block(8, 10, 7, 10)),
        ("llleg", block(10, 12, 7, 10)),
    ],
)


def test_seven_channels_by_hand(tmp_path):
    write_image(tmp_path, "a", [PERSON])
    annotation = only_person(read_image("a", tmp_path, BODYPARTS_7))
    right_arm = block(3, 7, 2, 4) | block(6, 7, 3, 9)
    assert_masks(
        annotation,
        {
            "head": block(0, 3, 5, 9) | block(0, 1, 4, 10),
            "torso": block(3, 8, 4, 10) & ~right_arm,
            "right_arm": right_arm,
            "left_arm": block(3, 7, 10, 12),
            "right_leg": block(8, 10, 4, 7) | block(11, 12, 4, 7),
            "left_leg": block(8, 12, 7, 10),
        },
    )
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY)
    assert annotation["bbox"] == [2, 0, 10, 12]
    assert annotation["part_state"] == dict.fromkeys(BODYPARTS_7.channels, "known")


def test_pascal_person_part_by_hand(tmp_path):
    write_image(tmp_path, "a", [PERSON])
    annotation = only_person(read_image("a", tmp_path, PASCAL_PERSON_PART))
    upper_arms = block(3, 7, 2, 4) | block(3, 7, 10, 12)
    lower_arms = block(6, 7, 4, 9)  # where it meets the upper arm it is upper arm
    neck = block(3, 4, 6, 8)
    assert_masks(
        annotation,
        {
            "head": block(0, 3, 5, 9) | block(0, 1, 4, 10) | neck,
            "torso": block(3, 8, 4, 10) & ~neck & ~lower_arms,
            "upper_arms": upper_arms,
            "lower_arms": lower_arms,
            "upper_legs": block(8, 10, 4, 10),
            "lower_legs": block(11, 12, 4, 7) | block(10, 12, 7, 10),
        },
    )


CHANNEL_OF = {
    "bodyparts-7": lambda part: {
        "arm": f"{_side(part)}_arm",
        "hand": f"{_side(part)}_arm",
        "leg": f"{_side(part)}_leg",
        "foot": f"{_side(part)}_leg",
        "torso": "torso",
        "neck": "torso",
    },
    "pascal-person-part": lambda part: {
        "uarm": "upper_arms",
        "arm": "lower_arms",
        "hand": "lower_arms",
        "uleg": "upper_legs",
        "leg": "lower_legs",
        "foot": "lower_legs",
        "torso": "torso",
        "neck": "head",
    },
    "bodyparts-11": lambda part: {
        "uarm": f"{_side(part)}_upper_arm",
        "arm": f"{_side(part)}_lower_arm",
        "hand": f"{_side(part)}_lower_arm",
        "uleg": f"{_side(part)}_upper_leg",
        "leg": f"{_side(part)}_lower_leg",
        "foot": f"{_side(part)}_lower_leg",
        "torso": "torso",
        "neck": "head",
    },
}


def _side(part):
    return {"l": "left", "r": "right"}.get(part[0])


@pytest.mark.parametrize(
    "schema", [BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART], ids=lambda s: s.name
)
def test_every_part_name_by_itself(tmp_path, schema):
    """24 people with one part each."""
    assert len(PERSON_PARTS) == 24
    body, piece = block(0, 9, 0, 9), block(2, 4, 3, 6)
    write_image(tmp_path, "a", [("person", body, [(part, piece)]) for part in PERSON_PARTS])
    shard = read_image("a", tmp_path, schema)
    for part, annotation in zip(PERSON_PARTS, shard.pictures[0].annotations, strict=True):
        endings = CHANNEL_OF[schema.name](part)
        channel = next((c for ending, c in endings.items() if part.endswith(ending)), "head")
        assert_masks(annotation, {channel: piece})
    assert shard.left_out == []


def test_a_body_without_parts_is_not_a_person_without_limbs(tmp_path):
    write_image(tmp_path, "a", [("person", BODY, [])])
    annotation = only_person(read_image("a", tmp_path, BODYPARTS_7))
    assert annotation["part_state"] == {"body": "known"}
    assert annotation["part_segmentation"] == {}


def test_an_unknown_part_is_ignored_and_named(tmp_path):
    odd = block(6, 9, 8, 14)  # some of it outside the body
    parts = [("torso", block(3, 8, 4, 10)), ("lwing", odd)]
    path = write_image(tmp_path, "a", [PERSON, ("person", BODY, parts)])
    shard = read_image("a", tmp_path, BODYPARTS_7)
    annotation = shard.pictures[0].annotations[1]
    assert annotation["part_state"] == {"body": "known", "torso": "known"}
    np.testing.assert_array_equal(decode_mask(annotation["ignore_segmentation"]), odd & BODY)
    (note,) = shard.left_out
    assert note.where == f"{path}, object 2" and "'lwing'" in note.found


def test_an_empty_part_is_known_to_be_empty(tmp_path):
    parts = [("head", block(0, 2, 4, 6)), ("torso", np.zeros(SHAPE, bool))]
    write_image(tmp_path, "a", [("person", BODY, parts)])
    annotation = only_person(read_image("a", tmp_path, BODYPARTS_7))
    assert list(annotation["part_segmentation"]) == ["head"]
    assert annotation["part_state"]["torso"] == "known"


def test_parts_are_cut_at_the_body(tmp_path):
    parts = [("torso", block(0, 12, 0, 16))]
    write_image(tmp_path, "a", [("person", BODY, parts)])
    assert_masks(only_person(read_image("a", tmp_path, BODYPARTS_7)), {"torso": BODY})


def test_a_part_in_two_pieces(tmp_path):
    parts = [("luarm", block(0, 2, 3, 5)), ("luarm", block(4, 6, 3, 5))]
    write_image(tmp_path, "a", [("person", BODY, parts)])
    annotation = only_person(read_image("a", tmp_path, BODYPARTS_7))
    assert_masks(annotation, {"left_arm": block(0, 2, 3, 5) | block(4, 6, 3, 5)})


def test_only_people_are_read(tmp_path):
    dog = ("dog", block(0, 5, 0, 5), [("head", block(0, 2, 0, 2)), ("tail", block(4, 5, 4, 5))])
    write_image(tmp_path, "a", [dog, PERSON, ("bottle", block(0, 2, 0, 2), [])])
    write_image(tmp_path, "b", [dog])
    write_image(tmp_path, "c", [])
    assert only_person(read_image("a", tmp_path, BODYPARTS_7))["bbox"] == [2, 0, 10, 12]
    for image_id in "bc":
        shard = read_image(image_id, tmp_path, BODYPARTS_7)
        (picture,) = shard.pictures
        assert picture.annotations == [] and picture.exhaustive and shard.left_out == []
        assert picture.file_name == f"JPEGImages/{image_id}.jpg"


def test_a_person_without_pixels_is_left_out(tmp_path):
    path = write_image(tmp_path, "a", [("person", np.zeros(SHAPE, bool), []), PERSON])
    shard = read_image("a", tmp_path, BODYPARTS_7)
    assert len(shard.pictures[0].annotations) == 1
    assert [note.where for note in shard.left_out] == [f"{path}, object 1"]


# ------------------------------------------------------------ bad files


def test_a_truncated_annotation(tmp_path):
    path = write_image(tmp_path, "a", [PERSON])
    data = path.read_bytes()
    for length in (0, 1, 60, 127, 128, 130, 140, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(BadInput, match="a.mat: expected"):
            read_image("a", tmp_path, BODYPARTS_7)


def test_a_damaged_annotation(tmp_path):
    path = write_image(tmp_path, "a", [PERSON])
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(128, len(data), 40):
        damaged = data.copy()
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_image("a", tmp_path, BODYPARTS_7)
        except BadInput as e:
            assert e.where.startswith(str(path))
            refused += 1
    assert refused > 30


def other_variable(path):
    scipy.io.savemat(path, {"other": 1})


def no_struct(path):
    scipy.io.savemat(path, {"anno": 1})


def no_objects(path):
    scipy.io.savemat(path, {"anno": {"imname": "a"}})


def no_masks(path):
    objects = {"class": "person", "class_ind": 15}
    scipy.io.savemat(path, {"anno": {"imname": "a", "objects": objects}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "found no file"),
        (lambda path: path.write_text("not MATLAB's"), "a readable .mat file"),
        (other_variable, "one struct 'anno'"),
        (no_struct, "'objects'"),
        (no_objects, "'objects'"),
        (no_masks, "object 1: expected a struct with field 'mask'"),
    ],
    ids=["missing", "text", "other variable", "number", "no objects", "no masks"],
)
def test_annotations_of_another_make(tmp_path, change, message):
    path = write_image(tmp_path, "a", [PERSON])
    change(path)
    with pytest.raises(BadInput, match=message) as error:
        read_image("a", tmp_path, BODYPARTS_7)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("shape", [(16, 12), (11, 16)])
def test_a_picture_of_another_size(tmp_path, shape):
    write_image(tmp_path, "a", [PERSON], shape=shape)
    with pytest.raises(BadInput, match=r"a.mat, object 1: .*\(12, 16\), not"):
        read_image("a", tmp_path, BODYPARTS_7)


def test_a_part_of_another_size(tmp_path):
    torso = np.ones((12, 15), bool)
    write_image(tmp_path, "a", [("person", BODY, [("torso", torso)])])
    with pytest.raises(BadInput, match=r"object 1, part torso: .*\(12, 15\), not \(12, 16\)"):
        read_image("a", tmp_path, BODYPARTS_7)


# ------------------------------------------------------------ splits and files


@pytest.fixture
def dataset(tmp_path):
    for image_id in ("2008_000003", "2008_000001", "2008_000002"):
        write_image(tmp_path, image_id, [PERSON])
    splits = tmp_path / "ImageSets" / "Main"
    splits.mkdir(parents=True)
    (splits / "train.txt").write_text("2008_000003\n2008_000001\n\n")
    (splits / "val.txt").write_bytes(b"2008_000002  1\r\n2008_000009 -1\r\n")
    return tmp_path


def test_splits(dataset):
    assert read_split(dataset, "train") == ["2008_000003", "2008_000001"]
    assert read_split(dataset, "val") == ["2008_000002", "2008_000009"]
    assert read_split(dataset, "all") == ["2008_000001", "2008_000002", "2008_000003"]


def test_a_dataset_that_is_not_there(dataset):
    with pytest.raises(FileNotFoundError, match="trainval.txt.*'all'"):
        read_split(dataset, "trainval")
    for split in ("train", "all"):
        with pytest.raises(FileNotFoundError, match="nowhere.*README"):
            read_split(dataset / "nowhere", split)


def test_one_bad_annotation_is_reported_and_skipped(dataset):
    summary = prepare_voc_part(dataset, "val", BODYPARTS_7)
    records = read_records(dataset / "voc_part_val.bodyparts-7.json")
    assert [i["file_name"] for i in records.images] == ["JPEGImages/2008_000002.jpg"]
    assert validate_records(records, dataset) == []
    assert summary.people == 1 and len(summary.left_out) == 1
    assert "2008_000009.mat" in str(summary)


def test_limit(dataset):
    assert prepare_voc_part(dataset, "train", BODYPARTS_7, limit=1).pictures == 1
    records = read_records(dataset / "voc_part_train.bodyparts-7.json")
    assert [i["file_name"] for i in records.images] == ["JPEGImages/2008_000003.jpg"]


def test_a_schema_nobody_told_the_reader_about(dataset):
    with pytest.raises(ValueError, match="bodyparts-7.*not hands"):
        prepare_voc_part(dataset, "train", PartSchema("hands", ("body",)))


def test_script(run_script, dataset, capsys):
    schemas = ("bodyparts-7", "pascal-person-part")
    run_script("prepare_voc_part.py", "--root", dataset, "--schema", *schemas, "--workers", 1)
    written = sorted(path.name for path in dataset.glob("*.json"))
    assert written == sorted(f"voc_part_{s}.{n}.json" for s in ("train", "val") for n in schemas)
    assert capsys.readouterr().out.count("pictures") == 4
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script("prepare_voc_part.py", "--root", dataset / "nowhere")


# ------------------------------------------------------------ real files


@pytest.fixture(scope="module")
def samples(shared_dir):
    return shared_dir / "samples" / "voc_part"


def test_real_files(samples, tmp_path):
    root = tmp_path / "voc_part"
    shutil.copytree(samples, root, copy_function=os.symlink)
    os.chmod(root, 0o755)
    for schema in (BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART):
        summary = prepare_voc_part(root, "all", schema)
        assert (summary.pictures, summary.pictures_with_people, summary.people) == (7, 4, 8)
        assert summary.left_out == []
        records = read_records(root / f"voc_part_all.{schema.name}.json")
        assert validate_records(records, root) == []
        for annotation in records.annotations:
            parts = sum(mask.sum() for mask in masks_of(annotation).values())
            assert 0.93 * annotation["area"] < parts <= annotation["area"]


@pytest.mark.parametrize("image_id", ["2008_000726", "2009_001103"])
def test_equals_the_published_label_map(shared_dir, samples, image_id):
    """PASCAL-Person-Part's, pixel by pixel, wherever no other object covers a person."""
    folder = shared_dir / "data" / "pascal_person_part" / "pascal_person_part_gt"
    truth = cv2.imread(str(folder / f"{image_id}.png"), cv2.IMREAD_UNCHANGED)
    labels = np.zeros_like(truth)
    (picture,) = read_image(image_id, samples, PASCAL_PERSON_PART).pictures
    for annotation in picture.annotations:
        for name, mask in masks_of(annotation).items():
            labels[mask] = PASCAL_PERSON_PART.index(name)

    # The published maps have bottles and the like painted over people; we keep the person's mask.
    objects = scipy.io.loadmat(samples / "Annotations_Part" / f"{image_id}.mat")["anno"][0, 0]
    others = np.zeros(truth.shape, dtype=bool)
    for entry in objects["objects"].ravel():
        if entry["class"][0] != "person":
            others |= entry["mask"] > 0
    assert np.count_nonzero(truth) > 40_000
    assert np.count_nonzero((labels != truth) & ~others) == 0
    assert np.count_nonzero(labels != truth) < 100


def test_pascal_person_part_is_the_union_of_both_sides_of_eleven(samples):
    for image_id in ("2008_000652", "2008_000726", "2009_001103", "2010_002526"):
        eleven, coarse = (
            read_image(image_id, samples, schema).pictures[0].annotations
            for schema in (BODYPARTS_11, PASCAL_PERSON_PART)
        )
        for fine, person in zip(eleven, coarse, strict=True):
            unions = {}
            for name, mask in masks_of(fine).items():
                union = name if name in ("head", "torso") else f"{unsided_name(name)}s"
                unions[union] = unions.get(union, False) | mask
            assert_masks(person, unions)


def test_sides_are_the_persons_own(samples):
    """Of three people who face the camera the right arm is at the picture's left."""
    for image_id, index in (("2008_000652", 0), ("2009_001103", 1), ("2010_002526", 2)):
        (picture,) = read_image(image_id, samples, BODYPARTS_7).pictures
        masks = masks_of(picture.annotations[index])
        right, left = (np.nonzero(masks[f"{s}_arm"])[1].mean() for s in ("right", "left"))
        assert right < left - 20, image_id


def test_paint_order_agrees_with_the_schemas(samples):
    """The seven channels are those that the schema's own paint order gives."""
    objects = scipy.io.loadmat(samples / "Annotations_Part" / "2009_001103.mat")["anno"][0, 0]
    entry = objects["objects"][0, 1]
    names = {"torso": "torso", "neck": "torso", "head": "head", "hair": "head"}
    parts = {}
    for part in entry["parts"].ravel():
        name = part["part_name"][0]
        channel = names.get(name, "head")
        if name.endswith(("arm", "hand")):
            channel = f"{_side(name)}_arm"
        parts[channel] = parts.get(channel, False) | (part["mask"] > 0)
    body = entry["mask"] > 0
    expected = person_annotation(BODYPARTS_7, COCO_17, body.shape, body=body, parts=parts)
    (picture,) = read_image("2009_001103", samples, BODYPARTS_7).pictures
    assert picture.annotations[1]["part_segmentation"] == expected["part_segmentation"]


def test_nothing_readable_is_an_error(tmp_path):
    write_image(tmp_path, "a", [PERSON]).write_text("")
    with pytest.raises(RecordError, match="a.mat"):
        prepare_voc_part(tmp_path, "all", BODYPARTS_7)
