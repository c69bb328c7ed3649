"""mIoU, APr, APp, PCP and APh: values by hand, and a slow, independent version of all of them."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from pytest import approx

from detectron2_bodyparts.metrics.instances import (
    UNKNOWN,
    FoundPerson,
    TruePerson,
    TruePicture,
    found_person,
    true_pictures,
)
from detectron2_bodyparts.metrics.parsing import ParsingMetrics, evaluate_parsing
from detectron2_bodyparts.people import Crop
from detectron2_bodyparts.records import (
    Records,
    encode_mask,
    ignore_annotation,
    person_annotation,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17


def load_plain():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "plain_parsing.py"
    spec = importlib.util.spec_from_file_location("plain_parsing", path)
    module = sys.modules["plain_parsing"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain_parsing = load_plain()

# Pictures are one row of pixels, written as text: "." = nobody, "0" = a silhouette without part,
# "1", "2" = parts, "?" = of the person, but the class is unknown, "x" = nothing is known.
PICTURE = ".........."
CODES = {".": 0, "0": 0, "?": UNKNOWN, "x": UNKNOWN}


def crop(row: str) -> Crop:
    labels = np.array([[CODES.get(c, c) for c in row]], dtype=int).astype(np.uint8)
    body = np.array([[c not in ".x" for c in row]])
    return Crop(0, 0, labels, body)


def true(row: str, known: str = "012") -> TruePerson:
    """``known``: the classes that are, "0" for the silhouette."""
    box = np.array([0.0, 0.0, len(row), 1.0])
    return TruePerson(crop(row), np.array([c in known for c in "012"]), box)


def found(row: str, score: float = 0.9) -> FoundPerson:
    return FoundPerson(crop(row), score)


def pixels(row: str) -> np.ndarray:
    """Where the text is not "."."""
    return np.array([[c != "." for c in row]])


def picture(*people: TruePerson, image_id=1, width: int = 10, **more) -> TruePicture:
    return TruePicture(image_id, (1, width), people, **more)


def collect(*pairs, paint_threshold: float = 0.3) -> ParsingMetrics:
    metrics = ParsingMetrics(("head", "torso"), paint_threshold=paint_threshold)
    for one, people in pairs:
        metrics.add(one, people)
    return metrics


def figures(*pairs, **settings) -> dict[str, float]:
    return collect(*pairs, **settings).result()


AP = [
    "APr_50_official",
    "APr_50_strict",
    "APp_50",
    "APh_official",
    "APh_strict",
]


def aps(result) -> dict[str, float]:
    return {name: result[name] for name in AP}


# --- by hand


def test_one_person_by_hand():
    # head: 3 pixels in common, 4 in either: 3/4. torso: 3 and 5: 3/5. background: 2 and 3: 2/3.
    result = figures((picture(true("11112222..")), [found("1112222...")]))
    assert result["IoU-head"] == approx(75)
    assert result["IoU-torso"] == approx(60)
    assert result["IoU-background"] == approx(100 * 2 / 3)
    assert result["mIoU"] == approx(100 * (3 / 4 + 3 / 5 + 2 / 3) / 3)  # 67.2
    # APr: the head is right at 0.1 ... 0.7, the torso at 0.1 ... 0.5: 0.6 is not above 0.6.
    for kind in ("official", "strict"):
        assert result[f"APr_50_{kind}"] == approx(100)
        assert result[f"APr_vol_{kind}-head"] == approx(100 * 7 / 9)
        assert result[f"APr_vol_{kind}-torso"] == approx(100 * 5 / 9)
        assert result[f"APr_vol_{kind}"] == approx(100 * 6 / 9)
    # APp: the mean of the three, 0.672, is above 0.1 ... 0.6.
    assert result["APp_50"] == approx(100)
    assert result["APp_vol"] == approx(100 * 6 / 9)
    assert result["PCP_50"] == approx(100)
    # APh: 7 and 8 pixels: 0.875, above 0.50 ... 0.85, eight of ten.
    assert result["APh_official"] == result["APh_strict"] == approx(80)


def test_pcp_is_the_share_of_the_true_classes_and_zero_for_the_missed():
    # The first: head 4 of 4, torso 1 of 4; background 2 of 5; likeness (1 + 1/4 + 2/5) / 3 = 0.55:
    # matched at 0.5, one of two classes is found. The second person is missed: (1/2 + 0) / 2.
    matched = picture(true("11112222.."))
    missed = picture(true("1122......"), image_id=2)
    result = figures((matched, [found("11112.....")]), (missed, []))
    assert result["PCP_50"] == approx(25)
    assert result["APp_50"] == approx(50)


def test_pcp_does_not_count_classes_that_are_not_there():
    # The torso is predicted where there is none: that is no class of the truth.
    result = figures((picture(true("1111......")), [found("11112.....")]))
    assert result["PCP_50"] == approx(100)


def test_the_background_is_part_of_likeness_over_the_whole_picture():
    # head 1 of 3 and no torso; background 7 of 9 in a picture of 10 pixels: mean 0.556; and in one
    # of 4 pixels 1 of 3: mean 1/3.
    for width, right in ((10, 100), (4, 0)):
        one = picture(true("11"), width=width)
        assert figures((one, [found(".11")]))["APp_50"] == right


def test_the_area_under_the_envelope_by_hand():
    # Right, wrong, right of two people: precision 1 up to recall 1/2, then 2/3.
    pairs = [
        (picture(true("1122......"), image_id=1), [found("1122......", 0.9)]),
        (picture(image_id=2), [found("1122......", 0.8)]),
        (picture(true("1122......"), image_id=3), [found("1122......", 0.7)]),
    ]
    for order in itertools.permutations(pairs):
        assert aps(figures(*order)) == approx(dict.fromkeys(AP, 100 * (1 / 2 + 1 / 3)))


def test_precision_that_rises_again_counts_from_the_left():
    # Wrong, right, right: precision 0, 1/2, 2/3; its envelope is 2/3 from recall 0 on.
    pairs = [
        (picture(image_id=1), [found("1122......", 0.9)]),
        (picture(true("1122......"), image_id=2), [found("1122......", 0.8)]),
        (picture(true("1122......"), image_id=3), [found("1122......", 0.7)]),
    ]
    assert aps(figures(*pairs)) == approx(dict.fromkeys(AP, 100 * 2 / 3))


@pytest.mark.parametrize("row, above", [("11........", 4), ("111.......", 2), ("1.........", 8)])
def test_an_iou_equal_to_the_threshold_is_not_above_it(row, above):
    # 10 true pixels: IoUs of 2/10, 3/10, 1/10 and of 5/10, 7/10, 9/10.
    count = row.count("1")
    result = figures((picture(true("1" * 10)), [found(row)]))
    assert result["APr_vol_strict"] == approx(100 * (count - 1) / 9)
    result = figures((picture(true("1" * 10)), [found("1" * above)]))
    assert result["APr_vol_strict"] == approx(100 * (above - 1) / 9)


def test_silhouettes_hold_pixels_without_a_part():
    # Silhouettes are the same, parts are not.
    result = figures((picture(true("1100......")), [found("0011......")]))
    assert result["APh_strict"] == 100
    assert result["APr_50_strict"] == 0


# --- official and strict


def test_official_flaw_duplicates_are_right_recall_passes_1_and_ap_100():
    twice = [found("1122......", 0.9), found("1122......", 0.8)]
    result = figures((picture(true("1122......")), twice))
    # Recall 1 and then 2, at precision 1.
    assert result["APr_50_official"] == approx(200)
    assert result["APr_vol_official-head"] == approx(200)
    assert result["APh_official"] == approx(200)
    assert result["APr_50_strict"] == result["APh_strict"] == approx(100)
    assert result["APp_50"] == approx(100)


def test_official_flaw_a_duplicate_makes_up_for_a_missed_person():
    # Two people, one found twice: "two of two". One to one, it is one of two.
    twice = [found("1122......", 0.9), found("1122......", 0.8)]
    result = figures((picture(true("1122......"), true(".....1122.")), twice))
    assert result["APr_50_official"] == result["APh_official"] == approx(100)
    assert result["APr_50_strict"] == result["APh_strict"] == approx(50)
    assert result["APp_50"] == approx(50)


def test_strict_a_duplicate_is_wrong():
    # Right, wrong (the duplicate), right: as in the area by hand.
    people = [found("1122......", 0.9), found("1122......", 0.8), found(".....1122.", 0.7)]
    result = figures((picture(true("1122......"), true(".....1122.")), people))
    assert result["APr_50_strict"] == approx(100 * (1 / 2 + 1 / 3))


def test_strict_takes_the_best_that_is_free_and_likeness_does_not():
    # Both found people are most like the first true one (IoU 1 and 5/6), the second also has 4/6
    # with the other. Strict regions: the second takes that one. APp: its best is taken: wrong.
    truths = [true("111111...."), true(".111111...")]
    people = [found("111111....", 0.9), found("11111.....", 0.8)]
    result = figures((picture(*truths), people))
    assert result["APr_50_strict-head"] == approx(100)
    assert result["APp_50"] == approx(50)


def test_strict_matches_depend_on_the_score_not_on_the_place():
    # The surest takes the person, the better fitting one comes too late at t = 0.9 (2/3 is not
    # above it, so there the fitting one is right, after a wrong one).
    people = [found("1111......", 0.5), found("11........", 0.9)]
    result = figures((picture(true("111.......")), people))
    assert result["APr_vol_strict-head"] == approx((6 * 100 + 1 * 50 + 2 * 0) / 9)


# --- order, ties, collections


def test_equal_scores_are_in_the_order_of_images_not_of_arrival():
    right = [found("1122......", 0.5)]
    for first, expected in ((1, 100), (3, 50)):
        pairs = [
            (picture(true("1122......"), image_id=first), right),
            (picture(image_id=2), right),
        ]
        for order in (pairs, pairs[::-1]):
            assert aps(figures(*order)) == approx(dict.fromkeys(AP, expected))


def test_equal_scores_of_one_picture_are_in_the_order_of_people():
    right, wrong = found("1122......", 0.5), found(".....1122.", 0.5)
    for people, expected in (([right, wrong], 100), ([wrong, right], 50)):
        result = figures((picture(true("1122......")), people))
        assert aps(result) == approx(dict.fromkeys(AP, expected))


def test_people_are_painted_in_ascending_score_the_first_of_equals_on_top():
    one = picture(true("1111......"))
    over, under = found("1111......", 0.9), found("2222......", 0.8)
    assert figures((one, [over, under]))["IoU-head"] == 100
    assert figures((one, [under, over]))["IoU-head"] == 100
    equal = found("2222......", 0.9)
    assert figures((one, [over, equal]))["IoU-head"] == 100
    assert figures((one, [equal, over]))["IoU-head"] == 0


def test_a_silhouette_without_part_hides_who_is_behind():
    people = [found("00........", 0.9), found("1111......", 0.8)]
    assert figures((picture(true("1111......")), people))["IoU-head"] == 50


def test_people_under_the_threshold_are_not_painted():
    pair = (picture(true("1111......")), [found("1111......", 0.3)])
    assert figures(pair, paint_threshold=0.3)["IoU-head"] == 100
    result = figures(pair, paint_threshold=0.31)
    assert result["IoU-head"] == 0
    assert result["mIoU_paint_threshold"] == 0.31
    assert result["APr_50_strict"] == 100


def test_people_of_the_smallest_scores_are_left_out_of_likeness_alone():
    # Wrong and surer than the right one.
    one = picture(true("1122......"))
    for score, expected in ((0.0009, 100), (0.001, 50)):
        result = figures((one, [found(".....1122.", score), found("1122......", score)]))
        assert result["APr_50_strict"] == approx(50)
        assert result["APp_50"] == approx(expected if score >= 0.001 else 0)


def test_a_collection_in_pieces_is_the_same_to_the_last_bit():
    pictures = [random_picture(np.random.default_rng(i), i, 3, unknowns=True) for i in range(12)]
    whole = ParsingMetrics("abc", paint_threshold=0.3)
    for one in pictures:
        whole.add(*as_crops(one))
    for seed in range(3):
        pieces = [ParsingMetrics("abc", paint_threshold=0.3) for _ in range(3)]
        for i in np.random.default_rng(seed).permutation(12):
            pieces[i % 3].add(*as_crops(pictures[i]))
        first, *others = pickle.loads(pickle.dumps(pieces))
        for piece in others[::-1]:
            first.merge(piece)
        assert repr(first.result()) == repr(whole.result())


def test_what_is_kept_of_a_picture_does_not_grow_with_the_picture():
    sizes = []
    for width in (10, 100_000):
        metrics = collect((picture(true("12" * (width // 2)), width=width), [found("12" * 5)]))
        sizes.append(len(pickle.dumps(metrics)))
    assert abs(sizes[1] - sizes[0]) < 100


def test_pictures_are_added_once_and_settings_agree():
    metrics = collect((picture(), []))
    with pytest.raises(ValueError, match="image 1 was added before"):
        metrics.add(picture(), [])
    with pytest.raises(ValueError, match=r"in both: \[1\]"):
        metrics.merge(collect((picture(), [])))
    with pytest.raises(ValueError, match="paint_threshold: expected 0.3, found 0.5"):
        metrics.merge(collect(paint_threshold=0.5))
    with pytest.raises(ValueError, match="classes: expected"):
        metrics.merge(ParsingMetrics(("head",), paint_threshold=0.3))
    with pytest.raises(ValueError, match="expected 1 to 250 classes, found 251"):
        ParsingMetrics(["a"] * 251, paint_threshold=0.3)


# --- nothing there


def test_nothing_found_is_zero():
    result = figures((picture(true("1122......")), []))
    assert aps(result) == dict.fromkeys(AP, 0)
    assert result["PCP_50"] == 0
    assert result["IoU-head"] == 0
    assert result["IoU-background"] == 60


def test_no_truth_is_nan():
    for pairs in ([], [(picture(), [])], [(picture(), [found("1122......")])]):
        result = figures(*pairs)
        assert np.isnan([*aps(result).values(), result["PCP_50"]]).all()
    assert np.isnan(figures()["mIoU"])
    assert figures((picture(), []))["mIoU"] == 100


def test_a_class_without_truth_is_left_out_of_the_mean():
    result = figures((picture(true("1111......")), [found("1111......")]))
    assert np.isnan(result["APr_50_strict-torso"]) and np.isnan(result["IoU-torso"])
    assert result["APr_50_strict"] == result["mIoU"] == 100
    # Once predicted, it has an IoU: 0. There is still nothing to be found.
    result = figures((picture(true("1111......")), [found("11112.....")]))
    assert result["IoU-torso"] == 0 and np.isnan(result["APr_50_strict-torso"])


def test_empty_people():
    # People without any part are nothing to the metrics of parts.
    result = figures((picture(true("00........")), [found("00........")]))
    assert np.isnan([result["APr_50_strict"], result["APp_50"], result["PCP_50"]]).all()
    assert result["APh_strict"] == 100
    empty = FoundPerson(Crop(0, 0, np.zeros((0, 0), np.uint8), np.zeros((0, 0), bool)), 0.95)
    result = figures((picture(true("1122......")), [empty, found("1122......")]))
    assert aps(result) == approx(dict.fromkeys(AP, 100))
    without_parts = found(".....0000.", 0.95)
    result = figures((picture(true("1122......")), [without_parts, found("1122......")]))
    assert result["APr_50_strict"] == result["APp_50"] == 100
    assert result["APh_strict"] == 50


def test_people_of_one_pixel():
    one = picture(true("1"), true(".....2"))
    result = figures((one, [found(".....2", 0.9), found("1", 0.8)]))
    for name in ("mIoU", "PCP_50", *AP):
        assert result[name] == 100, name
    result = figures((one, [found("....2", 0.9), found(".1", 0.8)]))
    assert result["APr_50_official"] == result["APh_official"] == 0


# --- unknown is not wrong


def test_an_unknown_class_is_no_truth_and_what_is_found_there_costs_nothing():
    # Of the second person the torso is unknown.
    known = (picture(true("1122......"), image_id=1), [found("1122......", 0.5)])
    unknown = picture(true("11??......", "01"), image_id=2)
    for row in ("1122......", "1100......"):
        result = figures(known, (unknown, [found(row, 0.9)]))
        assert aps(result) == approx(dict.fromkeys(AP, 100)), row
        assert result["PCP_50"] == result["mIoU"] == 100
    # Where it is known to be absent, it is wrong.
    absent = picture(true("1100......"), image_id=2)
    result = figures(known, (absent, [found("1122......", 0.9)]))
    assert result["APr_50_strict-torso"] == 50
    assert result["IoU-torso"] == 50


def test_a_known_class_on_pixels_of_unknown_class_is_wrong():
    # The head is known to be elsewhere: 2 of 4 pixels, and no excuse.
    result = figures((picture(true("11??......", "01")), [found("1111......")]))
    assert result["APr_vol_strict-head"] == approx(100 * 4 / 9)
    result = figures((picture(true("11??......", "01")), [found("..11......", 0.9)]))
    assert result["APr_50_strict-head"] == 0


def test_an_unknown_class_is_found_only_where_it_may_be():
    # By half on the person, so excused up to 0.4 and wrong at 0.5; the right one comes later.
    one = picture(true("11??......", "01"))
    other = (picture(true("1122......"), image_id=2), [found("1122......", 0.5)])
    result = figures((one, [found("..2222....", 0.9)]), other)
    assert result["APr_vol_strict-torso"] == approx((4 * 100 + 5 * 50) / 9)


def test_a_person_of_whom_no_class_is_known_is_no_truth_for_parts():
    one = picture(true("????......", "0"), true("......1122"))
    people = [found("1122......", 0.9), found("......1122", 0.8)]
    result = figures((one, people))
    assert aps(result) == approx(dict.fromkeys(AP, 100))
    assert result["PCP_50"] == result["mIoU"] == 100
    assert aps(figures((one, people[1:]))) == approx(
        {**dict.fromkeys(AP, 100), "APh_official": 50, "APh_strict": 50}
    )


def test_an_unknown_silhouette_is_no_truth_and_excuses_what_is_found_there():
    # The box is six pixels, the head in it is known.
    one = picture(true("?11???....", "1"), true("......1122"))
    people = [found(".1122.....", 0.9), found("......1122", 0.8)]
    result = figures((one, people))
    assert aps(result) == approx(dict.fromkeys(AP, 100))
    elsewhere = [found("...1122...", 0.9), found("......1122", 0.8)]
    assert figures((picture(true("......1122")), elsewhere))["APh_strict"] == approx(50)


def test_pixels_of_which_nothing_is_known_do_not_count():
    # Without its last two pixels the head is right; they would make it 4/6.
    one = picture(true("1111xx...."))
    result = figures((one, [found("111111....")]))
    assert result["APr_vol_strict-head"] == result["APh_strict"] == result["APp_vol"] == 100
    assert result["IoU-head"] == 100


def test_ignored_pixels_do_not_count():
    one = picture(true("1111......"), ignore=pixels("...xxx...."))
    result = figures((one, [found("111222....")]))
    assert result["IoU-head"] == result["mIoU"] == 100
    assert result["APr_vol_strict"] == result["APh_strict"] == result["APp_vol"] == 100


def test_what_is_found_on_ignored_pixels_costs_nothing():
    one = picture(true("1122......"), ignore=pixels("......xxxx"))
    people = [found("......1122", 0.9), found("1122......", 0.5)]
    result = figures((one, people))
    assert aps(result) == approx(dict.fromkeys(AP, 100))
    assert result["mIoU"] == 100


def test_what_is_found_in_a_crowd_costs_nothing():
    truths = [true("1122......")]
    people = [found("......1122", 0.9), found(".....1122.", 0.8), found("1122......", 0.5)]
    # The second lies in the crowd by its torso and half of its head: the head is excused at 0.4.
    result = figures((picture(*truths, crowd=pixels("......xxxx")), people))
    assert result["APr_50_strict-torso"] == result["APp_50"] == 100
    assert result["APr_50_strict-head"] == approx(50)
    # Outside of the crowd is a pixel of the second head: head 2 of 3, torso all, background 1 of 2.
    assert result["mIoU"] == approx(100 * (2 / 3 + 1 + 1 / 2) / 3)
    assert figures((picture(*truths), people))["APp_50"] == approx(100 / 3)


def test_a_person_in_a_crowd_is_a_truth_like_any():
    one = picture(true("1122......"), crowd=pixels("xxxxxxxxxx"))
    assert figures((one, []))["APr_50_strict"] == 0
    result = figures((one, [found("111122....")]))
    assert result["APr_vol_strict-head"] == approx(100 * 4 / 9)
    # Only the four labelled pixels count: head 2, torso 0 of 2.
    assert result["IoU-head"] == 50 and result["IoU-torso"] == 0
    assert np.isnan(result["IoU-background"])


def test_nothing_is_wrong_in_a_picture_that_is_not_exhaustive_but_what_is_missed():
    truths = [true("1122......")]
    people = [found("......1122", 0.9), found("1122......", 0.5)]
    result = figures((picture(*truths, exhaustive=False), people))
    assert aps(result) == approx(dict.fromkeys(AP, 100))
    assert result["mIoU"] == 100
    missed = figures((picture(*truths, exhaustive=False), people[:1]))
    assert aps(missed) == dict.fromkeys(AP, 0)


def test_a_label_map_of_the_picture_goes_before_the_people():
    labels = np.array([[1, 1, 0, 0, 0, 0, 2, 2, 0, UNKNOWN]], dtype=np.uint8)
    one = picture(true("11........"), label_map=labels)
    result = figures((one, [found("11........"), found(".........1")]))
    assert result["IoU-head"] == 100
    assert result["IoU-torso"] == 0
    assert result["IoU-background"] == approx(100 * 5 / 7)


# --- the independent version


def random_labels(rng, shape, classes):
    """Blocks of classes in a silhouette with holes."""
    labels, body = np.zeros(shape, np.uint8), np.zeros(shape, bool)
    y0, x0 = (int(rng.integers(n)) for n in shape)
    y1, x1 = int(rng.integers(y0, shape[0])) + 1, int(rng.integers(x0, shape[1])) + 1
    body[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.9
    for _ in range(rng.integers(2 * classes + 1)):
        y, x = rng.integers(y0, y1), rng.integers(x0, x1)
        block = slice(y, rng.integers(y, y1) + 1), slice(x, rng.integers(x, x1) + 1)
        labels[block] = rng.integers(classes + 1)
    labels[~body] = 0
    return labels, body


def random_truth(rng, shape, classes, unknowns):
    labels, body = random_labels(rng, shape, classes)
    known = np.ones(classes + 1, dtype=bool)
    if unknowns and rng.random() < 0.6:
        known = rng.random(classes + 1) < 0.6
        labels[~np.concatenate([[True], known[1:]])[labels]] = 0
        if not known[1:].all():
            labels[body & (labels == 0)] = UNKNOWN
        nothing_known = rng.random(shape) < 0.1
        labels[nothing_known], body[nothing_known] = UNKNOWN, False
    return plain_parsing.PlainTruth(labels, body, known)


def random_found(rng, shape, classes, truths):
    """Anybody, or a true person with some pixels changed; few scores, so that many are equal."""
    labels, body = random_labels(rng, shape, classes)
    if truths and rng.random() < 0.7:
        truth = truths[rng.integers(len(truths))]
        changed = body & (rng.random(shape) < rng.random())
        kept = np.where(truth.labels == UNKNOWN, 0, truth.labels)
        labels = np.where(changed, labels, kept).astype(np.uint8)
        body = truth.body | changed | (labels > 0)
    score = float(rng.choice([0, 0.0005, 0.2, 0.3, 0.5, 0.9]))
    return plain_parsing.PlainFound(labels, body, score)


def random_picture(rng, image_id, classes, *, unknowns):
    shape = tuple(int(n) for n in rng.integers(3, 12, size=2))
    truths = [random_truth(rng, shape, classes, unknowns) for _ in range(rng.integers(4))]
    people = [random_found(rng, shape, classes, truths) for _ in range(rng.integers(5))]
    ignore, crowd = np.zeros(shape, bool), np.zeros(shape, bool)
    exhaustive = True
    if unknowns:
        ignore = rng.random(shape) < rng.choice([0, 0.1])
        crowd[: rng.integers(shape[0] + 1), : rng.choice([0, shape[1] // 2])] = True
        exhaustive = bool(rng.random() < 0.8)
    return plain_parsing.PlainPicture(image_id, truths, people, ignore, crowd, exhaustive)


def as_crop(labels, body) -> Crop:
    """A crop that is tight, or larger on some sides."""
    occupied = body | (labels > 0)
    if not occupied.any():
        return Crop(0, 0, labels[:0, :0], body[:0, :0])
    rng = np.random.default_rng(int(occupied.sum()))
    rows, columns = (
        slice(int(rng.integers(n.min() + 1)), int(rng.integers(n.max() + 1, size + 1)))
        for n, size in zip(np.nonzero(occupied), labels.shape, strict=True)
    )
    return Crop(columns.start, rows.start, labels[rows, columns], body[rows, columns])


def as_crops(one):
    people = [TruePerson(as_crop(t.labels, t.body), t.known, np.zeros(4)) for t in one.truths]
    true_picture = TruePicture(
        one.image_id,
        one.ignore.shape,
        people,
        ignore=one.ignore if one.ignore.any() else None,
        crowd=one.crowd if one.crowd.any() else None,
        exhaustive=one.exhaustive,
    )
    return true_picture, [FoundPerson(as_crop(f.labels, f.body), f.score) for f in one.found]


@pytest.mark.parametrize("unknowns", [False, True], ids=["all known", "unknowns"])
def test_figures_are_those_of_the_plain_loop(unknowns):
    for seed in range(80):
        rng = np.random.default_rng([seed, unknowns])
        classes = int(rng.integers(1, 5))
        pictures = [
            random_picture(rng, int(i), classes, unknowns=unknowns) for i in rng.permutation(4)
        ]
        metrics = ParsingMetrics("abcd"[:classes], paint_threshold=0.3)
        for one in pictures:
            metrics.add(*as_crops(one))
        expected = plain_parsing.plain_result(pictures, "abcd"[:classes], 0.3)
        assert metrics.result() == approx(expected, nan_ok=True, abs=1e-9), seed


def test_the_truth_as_prediction_is_perfect():
    metrics = ParsingMetrics("abc", paint_threshold=0.3)
    for i in range(40):
        rng = np.random.default_rng(i)
        one = random_picture(rng, i, 3, unknowns=False)
        one.truths = one.truths[:1]  # people who overlap hide one another
        one.found = [plain_parsing.PlainFound(t.labels, t.body, 0.9) for t in one.truths]
        metrics.add(*as_crops(one))
    result = metrics.result()
    assert result.pop("mIoU_paint_threshold") == 0.3
    assert result == approx(dict.fromkeys(result, 100))


# --- records

SHAPE = (20, 30)
ALL_KNOWN = dict.fromkeys(BODYPARTS_7.channels, "known")


def mask(x0, y0, x1, y1) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def annotation(x: int, **changes):
    """A person of 6x9 pixels: head above, torso below, one row of the silhouette without part."""
    about = {
        "body": mask(x, 3, x + 6, 12),
        "parts": {"head": mask(x, 3, x + 6, 6), "torso": mask(x, 6, x + 6, 11)},
        "states": ALL_KNOWN,
        "bbox": (x, 3, 6, 9),
    }
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **{**about, **changes})


def make_records(*annotations, exhaustive=True) -> Records:
    records = Records(BODYPARTS_7, COCO_17)
    records.add_image("a.jpg", *SHAPE, annotations, exhaustive=exhaustive)
    return records


def predict(one, score=0.9) -> dict:
    keys = ("bbox", "segmentation", "part_segmentation")
    return {"image_id": 1, "score": score} | {k: one[k] for k in keys if k in one}


def test_records_as_true_pictures():
    (one,) = true_pictures(make_records(annotation(2), annotation(15), exhaustive=False))
    assert one.image_size == SHAPE and not one.exhaustive and one.crowd is None
    person = one.people[1]
    assert (person.crop.x0, person.crop.y0) == (15, 3)
    np.testing.assert_array_equal(person.box, [15, 3, 21, 12])
    expected = np.repeat([1, 1, 1, 2, 2, 2, 2, 2, 0], 6).reshape(9, 6)
    np.testing.assert_array_equal(person.crop.labels, expected)
    assert person.crop.body.all() and person.known.all()


def test_unknown_channels_of_records():
    states = {c: "known" for c in BODYPARTS_7.channels if c not in ("right_arm", "left_arm")}
    arm = mask(2, 11, 8, 12)
    unsided = annotation(2, states={**states, "arm": "known"}, unsided={"arm": arm})
    (one,) = true_pictures(make_records(unsided))
    (person,) = one.people
    assert person.known.tolist() == [True, True, True, False, False, True, True]
    assert (person.crop.labels[-1] == UNKNOWN).all() and person.crop.body.all()
    assert (person.crop.labels[:-1] != UNKNOWN).all()


def test_an_unknown_body_of_records_is_its_box():
    states = {c: "known" for c in BODYPARTS_7.parts if c != "torso"}
    parts = {"head": mask(2, 3, 8, 6)}
    unknown = annotation(2, body=None, states=states, parts=parts)
    (person,) = next(true_pictures(make_records(unknown))).people
    assert not person.known[0] and not person.known[2]
    assert person.crop.labels.shape == (9, 6)
    assert (person.crop.labels[:3] == 1).all() and (person.crop.labels[3:] == UNKNOWN).all()


def test_ignored_pixels_and_crowds_of_records():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(10, 0, 20, 20))
    hidden = annotation(2, ignore=mask(2, 3, 8, 4))
    (one,) = true_pictures(make_records(hidden, crowd))
    np.testing.assert_array_equal(one.crowd, mask(10, 0, 20, 20))
    (person,) = one.people
    assert (person.crop.labels[0] == UNKNOWN).all() and not person.crop.body[0].any()
    assert person.crop.body[1:].all()


def test_predictions_as_found_people():
    one = annotation(15)
    person = found_person(predict(one, 0.4), BODYPARTS_7, SHAPE)
    (truth,) = next(true_pictures(make_records(one))).people
    assert person.score == 0.4 and person.crop[:2] == (15, 3)
    np.testing.assert_array_equal(person.crop.labels, truth.crop.labels)
    np.testing.assert_array_equal(person.crop.body, truth.crop.body)
    # Parts that overlap: an arm is painted over the torso. The silhouette holds all parts.
    masks = {"left_arm": encode_mask(mask(3, 7, 6, 9)), "torso": encode_mask(mask(2, 6, 8, 10))}
    overlapping = {"score": 0.4, "part_segmentation": masks}
    person = found_person(overlapping, BODYPARTS_7, SHAPE)
    assert (person.crop.labels == 4).sum() == 6 and (person.crop.labels == 2).sum() == 18
    assert person.crop.body.all()
    empty = found_person({"score": 0.4, "part_segmentation": {}}, BODYPARTS_7, SHAPE)
    assert empty.crop.labels.size == 0


def test_the_truth_of_records_is_perfect():
    people = [annotation(2), annotation(15)]
    result = evaluate_parsing(
        make_records(*people), [predict(p) for p in people], paint_threshold=0.3
    )
    there = {
        k: v for k, v in result.items() if k.split("-")[-1] in ("head", "torso") or "-" not in k
    }
    assert there.pop("mIoU_paint_threshold") == 0.3
    assert len(there) == 10 + 2 * 5 and there == approx(dict.fromkeys(there, 100))
    assert np.isnan(result["APr_50_strict-left_leg"])


def test_pictures_without_predictions_count_and_people_without_masks_do_not():
    records = make_records(annotation(2))
    records.add_image("b.jpg", *SHAPE, [annotation(2)])
    boxes_only = {"image_id": 1, "score": 0.95, "bbox": [2, 3, 6, 9]}
    result = evaluate_parsing(records, [boxes_only, predict(annotation(2))], paint_threshold=0.3)
    assert aps(result) == approx(dict.fromkeys(AP, 50))


def test_predictions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="image 7 is not in the records"):
        evaluate_parsing(
            make_records(annotation(2)),
            [{**predict(annotation(2)), "image_id": 7}],
            paint_threshold=0.3,
        )
