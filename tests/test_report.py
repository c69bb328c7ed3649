from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.metrics import evaluate
from detectron2_bodyparts.metrics.coco_ap import RECALLS, precision_curves
from detectron2_bodyparts.metrics.parsing import confusion_matrix, evaluate_parsing
from detectron2_bodyparts.metrics.sides import left_right_confusion
from detectron2_bodyparts.records import (
    RecordError,
    Records,
    encode_mask,
    ignore_annotation,
    person_annotation,
)
from detectron2_bodyparts.report.examples import (
    compare,
    part_iou,
    surest_swaps,
    worst_and_best,
)
from detectron2_bodyparts.report.inputs import (
    predicted_joints,
    read_predictions,
    settings,
)
from detectron2_bodyparts.report.page import report_page
from detectron2_bodyparts.report.tables import percent, result_tables
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17, PASCAL_PERSON_PART

SHAPE = (60, 80)
PARTS = BODYPARTS_7.parts
VOID_TAGS = {"meta", "br"}  # of those that the page has


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def person(x: int, y: int = 10, known: tuple[str, ...] = BODYPARTS_7.channels) -> dict:
    """20 x 30 pixels: six parts of 10 x 10, two abreast, the right one at the picture's left."""
    corners = {part: (x + 10 * (i % 2), y + 10 * (i // 2)) for i, part in enumerate(PARTS)}
    parts = {p: mask(a, b, a + 10, b + 10) for p, (a, b) in corners.items() if p in known}
    joints = np.zeros((17, 3))
    joints[5:17] = [(x + k, y + 2 * k, 2) for k in range(12)]
    return person_annotation(
        BODYPARTS_7,
        COCO_17,
        SHAPE,
        body=mask(x, y, x + 20, y + 30) if "body" in known else None,
        bbox=(x, y, 20, 30),
        parts=parts,
        states=dict.fromkeys(known, "known"),
        keypoints=joints,
    )


def found(annotation: dict, score: float = 0.9, image_id: int = 1, swap: tuple = ()) -> dict:
    """The annotation as a prediction; the pairs of ``swap`` have their sides exchanged."""
    parts = dict(annotation["part_segmentation"])
    for pair in swap:
        right, left = f"right_{pair}", f"left_{pair}"
        parts[right], parts[left] = parts[left], parts[right]
    return {
        "image_id": image_id,
        "category_id": 1,
        "bbox": annotation["bbox"],
        "score": score,
        "segmentation": annotation["segmentation"],
        "part_segmentation": parts,
        "keypoints": annotation["keypoints"],
    }


def make_records(*pictures: list[dict], exhaustive: bool = True) -> Records:
    records = Records(BODYPARTS_7, COCO_17)
    for i, people in enumerate(pictures):
        records.add_image(f"{i}.png", *SHAPE, people, exhaustive=exhaustive)
    return records


def test_a_curve_by_hand():
    records = make_records([person(10)], [person(10)])
    predictions = [
        found(person(10), 0.9, image_id=1),
        found(person(50), 0.8, image_id=2),  # nobody is there
        found(person(10), 0.7, image_id=2),
    ]
    curves = precision_curves(records, predictions)
    assert list(curves) == list(BODYPARTS_7.channels)
    # Right, wrong, right: precision 1 up to half of the people, then 2 of 3.
    expected = np.where(RECALLS <= 0.5, 1.0, 2 / 3)
    for precision in curves.values():
        np.testing.assert_allclose(precision, expected)


def test_a_curve_ends_where_nobody_more_is_found():
    records = make_records([person(10)], [person(10)])
    curves = precision_curves(records, [found(person(10))])
    np.testing.assert_allclose(curves["head"], RECALLS <= 0.5)
    np.testing.assert_array_equal(precision_curves(records, [])["head"], 0)


def random_world(seed: int) -> tuple[Records, list[dict]]:
    """People of whom this and that is unknown, crowds, and predictions more or less in place."""
    rng = np.random.default_rng(seed)
    pictures, predictions = [], []
    for i in range(6):
        people = []
        for x in (2, 30, 56):
            known = tuple(c for c in BODYPARTS_7.channels if rng.random() < 0.8)
            people.append(person(x, int(rng.integers(0, 28)), known))
            dx, dy = rng.integers(-4, 5, 2)
            place = person(int(np.clip(x + dx, 0, 60)), int(people[-1]["bbox"][1] + max(dy, 0)))
            swap = ("arm",) if rng.random() < 0.3 else ()
            if rng.random() < 0.9:
                predictions.append(found(place, float(rng.random()), i + 1, swap))
        if i == 0:
            people.append(ignore_annotation(COCO_17, SHAPE, mask(30, 0, 80, 60)))
        pictures.append(people)
    records = make_records(*pictures)
    records.images[1]["exhaustive"] = False
    return records, predictions


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_a_curve_is_ap50(seed):
    records, predictions = random_world(seed)
    parts = evaluate(records, predictions)["parts"]
    curves = precision_curves(records, predictions)
    areas = [100 * curves[part].mean() for part in PARTS]
    assert areas == pytest.approx([parts[f"AP50-{part}"] for part in PARTS], nan_ok=True)
    assert 5 < np.mean(areas) < 95  # or the agreement would say little


def test_curves_of_channels_without_truth_are_nan():
    records = make_records([person(10, known=("body", "head"))])
    curves = precision_curves(records, [found(person(10))])
    assert curves["head"].mean() == pytest.approx(1) and np.isnan(curves["torso"]).all()


def test_a_confusion_matrix_by_hand():
    records = make_records([person(10)])
    prediction = found(person(10), 0.5)
    # The head is found on its upper half, and called torso on the lower; the left leg is missed.
    head = mask(10, 10, 20, 15)
    torso = mask(20, 10, 30, 20) | mask(10, 15, 20, 20) | mask(60, 0, 65, 10)
    prediction["part_segmentation"].update(head=encode_mask(head), torso=encode_mask(torso))
    del prediction["part_segmentation"]["left_leg"]
    faint = found(person(50), 0.4)
    expected = np.diag([60 * 80 - 600 - 50, 50, 100, 100, 100, 100, 0])
    expected[1, 2] = 50
    expected[0, 2] = 50
    expected[6, 0] = 100
    matrix = confusion_matrix(records, [prediction, faint], paint_threshold=0.45)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_confusion_matrix_is_that_of_miou(threshold):
    records, predictions = random_world(0)
    matrix = confusion_matrix(records, predictions, paint_threshold=threshold)
    iou = np.diag(matrix) / (matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix))
    figures = evaluate_parsing(records, predictions, paint_threshold=threshold)
    assert 100 * iou.mean() == pytest.approx(figures["mIoU"])


def test_who_was_found_missed_and_not_there():
    records = make_records([person(0), person(30)], [person(0)])
    wrong, faint = found(person(0), 0.8), found(person(0), 0.2, image_id=2)
    wrong["segmentation"] = encode_mask(mask(60, 0, 70, 50))
    first, second = compare(records, [found(person(30)), wrong, faint], threshold=0.5)
    (match,) = first.matches
    assert match.person["bbox"][0] == 30 and match.iou == 1
    assert [p["bbox"][0] for p in first.missed] == [0]
    assert first.false_alarms == [wrong] and first.excused == []
    assert first.quality == pytest.approx(1 / 3)
    # Whoever is found with too small a score is missed, and not a false alarm.
    assert len(second.missed) == 1 and second.false_alarms == [] and second.quality == 0


def test_where_people_need_not_be_labelled_there_are_no_false_alarms():
    crowd = ignore_annotation(COCO_17, SHAPE, mask(38, 0, 80, 60))
    in_crowd, beside = found(person(40)), found(person(5))
    (comparison,) = compare(make_records([crowd]), [in_crowd, beside], threshold=0.5)
    assert comparison.excused == [in_crowd] and comparison.false_alarms == [beside]
    assert comparison.missed == []  # a crowd is no person
    (comparison,) = compare(make_records([], exhaustive=False), [beside], threshold=0.5)
    assert comparison.excused == [beside] and math.isnan(comparison.quality)


def test_part_iou_is_the_mean_over_what_is_known():
    prediction = found(person(10))
    del prediction["part_segmentation"]["head"]
    prediction["part_segmentation"]["torso"] = encode_mask(mask(20, 10, 30, 15))
    # Of six parts one is not found and one by half.
    assert part_iou(prediction, person(10), BODYPARTS_7) == pytest.approx(4.5 / 6)
    known = ("body", "torso", "left_leg")
    assert part_iou(prediction, person(10, known=known), BODYPARTS_7) == pytest.approx(1.5 / 2)
    # Known to be absent and not found: nothing to judge. Found all the same: wrong.
    without_head = person(10)
    del without_head["part_segmentation"]["head"]
    assert part_iou(prediction, without_head, BODYPARTS_7) == pytest.approx(4.5 / 5)
    assert part_iou(found(person(10)), without_head, BODYPARTS_7) == pytest.approx(5 / 6)
    # No part is known: the body's. Nothing is: not judged.
    assert part_iou(found(person(10, 16)), person(10, known=("body",)), BODYPARTS_7) == 24 / 36
    assert math.isnan(part_iou(prediction, person(10, known=()), BODYPARTS_7))


def test_swapped_pairs_are_those_of_the_metric():
    records = make_records([person(0), person(30)], [person(0)])
    predictions = [
        found(person(0), 0.6, swap=("arm",)),
        found(person(30), 0.9),
        found(person(0), 0.1, image_id=2, swap=("arm", "leg")),
    ]
    comparisons = compare(records, predictions, threshold=0.5)
    swaps = surest_swaps(comparisons, 10)
    found_pairs = [(s.prediction["score"], s.pair) for _, s in swaps]
    assert found_pairs == [(0.6, ("arm", 0, 1)), (0.1, ("arm", 0, 1)), (0.1, ("leg", 0, 1))]
    figures = left_right_confusion(records, predictions)
    assert figures["confusion"] * figures["pairs"] / 100 == pytest.approx(len(swaps))
    assert surest_swaps(comparisons, 1) == swaps[:1]


def test_a_left_that_lies_on_neither_side_is_not_swapped():
    prediction = found(person(10))
    prediction["part_segmentation"]["left_arm"] = encode_mask(mask(60, 0, 70, 10))
    (comparison,) = compare(make_records([person(10)]), [prediction], threshold=0.5)
    assert len(comparison.matches) == 1 and comparison.swaps == []


def test_swaps_of_a_random_world_are_those_of_the_metric():
    records, predictions = random_world(1)
    count = sum(len(c.swaps) for c in compare(records, predictions, threshold=0.9))
    figures = left_right_confusion(records, predictions)
    assert count > 0
    assert figures["confusion"] * figures["pairs"] / 100 == pytest.approx(count)


def test_the_worst_and_the_best_pictures():
    people = [person(10, 10 + 2 * i) for i in range(5)]
    records = make_records(*([person(10)] for _ in people), [])
    predictions = [found(p, image_id=i + 1) for i, p in enumerate(people)]
    comparisons = compare(records, predictions, threshold=0.5)

    def names(count: int) -> list[list[str]]:
        both = worst_and_best(comparisons, count)
        return [[c.image["file_name"] for c in some] for some in both]

    assert names(2) == [["4.png", "3.png"], ["0.png", "1.png"]]
    # The empty picture has no quality; none is shown twice.
    assert names(9) == [["4.png", "3.png", "2.png"], ["0.png", "1.png"]]


class Page(HTMLParser):
    """What a page holds: cells of its tables, its text, attributes and the tags left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.links, self.rows, self.tags = [], "", [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.rows and set(self.open) & {"td", "th"}:
            self.rows[-1][-1] += data.strip()


def make_page(records: Records, predictions: list[dict], read=None, **changes) -> str:
    arguments = {
        "title": "a title",
        "paint_threshold": 0.3,
        "examples": 2,
        "settings": {"date": "today"},
        **changes,
    }

    def grey(image):
        return np.full((image["height"], image["width"], 3), 120, np.uint8)

    results = evaluate(records, predictions, paint_threshold=arguments["paint_threshold"])
    return report_page(records, predictions, results, read or grey, **arguments)


def checked(page: str) -> Page:
    """The page, parsed: every tag closed, nothing fetched from elsewhere."""
    parsed = Page(page)
    assert parsed.open == []
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert all(link.startswith("data:image/jpeg;base64,") for link in parsed.links)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    assert page.isascii()
    return parsed


def test_a_page_has_the_numbers_of_evaluate():
    records, predictions = random_world(1)
    parsed = checked(make_page(records, predictions))
    tables = result_tables(evaluate(records, predictions))
    assert len(tables) == 5
    for table in tables:
        for name, values in table.rows:
            assert [name, *map(percent, values)] in parsed.rows, (table.title, name)
    # Two worst, two best and two swapped, truth and prediction each.
    assert len(parsed.links) == 12
    assert ["date", "today"] in parsed.rows and ["people", "18"] in parsed.rows
    ap50 = evaluate(records, predictions)["parts"]["AP50-torso"]
    assert ["torso", percent(ap50)] in parsed.rows  # the curves' own table


def test_the_rows_of_the_confusion_matrix_sum_to_a_hundred():
    records = make_records([person(10, known=("body", "head", "torso"))])
    prediction = found(person(10))
    prediction["part_segmentation"]["head"] = encode_mask(mask(10, 10, 20, 17))
    parsed = Page(make_page(records, [prediction]))
    header = next(i for i, row in enumerate(parsed.rows) if row[0] == "truth")
    rows = parsed.rows[header + 1 : header + 8]
    assert rows[1] == ["head", "30.0", "70.0", *["0.0"] * 5, "100"]
    for name, *shares, pixels in rows:
        if pixels == "0":
            assert set(shares) == {"-"} and name not in ("background", "head", "torso")
        else:
            assert sum(map(float, shares)) == pytest.approx(100, abs=0.36)


def test_a_page_of_no_predictions():
    parsed = checked(make_page(make_records([person(10)]), []))
    assert ["head", "0.0", "0.0", "0.0"] in parsed.rows
    assert "0 found, 1 missed, 0 false alarms" in parsed.text and "There is none." in parsed.text


def test_a_page_of_nobody():
    parsed = checked(make_page(make_records([], []), []))
    assert ["head", "-", "-", "-"] in parsed.rows
    assert "There is nothing to judge." in parsed.text and "nan" not in parsed.text
    assert checked(make_page(make_records(), [])).links == []
    parsed = checked(make_page(make_records([]), [found(person(10))]))
    assert "0 found, 0 missed, 1 false alarms" in parsed.text


def test_a_page_of_people_of_whom_little_is_known():
    people = [person(0, known=("body",)), person(25, known=())]
    crowd = ignore_annotation(COCO_17, SHAPE, mask(60, 0, 80, 60))
    boxes_only = {"image_id": 1, "category_id": 1, "bbox": [25, 10, 20, 30], "score": 0.8}
    page = make_page(make_records([*people, crowd]), [found(person(0)), boxes_only])
    parsed = checked(page)
    assert "2 found, 0 missed, 0 false alarms" in parsed.text
    assert "1: 1.00" in parsed.text and "2: -" in parsed.text
    assert "nan" not in page.replace(parsed.links[0], "").replace(parsed.links[1], "")


def test_another_schema():
    records = Records(PASCAL_PERSON_PART, COCO_17)
    annotation = person_annotation(
        PASCAL_PERSON_PART,
        COCO_17,
        SHAPE,
        body=mask(10, 10, 30, 40),
        parts={"upper_arms": mask(10, 10, 30, 20)},
    )
    records.add_image("a.png", *SHAPE, [annotation])
    parsed = checked(make_page(records, [found(annotation)]))
    assert ["upper_arms", "100.0"] in parsed.rows and "There is none." in parsed.text


def test_all_text_is_escaped():
    records = make_records([person(10)])
    records.images[0]["file_name"] = "<b>&\"'\u00e9.png"
    page = make_page(records, [found(person(10))], title="<script>1 & 2", settings={"<i>": "a & b"})
    parsed = checked(page)
    assert "<b>&\"'\u00e9.png" in parsed.text and "<script>1 & 2" in parsed.text
    assert ["<i>", "a & b"] in parsed.rows


def test_pictures_that_are_not_there_are_named_and_the_rest_is_drawn():
    records = make_records([person(10)], [person(10)], [person(10)])
    predictions = [found(person(10), image_id=i, swap=("leg",)) for i in (1, 2, 3)]
    pictures = {
        "0.png": None,
        "1.png": np.zeros((80, 60, 3), np.uint8),
        "2.png": np.zeros((60, 80, 3), np.uint8),
    }
    page = make_page(records, predictions, lambda i: pictures[i["file_name"]], examples=3)
    parsed = checked(page)
    assert "not a readable picture" in parsed.text and "0.png" in parsed.text
    assert "expected a picture of (60, 80), found (80, 60)" in parsed.text
    assert len(parsed.links) == 4  # of the third, as a picture and as a swapped pair


def test_marks_lie_where_the_people_are():
    # Twice as large as what is drawn: all is halved.
    shape = (600, 960)
    records = Records(BODYPARTS_7, COCO_17)
    plane = np.zeros(shape, bool)
    plane[100:300, 200:400] = True
    truth = person_annotation(BODYPARTS_7, COCO_17, shape, body=plane, parts={"head": plane})
    records.add_image("large.png", *shape, [truth])
    page = make_page(records, [{**found(truth), "keypoints": []}])
    checked(page)
    assert "viewBox='0 0 480 300'" in page
    frame = "<rect class='found' x='100.0' y='50.0' width='100.0' height='100.0'/>"
    assert page.count(frame) == 2


def test_a_page_stays_of_moderate_size_whatever_the_pictures():
    shape = (1500, 2000)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    plane = np.zeros(shape, bool)
    plane[1400:1430, 1900:1920] = True
    right, left = plane.copy(), plane.copy()
    right[:, 1910:], left[:, :1910] = False, False
    parts = {"right_arm": right, "left_arm": left}
    truth = person_annotation(BODYPARTS_7, COCO_17, shape, body=plane, parts=parts)
    records = Records(BODYPARTS_7, COCO_17)
    records.add_image("huge.png", *shape, [truth])
    page = make_page(records, [found(truth, swap=("arm",))], lambda image: noise)
    assert len(checked(page).links) == 4
    assert len(page) < 1_000_000


def test_curves_are_drawn_at_their_numbers():
    records = make_records([person(10)], [person(10)])
    page = make_page(records, [found(person(10))])
    # 560 x 380, margins 50, 10, 12, 40: recall 0 is x = 50, 1 is 550; precision 0 is y = 340,
    # 1 is 12. Half of the people are found.
    lines = page.split("<polyline points='")[1:]
    assert len(lines) == 7
    points = [tuple(map(float, p.split(","))) for p in lines[0].split("'")[0].split()]
    assert points[0] == (50, 12) and points[50] == (300, 12)
    assert points[51] == (305, 340) and points[100] == (550, 340)


def test_tables_as_text():
    records, predictions = random_world(0)
    tables = result_tables(evaluate(records, predictions, paint_threshold=0.25))
    text = "\n".join(map(str, tables))
    assert "score 0.25 and more" in text and "APr_50 strict" in text
    assert max(map(len, text.splitlines())) <= 100
    assert [t.title for t in result_tables({"parsing": evaluate_parsing_of_nobody()})] == [
        "Human parsing",
        "Human parsing by class",
    ]


def evaluate_parsing_of_nobody() -> dict[str, float]:
    return evaluate_parsing(make_records([]), [], paint_threshold=0.3)


def test_joints_that_are_zero_in_all_predictions_are_not_the_models():
    records = make_records([person(10)])
    first, second = found(person(10)), found(person(30))
    first["keypoints"] = [0, 0, 0] * 15 + [5, 6, 0.5] + [0, 0, 0]
    second["keypoints"] = [0, 0, 0] * 16 + [0, 0, 0.01]
    joints = predicted_joints(records, [first, second])
    assert list(joints) == list(COCO_17.keypoints[15:])
    assert predicted_joints(records, []) is None
    assert predicted_joints(records, [{**first, "keypoints": []}]) is None


def write(folder: Path, predictions) -> Path:
    text = predictions if isinstance(predictions, str) else json.dumps(predictions)
    (folder / "predictions.json").write_text(text)
    return folder / "predictions.json"


def test_predictions_are_read_as_they_were_written(tmp_path):
    predictions = [found(person(10))]
    path = write(tmp_path, predictions)
    assert read_predictions(path, make_records([person(10)])) == predictions
    assert read_predictions(write(tmp_path, []), make_records([])) == []


GOOD = found(person(10))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ({"people": []}, "expected a list of predictions"),
        ([GOOD, 3], "prediction 1: expected an object, found int"),
        ([{**GOOD, "score": None}], "prediction 0: expected a number 'score', found None"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "expected 4 numbers in 'bbox'"),
        ([{**GOOD, "bbox": "abcd"}], "expected 4 numbers in 'bbox'"),
        ([{k: v for k, v in GOOD.items() if k != "bbox"}], "expected 4 numbers in 'bbox'"),
        ([{**GOOD, "keypoints": "none"}], "expected a list of numbers in 'keypoints'"),
        ([{**GOOD, "keypoints": [1, 2, 3]}], "expected 51 numbers of joints, found 3"),
        ([{**GOOD, "image_id": 9}], "prediction 0: image 9 is not in the records"),
        ([{**GOOD, "part_segmentation": []}], "expected an object of masks"),
        ([{**GOOD, "segmentation": [[1, 2, 3, 4]]}], "expected a compressed RLE of body"),
        ([{**GOOD, "segmentation": {"counts": "a"}}], "expected a compressed RLE of body"),
        (
            [{**GOOD, "segmentation": {"size": [60, 80], "counts": "garbage!!"}}],
            "prediction 0: mask of body cannot be decoded",
        ),
        ([{**GOOD, "part_segmentation": {"hand": GOOD["segmentation"]}}], "no parts of schema"),
        (
            [{**GOOD, "segmentation": encode_mask(np.ones((9, 9), bool))}],
            "mask of body is [9, 9], expected [60, 80]",
        ),
    ],
)
def test_predictions_that_are_none_are_refused_by_file_and_place(tmp_path, content, said):
    with pytest.raises(RecordError) as e:
        read_predictions(write(tmp_path, content), make_records([person(10)]))
    assert said in str(e.value) and "predictions.json" in str(e.value)


def test_settings_tell_one_file_from_another(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.json").write_text("{}")
    named = settings(tmp_path / "a.json", tmp_path / "b.json", 0.25)
    assert named["paint threshold"] == "0.25" and named["numpy"] == np.__version__
    a, b = (named[key].split("SHA-256 ")[1] for key in ("annotations", "predictions"))
    assert a != b and f"{tmp_path / 'a.json'}, 2 bytes" in named["annotations"]


def test_no_network_library_is_needed():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'detectron2', 'torchvision']));"
        "import detectron2_bodyparts.report.page, detectron2_bodyparts.report.inputs"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_browser_shows_the_page(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if browser is None:
        pytest.skip("no chromium to look at the page with")
    records, predictions = random_world(1)
    (tmp_path / "page.html").write_text(make_page(records, predictions))
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3200"]
    subprocess.run(
        [browser, *options, f"--screenshot={picture}", f"file://{tmp_path / 'page.html'}"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    shown = cv2.imread(str(picture))
    assert shown.shape[:2] == (3200, 1200)
    # White paper, text, and the torso's colour in the charts.
    assert 0.5 < (shown.min(axis=2) > 250).mean() < 0.98
    torso = np.array(BODYPARTS_7.colors[BODYPARTS_7.index("torso")][::-1])
    assert (np.abs(shown.astype(int) - torso).max(axis=2) < 3).sum() > 200
    # Every fifth of the page has something on it.
    for band in np.array_split(shown, 5):
        assert band.std() > 5
