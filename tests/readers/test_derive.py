from __future__ import annotations

import runpy
from functools import partial

import numpy as np
import pytest

from detectron2_bodyparts.readers.derive import derive_cores, derive_parts
from detectron2_bodyparts.readers.figures import render
from detectron2_bodyparts.readers.synthetic import annotations
from detectron2_bodyparts.records import Records, decode_mask, write_records
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    JHMDB_15,
    LSP_14,
    PASCAL_PERSON_PART,
    KeypointSchema,
    PartSchema,
    mirrored_name,
)

from .conftest import DATASETS, rectangle

SCRIPT = "measure_derived_parts.py"
SCHEMAS = (BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART)
by_name = pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.name)

# Faces the camera, arms hanging: right joints at the picture's left. The trunk is 60 pixels long.
SHAPE = (260, 160)
POINTS = {
    "nose": (80, 33),
    "right_eye": (76, 28),
    "left_eye": (84, 28),
    "right_ear": (71, 30),
    "left_ear": (89, 30),
    "right_shoulder": (60, 60),
    "left_shoulder": (100, 60),
    "right_elbow": (48, 95),
    "left_elbow": (112, 95),
    "right_wrist": (44, 125),
    "left_wrist": (116, 125),
    "right_hip": (68, 120),
    "left_hip": (92, 120),
    "right_knee": (66, 170),
    "left_knee": (94, 170),
    "right_ankle": (65, 220),
    "left_ankle": (95, 220),
    # Joints of other skeletons, at the same body.
    "neck": (80, 58),
    "belly": (80, 95),
    "face": (80, 31),
    "head_top": (80, 12),
}
BODY = np.zeros(SHAPE, dtype=bool)
BODY[8:235, 25:135] = True


def joints(schema: KeypointSchema = COCO_17, without: tuple[str, ...] = (), hidden=()):
    """(K, 3) of ``POINTS``."""
    rows = []
    for name in schema.keypoints:
        rows.append((0, 0, 0) if name in without else (*POINTS[name], 1 if name in hidden else 2))
    return np.array(rows, dtype=float)


def both(*names):
    return tuple(f"{side}_{name}" for side in ("right", "left") for name in names)


FACE = ("nose", *both("eye", "ear"))


def assert_partition(derived, body):
    """Parts and what is ignored share the body among them."""
    times = derived.ignore.astype(int) + sum(m.astype(int) for m in derived.parts.values())
    np.testing.assert_array_equal(times, body.astype(int))


# ------------------------------------------------------------ by hand


def part_at(derived, point):
    x, y = point
    return next((name for name, mask in derived.parts.items() if mask[y, x]), None)


def test_every_part_is_around_its_bone():
    derived = derive_parts(BODY, joints(), COCO_17, BODYPARTS_11)
    expected = {"head": (80, 30), "torso": (80, 95)}
    for name, ends in (
        ("upper_arm", ("shoulder", "elbow")),
        ("lower_arm", ("elbow", "wrist")),
        ("upper_leg", ("hip", "knee")),
        ("lower_leg", ("knee", "ankle")),
    ):
        for side in ("right", "left"):
            points = np.array([POINTS[f"{side}_{end}"] for end in ends])
            expected[f"{side}_{name}"] = tuple(points.mean(axis=0).astype(int))
    found = {name: part_at(derived, point) for name, point in expected.items()}
    assert found == {name: name for name in BODYPARTS_11.parts}
    assert not derived.ignore.any()
    assert_partition(derived, BODY)
    # Hands and feet go with the lower limbs, hair with the head.
    assert part_at(derived, (42, 140)) == "right_lower_arm"
    assert part_at(derived, (95, 234)) == "left_lower_leg"
    assert part_at(derived, (80, 8)) == "head"


def test_exactly_between_two_bones():
    """Shins 85 long, so that the trunk is 100 and a shin's half width 12, trusted to 18."""
    body = np.ones((100, 100), dtype=bool)
    shins = np.zeros((17, 3))
    for name, x in (("right", 30), ("left", 51)):
        for joint, y in (("knee", 5), ("ankle", 90)):
            shins[COCO_17.keypoints.index(f"{name}_{joint}")] = (x, y, 2)
    derived = derive_parts(body, shins, COCO_17, BODYPARTS_7)
    assert set(derived.parts) == {"right_leg", "left_leg"}
    row = 50
    assert np.flatnonzero(derived.parts["right_leg"][row]).tolist() == list(range(12, 41))
    assert np.flatnonzero(derived.parts["left_leg"][row]).tolist() == list(range(41, 70))
    column = derived.parts["right_leg"][:, 30]
    assert column.all()  # to 5 above the knee, and the foot: a quarter of the shin and 18 more
    body[:, 32] = False
    cut = derive_parts(body, shins, COCO_17, BODYPARTS_7)
    np.testing.assert_array_equal(cut.parts["right_leg"], derived.parts["right_leg"] & body)


@by_name
def test_mirrored_person(schema):
    """The mirrored picture has the mirrored parts, right and left exchanged."""
    body = BODY.copy()
    body[180:, 25:70] = False
    points = joints(without=("left_ankle",))
    points[COCO_17.keypoints.index("right_elbow")] = (40, 88, 2)
    points[COCO_17.keypoints.index("left_knee")] = (99, 165, 2)
    derived = derive_parts(body, points, COCO_17, schema)
    if schema is BODYPARTS_11:
        assert set(schema.parts) - set(derived.parts) == {"left_lower_leg"}

    mirrored = points[list(COCO_17.flip_permutation)]
    mirrored[:, 0] = np.where(mirrored[:, 2] > 0, SHAPE[1] - 1 - mirrored[:, 0], 0)
    other = derive_parts(body[:, ::-1], mirrored, COCO_17, schema)
    assert len(other.parts) == len(derived.parts) and derived.ignore.any()
    for name, mask in derived.parts.items():
        counterpart = other.parts[mirrored_name(name)][:, ::-1]
        # All but ties, which go to the bone that comes first.
        assert np.count_nonzero(counterpart != mask) <= 0.02 * np.count_nonzero(mask), name


def test_schemas_agree():
    """Pascal's parts are unions of the eleven; seven differ from these by the neck."""
    seven, eleven, pascal = (derive_parts(BODY, joints(), COCO_17, s).parts for s in SCHEMAS)
    np.testing.assert_array_equal(pascal["head"], eleven["head"])
    np.testing.assert_array_equal(pascal["torso"], eleven["torso"])
    for limb in ("upper_arm", "lower_arm", "upper_leg", "lower_leg"):
        union = eleven[f"right_{limb}"] | eleven[f"left_{limb}"]
        np.testing.assert_array_equal(pascal[f"{limb}s"], union)
    for side in ("right", "left"):
        union = eleven[f"{side}_upper_leg"] | eleven[f"{side}_lower_leg"]
        np.testing.assert_array_equal(seven[f"{side}_leg"], union)
    neck = seven["torso"] & eleven["head"]
    assert neck.any() and (seven["head"] & ~eleven["head"]).sum() == 0
    rows = np.nonzero(neck)[0]
    assert 36 < rows.min() and rows.max() < 60  # between chin and shoulders


def test_an_arm_in_front_of_the_torso_is_arm():
    points = joints()
    points[COCO_17.keypoints.index("right_wrist")] = (90, 92, 2)
    derived = derive_parts(BODY, points, COCO_17, BODYPARTS_7)
    assert part_at(derived, (75, 93)) == "right_arm"
    assert part_at(derived, (75, 80)) == part_at(derived, (75, 106)) == "torso"


@pytest.mark.parametrize("other", [LSP_14, JHMDB_15], ids=lambda s: s.name)
@by_name
def test_other_skeletons(schema, other):
    """Of one and the same person they give nearly the same parts."""
    expected = derive_parts(BODY, joints(), COCO_17, schema).parts
    found = derive_parts(BODY, joints(other), other, schema).parts
    assert set(found) == set(expected) == set(schema.parts)
    for part in schema.parts:
        iou = (found[part] & expected[part]).sum() / (found[part] | expected[part]).sum()
        assert iou > 0.85, part


# ------------------------------------------------------------ unknown is not absent


@pytest.mark.parametrize(
    ("without", "unknown"),
    [
        (("left_wrist",), {"left_lower_arm"}),
        (("left_elbow",), {"left_upper_arm", "left_lower_arm"}),
        (both("ankle"), set(both("lower_leg"))),
        (FACE, {"head"}),
        (both("hip", "knee", "ankle"), set(both("upper_leg", "lower_leg"))),
        (("left_hip",), {"left_upper_leg"}),
        # The trunk's direction comes from head and shoulders where hips are not labelled.
        ((*FACE, *both("hip")), {"head", "torso", *both("upper_leg")}),
        (("left_shoulder", *both("hip")), {"torso", "left_upper_arm", *both("upper_leg")}),
    ],
    ids=lambda value: ",".join(sorted(value)),
)
def test_a_part_without_joints_is_unknown(without, unknown):
    derived = derive_parts(BODY, joints(without=without), COCO_17, BODYPARTS_11)
    assert set(BODYPARTS_11.parts) - set(derived.parts) == unknown
    assert_partition(derived, BODY)
    # Its middle belongs to nobody, but where another part that is known lies over it.
    complete = derive_parts(BODY, joints(), COCO_17, BODYPARTS_11)
    for part in unknown:
        share = np.count_nonzero(derived.ignore & complete.parts[part])
        assert share > 0.3 * np.count_nonzero(complete.parts[part]), part


def test_an_arm_of_which_half_is_labelled():
    derived = derive_parts(BODY, joints(without=("left_wrist",)), COCO_17, BODYPARTS_7)
    assert part_at(derived, (106, 78)) == "left_arm"
    assert derived.ignore[140, 118]  # where the hand would be
    assert not derived.ignore[78, 106]


def test_what_is_hidden_is_ignored():
    """Whether a limb with two hidden joints or what hides it is seen there, nobody knows."""
    points = joints(hidden=("left_knee", "left_ankle"))
    derived = derive_parts(BODY, points, COCO_17, BODYPARTS_11)
    assert set(BODYPARTS_11.parts) - set(derived.parts) == {"left_lower_leg"}
    assert derived.ignore[195, 94]
    assert derived.parts["left_upper_leg"][145, 93]  # one joint is seen
    assert_partition(derived, BODY)


def test_hidden_shoulders_and_hips_still_make_a_torso():
    points = joints(hidden=both("shoulder", "hip"))
    assert derive_parts(BODY, points, COCO_17, BODYPARTS_7).parts["torso"][95, 80]


def test_nothing_to_derive_from():
    for without in (
        COCO_17.keypoints,
        (*FACE, *both("shoulder", "elbow", "hip", "knee")),  # wrists and ankles
        tuple(name for name in COCO_17.keypoints if name != "nose"),
    ):
        derived = derive_parts(BODY, joints(without=without), COCO_17, BODYPARTS_7)
        assert derived.parts == {} and not derived.ignore.any()


@by_name
def test_any_skeleton_shares_the_body(schema):
    rng = np.random.default_rng(0)
    for _ in range(10):
        points = joints()
        points[:, :2] += rng.normal(0, 15, (17, 2))
        points[:, 2] = rng.choice([0, 1, 2], 17, p=[0.3, 0.2, 0.5])
        body = rng.random((26, 16)).repeat(10, 0).repeat(10, 1) > 0.4
        derived = derive_parts(body, points, COCO_17, schema)
        if derived.parts:
            assert_partition(derived, body)
        assert set(derived.parts) <= set(schema.parts)


def test_odd_bodies():
    one_pixel = np.zeros(SHAPE, dtype=bool)
    assert derive_parts(one_pixel, joints(), COCO_17, BODYPARTS_7).parts == {}
    one_pixel[30, 80] = True
    derived = derive_parts(one_pixel, joints(), COCO_17, BODYPARTS_7)
    assert list(derived.parts) == ["head"]  # of the others no pixel is seen: unknown, not empty
    assert_partition(derived, one_pixel)
    at_one_place = joints()
    at_one_place[:, :2] = 50
    assert derive_parts(BODY, at_one_place, COCO_17, BODYPARTS_7).parts == {}


def test_errors():
    with pytest.raises(ValueError, match="tailed.*'tail'"):
        derive_parts(BODY, joints(), COCO_17, PartSchema("tailed", ("body", "head", "tail")))
    with pytest.raises(ValueError, match=r"\(14, 3\) of lsp-14, found \(17, 3\)"):
        derive_parts(BODY, joints(), LSP_14, BODYPARTS_7)


# ------------------------------------------------------------ against true parts


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(DATASETS / SCRIPT))


def test_measuring_by_hand(script):
    """Two shins, as above; the true right leg is wider to the left and narrower to the right."""
    shins = np.zeros((17, 3))
    for name, x in (("right", 30), ("left", 51)):
        for joint, y in (("knee", 5), ("ankle", 90)):
            shins[COCO_17.keypoints.index(f"{name}_{joint}")] = (x, y, 2)
    body = np.zeros((100, 100), dtype=bool)
    body[50] = True
    right = np.zeros_like(body)
    right[50, 2:31] = True  # derived: 12 to 40, and left 41 to 69
    result = script["measure"]([(body, {"right_leg": right}, shins)], COCO_17, BODYPARTS_7)
    leg = result.parts["right_leg"]
    assert (leg.people, leg.true, leg.trusted, leg.both, leg.either) == (1, 29, 19, 19, 29)
    assert leg.iou == 19 / 29 and result.parts["left_leg"].people == 0
    assert (result.people, result.derived_people) == (1, 1)
    assert (result.body, result.trusted, result.right) == (100, 58, 19)


def test_joints_of_masks_by_hand(script):
    block = partial(rectangle, (40, 60))
    pieces = {
        "nose": block(2, 5, 8, 11),
        "reye": np.zeros((40, 60), bool),
        "luarm": block(20, 23, 10, 30),
        "llarm": block(20, 23, 30, 50),
        "ruleg": block(0, 9, 40, 43),
    }
    found = script["joints_of_pieces"](pieces)
    points = {n: tuple(p) for n, p in zip(COCO_17.keypoints, found, strict=True) if p[2]}
    assert set(points) == {"nose", "left_shoulder", "left_elbow"}  # no hand, no foot, no torso
    assert points["nose"] == (9, 3, 2)
    assert points["left_elbow"] == (29.5, 21, 2)
    assert 10 <= points["left_shoulder"][0] < 13 and points["left_shoulder"][1] == 21


# What was measured when the constants were chosen, less three points.
SYNTHETIC = {
    "bodyparts-7": (0.86, 0.73, 0.80, 0.80, 0.83, 0.83),
    "pascal-person-part": (0.83, 0.72, 0.64, 0.74, 0.69, 0.84),
}
VOC_PART = {
    "bodyparts-7": (0.90, 0.66, 0.82, 0.67, 0.80),
    "pascal-person-part": (0.88, 0.64, 0.64, 0.60, 0.71),
}


def assert_at_least(result, schema, bounds):
    for name, bound in zip(schema.parts, bounds, strict=False):
        assert result.parts[name].iou >= bound, (name, str(result))


@pytest.fixture(scope="module")
def pictures():
    return [render(seed) for seed in range(12)]


@pytest.mark.parametrize("schema", [BODYPARTS_7, PASCAL_PERSON_PART], ids=lambda s: s.name)
def test_synthetic_people(script, pictures, tmp_path, schema):
    records = Records(schema, COCO_17)
    for i, picture in enumerate(pictures):
        people = annotations(picture, schema, COCO_17)
        records.add_image(f"{i}.jpg", *picture.image.shape[:2], people)
    path = tmp_path / "synthetic.json"
    write_records(path, records)
    result = script["measure"](*script["people_of_records"](path))
    assert result.people == len(records.annotations) > 20
    assert_at_least(result, schema, SYNTHETIC[schema.name])
    assert result.trusted > 0.9 * result.body


@pytest.mark.parametrize("schema", [BODYPARTS_7, PASCAL_PERSON_PART], ids=lambda s: s.name)
def test_voc_part(script, shared_dir, schema):
    people = script["people_of_voc_part"](shared_dir / "samples" / "voc_part", schema)
    result = script["measure"](people, COCO_17, schema)
    assert result.people == result.derived_people == 8
    assert_at_least(result, schema, VOC_PART[schema.name])
    assert result.trusted > 0.7 * result.body and result.right > 0.8 * result.trusted


def test_script(run_script, shared_dir, tmp_path, capsys):
    run_script(SCRIPT, "--root", shared_dir / "samples" / "voc_part")
    out = capsys.readouterr().out
    assert "VOC-Part, bodyparts-7" in out and "right_arm" in out and "lower_arms" in out
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        run_script(SCRIPT, "--root", tmp_path / "nowhere")


def test_true_parts_that_are_known_and_empty_count(script):
    """A part that is derived where it is known to be hidden costs agreement."""
    shins = np.zeros((17, 3))
    for joint, y in (("knee", 5), ("ankle", 90)):
        shins[COCO_17.keypoints.index(f"right_{joint}")] = (30, y, 2)
    body = np.ones((100, 100), dtype=bool)
    people = [(body, {"right_leg": np.zeros_like(body)}, shins)]
    leg = script["measure"](people, COCO_17, BODYPARTS_7).parts["right_leg"]
    assert leg.iou == 0 and leg.either > 0


def test_known_and_empty_parts_of_records(script, pictures, tmp_path):
    picture = pictures[0]
    records = Records(BODYPARTS_7, COCO_17)
    people = annotations(picture, BODYPARTS_7, COCO_17)
    people[0]["part_segmentation"].pop("head")
    del people[0]["part_state"]["torso"]
    records.add_image("0.jpg", *picture.image.shape[:2], people)
    path = tmp_path / "records.json"
    write_records(path, records)
    (body, parts, _), *_ = script["people_of_records"](path)[0]
    np.testing.assert_array_equal(body, decode_mask(people[0]["segmentation"]))
    assert not parts["head"].any() and "torso" not in parts


@by_name
def test_cores_lie_on_their_own_bones(schema):
    derived = derive_cores(joints(LSP_14), LSP_14, schema, SHAPE)
    assert set(derived.parts) == set(schema.parts)
    assert_partition(derived, np.ones(SHAPE, dtype=bool))
    whole = derive_parts(BODY, joints(LSP_14), LSP_14, schema).parts
    for part, core in derived.parts.items():
        assert not (core & BODY & ~whole[part]).any(), part
    x, y = (np.array(POINTS["right_elbow"]) + POINTS["right_wrist"]) // 2
    (part,) = (part for part, core in derived.parts.items() if core[y, x])
    assert part in ("right_lower_arm", "right_arm", "lower_arms")


def test_cores_of_crossed_limbs_are_ignored_where_they_cross():
    crossed = joints(LSP_14)
    names = list(LSP_14.keypoints)
    pair = [names.index("right_wrist"), names.index("left_wrist")]
    crossed[pair, :2] = crossed[pair[::-1], :2]
    derived = derive_cores(crossed, LSP_14, BODYPARTS_11, SHAPE)
    middle = round((POINTS["right_elbow"][1] + POINTS["right_wrist"][1]) / 2)
    assert derived.ignore[middle, 80]


def test_cores_of_a_mirrored_skeleton_are_mirrored():
    mirrored = joints(LSP_14)[list(LSP_14.flip_permutation)]
    mirrored[:, 0] = SHAPE[1] - 1 - mirrored[:, 0]
    there = derive_cores(joints(LSP_14), LSP_14, BODYPARTS_11, SHAPE).parts
    here = derive_cores(mirrored, LSP_14, BODYPARTS_11, SHAPE).parts
    for part, core in there.items():
        np.testing.assert_array_equal(here[mirrored_name(part)], core[:, ::-1])


def test_a_bone_without_both_joints_has_no_core():
    without = joints(LSP_14, without=("left_wrist",))
    assert "left_lower_arm" not in derive_cores(without, LSP_14, BODYPARTS_11, SHAPE).parts
    nothing = derive_cores(np.zeros((14, 3)), LSP_14, BODYPARTS_11, SHAPE)
    assert not nothing.parts
    assert nothing.ignore.all()
