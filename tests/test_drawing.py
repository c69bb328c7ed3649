"""Drawing: colours, order, sides; looked at by eye as well, which no test replaces."""

from __future__ import annotations

import numpy as np
import pytest

from detectron2_bodyparts.drawing import (
    CHANNEL_STATES,
    annotation_cell,
    annotation_legend,
    channel_states,
    draw_annotations,
    draw_people,
    grid,
    legend,
    paint_state,
)
from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import encode_mask, ignore_annotation, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

SHAPE = (100, 120)
GRAY = np.full((*SHAPE, 3), 90, dtype=np.uint8)
RIGHT, LEFT = (0, 130, 255), (255, 220, 0)  # orange and cyan, BGR


def color_of(channel: str) -> list[int]:
    return list(BODYPARTS_7.colors[BODYPARTS_7.index(channel)][::-1])


def solid_people(boxes, parts, scores=None, keypoints=None) -> People:
    """People who fill their boxes, each all of one part."""
    probs = np.zeros((len(boxes), 7, 8, 8), dtype=np.float32)
    probs[:, 0] = 1
    for i, part in enumerate(parts):
        probs[i, BODYPARTS_7.index(part)] = 1
    scores = np.full(len(boxes), 0.9) if scores is None else scores
    return People(SHAPE, np.array(boxes), scores, probs, keypoints, BODYPARTS_7, COCO_17)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def joints(**points) -> np.ndarray:
    """(17, 3) of the named joints; the others zero."""
    keypoints = np.zeros((17, 3))
    for name, point in points.items():
        keypoints[COCO_17.keypoints.index(name)] = point
    return keypoints


def near(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Whether a smoothed line's pixel has the colour."""
    return bool(np.abs(pixel.astype(int) - color).max() < 30)


def reddish(pixel: np.ndarray) -> bool:
    blue, _, red = pixel.astype(int)
    return red > blue + 50


def test_parts_have_the_schemas_colours_in_bgr():
    people = solid_people([[10, 10, 50, 50]], ["head"])
    drawn = draw_people(GRAY, people, alpha=1.0)
    assert drawn[30, 30].tolist() == color_of("head")
    assert reddish(drawn[30, 30])  # the head is red: were RGB not turned to BGR, it would be blue
    half = draw_people(GRAY, people, alpha=0.5)
    np.testing.assert_allclose(half[30, 30], (np.array(color_of("head")) + 90) / 2, atol=1)


def test_the_picture_passed_in_stays_and_the_rest_is_untouched():
    before = GRAY.copy()
    drawn = draw_people(GRAY, solid_people([[10, 10, 50, 50]], ["head"]), boxes=False, alpha=0.3)
    np.testing.assert_array_equal(GRAY, before)
    outside = ~mask(9, 9, 51, 51)
    np.testing.assert_array_equal(drawn[outside], GRAY[outside])
    assert (drawn[~outside] != 90).any()


def test_smaller_people_are_in_front_whatever_their_score():
    boxes = [[30, 30, 60, 60], [10, 10, 110, 90]]
    people = solid_people(boxes, ["head", "torso"], scores=np.array([0.2, 0.9]))
    for order in ([0, 1], [1, 0]):
        drawn = draw_people(GRAY, people[np.array(order)], alpha=1.0)
        assert drawn[45, 45].tolist() == color_of("head")
        assert drawn[80, 80].tolist() == color_of("torso")


def test_a_body_without_parts_has_the_bodys_colour():
    people = solid_people([[10, 10, 50, 50]], ["head"])
    people.part_probs[:, 1:] = 0
    assert draw_people(GRAY, people, alpha=1.0)[30, 30].tolist() == color_of("body")


def test_sides_of_the_skeleton_are_told_apart_by_name():
    keypoints = joints(
        right_shoulder=(30.5, 30.5, 1),
        right_elbow=(30.5, 70.5, 1),
        left_shoulder=(80.5, 30.5, 1),
        left_elbow=(80.5, 70.5, 1),
    )[None]
    people = solid_people([[10, 10, 110, 90]], ["torso"], keypoints=keypoints)
    drawn = draw_people(GRAY, people, parts=False)
    assert near(drawn[50, 30], RIGHT)
    assert near(drawn[50, 80], LEFT)
    assert near(drawn[30, 55], (255, 255, 255))  # from shoulder to shoulder: neither side
    flipped = people.keypoints[:, list(COCO_17.flip_permutation)]
    people.keypoints[:] = flipped
    assert near(draw_people(GRAY, people, parts=False)[50, 30], LEFT)


def test_a_joint_is_drawn_on_its_pixel():
    people = solid_people([[0, 0, 20, 20]], ["torso"], keypoints=joints(nose=(40.5, 60.5, 1))[None])
    drawn = draw_people(GRAY, people, parts=False)
    changed = np.abs(drawn.astype(float) - GRAY).sum(axis=2)
    rows, columns = np.indices(SHAPE)
    assert np.average(rows, weights=changed) == pytest.approx(60, abs=0.25)
    assert np.average(columns, weights=changed) == pytest.approx(40, abs=0.25)


def test_unsure_joints_and_their_bones_are_left_out():
    keypoints = joints(right_shoulder=(30, 30, 0.5), right_elbow=(30, 70, 0.01))[None]
    people = solid_people([[10, 10, 110, 90]], ["torso"], keypoints=keypoints)
    drawn = draw_people(GRAY, people, parts=False)
    np.testing.assert_array_equal(drawn[40:], GRAY[40:])
    assert (drawn[:40] != 90).any()
    drawn = draw_people(GRAY, people, parts=False, joint_threshold=0.6)
    np.testing.assert_array_equal(drawn, GRAY)
    np.testing.assert_array_equal(draw_people(GRAY, people, parts=False, skeleton=False), GRAY)


def test_larger_people_have_thicker_bones():
    def painted_pixels(box) -> int:
        keypoints = joints(right_shoulder=(30, 30, 1), right_elbow=(30, 70, 1))[None]
        people = People((900, 900), np.array([box]), [0.9], None, keypoints, BODYPARTS_7, COCO_17)
        picture = np.zeros((900, 900, 3), np.uint8)
        return np.count_nonzero(draw_people(picture, people)[50].any(axis=1))

    assert painted_pixels([0, 0, 40, 80]) < painted_pixels([0, 0, 800, 800])


def test_boxes_only_where_asked_for():
    people = solid_people([[10, 30, 50, 70]], ["head"])
    with_box = draw_people(GRAY, people, parts=False, boxes=True)
    np.testing.assert_array_equal(draw_people(GRAY, people, parts=False), GRAY)
    assert (with_box[50, 8:12] != 90).any()
    assert (with_box[18:29] != 90).any()  # the score above the box


def test_ids_are_written_above_the_people_who_have_one():
    people = solid_people([[10, 40, 50, 80], [70, 40, 110, 80]], ["head", "head"])
    plain = draw_people(GRAY, people)
    people.ids = np.array([7, 0])
    different = (draw_people(GRAY, people) != plain).any(axis=2)
    assert different[20:40, 10:40].sum() > 50
    assert not different[:, 50:].any() and not different[45:].any()


def test_nobody_leaves_the_picture_as_it_is():
    np.testing.assert_array_equal(
        draw_people(GRAY, solid_people([[0, 0, 9, 9]], ["head"])[:0]), GRAY
    )
    np.testing.assert_array_equal(draw_annotations(GRAY, [], BODYPARTS_7, COCO_17), GRAY)


@pytest.mark.parametrize(
    "image", [GRAY[..., 0], GRAY.astype(np.float32), np.zeros((*SHAPE, 4), np.uint8), GRAY[:50]]
)
def test_pictures_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match="image: expected"):
        draw_people(image, solid_people([[0, 0, 9, 9]], ["head"]))


def annotate(**kinds):
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **kinds)


def draw(*annotations, boxes=False, alpha=1.0):
    return draw_annotations(GRAY, annotations, BODYPARTS_7, COCO_17, boxes=boxes, alpha=alpha)


ALL_KNOWN = dict.fromkeys(BODYPARTS_7.channels, "known")


def test_annotations_are_painted_like_predictions():
    drawn = draw(
        annotate(
            body=mask(10, 10, 50, 90), parts={"left_leg": mask(10, 50, 50, 90)}, states=ALL_KNOWN
        )
    )
    assert drawn[70, 30].tolist() == color_of("left_leg")
    assert drawn[30, 30].tolist() == color_of("body")
    people = solid_people([[10, 50, 50, 90]], ["left_leg"])
    inside = np.s_[52:88, 12:48]
    np.testing.assert_array_equal(drawn[inside], draw_people(GRAY, people, alpha=1.0)[inside])


def test_parts_without_a_body_are_painted_too():
    drawn = draw(annotate(parts={"head": mask(10, 50, 50, 90)}, bbox=(5, 45, 50, 50)))
    assert drawn[70, 30].tolist() == color_of("head")


def test_hidden_joints_are_hollow():
    drawn = draw(
        annotate(
            body=mask(0, 0, 120, 100),
            states=ALL_KNOWN,
            keypoints=joints(right_wrist=(30, 60, 1), left_wrist=(90, 60, 2)),
        )
    )
    assert drawn[60, 30].max() < 60  # dark middle
    assert near(drawn[60, 90], LEFT)


def test_joints_that_are_not_labelled_are_not_drawn():
    drawn = draw(annotate(body=mask(50, 50, 60, 60), states=ALL_KNOWN))
    np.testing.assert_array_equal(drawn[:40], GRAY[:40])


def test_crowds_and_ignored_pixels_are_hatched():
    crowd = draw(ignore_annotation(COCO_17, SHAPE, mask(10, 30, 110, 90)))
    inside = crowd[40:80, 20:100].reshape(-1, 3)
    assert {30, 90, 255} == set(np.unique(inside))  # dark and light stripes on the picture itself

    known = annotate(body=mask(10, 30, 50, 90), states=ALL_KNOWN)
    ignored = {**known, "ignore_segmentation": encode_mask(mask(10, 60, 50, 90))}
    assert len(np.unique(draw(known)[35:55, 15:45])) == 1
    assert len(np.unique(draw(ignored)[35:55, 15:45])) == 1
    assert len(np.unique(draw(ignored)[65:85, 15:45])) == 3


def test_unsided_parts_have_stripes_of_both_colours():
    drawn = draw(annotate(body=mask(10, 30, 50, 90), unsided={"arm": mask(10, 30, 50, 90)}))
    inside = drawn[35:85, 15:45].reshape(-1, 3).tolist()
    assert inside.count(color_of("right_arm")) == pytest.approx(len(inside) / 2, rel=0.1)
    assert inside.count(color_of("left_arm")) == pytest.approx(len(inside) / 2, rel=0.1)


def test_states_of_channels():
    everything = annotate(
        body=mask(10, 30, 50, 90),
        parts={"head": mask(10, 30, 50, 40), "torso": mask(10, 40, 50, 60)},
        states={
            "body": "known",
            "head": "known",
            "torso": "derived",
            "right_leg": "known",
            "left_leg": "derived",
            "arm": "known",
        },
        unsided={"arm": mask(10, 60, 50, 70)},
    )
    assert channel_states(everything, BODYPARTS_7) == {
        "body": "known",
        "head": "known",
        "torso": "derived",
        "right_arm": "unsided",
        "left_arm": "unsided",
        "right_leg": "empty",
        "left_leg": "empty",
    }
    nothing = annotate(keypoints=joints(nose=(30, 30, 2), left_eye=(33, 28, 2)))
    assert set(channel_states(nothing, BODYPARTS_7).values()) == {"unknown"}


def test_a_side_that_is_known_is_not_unsided():
    annotation = annotate(
        body=mask(10, 30, 50, 90),
        parts={"right_arm": mask(10, 30, 20, 90)},
        states={"body": "known", "right_arm": "known", "arm": "known"},
        unsided={"arm": mask(40, 30, 50, 90)},
    )
    states = channel_states(annotation, BODYPARTS_7)
    assert (states["right_arm"], states["left_arm"]) == ("known", "unsided")


@pytest.mark.parametrize(
    ("state", "filled"),
    # Of a square of 9: 9 + 8 + ... + 1 pixels and the upper and the right edge's; three of nine
    # rows; the edge.
    [("known", 81), ("derived", 45 + 8 + 8 - 1), ("empty", 27), ("unknown", 32)],
)
def test_every_state_looks_different(state, filled):
    square = np.full((9, 9, 3), 255, np.uint8)
    paint_state(square, state, (1, 2, 3))
    assert (square == (1, 2, 3)).all(axis=2).sum() == filled
    assert ((square == (1, 2, 3)) | (square == 255)).all()


@pytest.mark.parametrize("state", CHANNEL_STATES)
@pytest.mark.parametrize("shape", [(3, 3), (16, 1), (1, 16), (16, 200)])
def test_states_of_any_size_leave_something_to_see(state, shape):
    region = np.full((*shape, 3), 255, np.uint8)
    paint_state(region, state, (1, 2, 3), (4, 5, 6))
    assert (region != 255).any()


def squares(drawn: np.ndarray, left: int, top: int, side: int) -> list[np.ndarray]:
    """The squares of a strip whose corner is there, seven of them."""
    return [
        drawn[top + 1 : top + 1 + side, left + 1 + i * (side + 1) :][:, :side] for i in range(7)
    ]


def test_a_strip_above_each_person_shows_the_states_in_the_schemas_order():
    states = dict.fromkeys(("body", "head", "right_leg"), "known")
    # 90 pixels for seven channels: squares of 9, the largest there are, in a strip of 11.
    person = annotate(
        body=mask(10, 40, 100, 90), parts={"head": mask(20, 40, 40, 60)}, states=states
    )
    found = squares(draw(person), 10, 40 - 11, 9)
    for channel, square in zip(BODYPARTS_7.channels, found, strict=True):
        assert square[4, 0].tolist() == color_of(channel)  # an edge or a bar: all have this pixel
        if channel in ("body", "head"):
            assert (square == color_of(channel)).all()
        elif channel == "right_leg":
            assert (square[0] == 255).all() and (square[4] == color_of(channel)).all()
        else:
            assert (square[1:8, 1:8] == 255).all() and (square[0] == color_of(channel)).all()


def test_small_people_have_small_strips():
    drawn = draw(annotate(body=mask(10, 40, 38, 90), states=ALL_KNOWN), boxes=False)
    body, head, *_ = squares(drawn, 10, 40 - 6, 4)  # 28 pixels for seven channels
    assert (body == color_of("body")).all()
    assert (head[1] == color_of("head")).all() and (head[0] == 255).all()


def test_ignored_regions_have_no_strip():
    crowd = draw(ignore_annotation(COCO_17, SHAPE, mask(10, 40, 110, 90)))
    assert not (crowd == color_of("head")).all(axis=2).any()


def test_strips_stay_in_a_picture_smaller_than_they_are():
    image = np.zeros((4, 12, 3), np.uint8)
    tiny = person_annotation(BODYPARTS_7, COCO_17, (4, 12), body=np.ones((4, 12), bool))
    assert draw_annotations(image, [tiny], BODYPARTS_7, COCO_17).shape == image.shape


@pytest.mark.parametrize("factor", [4, 0.5])
def test_annotations_are_drawn_on_a_copy_of_another_size(factor):
    copy = np.full((int(100 * factor), int(120 * factor), 3), 90, np.uint8)
    person = annotate(
        body=mask(20, 40, 60, 80),
        parts={"head": mask(20, 40, 60, 60)},
        states=ALL_KNOWN,
        ignore=mask(80, 40, 100, 80),
    )
    drawn = draw_annotations(
        copy, [person], BODYPARTS_7, COCO_17, boxes=False, alpha=1.0, size=SHAPE
    )
    x0, y0, y1, x1 = (int(v * factor) for v in (20, 40, 60, 60))
    inside = drawn[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].reshape(-1, 3)
    assert (inside == color_of("head")).all()
    below = drawn[y1 : int(100 * factor)]
    assert (below == color_of("body")).all(axis=2).any()
    assert not (below == color_of("head")).all(axis=2).any()
    hatched = drawn[y0:y1, int(80 * factor) : int(100 * factor)]
    assert {30, 90, 255} == set(np.unique(hatched))
    assert (drawn[int(81 * factor) :] == 90).all()


def test_joints_keep_their_place_on_an_enlarged_copy():
    person = annotate(keypoints=joints(nose=(30, 60, 2)), bbox=(20, 50, 20, 20))
    copy = np.full((400, 480, 3), 90, np.uint8)
    drawn = draw_annotations(copy, [person], BODYPARTS_7, COCO_17, boxes=False, size=SHAPE)
    changed = np.abs(drawn[225:].astype(float) - 90).sum(axis=2)  # below the strip
    rows, columns = np.indices(changed.shape)
    # The pixel's centre, 30.5 and 60.5, four times as far, is the border of two pixels.
    assert np.average(rows, weights=changed) + 225.5 == pytest.approx(242, abs=0.25)
    assert np.average(columns, weights=changed) + 0.5 == pytest.approx(122, abs=0.25)


@pytest.mark.parametrize("height", [7, 60, 480])
def test_the_legend_shows_every_colour_in_order(height):
    strip = legend(BODYPARTS_7, height)
    assert strip.shape[0] == height and strip.dtype == np.uint8
    row = min(height // 7, 24)
    for i, color in enumerate(BODYPARTS_7.colors):
        assert strip[i * row + row // 2, row // 2].tolist() == list(color[::-1])
    with pytest.raises(ValueError, match="height"):
        legend(BODYPARTS_7, 6)


def test_the_legend_of_annotations_has_unions_and_states():
    plain, full = legend(BODYPARTS_7, 480), annotation_legend(BODYPARTS_7, 480)
    row = 24
    for i in range(7):
        assert full[i * row + 12, 12].tolist() == plain[i * row + 12, 12].tolist()
    arm = full[7 * row + 4 : 8 * row - 4, row // 2 : row * 3 // 2].reshape(-1, 3).tolist()
    assert color_of("right_arm") in arm and color_of("left_arm") in arm
    assert color_of("right_leg") not in arm
    joint_rows = full[13 * row :, row // 2 : row * 3 // 2].reshape(-1, 3).tolist()
    assert list(RIGHT) in joint_rows and list(LEFT) in joint_rows


def cell_of(picture, *, name="1.jpg", exhaustive=True, annotations=(), size=(120, 160), fault=""):
    height, width = SHAPE if picture is None else picture.shape[:2]
    image = {"file_name": name, "height": height, "width": width, "exhaustive": exhaustive}
    return annotation_cell(picture, image, annotations, BODYPARTS_7, COCO_17, size, fault=fault)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (900, 3), (100, 120), (1500, 2000)])
def test_pictures_of_any_size_fill_their_cell(shape):
    cell = cell_of(np.full((*shape, 3), 90, np.uint8))
    assert cell.shape == (120, 160, 3)
    rows, columns = ((cell[:104] == 90).all(axis=2).any(axis=axis).sum() for axis in (1, 0))
    assert rows == 104 or columns == 160
    assert rows / columns == pytest.approx(np.clip(shape[0] / shape[1], 1 / 160, 104), rel=0.02)


def test_people_in_a_cell_are_in_its_scale():
    # 100 x 120 in 104 x 160: 104 x 125 pixels, 17 of them free at the left. The box's line and the
    # outline take a pixel or two.
    person = annotate(body=mask(30, 50, 90, 100), states=ALL_KNOWN)
    cell = cell_of(GRAY, annotations=[person])
    body = (np.array(color_of("body")) + 90) / 2
    rows, columns = np.nonzero((np.abs(cell[:104] - body) <= 1).all(axis=2))
    assert rows.min() == pytest.approx(52, abs=2) and rows.max() == pytest.approx(103, abs=2)
    assert columns.min() == pytest.approx(17 + 31, abs=2)
    assert columns.max() == pytest.approx(17 + 94, abs=3)


def test_pictures_that_are_not_exhaustive_are_flagged():
    plain, flagged = cell_of(GRAY), cell_of(GRAY, exhaustive=False)
    np.testing.assert_array_equal(plain[:104], flagged[:104])
    assert near(plain[-1, 80], (30, 30, 30))
    assert reddish(flagged[-1, 80])


def test_a_fault_is_written_into_an_empty_cell():
    empty = cell_of(None)
    faulty = cell_of(None, fault="expected this, found that, " * 20)
    assert (empty[:104] == 30).all()
    assert (faulty[:104] != 30).any()
    np.testing.assert_array_equal(empty[104:], faulty[104:])


def test_of_a_long_name_the_end_is_shown():
    names = ("folder/" * 40 + "1.jpg", "another/" * 40 + "folder/folder/folder/folder/1.jpg")
    first, second = (cell_of(GRAY, name=name) for name in names)
    np.testing.assert_array_equal(first, second)
    assert (cell_of(GRAY, name="folder/" * 40 + "2.jpg") != first).any()


def test_a_grid_keeps_the_shape_of_its_pictures():
    red, blue = (np.full((20, 10, 3), c, np.uint8) for c in ((0, 0, 255), (255, 0, 0)))
    page = grid([red, blue, red], columns=2, cell=(40, 60))
    assert page.shape == (80, 120, 3)
    is_red = (page == (0, 0, 255)).all(axis=2)
    is_blue = (page == (255, 0, 0)).all(axis=2)
    assert is_red[:40, 20:40].all() and is_red[40:, 20:40].all()  # 40 x 20, in the cell's middle
    assert is_blue[:40, 80:100].all()
    assert np.count_nonzero(is_red) == 2 * np.count_nonzero(is_blue) == 2 * 40 * 20
