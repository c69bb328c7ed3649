from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from pycocotools.coco import COCO

from detectron2_bodyparts.readers import ade20k
from detectron2_bodyparts.readers.ade20k import (
    PERSON,
    Cleaning,
    find_release,
    is_small,
    outline_band,
    prepare_ade20k,
    read_class_numbers,
    read_image_2016,
    read_image_2021,
    read_split,
    subtracted_torso,
)
from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.records import RecordError, decode_mask, read_records, validate_records
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    PASCAL_PERSON_PART,
    PartSchema,
)

from .conftest import assert_masks, masks_of, rectangle

SHAPE = (14, 18)
block = partial(rectangle, SHAPE)
RAW = Cleaning(min_size=0, outline_band=0, derive_torso=False)
BOTH = pytest.mark.parametrize("release", ["2016", "2021"])

# As in the index of the 2016 release.
NUMBERS = {
    **{"person": 1829, PERSON: 1831, "head, caput": 1211, "wall": 2978, "chair": 471},
    **{"head": 1206, "hair": 1160, "face": 890, "eye": 884, "eyebrow": 885, "ear": 831},
    **{"nose": 1659, "mouth": 1615, "torso": 2820, "neck": 1646, "back": 83, "buttocks": 338},
    **{"right arm": 2117, "right hand": 2119, "right shoulder": 2121, "right leg": 2120},
    **{"right foot": 2118, "left arm": 1428, "left hand": 1430, "left shoulder": 1432},
    **{"left leg": 1431, "left foot": 1429, "arm": 54, "leg": 1433, "hand": 1174, "foot": 1004},
}


@dataclass
class Thing:
    """An object or a part: its class, what is seen of it, and its parts."""

    name: str
    mask: np.ndarray
    parts: list[Thing] = field(default_factory=list)
    hidden: np.ndarray | None = None


def levels_of(things, level=0):
    for thing in things:
        yield level, thing
        yield from levels_of(thing.parts, level + 1)


def write_picture(root, item, shape):
    path = root / f"{item}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*shape, 3), 90, np.uint8))
    return root / item


def write_2016(root, things, item="images/training/a/attic/ADE_train_1", shape=SHAPE):
    stem = write_picture(root, item, shape)
    by_level = {0: []}
    for level, thing in levels_of(things):
        by_level.setdefault(level, []).append(thing)
    lines = []
    for level, ones in by_level.items():
        plane = np.zeros((*shape, 3), dtype=np.uint8)
        for k, thing in enumerate(ones, start=1):
            number = NUMBERS[thing.name]
            value = (round(255 * k / len(ones)), number % 256, number // 256 * 10)
            plane[thing.mask] = value
            lines.append(f'{k:03d} # {level} # 0 # {thing.name} # {thing.name[:6]} # "caf\xe9"\n')
        name = f"{stem}_parts_{level}.png" if level else f"{stem}_seg.png"
        cv2.imwrite(name, plane)
    Path(f"{stem}_atr.txt").write_text("".join(lines), encoding="latin-1")
    return item


def write_index(root, names=NUMBERS):
    objects = np.empty((1, max(NUMBERS.values())), dtype=object)
    objects[:] = "-"
    for name in names:
        objects[0, NUMBERS[name] - 1] = name
    scipy.io.savemat(root / "index_ade20k.mat", {"index": {"objectnames": objects}})


def write_2021(root, things, item="images/ADE/training/home/attic/ADE_train_1", shape=SHAPE):
    stem = write_picture(root, item, shape)
    stem.mkdir(exist_ok=True)
    entries = []

    def add(thing, level, whole):
        number = 3 * len(entries) + 1  # ids have gaps
        mask = thing.mask * np.uint8(255)
        if thing.hidden is not None:
            mask[thing.hidden] = 128
        file = f"{stem.name}/instance_{number:03d}_{stem.name}.png"
        cv2.imwrite(str(stem.parent / file), mask)
        parts = {"hasparts": [], "ispartof": whole, "part_level": level}
        entry = {"id": number, "name": thing.name, "name_ndx": NUMBERS[thing.name]}
        entry |= {"crop": "0", "occluded": [], "parts": parts, "instance_mask": file}
        entries.append(entry)
        parts_ids = [add(part, level + 1, number) for part in thing.parts]
        parts["hasparts"] = parts_ids[0] if len(parts_ids) == 1 else parts_ids
        return number

    for thing in things:
        add(thing, 0, [])
    write_json_2021(stem, entries)
    return item


def write_json_2021(stem, entries):
    content = {"annotation": {"filename": f"{stem.name}.jpg", "object": entries}}
    Path(f"{stem}.json").write_text(json.dumps(content))


WRITERS = {"2016": write_2016, "2021": write_2021}


def read(root, item, release, schema=BODYPARTS_7, cleaning=RAW):
    if release == "2016":
        return read_image_2016(item, root, schema, NUMBERS, cleaning)
    return read_image_2021(item, root, schema, cleaning)


def annotations_of(root, release, things, schema=BODYPARTS_7, cleaning=RAW):
    shard = read(root, WRITERS[release](root, things), release, schema, cleaning)
    (picture,) = shard.pictures
    return picture.annotations


def only_person(root, release, parts, *, body=None, **kwargs):
    person = Thing(PERSON, BODY if body is None else body, parts)
    (annotation,) = annotations_of(
        root, release, [Thing("wall", block(0, 14, 0, 1)), person], **kwargs
    )
    return annotation


def known(*channels):
    return dict.fromkeys(("body", *channels), "known")


def ignored_of(annotation):
    return decode_mask(annotation["ignore_segmentation"])


# Faces the camera: the right arm is at the picture's left. Nothing overlaps at the same level.
BODY = block(1, 13, 3, 15)
HEAD = Thing("head", block(1, 4, 7, 11), [Thing("eye", block(2, 3, 7, 8))])
TORSO = Thing("torso", block(5, 9, 5, 13))
RIGHT_ARM = Thing("right arm", block(5, 8, 3, 5), [Thing("right hand", block(8, 9, 3, 5))])
LEFT_ARM = Thing("left arm", block(5, 9, 13, 15))
RIGHT_LEG = Thing("right leg", block(9, 12, 5, 9))
LEFT_LEG = Thing("left leg", block(9, 13, 9, 13))
LIMBS = [RIGHT_ARM, LEFT_ARM, RIGHT_LEG, LEFT_LEG]


@BOTH
def test_seven_channels_by_hand(tmp_path, release):
    extra = [
        Thing("hair", block(1, 2, 6, 7)),
        Thing("neck", block(4, 5, 8, 10)),
        Thing("right foot", block(12, 13, 5, 9)),
        Thing("left shoulder", block(4, 5, 13, 15)),
    ]
    annotation = only_person(tmp_path, release, [HEAD, TORSO, *LIMBS, *extra])
    assert_masks(
        annotation,
        {
            "head": HEAD.mask | block(1, 2, 6, 7),
            "torso": TORSO.mask | block(4, 5, 8, 10),
            "right_arm": block(5, 9, 3, 5),
            "left_arm": block(4, 9, 13, 15),
            "right_leg": block(9, 13, 5, 9),
            "left_leg": LEFT_LEG.mask,
        },
    )
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY)
    assert annotation["bbox"] == [3, 1, 12, 12]
    assert annotation["part_state"] == known(*BODYPARTS_7.parts)
    assert "ignore_segmentation" not in annotation and "unsided" not in annotation


EVERY_PART = {
    "head": ("hair", "face", "eye", "eyebrow", "ear", "nose", "mouth"),
    "torso": ("neck", "back", "buttocks"),
    "right arm": ("right hand", "right shoulder"),
    "left arm": ("left hand", "left shoulder"),
    "right leg": ("right foot",),
    "left leg": ("left foot",),
}


@BOTH
@pytest.mark.parametrize("main", EVERY_PART)
def test_pieces_join_a_known_channel_and_make_none_known(tmp_path, release, main):
    channel = main.replace(" ", "_")
    pieces = [Thing(n, block(9, 10, 4 + i, 5 + i)) for i, n in enumerate(EVERY_PART[main])]
    whole = only_person(tmp_path, release, [Thing(main, block(4, 6, 4, 8)), *pieces])
    assert whole["part_state"] == known(channel)
    assert_masks(whole, {channel: block(4, 6, 4, 8) | block(9, 10, 4, 4 + len(pieces))})
    alone = only_person(tmp_path, release, pieces)
    assert alone["part_state"] == known() and alone["part_segmentation"] == {}


@BOTH
def test_a_person_without_parts(tmp_path, release):
    annotation = only_person(tmp_path, release, [])
    assert annotation["part_state"] == known() and annotation["part_segmentation"] == {}


@BOTH
def test_a_part_of_an_unknown_channel_still_is_no_torso(tmp_path, release):
    """The left arm is not labelled, its hand lies in front of the torso."""
    hand = Thing("left hand", block(6, 7, 8, 10))
    torso = Thing("torso", TORSO.mask, [hand])
    annotation = only_person(tmp_path, release, [torso])
    assert annotation["part_state"] == known("torso")
    assert_masks(annotation, {"torso": TORSO.mask & ~hand.mask})


@BOTH
def test_limbs_are_painted_over_torso_and_head(tmp_path, release):
    arm = Thing("right arm", block(3, 7, 7, 10))
    annotation = only_person(
        tmp_path, release, [Thing("head", HEAD.mask, [arm]), Thing("torso", TORSO.mask)]
    )
    # On another level of the maps the arm covers the head and the torso.
    assert_masks(
        annotation,
        {"head": HEAD.mask & ~arm.mask, "torso": TORSO.mask & ~arm.mask, "right_arm": arm.mask},
    )


def test_paint_order_agrees_with_the_schemas():
    painted = [name for name in ade20k._PAINTED if name in BODYPARTS_7.parts]
    assert tuple(painted) == BODYPARTS_7.paint_order
    assert {*ade20k._PAINTED} == {*BODYPARTS_7.parts, *BODYPARTS_7.unions}


# ------------------------------------------------------------ sides that nobody told


@BOTH
def test_one_side_says_nothing_about_the_other(tmp_path, release):
    annotation = only_person(tmp_path, release, [RIGHT_ARM])
    assert annotation["part_state"] == known("right_arm")


@BOTH
def test_two_arms_without_sides_make_the_union(tmp_path, release):
    arms = [Thing("arm", block(5, 9, 3, 5)), Thing("arm", block(5, 9, 13, 15))]
    hand = Thing("hand", block(9, 10, 3, 5))
    annotation = only_person(tmp_path, release, [*arms, hand, Thing("left leg", LEFT_LEG.mask)])
    assert annotation["part_state"] == known("arm", "left_leg")
    assert list(annotation["unsided"]) == ["arm"]
    expected = arms[0].mask | arms[1].mask | hand.mask
    np.testing.assert_array_equal(decode_mask(annotation["unsided"]["arm"]), expected)
    assert "ignore_segmentation" not in annotation


@BOTH
def test_one_arm_without_side_may_not_be_all(tmp_path, release):
    annotation = only_person(tmp_path, release, [Thing("arm", block(5, 9, 3, 5))])
    assert annotation["part_state"] == known() and "unsided" not in annotation


@BOTH
def test_an_unsided_leg_beside_a_sided_one_is_ignored(tmp_path, release):
    leg = Thing("leg", block(9, 13, 5, 9))
    annotation = only_person(tmp_path, release, [LEFT_LEG, leg, Thing("leg", block(12, 13, 3, 5))])
    assert annotation["part_state"] == known("left_leg")
    assert_masks(annotation, {"left_leg": LEFT_LEG.mask})
    np.testing.assert_array_equal(ignored_of(annotation), leg.mask | block(12, 13, 3, 5))
    assert "unsided" not in annotation


# ------------------------------------------------------------ whose part


@BOTH
def test_furniture_has_arms_too(tmp_path, release):
    chair_parts = [
        Thing("arm", block(4, 6, 12, 18)),  # a third of it lies on the person
        Thing("back", block(0, 1, 0, 4)),
        Thing("arm", block(13, 14, 0, 4)),
        Thing("leg", block(0, 1, 14, 18)),
    ]
    things = [Thing(PERSON, BODY, [HEAD]), Thing("chair", block(0, 14, 15, 18), chair_parts)]
    (annotation,) = annotations_of(tmp_path, release, things)
    assert annotation["part_state"] == known("head")


@BOTH
def test_a_part_is_one_persons(tmp_path, release):
    """The left one's arm is drawn two columns into the right one, whose own head is labelled."""
    one, other = block(0, 12, 0, 8), block(0, 12, 8, 16)
    arm, head = block(4, 6, 3, 10), block(0, 3, 10, 14)
    people = [
        Thing(PERSON, one, [Thing("left arm", arm)]),
        Thing(PERSON, other, [Thing("head", head)]),
    ]
    first, second = annotations_of(tmp_path, release, people)
    assert (first["bbox"], second["bbox"]) == ([0, 0, 8, 12], [8, 0, 8, 12])
    assert first["part_state"] == known("left_arm") and second["part_state"] == known("head")
    assert_masks(first, {"left_arm": arm & one})
    assert_masks(second, {"head": head})


@BOTH
def test_half_of_a_part_is_enough_in_2016(tmp_path, release):
    """In 2021 the JSON says whose it is, however little of it lies on the person."""
    parts = [Thing("head", block(1, 2, 13, 17)), Thing("torso", block(5, 6, 13, 18))]
    annotation = only_person(tmp_path, release, parts)
    expected = {"head": block(1, 2, 13, 15), "torso": block(5, 6, 13, 15)}
    if release == "2016":
        del expected["torso"]  # two of five pixels
    assert_masks(annotation, expected)


@BOTH
def test_names_are_compared_whole(tmp_path, release):
    things = [
        Thing("person", block(0, 14, 15, 18)),
        Thing(PERSON, BODY, [Thing("head, caput", HEAD.mask)]),
    ]
    (annotation,) = annotations_of(tmp_path, release, things)
    assert annotation["bbox"] == [3, 1, 12, 12] and annotation["part_state"] == known()


# ------------------------------------------------------------ other schemas


@BOTH
@pytest.mark.parametrize("schema", [PASCAL_PERSON_PART, BODYPARTS_11], ids=lambda s: s.name)
def test_schemas_of_upper_and_lower_limbs(tmp_path, release, schema):
    arm = Thing("right arm", block(5, 7, 3, 8))  # in front of the torso
    neck = Thing("neck", block(4, 5, 8, 10))
    torso = Thing("torso", TORSO.mask, [arm])
    annotation = only_person(
        tmp_path, release, [HEAD, torso, neck, LEFT_ARM, *LIMBS[2:]], schema=schema
    )
    assert annotation["part_state"] == known("head", "torso")
    head = HEAD.mask | neck.mask
    assert_masks(annotation, {"head": head, "torso": TORSO.mask & ~arm.mask})


# ------------------------------------------------------------ cleaning


def test_small_is_small_both_ways():
    for height, width, small in ((29, 29, True), (30, 3, False), (3, 30, False), (29, 1, True)):
        body = np.zeros((50, 60), bool)
        body[4 : 4 + height, 7 : 7 + width] = True
        assert is_small(body, 30) is small
    assert not is_small(body, 0)


@BOTH
def test_small_people_are_ignored_not_background(tmp_path, release):
    small = block(2, 6, 15, 18)
    things = [Thing(PERSON, BODY, [HEAD]), Thing(PERSON, small, [Thing("head", small)])]
    big, region = annotations_of(tmp_path, release, things, cleaning=Cleaning(5, 0))
    assert big["iscrowd"] == 0 and big["part_state"] == known("head")
    assert region["iscrowd"] == 1 and region["part_segmentation"] == {}
    np.testing.assert_array_equal(decode_mask(region["segmentation"]), small)
    assert [a["iscrowd"] for a in annotations_of(tmp_path, release, things)] == [0, 0]


def test_outline_band_by_hand():
    labels = np.zeros((7, 9), np.uint8)
    labels[2:7, 2:7] = 1
    labels[5:7, 2:7] = 3
    drawn = np.array([list(row) for row in (
        ".........",
        ".#######.",
        ".#######.",
        ".##...##.",
        ".#######.",
        ".#######.",
        ".##...##.",
    )])  # fmt: skip
    np.testing.assert_array_equal(outline_band(labels, 1), drawn == "#")
    assert not outline_band(labels, 0).any()
    assert not outline_band(np.ones((5, 5), np.uint8), 2).any()
    two = outline_band(labels, 2)
    assert two[:, 0].all() and not outline_band(labels, 1)[:, 0].any()


@BOTH
def test_outlines_of_body_and_parts_are_ignored(tmp_path, release):
    annotation = only_person(tmp_path, release, [HEAD], cleaning=Cleaning(0, 1))
    band = block(0, 14, 2, 16) & ~block(2, 12, 4, 14)
    around_head = block(1, 5, 6, 12) & ~block(2, 3, 8, 10)
    np.testing.assert_array_equal(ignored_of(annotation), band | around_head)
    # Masks and box stay what they were.
    assert_masks(annotation, {"head": HEAD.mask})
    assert annotation["bbox"] == [3, 1, 12, 12]


@BOTH
def test_what_is_drawn_beyond_the_body_makes_no_outline(tmp_path, release):
    spilt = block(5, 8, 3, 6), block(5, 8, 1, 6)
    clean, beyond = (
        only_person(tmp_path, release, [Thing("right arm", arm)], cleaning=Cleaning(0, 1))
        for arm in spilt
    )
    assert clean == beyond


def test_subtracted_torso_is_the_largest_piece():
    rest = block(2, 6, 2, 6) | block(6, 8, 6, 8) | block(10, 11, 0, 10)
    torso, scraps = subtracted_torso(rest)
    np.testing.assert_array_equal(torso, block(2, 6, 2, 6))  # a corner is no connection
    np.testing.assert_array_equal(scraps, rest & ~torso)
    for nothing in subtracted_torso(np.zeros(SHAPE, bool)):
        assert nothing.shape == SHAPE and nothing.dtype == bool and not nothing.any()


DERIVE = Cleaning(min_size=0, outline_band=0)


@BOTH
def test_torso_by_subtraction(tmp_path, release):
    neck = Thing("neck", block(4, 5, 7, 11))
    foot = Thing("right foot", block(12, 13, 5, 9))
    taken = HEAD.mask | block(5, 9, 3, 5) | LEFT_ARM.mask | block(9, 13, 5, 13)
    rest = BODY & ~taken
    # Below the arms, beside the legs: two corners that nobody labelled.
    scraps = block(9, 13, 3, 5) | block(9, 13, 13, 15)
    annotation = only_person(tmp_path, release, [HEAD, neck, *LIMBS, foot], cleaning=DERIVE)
    assert annotation["part_state"]["torso"] == "derived"
    np.testing.assert_array_equal(masks_of(annotation)["torso"], rest & ~scraps)
    np.testing.assert_array_equal(ignored_of(annotation), scraps)
    assert annotation["part_state"] == known(*BODYPARTS_7.parts) | {"torso": "derived"}

    off = only_person(tmp_path, release, [HEAD, neck, *LIMBS, foot], cleaning=RAW)
    assert "torso" not in off["part_state"] and "ignore_segmentation" not in off


@BOTH
def test_torso_by_subtraction_only_where_it_is_safe(tmp_path, release):
    all_five = [HEAD, *LIMBS]
    for i in range(5):
        parts = all_five[:i] + all_five[i + 1 :]
        annotation = only_person(tmp_path, release, parts, cleaning=DERIVE)
        assert "torso" not in annotation["part_state"], i
    labelled = only_person(tmp_path, release, [TORSO, *all_five], cleaning=DERIVE)
    assert labelled["part_state"]["torso"] == "known"
    np.testing.assert_array_equal(masks_of(labelled)["torso"], TORSO.mask)
    legs = [Thing("leg", RIGHT_LEG.mask), Thing("leg", LEFT_LEG.mask)]
    unsided = only_person(tmp_path, release, [*all_five[:3], *legs], cleaning=DERIVE)
    assert unsided["part_state"]["torso"] == "derived"


@BOTH
def test_nothing_left_is_no_torso(tmp_path, release):
    parts = [HEAD, *LIMBS]
    body = HEAD.mask | block(5, 9, 3, 5) | LEFT_ARM.mask | RIGHT_LEG.mask | LEFT_LEG.mask
    annotation = only_person(tmp_path, release, parts, body=body, cleaning=DERIVE)
    assert "torso" not in annotation["part_state"]


def test_cleaning_counts_pixels():
    for wrong in ({"min_size": -1}, {"outline_band": -1}):
        with pytest.raises(ValueError, match="-1"):
            Cleaning(**wrong)


# ------------------------------------------------------------ pictures


@BOTH
def test_without_people_only_the_list_of_objects_is_read(tmp_path, release):
    item = WRITERS[release](tmp_path, [Thing("wall", block(0, 14, 0, 9))])
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    shard = read(tmp_path, item, release)
    (picture,) = shard.pictures
    assert picture.annotations == [] and picture.exhaustive and shard.left_out == []
    assert (picture.file_name, picture.height, picture.width) == (f"{item}.jpg", *SHAPE)
    (tmp_path / f"{item}.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="ADE_train_1.jpg"):
        read(tmp_path, item, release)


@BOTH
def test_with_people_there_may_be_more(tmp_path, release):
    item = WRITERS[release](tmp_path, [Thing(PERSON, block(0, 4, 0, 4))])
    for cleaning in (RAW, Cleaning()):  # small people are people
        assert not read(tmp_path, item, release, cleaning=cleaning).pictures[0].exhaustive


@BOTH
def test_a_person_nobody_sees_is_left_out(tmp_path, release):
    people = [Thing(PERSON, block(2, 2, 0, 0)), Thing(PERSON, BODY, [HEAD])]
    shard = read(tmp_path, WRITERS[release](tmp_path, people), release)
    assert len(shard.pictures[0].annotations) == 1
    (note,) = shard.left_out
    assert "nothing is visible" in note.reason and "ADE_train_1" in note.where


def test_2016_values_of_many_objects(tmp_path):
    """51 objects, of which four columns of people: B is rounded and two maps number differently."""
    people = [Thing(PERSON, block(0, 14, 4 * i, 4 * i + 4)) for i in range(4)]
    for i, person in enumerate(people):
        person.parts = [Thing("head", block(0, 2 + i, 4 * i, 4 * i + 4))]
    walls = [Thing("wall", block(0, 0, 0, 0)) for _ in range(47)]
    annotations = annotations_of(tmp_path, "2016", [*walls[:20], *people, *walls[20:]])
    assert [a["bbox"] for a in annotations] == [[4 * i, 0, 4, 14] for i in range(4)]
    for i, annotation in enumerate(annotations):
        assert_masks(annotation, {"head": block(0, 2 + i, 4 * i, 4 * i + 4)})


def test_2016_more_objects_than_values(tmp_path):
    walls = [Thing("wall", block(0, 0, 0, 0))] * 255
    item = write_2016(tmp_path, [Thing(PERSON, BODY), *walls[1:]])
    assert len(read(tmp_path, item, "2016").pictures[0].annotations) == 1
    item = write_2016(tmp_path, [Thing(PERSON, BODY), *walls])
    with pytest.raises(BadInput, match="at most 255 objects.*found 256"):
        read(tmp_path, item, "2016")
    item = write_2016(tmp_path, [*walls, *walls])  # without people it does not matter
    assert read(tmp_path, item, "2016").pictures[0].annotations == []


def test_2021_only_what_is_visible(tmp_path):
    """A pole stands before the person, whose right arm is behind it altogether."""
    pole = block(0, 14, 3, 6)
    head = Thing("head", HEAD.mask & ~pole, hidden=HEAD.mask & pole)
    arm = Thing("right arm", np.zeros(SHAPE, bool), hidden=RIGHT_ARM.mask)
    person = Thing(PERSON, BODY & ~pole, [head, arm], hidden=BODY & pole)
    (annotation,) = annotations_of(tmp_path, "2021", [person])
    np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), BODY & ~pole)
    assert_masks(annotation, {"head": HEAD.mask & ~pole})
    # Drawn, and hidden: of this arm it is known that there is nothing to be seen.
    assert annotation["part_state"] == known("head", "right_arm")


def read_entries(stem):
    return json.loads(Path(f"{stem}.json").read_text())["annotation"]["object"]


def test_2021_other_spellings(tmp_path):
    item = write_2021(tmp_path, [Thing(PERSON, BODY, [HEAD, RIGHT_ARM])])
    expected = read(tmp_path, item, "2021")
    stem = tmp_path / item
    entries = read_entries(stem)
    entries[1]["parts"]["ispartof"] = [1]
    entries[0]["attributes"] = "caf\u00e9 \t"
    content = json.dumps({"annotation": {"object": entries}}, ensure_ascii=False)
    for encoding in ("utf-8", "latin-1"):
        Path(f"{stem}.json").write_bytes(content.replace("\\t", "\t").encode(encoding))
        assert read(tmp_path, item, "2021") == expected

    write_json_2021(stem, entries[0])  # one object, not in a list
    assert read(tmp_path, item, "2021").pictures[0].annotations[0]["part_state"] == known()
    write_json_2021(stem, [])
    assert read(tmp_path, item, "2021").pictures[0].annotations == []


def test_2021_parts_of_nobody(tmp_path):
    """Parts of each other, of nothing, of an object that is not there."""
    item = write_2021(tmp_path, [Thing(PERSON, BODY, [HEAD, RIGHT_ARM])])
    entries = read_entries(tmp_path / item)
    assert [e["name"] for e in entries] == [PERSON, "head", "eye", "right arm", "right hand"]
    head, eye, arm, hand = (e["parts"] for e in entries[1:])
    head["ispartof"], eye["ispartof"] = entries[2]["id"], entries[1]["id"]
    arm["ispartof"], hand["ispartof"] = 99, []
    write_json_2021(tmp_path / item, entries)
    shard = read(tmp_path, item, "2021")
    assert shard.pictures[0].annotations[0]["part_state"] == known() and shard.left_out == []


# ------------------------------------------------------------ bad files


SCENE = [Thing("wall", block(0, 14, 0, 1)), Thing(PERSON, BODY, [HEAD, TORSO, *LIMBS])]
FILES = {
    "2016": ("{}.jpg", "{}_atr.txt", "{}_seg.png", "{}_parts_1.png", "{}_parts_2.png"),
    "2021": ("{}.jpg", "{}.json", "{}/instance_004_ADE_train_1.png"),
}
EACH_FILE = pytest.mark.parametrize(
    ("release", "file"), [(release, file) for release in FILES for file in FILES[release]]
)


@EACH_FILE
def test_a_missing_file_is_named(tmp_path, release, file):
    item = WRITERS[release](tmp_path, SCENE)
    path = Path(file.format(tmp_path / item))
    path.unlink()
    with pytest.raises(BadInput, match="found no file") as error:
        read(tmp_path, item, release)
    assert error.value.where == str(path)


@EACH_FILE
def test_a_truncated_file_is_named(tmp_path, release, file):
    item = WRITERS[release](tmp_path, SCENE)
    path = Path(file.format(tmp_path / item))
    data = path.read_bytes()
    lengths = (0, 5, 30, len(data) // 2, len(data) - 14)
    if file.endswith(".txt"):
        lengths = (4, 8)  # a list that ends between two lines cannot be told from a short one
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(BadInput) as error:
            read(tmp_path, item, release)
        assert error.value.where == str(path), length


@EACH_FILE
def test_damaged_bytes_never_end_the_run(tmp_path, release, file):
    item = WRITERS[release](tmp_path, SCENE)
    path = Path(file.format(tmp_path / item))
    data = path.read_bytes()
    expected = read(tmp_path, item, release)
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(data), 25):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            found = read(tmp_path, item, release)
        except BadInput:
            refused += 1
            continue
        if file.endswith(".png"):  # its chunks have checksums: only the last, empty one may suffer
            assert found == expected
    assert refused > (20 if file.endswith(".png") else 0)


@pytest.mark.parametrize(
    ("release", "file"),
    [(r, f) for r in FILES for f in FILES[r] if f.endswith(".png")],
)
def test_maps_of_another_size_or_make(tmp_path, release, file):
    item = WRITERS[release](tmp_path, SCENE)
    path = Path(file.format(tmp_path / item))
    plane = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    other_depth = plane[..., 0] if plane.ndim == 3 else np.dstack([plane] * 3)
    for wrong in (plane[:-1], plane[:, :-1], other_depth, plane.astype(np.uint16)):
        cv2.imwrite(str(path), wrong)
        with pytest.raises(BadInput, match="as large as the picture, found .*, not ") as error:
            read(tmp_path, item, release)
        assert error.value.where == str(path)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"annotation": {}}',
        '{"annotation": {"object": [3]}}',
        '{"annotation": {"object": [{"id": 1, "name": "wall"}]}}',
        '{"annotation": {"object": [{"id": "x", "name": "wall", "instance_mask": "",'
        ' "parts": {"ispartof": []}}]}}',
        '{"annotation": {"object": [{"id": 1, "name": "wall", "instance_mask": "",'
        ' "parts": {"ispartof": {}}}]}}',
    ],
)
def test_json_of_another_make(tmp_path, content):
    item = write_2021(tmp_path, SCENE)
    Path(f"{tmp_path / item}.json").write_text(content)
    with pytest.raises(BadInput, match="ADE_train_1.json: expected JSON with annotation.object"):
        read(tmp_path, item, "2021")


def test_index_of_another_make(tmp_path):
    with pytest.raises(FileNotFoundError, match="index_ade20k.mat"):
        read_class_numbers(tmp_path)
    path = tmp_path / "index_ade20k.mat"
    for content in ({"other": 1}, {"index": 1}, {"index": {"filename": "a"}}):
        scipy.io.savemat(path, content)
        with pytest.raises(RecordError, match="index_ade20k.mat: expected ADE20K's index"):
            read_class_numbers(tmp_path)
    path.write_text("not MATLAB's")
    with pytest.raises(RecordError, match="index_ade20k.mat"):
        read_class_numbers(tmp_path)
    write_index(tmp_path, [name for name in NUMBERS if name not in (PERSON, "left leg")])
    with pytest.raises(RecordError, match=r"\['left leg', 'person, individual"):
        read_class_numbers(tmp_path)
    write_index(tmp_path)
    numbers = read_class_numbers(tmp_path)
    assert numbers[PERSON] == 1831 and numbers["head"] == 1206
    assert "head, caput" not in numbers and "person" not in numbers


# ------------------------------------------------------------ splits and files


FOLDERS = {"2016": "images/{}/a/attic/ADE_{}", "2021": "images/ADE/{}/home/attic/ADE_{}"}


def write_dataset(root, release):
    if release == "2016":
        write_index(root)
    items = []
    for split, number in (("training", 3), ("training", 1), ("training", 2), ("validation", 4)):
        items.append(FOLDERS[release].format(split, number))
        WRITERS[release](root, SCENE, items[-1])
    WRITERS[release](root, SCENE[:1], FOLDERS[release].format("training", 0))
    return items


@BOTH
def test_splits(tmp_path, release):
    items = write_dataset(tmp_path, release)
    empty = FOLDERS[release].format("training", 0)
    assert find_release(tmp_path) == release
    assert read_split(tmp_path, "train", release) == [empty, items[1], items[2], items[0]]
    assert read_split(tmp_path, "val", release) == [items[3]]


def test_scenes_may_lie_deeper(tmp_path):
    item = write_2016(tmp_path, SCENE, "images/training/b/bar/indoor/ADE_train_7")
    assert read_split(tmp_path, "train", "2016") == [item]


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="images.*README"):
        find_release(tmp_path)
    write_2016(tmp_path, SCENE)
    with pytest.raises(FileNotFoundError, match="validation.*README"):
        read_split(tmp_path, "val", "2016")
    write_2021(tmp_path, SCENE)
    with pytest.raises(RecordError, match="--release"):
        prepare_ade20k(tmp_path, "train", BODYPARTS_7)
    write_index(tmp_path)
    for release in ("2016", "2021"):
        summary = prepare_ade20k(tmp_path, "train", BODYPARTS_7, release=release)
        info = read_records(summary.output).info
        assert summary.pictures == 1 and release in info["description"]


@BOTH
def test_one_bad_file_is_reported_and_skipped(tmp_path, release):
    items = write_dataset(tmp_path, release)
    Path(FILES[release][2].format(tmp_path / items[1]).replace("ADE_train_1", "ADE_1")).write_bytes(
        b"\x89PNG"
    )
    summary = prepare_ade20k(tmp_path, "train", BODYPARTS_7, cleaning=RAW)
    path = tmp_path / "ade20k_train.bodyparts-7.json"
    records = read_records(path)
    empty = FOLDERS[release].format("training", 0)
    names = [image["file_name"] for image in records.images]
    assert names == [f"{item}.jpg" for item in (empty, items[2], items[0])]
    assert [image["exhaustive"] for image in records.images] == [True, False, False]
    assert validate_records(records, tmp_path) == []
    (note,) = summary.left_out
    assert "ADE_1" in note.where and note.where in str(summary)


@BOTH
def test_round_trip_through_pycocotools(tmp_path, release):
    write_dataset(tmp_path, release)
    cleaning = Cleaning(min_size=8, outline_band=1)
    summary = prepare_ade20k(tmp_path, "val", BODYPARTS_7, cleaning=cleaning, workers=2)
    records = read_records(summary.output)
    assert records.info["split"] == "val"
    settings = {"min_size": 8, "outline_band": 1, "derive_torso": True}
    assert records.info["cleaning"] == settings
    coco = COCO(str(summary.output))
    (image_id,) = coco.getImgIds()
    (annotation,) = coco.loadAnns(coco.getAnnIds(imgIds=image_id, iscrowd=False))
    item = read_split(tmp_path, "val", release)[0]
    (expected,) = read(tmp_path, item, release, cleaning=cleaning).pictures[0].annotations
    ids = {"id": 1, "image_id": image_id}
    assert annotation == {**ids, **expected}
    np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), BODY)


def test_limit(tmp_path):
    write_dataset(tmp_path, "2021")
    assert prepare_ade20k(tmp_path, "train", BODYPARTS_7, limit=2).pictures == 2


def test_a_schema_nobody_told_the_reader_about(tmp_path):
    with pytest.raises(ValueError, match="bodyparts-7.*not hands"):
        prepare_ade20k(tmp_path, "train", PartSchema("hands", ("body",)))


def test_script(run_script, tmp_path, capsys):
    write_dataset(tmp_path, "2021")
    schemas = ("bodyparts-7", "bodyparts-11", "pascal-person-part")
    run_script("prepare_ade20k.py", "--root", tmp_path, "--schema", *schemas, "--workers", 1)
    written = sorted(path.name for path in tmp_path.glob("*.json"))
    assert written == sorted(f"ade20k_{s}.{n}.json" for s in ("train", "val") for n in schemas)
    assert capsys.readouterr().out.count("ignore regions         3") == 3  # three small people
    path = tmp_path / "ade20k_val.bodyparts-7.json"
    assert read_records(path).info["cleaning"]["outline_band"] == 1

    switched_off = ("--min-size", 0, "--outline-band", 0, "--no-derive-torso")
    arguments = ("--root", tmp_path, "--split", "val", "--workers", 1, *switched_off)
    run_script("prepare_ade20k.py", *arguments)
    records = read_records(path)
    off = {"min_size": 0, "outline_band": 0, "derive_torso": False}
    assert records.info["cleaning"] == off and records.annotations[0]["iscrowd"] == 0

    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script("prepare_ade20k.py", "--root", tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        run_script("prepare_ade20k.py", "--root", tmp_path, "--outline-band", -1)
    assert "found -1" in capsys.readouterr().err


# ------------------------------------------------------------ real files


@pytest.fixture(scope="module")
def samples_2016(shared_dir):
    return shared_dir / "samples" / "ade20k_2016"


@pytest.fixture(scope="module")
def real_numbers(samples_2016):
    return read_class_numbers(samples_2016)


def linked(samples, root):
    shutil.copytree(samples, root, copy_function=os.symlink)
    os.chmod(root, 0o755)
    return root


def test_real_index(real_numbers):
    decoys = ("person", "head, caput", "wall", "chair")
    assert real_numbers == {n: row for n, row in NUMBERS.items() if n not in decoys}


def test_real_files_2016(samples_2016, real_numbers, tmp_path):
    root = linked(samples_2016, tmp_path / "ade20k")
    summary = prepare_ade20k(root, "train", BODYPARTS_7)
    records = read_records(summary.output)
    assert validate_records(records, root) == []
    assert [Path(i["file_name"]).stem[-4:] for i in records.images] == ["1041", "1042"]
    assert [i["exhaustive"] for i in records.images] == [False, True]
    (annotation,) = records.annotations
    assert annotation["area"] == 22518 and annotation["part_state"] == known()
    # The third has people with parts, but its maps were lost.
    (note,) = summary.left_out
    assert note.where.endswith("ADE_train_00001044_seg.png") and "no file" in note.found


def test_real_list_of_parts(samples_2016):
    path = next(samples_2016.rglob("ADE_train_00001044_atr.txt"))
    listed = ade20k._read_listed(path)
    assert (0, PERSON) in listed and len(listed) == 23
    parts = [name for level, name in listed if level == 1]
    assert parts == ["face", "head", "left arm", "left hand", "left leg", "left foot"]


def test_real_files_2021(shared_dir, tmp_path):
    root = linked(shared_dir / "samples" / "ade20k_2021", tmp_path / "ade20k")
    records = read_records(prepare_ade20k(root, "train", BODYPARTS_7).output)
    assert validate_records(records, root) == []
    (image,) = records.images
    assert (image["height"], image["width"], image["exhaustive"]) == (1536, 2048, False)
    areas = [a["area"] for a in records.annotations]
    assert areas == [4264, 2372, 2264, 1945, 2995, 1125, 696, 1196, 889]
    # What is visible of the masks is what the map says, which the reader does not look at.
    (path,) = root.rglob("*_seg.png")
    blue, green, red = cv2.split(cv2.imread(str(path)))
    people = (red // 10 * np.uint16(256) + green) == 1831
    bodies = [decode_mask(a["segmentation"]) for a in records.annotations]
    np.testing.assert_array_equal(np.any(bodies, axis=0), people)
    for body in bodies:
        assert len(np.unique(blue[body])) == 1
