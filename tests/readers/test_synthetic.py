from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.readers.figures import (
    FINE_PARTS,
    MIN_VISIBLE_PIXELS,
    SyntheticConfig,
    render,
)
from detectron2_bodyparts.readers.synthetic import annotations, prepare_synthetic
from detectron2_bodyparts.records import Records, decode_mask, read_records, validate_records
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    LSP_14,
    PASCAL_PERSON_PART,
    UNION_21,
    PartSchema,
)


@pytest.fixture(scope="module")
def pictures():
    return [render(seed) for seed in range(50)]


@pytest.fixture(scope="module")
def people(pictures):
    return [person for picture in pictures for person in picture.people]


def joint(person, name):
    return person.keypoints[COCO_17.keypoints.index(name)]


def at(mask, point):
    x, y = np.rint(point[:2]).astype(int)
    return bool(mask[y, x])


def test_same_seed_same_picture_other_seed_another():
    a, b, other = render(7), render(7), render(8)
    np.testing.assert_array_equal(a.image, b.image)
    assert len(a.people) == len(b.people)
    for p, q in zip(a.people, b.people, strict=True):
        np.testing.assert_array_equal(p.keypoints, q.keypoints)
        np.testing.assert_array_equal(p.body, q.body)
        assert p.facing == q.facing
        for name in FINE_PARTS:
            np.testing.assert_array_equal(p.parts[name], q.parts[name])
    assert (a.image != other.image).mean() > 0.5


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    image = render(5).image
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(4)
    np.testing.assert_array_equal(render(5).image, image)


@pytest.mark.parametrize("size", [(240, 320), (96, 64), (301, 203)])
def test_shapes_and_types(size):
    picture = render(1, SyntheticConfig(image_size=size))
    assert picture.image.shape == (*size, 3) and picture.image.dtype == np.uint8
    assert picture.people
    for person in picture.people:
        assert person.body.shape == size and person.body.dtype == bool
        assert set(person.parts) == set(FINE_PARTS)
        assert all(m.shape == size and m.dtype == bool for m in person.parts.values())
        assert person.keypoints.shape == (17, 3)


def test_number_of_people_is_kept():
    assert render(0, SyntheticConfig(people=(0, 0))).people == []
    counts = {len(render(s, SyntheticConfig(people=(1, 2))).people) for s in range(12)}
    assert counts == {1, 2}


def test_heights_are_kept():
    tall, small = (
        [p for s in range(8) for p in render(s, SyntheticConfig(heights=(h, h))).people]
        for h in (0.9, 0.4)
    )
    area = [np.median([p.body.sum() for p in group]) for group in (small, tall)]
    assert 2.5 < area[1] / area[0] < 7  # (0.9 / 0.4) ** 2 is 5, less what the border cuts off


def test_parts_and_people_exclude_one_another_and_parts_make_the_body(pictures):
    for picture in pictures:
        assert sum(p.body.astype(int) for p in picture.people).max() == 1
        for person in picture.people:
            total = sum(mask.astype(int) for mask in person.parts.values())
            np.testing.assert_array_equal(total, person.body)


def test_everyone_can_be_seen(people):
    for person in people:
        assert person.body.sum() >= MIN_VISIBLE_PIXELS
        assert (person.parts["head"] | person.parts["torso"]).any()


def test_some_people_are_hidden_in_part_and_some_cut_off(people):
    v = np.array([person.keypoints[:, 2] for person in people])
    ankles = v[:, [COCO_17.keypoints.index(f"{s}_ankle") for s in ("left", "right")]]
    assert 0.02 < (ankles == 1).mean() < 0.5
    assert 0.02 < (ankles == 0).mean() < 0.5


def test_joints_are_inside_the_picture_or_not_there(people):
    for person in people:
        x, y, v = person.keypoints.T
        height, width = person.body.shape
        assert set(v) <= {0, 1, 2}
        assert (person.keypoints[v == 0] == 0).all()
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        assert inside[v > 0].all()


@pytest.mark.parametrize(
    "name, parts",
    [
        ("wrist", ["lower_arm"]),
        ("ankle", ["lower_leg"]),
        ("elbow", ["upper_arm", "lower_arm"]),
        ("knee", ["upper_leg", "lower_leg"]),
    ],
)
def test_visible_joints_lie_in_the_parts_of_their_side(people, name, parts):
    visible = [(p, s) for p in people for s in ("right", "left") if joint(p, f"{s}_{name}")[2] == 2]
    assert len(visible) > 0.5 * 2 * len(people)
    for person, side in visible:
        assert any(
            at(person.parts[f"{side}_{part}"], joint(person, f"{side}_{name}")) for part in parts
        )


@pytest.mark.parametrize(
    "start, end, part",
    [
        ("shoulder", "elbow", "upper_arm"),
        ("elbow", "wrist", "lower_arm"),
        ("knee", "ankle", "lower_leg"),
    ],
)
def test_the_middle_of_a_visible_bone_lies_in_its_part(people, start, end, part):
    hits = [
        at(person.parts[f"{side}_{part}"], (joint(person, f"{side}_{start}") + last) / 2)
        for person in people
        for side in ("right", "left")
        if (last := joint(person, f"{side}_{end}"))[2] == 2
        and joint(person, f"{side}_{start}")[2] == 2
    ]
    assert len(hits) > 50
    assert np.mean(hits) > 0.9


def test_right_is_at_the_pictures_left_in_front_views_only(people):
    facings = [person.facing for person in people]
    assert facings.count("front") > 25 and facings.count("back") > 25
    for person in people:
        for place in ("shoulder", "hip"):
            right, left = joint(person, f"right_{place}"), joint(person, f"left_{place}")
            if right[2] and left[2]:
                assert (right[0] < left[0]) == (person.facing == "front")


def test_a_face_is_seen_from_the_front_only(people):
    for person in people:
        nose = joint(person, "nose")
        if person.facing == "back":
            assert nose[2] < 2
        elif nose[2]:
            assert (nose[2] == 2) == at(person.parts["head"], nose)


def test_masks_sit_on_the_pixels(pictures):
    """Edges of the masks and of the picture meet best without any shift."""
    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    score = dict.fromkeys(shifts, 0.0)
    for picture in pictures[:25]:
        gray = cv2.cvtColor(picture.image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        dx, dy = gray[1:-1, 2:] - gray[1:-1, :-2], gray[2:, 1:-1] - gray[:-2, 1:-1]
        edges = np.pad(np.hypot(dx, dy), 1)
        for person in picture.people:
            body = person.body.astype(np.float32)
            mdx, mdy = body[1:-1, 2:] - body[1:-1, :-2], body[2:, 1:-1] - body[:-2, 1:-1]
            outline = np.pad(np.hypot(mdx, mdy), 1)
            for shift in shifts:
                score[shift] += float((np.roll(outline, shift, (0, 1)) * edges).sum())
    assert max(score, key=score.get) == (0, 0)


@pytest.mark.parametrize("schema", [BODYPARTS_7, PASCAL_PERSON_PART, BODYPARTS_11])
def test_records_are_valid_and_complete(pictures, schema):
    records = Records(schema, COCO_17)
    for picture in pictures[:15]:
        found = annotations(picture, schema, COCO_17)
        records.add_image("x.jpg", *picture.image.shape[:2], found)
        for annotation, person in zip(found, picture.people, strict=True):
            assert annotation["part_state"] == dict.fromkeys(schema.channels, "known")
            np.testing.assert_array_equal(decode_mask(annotation["segmentation"]), person.body)
            parts = annotation["part_segmentation"].values()
            np.testing.assert_array_equal(sum(map(decode_mask, parts)), person.body)
            np.testing.assert_allclose(
                np.reshape(annotation["keypoints"], (17, 3)), person.keypoints, atol=0.0051
            )
    assert validate_records(records) == []


@pytest.mark.parametrize(
    "schema, channel, names",
    [
        (BODYPARTS_7, "torso", ["torso", "neck"]),
        (BODYPARTS_7, "right_arm", ["right_upper_arm", "right_lower_arm"]),
        (BODYPARTS_7, "left_leg", ["left_upper_leg", "left_lower_leg"]),
        (PASCAL_PERSON_PART, "head", ["head", "neck"]),
        (PASCAL_PERSON_PART, "lower_arms", ["right_lower_arm", "left_lower_arm"]),
        (BODYPARTS_11, "left_upper_leg", ["left_upper_leg"]),
        (BODYPARTS_11, "head", ["head", "neck"]),
    ],
)
def test_channels_are_unions_of_fine_parts(pictures, schema, channel, names):
    seen = 0
    for picture in pictures[:6]:
        for annotation, person in zip(
            annotations(picture, schema, COCO_17), picture.people, strict=True
        ):
            expected = np.logical_or.reduce([person.parts[name] for name in names])
            rle = annotation["part_segmentation"].get(channel)
            assert (rle is not None) == expected.any()
            if rle is not None:
                np.testing.assert_array_equal(decode_mask(rle), expected)
                seen += 1
    assert seen > 3


def test_a_channel_nobody_has_is_an_error(pictures):
    hands = PartSchema("hands", ("body", "right_hand", "left_hand"))
    with pytest.raises(ValueError, match="right_hand"):
        annotations(pictures[0], hands, COCO_17)


@pytest.mark.parametrize("schema", [UNION_21, LSP_14])
def test_joints_are_matched_by_name(pictures, schema):
    picture = pictures[0]
    for annotation, person in zip(
        annotations(picture, BODYPARTS_7, schema), picture.people, strict=True
    ):
        rows = np.reshape(annotation["keypoints"], (-1, 3))
        assert len(rows) == len(schema)
        for row, name in zip(rows, schema.keypoints, strict=True):
            expected = joint(person, name) if name in COCO_17.keypoints else (0, 0, 0)
            np.testing.assert_allclose(row, expected, atol=0.0051)


def test_a_mirrored_picture_follows_the_schemas_permutations(pictures):
    checked = 0
    for picture in pictures[:20]:
        for annotation, person in zip(
            annotations(picture, BODYPARTS_7, COCO_17), picture.people, strict=True
        ):
            masks = {k: decode_mask(v) for k, v in annotation["part_segmentation"].items()}
            channels = BODYPARTS_7.channels
            mirrored = {
                channels[BODYPARTS_7.flip_permutation[channels.index(name)]]: mask[:, ::-1]
                for name, mask in masks.items()
            }
            rows = person.keypoints[list(COCO_17.flip_permutation)]
            rows[:, 0] = person.body.shape[1] - 1 - rows[:, 0]
            right, left = (
                rows[COCO_17.keypoints.index(f"{s}_shoulder")] for s in ("right", "left")
            )
            if right[2] and left[2]:
                assert (right[0] < left[0]) == (person.facing == "front")
            for side in ("right", "left"):
                wrist = rows[COCO_17.keypoints.index(f"{side}_wrist")]
                if wrist[2] == 2:
                    assert at(mirrored[f"{side}_arm"], wrist)
                    checked += 1
    assert checked > 20


def test_neither_side_is_favoured(people):
    for limb in ("upper_arm", "lower_arm", "upper_leg", "lower_leg"):
        right, left = (sum(p.parts[f"{s}_{limb}"].sum() for p in people) for s in ("right", "left"))
        assert 0.8 < right / left < 1.25


def test_preparing(tmp_path):
    prepare_synthetic(tmp_path, "train", 3, PASCAL_PERSON_PART, seed=1)
    prepare_synthetic(tmp_path, "val", 2, PASCAL_PERSON_PART, seed=1)
    train, val = (
        read_records(tmp_path / f"synthetic_{split}.pascal-person-part.json")
        for split in ("train", "val")
    )
    assert [image["file_name"] for image in train.images] == [
        f"images/train_00000{i}.jpg" for i in range(3)
    ]
    for records in (train, val):
        assert validate_records(records, tmp_path) == []
        assert {a["image_id"] for a in records.annotations} == {i["id"] for i in records.images}
    pictures = {path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert len(pictures) == 5


def test_seeds_never_meet(monkeypatch, tmp_path):
    seeds = {}

    def note(seed):
        seeds.setdefault(seed, []).append(split)
        return picture

    picture = render(0)
    monkeypatch.setattr("detectron2_bodyparts.readers.synthetic.render", note)
    for seed in (0, 1):
        for split in ("train", "val"):
            prepare_synthetic(tmp_path, split, 8, BODYPARTS_7, seed=seed)
    assert len(seeds) == 2 * 2 * 8


def test_script(run_script, tmp_path, capsys):
    arguments = f"--root {tmp_path} --train 3 --val 2 --limit 1 --workers 1 --seed 5".split()
    run_script("prepare_synthetic.py", *arguments)
    assert sorted(os.listdir(tmp_path / "images")) == ["train_000000.jpg", "val_000000.jpg"]
    assert str(tmp_path / "synthetic_val.bodyparts-7.json") in capsys.readouterr().out
