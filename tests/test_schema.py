from __future__ import annotations

import pickle

import pytest

from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    COCO_17,
    JHMDB_15,
    LSP_14,
    PASCAL_PERSON_PART,
    UNION_21,
    KeypointSchema,
    PartSchema,
    get_keypoint_schema,
    get_part_schema,
    mirrored_name,
    register_keypoint_schema,
    register_part_schema,
    unsided_name,
)

PART_SCHEMAS = [BODYPARTS_7, PASCAL_PERSON_PART]
KEYPOINT_SCHEMAS = [COCO_17, JHMDB_15, LSP_14, UNION_21]
ELEVEN = PartSchema(
    "eleven",
    (
        "body",
        "head",
        "torso",
        *(f"{s}_{part}_{limb}" for limb in ("arm", "leg") for part in ("upper", "lower")
          for s in ("right", "left")),
    ),
)  # fmt: skip


def names_of(schema):
    return schema.channels if isinstance(schema, PartSchema) else schema.keypoints


@pytest.mark.parametrize("schema", [*PART_SCHEMAS, ELEVEN, *KEYPOINT_SCHEMAS], ids=lambda s: s.name)
def test_flip_is_its_own_inverse_and_exchanges_sides(schema):
    names, permutation = names_of(schema), schema.flip_permutation
    assert [permutation[i] for i in permutation] == list(range(len(names)))
    for i, name in enumerate(names):
        flipped = names[permutation[i]]
        if name.startswith("right_"):
            assert flipped == "left_" + name[len("right_") :]
        elif not name.startswith("left_"):
            assert flipped == name
    sided = [name for name in names if name.startswith(("right_", "left_"))]
    assert 2 * len(schema.sided_pairs) == len(sided)
    for right, left in schema.sided_pairs:
        assert names[right].startswith("right_") and names[left].startswith("left_")


def test_flip_permutations_by_hand():
    assert BODYPARTS_7.flip_permutation == (0, 1, 2, 4, 3, 6, 5)
    assert PASCAL_PERSON_PART.flip_permutation == tuple(range(7))
    assert COCO_17.flip_permutation == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert LSP_14.flip_permutation == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)
    assert COCO_17.flip_map[0] == ("right_eye", "left_eye")


def test_only_a_leading_side_counts():
    assert mirrored_name("right_arm") == "left_arm"
    assert mirrored_name("upright_arm") == unsided_name("upright_arm") == "upright_arm"
    assert mirrored_name("right") == "right"
    assert unsided_name("left_upper_arm") == "upper_arm"


def test_unions():
    assert BODYPARTS_7.unions == {"arm": (3, 4), "leg": (5, 6)}
    assert PASCAL_PERSON_PART.unions == {}
    assert sorted(ELEVEN.unions) == ["lower_arm", "lower_leg", "upper_arm", "upper_leg"]


def test_limbs_are_unions_of_upper_and_lower():
    assert ELEVEN.limb_unions == {
        "right_arm": (3, 5),
        "arm": (3, 4, 5, 6),
        "left_arm": (4, 6),
        "right_leg": (7, 9),
        "leg": (7, 8, 9, 10),
        "left_leg": (8, 10),
    }
    assert BODYPARTS_7.limb_unions == {}
    # Where the whole is a channel as well, it is no union.
    odd = PartSchema("odd", ("body", "tail", "upper_tail", "lower_tail"))
    assert odd.limb_unions == {}


def test_coarser_schemas_are_views_of_finer_ones():
    names = BODYPARTS_7.names_in(ELEVEN)
    assert names == {n: n for n in (*BODYPARTS_7.channels, "arm", "leg")}
    assert PASCAL_PERSON_PART.names_in(ELEVEN)["upper_arms"] == "upper_arm"
    assert PASCAL_PERSON_PART.names_in(ELEVEN)["lower_legs"] == "lower_leg"
    assert ELEVEN.is_view_of(ELEVEN)
    assert not ELEVEN.is_view_of(BODYPARTS_7)
    with pytest.raises(ValueError, match="bodyparts-7, which has no 'upper_arms'"):
        PASCAL_PERSON_PART.names_in(BODYPARTS_7)


@pytest.mark.parametrize("schema", [*PART_SCHEMAS, ELEVEN], ids=lambda s: s.name)
def test_paint_order_goes_from_the_torso_outwards(schema):
    order = schema.paint_order
    assert sorted(order) == sorted(schema.parts)
    assert order[:2] == ("torso", "head")
    last_leg = max(i for i, part in enumerate(order) if "leg" in part)
    first_arm = min(i for i, part in enumerate(order) if "arm" in part)
    assert last_leg < first_arm
    for upper in (part for part in order if "upper" in part):
        assert order.index(upper) < order.index(upper.replace("upper", "lower"))


def test_a_part_of_an_unheard_of_name_is_painted_last():
    schema = PartSchema("tail", ("body", "tail", "left_hand", "right_hand", "torso"))
    assert schema.paint_order == ("torso", "left_hand", "right_hand", "tail")


def test_index_and_colors():
    assert BODYPARTS_7.index("left_leg") == 6
    with pytest.raises(KeyError, match="right_arm"):
        BODYPARTS_7.index("arm")
    assert len(set(ELEVEN.colors)) == len(ELEVEN.channels)
    assert all(0 <= c <= 255 for color in ELEVEN.colors for c in color)


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((), "first channel must be 'body'"),
        (("head", "body"), "first channel must be 'body'"),
        (("body", "head", "head"), "names repeat"),
        (("body", "right_arm"), "no counterpart 'left_arm'"),
        (
            ("body", "arm_right", "arm_left"),
            "'arm_right': sides are written right_ and left_ first",
        ),
        (("body", *(f"part{i}" for i in range(64))), "at most 63"),
        # 44 sided parts have 22 unions: 66 of the 63 numbers a pixel can hold.
        (("body", *(f"{s}_{i}" for i in range(22) for s in ("right", "left"))), "at most 63"),
    ],
)
def test_bad_part_schemas(channels, message):
    with pytest.raises(ValueError, match=message):
        PartSchema("bad", channels)


def test_as_many_parts_as_six_bits_hold():
    assert len(PartSchema("full", ("body", *(f"part{i}" for i in range(63)))).parts) == 63


def test_colors_must_be_one_a_channel():
    with pytest.raises(ValueError, match="2 channels but 1 colors"):
        PartSchema("bad", ("body", "head"), colors=((0, 0, 0),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keypoints": ("nose", "nose")}, "names repeat"),
        ({"keypoints": ("nose", "left_eye")}, "no counterpart 'right_eye'"),
        ({"keypoints": ("l_wrist", "r_wrist")}, "'l_wrist': sides are written"),
        ({"keypoints": ("nose",), "sigmas": (0.1, 0.2)}, "1 joints but 2 sigmas"),
        ({"keypoints": ("nose",), "skeleton": (("nose", "neck"),)}, "names no joint"),
    ],
)
def test_bad_keypoint_schemas(arguments, message):
    with pytest.raises(ValueError, match=message):
        KeypointSchema("bad", **arguments)


def test_published_sigmas():
    # The orders and figures of the two official lists.
    assert COCO_17.sigmas == (
        .026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062,
        .107, .107, .087, .087, .089, .089,
    )  # fmt: skip
    assert JHMDB_15.sigmas == (
        .025, .107, .025, .079, .079, .107, .107, .072, .072, .087, .087, .062, .062, .089, .089,
    )  # fmt: skip


def test_joints_are_matched_by_name():
    assert COCO_17.match(COCO_17) == tuple(range(17))
    matches = UNION_21.match(LSP_14)
    assert matches[UNION_21.keypoints.index("nose")] == -1
    assert sum(m >= 0 for m in matches) == 14
    for joint, match in zip(UNION_21.keypoints, matches, strict=True):
        assert match == -1 or LSP_14.keypoints[match] == joint


def test_the_union_holds_every_joint_once():
    every = {*COCO_17.keypoints, *JHMDB_15.keypoints, *LSP_14.keypoints}
    assert set(UNION_21.keypoints) == every and len(UNION_21) == len(every) == 21
    assert UNION_21.keypoints[:17] == COCO_17.keypoints


@pytest.mark.parametrize("schema", KEYPOINT_SCHEMAS, ids=lambda s: s.name)
def test_bones_join_one_skeleton_that_flips_onto_itself(schema):
    bones = {frozenset(bone) for bone in schema.bones}
    flip = schema.flip_permutation
    assert {frozenset(flip[j] for j in bone) for bone in bones} == bones
    assert {j for bone in bones for j in bone} == set(range(len(schema)))


def test_registry():
    assert get_part_schema("bodyparts-7") is BODYPARTS_7
    assert get_keypoint_schema("coco-17") is COCO_17
    register_part_schema(BODYPARTS_7)  # the same again: allowed
    with pytest.raises(ValueError, match="already called 'bodyparts-7'"):
        register_part_schema(PartSchema("bodyparts-7", ("body", "head")))
    with pytest.raises(ValueError, match="already called 'lsp-14'"):
        register_keypoint_schema(KeypointSchema("lsp-14", ("nose",)))
    with pytest.raises(KeyError, match="pascal-person-part"):
        get_part_schema("bodyparts-8")
    with pytest.raises(KeyError, match="jhmdb-15"):
        get_keypoint_schema("coco-18")


def test_schemas_travel_to_other_processes():
    used = PartSchema("used", BODYPARTS_7.channels)
    _ = used.flip_permutation, used.unions, used.paint_order
    for schema in (used, COCO_17):
        copy = pickle.loads(pickle.dumps(schema))
        assert copy == schema and copy.flip_permutation == schema.flip_permutation
