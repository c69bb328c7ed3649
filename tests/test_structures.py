from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from detectron2_bodyparts.records import decode_mask, person_annotation  # noqa: E402
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17, PASCAL_PERSON_PART  # noqa: E402
from detectron2_bodyparts.structures import (  # noqa: E402
    BODY_BIT,
    DERIVED,
    IGNORE_BIT,
    KNOWN,
    UNKNOWN,
    PartMasks,
    mirror_parts,
    part_plane,
    target_names,
)

SHAPE = (40, 50)
RIGHT_ARM, LEFT_ARM = BODYPARTS_7.index("right_arm"), BODYPARTS_7.index("left_arm")


def box_mask(x0, y0, x1, y1):
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def annotation(**kwargs):
    kwargs.setdefault("body", box_mask(5, 5, 25, 35))
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **kwargs)


def pack(*annotations):
    planes, states = zip(*(part_plane(a, BODYPARTS_7, *SHAPE) for a in annotations), strict=True)
    return PartMasks.from_planes(planes, states, BODYPARTS_7)


def random_people(rng, count):
    people = []
    for _ in range(count):
        parts = {}
        for name in BODYPARTS_7.parts:
            x0, y0 = rng.integers(0, 30, 2)
            w, h = rng.integers(3, 20, 2)
            parts[name] = box_mask(x0, y0, x0 + w, y0 + h)
        body = np.any(list(parts.values()), axis=0)
        people.append(annotation(body=body, parts=parts))
    return people


def slow_targets(mask, box, size):
    """Bilinear at each cell's centre, pixel by pixel; zero outside."""
    x0, y0, x1, y1 = box
    target = np.zeros((size, size), bool)
    for j in range(size):
        for i in range(size):
            x = x0 + (i + 0.5) * (x1 - x0) / size - 0.5
            y = y0 + (j + 0.5) * (y1 - y0) / size - 0.5
            total = 0.0
            for yy in (int(np.floor(y)), int(np.floor(y)) + 1):
                for xx in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= yy < mask.shape[0] and 0 <= xx < mask.shape[1]:
                        total += mask[yy, xx] * (1 - abs(yy - y)) * (1 - abs(xx - x))
            target[j, i] = total >= 0.5 - 1e-6
    return target


def test_plane_holds_parts_body_and_ignored_pixels():
    one = annotation(
        parts={"torso": box_mask(5, 5, 25, 20), "right_arm": box_mask(5, 10, 10, 20)},
        ignore=box_mask(5, 30, 25, 35),
    )
    plane, state = part_plane(one, BODYPARTS_7, *SHAPE)
    assert plane[12, 7] == RIGHT_ARM | BODY_BIT
    assert plane[6, 20] == BODYPARTS_7.index("torso") | BODY_BIT
    assert plane[25, 10] == BODY_BIT
    assert plane[32, 10] == BODY_BIT | IGNORE_BIT
    assert plane[0, 0] == 0
    names = target_names(BODYPARTS_7)
    known = {n for n, s in zip(names, state, strict=True) if s == KNOWN}
    assert known == {"body", "torso", "right_arm"}


def test_state_of_derived_unsided_and_plain_coco():
    one = annotation(
        parts={"head": box_mask(5, 5, 25, 10)},
        states={"body": "known", "head": "derived", "arm": "known"},
        unsided={"arm": box_mask(5, 10, 10, 20)},
    )
    plane, state = part_plane(one, BODYPARTS_7, *SHAPE)
    by_name = dict(zip(target_names(BODYPARTS_7), state, strict=True))
    assert by_name["head"] == DERIVED
    assert by_name["arm"] == KNOWN
    assert by_name["right_arm"] == by_name["left_arm"] == UNKNOWN

    polygon = {"segmentation": [[5, 5, 25, 5, 25, 35, 5, 35]]}
    plane, state = part_plane(polygon, BODYPARTS_7, *SHAPE)
    assert state.tolist() == [KNOWN] + [UNKNOWN] * 8
    np.testing.assert_array_equal(plane == BODY_BIT, box_mask(5, 5, 25, 35))


def test_mirroring_twice_is_the_identity_and_once_exchanges_sides_and_states():
    one = annotation(parts={"right_arm": box_mask(5, 10, 10, 20)}, ignore=box_mask(5, 12, 8, 14))
    plane, state = part_plane(one, BODYPARTS_7, *SHAPE)
    mirrored, mirrored_state = mirror_parts(plane, state, BODYPARTS_7)
    assert mirrored[10, 6] == LEFT_ARM | BODY_BIT
    assert mirrored[12, 6] == LEFT_ARM | BODY_BIT | IGNORE_BIT
    assert mirrored_state[LEFT_ARM] == KNOWN and mirrored_state[RIGHT_ARM] == UNKNOWN
    back, back_state = mirror_parts(mirrored, mirrored_state, BODYPARTS_7)
    np.testing.assert_array_equal(back, plane)
    np.testing.assert_array_equal(back_state, state)


def test_targets_equal_the_plain_slow_way():
    rng = np.random.default_rng(0)
    people = random_people(rng, 3)
    masks = pack(*people)
    boxes = np.array([[2.3, 3.7, 41.2, 38.9], [-6.0, -2.5, 20.0, 20.0], [10, 10, 60, 55]])
    targets, valid = masks.crop_and_resize(torch.tensor(boxes, dtype=torch.float64), 13)
    assert targets.shape == (3, 9, 13, 13) and valid.all()
    for n, one in enumerate(people):
        for c, channel in enumerate(BODYPARTS_7.channels):
            rle = one["segmentation"] if c == 0 else one["part_segmentation"].get(channel)
            mask = np.zeros(SHAPE, bool) if rle is None else decode_mask(rle)
            expected = slow_targets(mask, boxes[n], 13)
            np.testing.assert_array_equal(targets[n, c].numpy(), expected, err_msg=channel)


def test_the_box_itself_at_its_own_size_gives_the_mask():
    one = annotation(parts={"torso": box_mask(5, 5, 15, 35)})
    targets, _ = pack(one).crop_and_resize(torch.tensor([[5.0, 5.0, 35.0, 35.0]]), 30)
    torso = targets[0, BODYPARTS_7.index("torso")].numpy()
    np.testing.assert_array_equal(torso, decode_mask(one["part_segmentation"]["torso"])[5:35, 5:35])


def test_ignored_pixels_make_samples_invalid_and_nothing_else():
    one = annotation(ignore=box_mask(10, 10, 12, 12))
    _, valid = pack(one).crop_and_resize(torch.tensor([[5.0, 5.0, 25.0, 25.0]]), 20)
    expected = np.ones((20, 20), bool)
    expected[5:7, 5:7] = False
    np.testing.assert_array_equal(valid[0].numpy(), expected)


def test_a_union_is_what_either_side_or_nobody_knows():
    one = annotation(
        parts={"right_arm": box_mask(5, 5, 8, 35)},
        states={"body": "known", "right_arm": "known", "arm": "known"},
        unsided={"arm": box_mask(20, 5, 25, 35)},
    )
    targets, _ = pack(one).crop_and_resize(torch.tensor([[5.0, 5.0, 25.0, 35.0]]), 20)
    arm = targets[0, target_names(BODYPARTS_7).index("arm")]
    assert arm[:, :3].all() and arm[:, 15:].all() and not arm[:, 3:15].any()
    assert not targets[0, target_names(BODYPARTS_7).index("leg")].any()


def test_coarse_labels_are_unions_of_a_finer_schema():
    right, left = box_mask(5, 5, 10, 30), box_mask(20, 5, 25, 30)
    coarse = annotation(
        parts={"right_arm": right, "left_arm": left},
        states={"right_arm": "known", "left_arm": "derived"},
    )
    plane, state = part_plane(coarse, BODYPARTS_11, *SHAPE, annotated_in=BODYPARTS_7)
    names = target_names(BODYPARTS_11)
    known = {names[i]: int(v) for i, v in enumerate(state) if v}
    assert known == {"right_arm": KNOWN, "left_arm": DERIVED}
    assert set(np.unique(plane & 0x3F)) == {0, names.index("right_arm"), names.index("left_arm")}

    masks = PartMasks.from_planes([plane], [state], BODYPARTS_11)
    targets, _ = masks.crop_and_resize(torch.tensor([[0.0, 0.0, 40.0, 40.0]]), 40)
    np.testing.assert_array_equal(targets[0, names.index("right_arm")], right[:, :40])
    assert not targets[0, names.index("right_upper_arm")].any()

    mirrored, flipped = mirror_parts(plane, state, BODYPARTS_11)
    assert flipped[names.index("left_arm")] == KNOWN
    assert (mirrored[right] & 0x3F == names.index("left_arm")).all()


def test_a_union_holds_its_parts_and_the_unions_inside_it():
    """A pixel of an upper arm without a side, and one of a right arm, are both of an arm."""
    upper, right = box_mask(5, 5, 10, 30), box_mask(20, 5, 25, 30)
    names = target_names(BODYPARTS_11)
    plane = np.zeros(SHAPE, np.uint8)
    plane[upper], plane[right] = names.index("upper_arm"), names.index("right_arm")
    state = np.ones(len(names), np.uint8)
    masks = PartMasks.from_planes([plane], [state], BODYPARTS_11)
    targets, _ = masks.crop_and_resize(torch.tensor([[0.0, 0.0, 40.0, 40.0]]), 40)
    filled = {names[i] for i in range(1, len(names)) if targets[0, i].any()}
    assert filled == {"upper_arm", "right_arm", "arm"}
    np.testing.assert_array_equal(targets[0, names.index("arm")], (upper | right)[:, :40])


def test_labels_of_a_schema_that_is_no_view_are_refused():
    with pytest.raises(ValueError, match="no view of pascal-person-part"):
        part_plane(annotation(), PASCAL_PERSON_PART, *SHAPE, annotated_in=BODYPARTS_7)


def test_indexing_copies_no_pixels_and_follows_the_people():
    people = random_people(np.random.default_rng(1), 4)
    masks = pack(*people)
    boxes = torch.tensor([[0.0, 0.0, 50.0, 40.0]]).repeat(4, 1)
    everything, _ = masks.crop_and_resize(boxes, 20)
    for item in (2, -1, slice(1, 3), torch.tensor([3, 0, 3]), torch.tensor([True, False] * 2)):
        chosen = masks[item]
        assert chosen._store is masks._store
        expected = everything[[item] if isinstance(item, int) else item]
        assert len(chosen) == len(expected)
        found, _ = chosen.crop_and_resize(boxes[: len(chosen)], 20)
        assert torch.equal(found, expected)


def test_cat_of_one_store_and_of_several():
    people = random_people(np.random.default_rng(2), 4)
    boxes = torch.tensor([[0.0, 0.0, 50.0, 40.0]]).repeat(4, 1)
    together = pack(*people)
    expected, _ = together.crop_and_resize(boxes, 20)
    for parts in (
        [together[:1], together[1:]],
        [pack(people[0]), pack(*people[1:3]), pack(*random_people(np.random.default_rng(2), 4))[3]],
    ):
        joined = PartMasks.cat(parts)
        assert torch.equal(joined.state, together.state)
        assert torch.equal(joined.crop_and_resize(boxes, 20)[0], expected)


def test_no_people_and_empty_planes():
    nobody = PartMasks.from_planes([], [], BODYPARTS_7)
    targets, valid = nobody.crop_and_resize(torch.zeros(0, 4), 8)
    assert targets.shape == (0, 9, 8, 8) and valid.shape == (0, 8, 8)
    empty = PartMasks.from_planes([np.zeros((4, 4), np.uint8)], [np.ones(9, np.uint8)], BODYPARTS_7)
    targets, valid = empty.crop_and_resize(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 8)
    assert not targets.any() and valid.all()
    with pytest.raises(ValueError, match=r"expected boxes \(1, 4\), found \(2, 4\)"):
        empty.crop_and_resize(torch.zeros(2, 4), 8)
