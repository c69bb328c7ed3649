from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands.pictures import find_pictures
from detectron2_bodyparts.metrics import evaluate
from detectron2_bodyparts.readers.prepare import read_picture
from detectron2_bodyparts.readers.synthetic import prepare_synthetic
from detectron2_bodyparts.records import (
    Records,
    encode_mask,
    person_annotation,
    read_records,
    write_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17


def test_folders_give_their_pictures_in_natural_order(tmp_path):
    for name in ("10.jpg", "9.PNG", "notes.txt", "1.jpeg"):
        (tmp_path / name).touch()
    elsewhere = Path("elsewhere.gif")  # named by the user: taken as it is
    found = list(find_pictures([elsewhere, tmp_path]))
    assert [p.name for p in found] == ["elsewhere.gif", "1.jpeg", "9.PNG", "10.jpg"]


def test_unreadable_pictures_are_none(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    _, small = cv2.imencode(".png", np.zeros((1, 1), np.uint8))
    header = bytearray(small.tobytes())
    header[16:24] = struct.pack(">II", 40000, 40000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    (tmp_path / "huge.png").write_bytes(header)  # OpenCV refuses more than 2**30 pixels
    for name in ("text.jpg", "empty.jpg", "missing.jpg", "huge.png"):
        assert read_picture(tmp_path / name) is None


@pytest.fixture
def small_records(tmp_path) -> Path:
    """Seven pictures of 40 x 30: of one the body is known, of four the head as well, of one only
    joints; the last is empty. None is broken."""
    records = Records(BODYPARTS_7, COCO_17)
    body = np.zeros((30, 40), bool)
    body[5:25, 10:30] = True
    head = body.copy()
    head[10:] = False
    joints = np.zeros((17, 3))
    joints[:5] = (20, 8, 2)
    kinds = [{"body": body}, *[{"body": body, "parts": {"head": head}}] * 4, {"keypoints": joints}]
    for i, kind in enumerate(kinds):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((30, 40, 3), 20 * i, np.uint8))
        person = person_annotation(BODYPARTS_7, COCO_17, (30, 40), **kind)
        records.add_image(f"{i}.png", 30, 40, [person])
    cv2.imwrite(str(tmp_path / "6.png"), np.full((30, 40, 3), 120, np.uint8))
    records.add_image("6.png", 30, 40, [])
    write_records(tmp_path / "small.json", records)
    return tmp_path / "small.json"


def inspect(json_file: Path, *options: str, code: int = 0) -> list[np.ndarray]:
    """The pages, of cells of 80 x 64 in one row unless the options say otherwise."""
    output = json_file.parent / "pages"
    arguments = ["--output", str(output), "--rows", "1", "--columns", "2", "--cell", "80x64"]
    assert main(["inspect", str(json_file), *arguments, *options]) == code
    paths = sorted(output.iterdir()) if output.is_dir() else []
    assert [p.name for p in paths] == [f"page_{i + 1:03d}.jpg" for i in range(len(paths))]
    return [cv2.imread(str(path)) for path in paths]


def cells(pages: list[np.ndarray]) -> list[np.ndarray]:
    """The 80 x 48 pixels of each picture that is not plain dark, without its name's line."""
    found = [page[:48, x : x + 80] for page in pages for x in (0, 80)]
    return [cell for cell in found if cell.std() > 3]


def test_a_reader_who_has_enough_is_no_error(small_records):
    """As in `bodyparts stats ... | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "detectron2_bodyparts.cli", "stats", str(small_records)],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_inspect_draws_pages_of_a_file_of_records(tmp_path):
    prepare_synthetic(tmp_path, "val", 3, BODYPARTS_7)
    json_file = tmp_path / "synthetic_val.bodyparts-7.json"
    pages = inspect(json_file, "--cell", "400x320")
    assert len(pages) == 2
    height, width = pages[0].shape[:2]
    assert height >= 320 and width > 800
    # The schema's colours are in the legend, in BGR.
    for color in BODYPARTS_7.colors:
        assert (np.abs(pages[0][:, 800:].astype(int) - color[::-1]).max(axis=2) < 30).any()
    assert (np.abs(pages[0][:320, :400].astype(int) - pages[0][:320, 400:800])).max() > 100


def test_inspect_takes_as_many_as_it_is_told_and_leaves_out_empty_pictures(small_records, capsys):
    assert len(cells(inspect(small_records))) == 6
    assert capsys.readouterr().out.startswith("6 pictures")
    assert len(inspect(small_records, "--empty")) == 4
    capsys.readouterr()
    assert len(cells(inspect(small_records, "--num", "3"))) == 3
    assert capsys.readouterr().out.startswith("3 of 6 pictures")
    assert len(inspect(small_records, "--rows", "3")) == 1


def test_inspect_leaves_no_page_of_an_earlier_run(small_records):
    assert len(inspect(small_records)) == 3
    (small_records.parent / "pages" / "page_004.jpg").touch()
    (small_records.parent / "pages" / "page_of_mine.jpg").touch()
    with pytest.raises(AssertionError):
        inspect(small_records, "--num", "2")  # a file of the user's stays
    (small_records.parent / "pages" / "page_of_mine.jpg").unlink()
    assert len(inspect(small_records, "--num", "2")) == 1


def test_inspect_shuffles_by_its_seed(small_records):
    def order(*options: str) -> list[float]:
        # Pictures differ in brightness; the corner is free of drawing.
        found = inspect(small_records, "--columns", "1", *options)
        return [page[45, 12].mean().round(-1) for page in found]

    plain, first = order(), order("--shuffle")
    assert plain == [0, 20, 40, 60, 80, 100]
    assert first != plain and sorted(first) == plain
    assert order("--shuffle") == first
    assert any(order("--shuffle", "--seed", seed) != first for seed in "123")
    # Shuffled before it is cut, or always the same would be seen.
    seen = {tuple(order("--shuffle", "--num", "1", "--seed", seed)) for seed in "012345"}
    assert len(seen) > 2


def test_inspect_only_people_of_whom_a_channel_is_known(small_records, capsys):
    assert len(cells(inspect(small_records, "--only", "head"))) == 4
    assert len(cells(inspect(small_records, "--only", "body"))) == 5
    inspect(small_records, "--only", "arm")
    assert "nothing to draw" in capsys.readouterr().out
    inspect(small_records, "--only", "hand", code=2)
    assert "right_arm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path, _: path.unlink(), "not a readable picture"),
        (lambda path, _: path.write_text("no picture"), "not a readable picture"),
        (
            lambda path, _: cv2.imwrite(str(path), np.zeros((40, 30, 3), np.uint8)),
            "expected a picture of (30, 40), found (40, 30)",
        ),
        (lambda _, person: person.update(keypoints=[0, 0, 0]), "expected 51 numbers of joints"),
        (
            lambda _, person: person.update(segmentation=encode_mask(np.ones((9, 9), bool))),
            "mask of 'segmentation' is [9, 9], the picture is [30, 40]",
        ),
        (
            lambda _, crowd: crowd.update(
                segmentation=encode_mask(np.ones((9, 9), bool)), iscrowd=1
            ),
            "mask of 'segmentation' is [9, 9], the picture is [30, 40]",
        ),
        (
            # Run lengths of more pixels than the mask has.
            lambda _, person: person["segmentation"].update(
                counts=encode_mask(np.ones((99, 99), bool))["counts"]
            ),
            "mask of 'segmentation' cannot be decoded",
        ),
    ],
)
def test_inspect_names_what_it_cannot_draw_and_goes_on(small_records, capsys, spoil, said):
    content = json.loads(small_records.read_text())
    spoil(small_records.parent / "1.png", content["annotations"][1])
    small_records.write_text(json.dumps(content))
    pages = inspect(small_records)
    error = capsys.readouterr().err
    assert f"not drawn: 1.png: {said}" in error.replace("annotation 2: ", "")
    assert error.count("not drawn") == 1
    assert len(pages) == 3
    left, right = pages[0][:48, :80], pages[0][:48, 80:160]
    assert (left.max(axis=(0, 2)) > 100).mean() > 0.3  # the picture before is drawn ...
    blue, _, red = (right[..., i].astype(int) for i in range(3))
    assert (red - blue).max() > 50  # ... and in the empty cell there are only words, in orange
    assert (right.max(axis=2) < 60).mean() > 0.6


def test_inspect_of_records_without_anybody(tmp_path, capsys):
    write_records(tmp_path / "nobody.json", Records(BODYPARTS_7, COCO_17))
    assert inspect(tmp_path / "nobody.json") == []
    assert "nothing to draw" in capsys.readouterr().out


def test_inspect_of_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing.json")]) == 2
    assert "nothing.json" in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["320", "axb", "10x10", "320x240x3"])
def test_cells_are_given_as_width_and_height(cell, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "x.json", "--cell", cell])
    assert "--cell" in capsys.readouterr().err


def test_stats_prints_a_table_and_writes_a_chart(small_records, capsys):
    chart = small_records.parent / "new" / "chart.png"
    assert main(["stats", str(small_records), "--output", str(chart)]) == 0
    printed = capsys.readouterr().out
    assert "people                 6" in printed and str(chart) in printed
    assert cv2.imread(str(chart)).shape[1] > 1000


def test_stats_of_another_json_says_what_it_expected(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    assert main(["stats", str(tmp_path / "other.json")]) == 2
    assert "expected a file of body part records" in capsys.readouterr().err


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "command" in capsys.readouterr().err


@pytest.fixture
def small_predictions(small_records) -> Path:
    """The people of `small_records` who have masks, as a model that knows the first five joints."""
    content = json.loads(small_records.read_text())
    predictions = [
        {
            "image_id": person["image_id"],
            "category_id": 1,
            "bbox": person["bbox"],
            "score": 0.9,
            "segmentation": person["segmentation"],
            "part_segmentation": person["part_segmentation"],
            "keypoints": [20, 8, 0.7] * 5 + [0, 0, 0] * 12,
        }
        for person in content["annotations"]
        if "segmentation" in person
    ]
    path = small_records.parent / "predictions.json"
    path.write_text(json.dumps(predictions))
    return path


def run(command: str, annotations: Path, predictions: Path, *options: str) -> int:
    named = ["--annotations", str(annotations), "--predictions", str(predictions)]
    return main([command, *named, *options])


def test_evaluate_prints_and_writes_the_numbers(small_records, small_predictions, capsys):
    output = small_records.parent / "new" / "numbers.json"
    assert run("evaluate", small_records, small_predictions, "--json", str(output)) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed]
    assert ["head", "100.0", "100.0", "100.0"] in rows and ["torso", "-", "-", "-"] in rows
    expected = evaluate(
        read_records(small_records),
        json.loads(small_predictions.read_text()),
        joints=COCO_17.keypoints[:5],
    )
    numbers = json.loads(output.read_text(), parse_constant=pytest.fail)  # JSON has no NaN
    assert list(numbers) == list(expected)
    for group, figures in expected.items():
        assert list(numbers[group]) == list(figures)
        found = [np.nan if v is None else v for v in numbers[group].values()]
        np.testing.assert_array_equal(found, list(figures.values()))
    assert numbers["pck"]["PCK@0.2_bbox"] == 0  # of the person with joints no box was found
    assert "PCK@0.2_bbox-ankle" not in numbers["pck"]  # the model does not know it
    assert numbers["parts"]["AP-torso"] is None


def test_evaluate_paints_people_of_the_threshold(small_records, small_predictions, capsys):
    iou = {}
    for threshold in ("0.5", "0.95"):
        options = ["--paint-threshold", threshold]
        assert run("evaluate", small_records, small_predictions, *options) == 0
        printed = capsys.readouterr().out
        assert f"score {threshold} and more" in printed
        rows = [line.split() for line in printed.splitlines()]
        iou[threshold] = next(float(row[1]) for row in rows if row[:1] == ["mIoU"])
    assert iou["0.95"] < iou["0.5"] == 100


def write_label_maps(folder: Path, name: str, classes: np.ndarray, people: np.ndarray) -> None:
    for part, plane in (("Category_ids", classes), ("Human_ids", people)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / part / f"{name}.png"), plane)


@pytest.fixture
def label_maps(tmp_path) -> tuple[Path, Path]:
    """Truth and predictions of two pictures: of the first all is right, of the second person 1 of
    two is found."""
    truth, found = tmp_path / "truth", tmp_path / "found"
    people = np.zeros((20, 30), np.uint8)
    people[5:15, 2:12], people[5:15, 18:28] = 1, 2
    classes = np.where(people > 0, 3, 0).astype(np.uint8)
    classes[10:15] //= 3  # the lower half is of class 1
    for name in ("a", "b"):
        write_label_maps(truth, name, classes, people)
    write_label_maps(found, "a", classes, people)
    write_label_maps(found, "b", np.where(people == 1, classes, 0), np.where(people == 1, 1, 0))
    (found / "Human_ids" / "a.txt").write_text("0.9\n0.8\n")
    (found / "Human_ids" / "b.txt").write_text("0.7\n")
    return truth, found


def parsing_rows(capsys) -> dict[str, list[str]]:
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {" ".join(row[:-1]): row[-1] for row in rows if len(row) in (2, 3)}


@pytest.mark.parametrize("layout", ["cihp", "ppp"])
def test_evaluate_of_folders_of_label_maps(label_maps, layout, capsys):
    output = label_maps[0] / "numbers.json"
    options = ["--format", layout, "--json", str(output)]
    assert run("evaluate", *label_maps, *options) == 0
    rows = parsing_rows(capsys)
    # Three of four people, wholly right; each class has 200 pixels, 150 of them found.
    assert rows["APp_50"] == rows["APr_50 strict"] == rows["PCP_50"] == "75.0"
    background = 100 * 800 / 900
    assert rows["mIoU"] == f"{(background + 75 + 75) / 3:.1f}"
    numbers = json.loads(output.read_text())["parsing"]
    assert numbers["mIoU_paint_threshold"] == 0.3 and numbers["APp_vol"] == 75
    assert ("IoU-hat" in numbers) == (layout == "cihp")
    assert ("IoU-upper_arms" in numbers) == (layout == "ppp")


def test_evaluate_of_mhp_folders(label_maps, tmp_path, capsys):
    _, pairs = label_maps
    truth, found = tmp_path / "mhp", tmp_path / "submission"
    (truth / "parsing_annos").mkdir(parents=True)
    found.mkdir()
    classes = cv2.imread(str(pairs / "Category_ids" / "a.png"), cv2.IMREAD_UNCHANGED)
    people = cv2.imread(str(pairs / "Human_ids" / "a.png"), cv2.IMREAD_UNCHANGED)
    for name in ("17", "18"):
        for number in (1, 2):
            one = np.where(people == number, classes, 0)
            plane = np.dstack([0 * one, 0 * one, one])  # BGR: the classes are in the red channel
            path = truth / "parsing_annos" / f"{name}_02_{number:02d}.png"
            assert cv2.imwrite(str(path), plane)
    for source, name in (("Category_ids", "global_seg"), ("Human_ids", "global_tag")):
        (found / name).mkdir()
        for old, new in (("a", "17"), ("b", "18")):
            (found / name / f"{new}.png").write_bytes((pairs / source / f"{old}.png").read_bytes())
    (found / "results.txt").write_text("17 1 0.9 2 0.8\n18 1 0.7\n")
    assert run("evaluate", truth, found, "--format", "mhp") == 0
    printed = capsys.readouterr().out
    assert "score 0.05 and more" in printed and "tee-shirt" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["APp_50", "75.0"] in rows and ["PCP_50", "75.0"] in rows


def test_a_picture_without_predictions_is_one_in_which_nobody_was_found(
    label_maps, capsys, caplog, monkeypatch
):
    # Detectron2's setup_logger, in other tests of the same process, ends propagation.
    monkeypatch.setattr(logging.getLogger("detectron2_bodyparts"), "propagate", True)
    truth, found = label_maps
    for path in found.glob("*/b.*"):
        path.unlink()
    assert run("evaluate", truth, found, "--format", "cihp") == 0
    assert parsing_rows(capsys)["APp_50"] == "50.0"
    assert "1 of 2 pictures have no prediction" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda truth, found: (truth / "Human_ids").rename(truth / "x"), "truth/Human_ids"),
        (lambda truth, found: (found / "Human_ids").rename(found / "x"), "found/Human_ids"),
        (
            lambda truth, found: (found / "Human_ids" / "a.txt").unlink(),
            "a.txt: expected a text of scores, found no file",
        ),
        (
            lambda truth, found: (found / "Human_ids" / "a.txt").write_text("0.9\n"),
            "found none of person 2",
        ),
        (
            lambda truth, found: (found / "Category_ids" / "a.png").write_text("no picture"),
            "a.png: expected a whole PNG",
        ),
        (
            lambda truth, found: (truth / "Category_ids" / "b.png").unlink(),
            "b.png: expected a whole PNG, found no file",
        ),
        (
            lambda truth, found: (truth / "Human_ids" / "b.png").unlink(),
            "found: b has no truth",
        ),
        (
            lambda truth, found: [path.unlink() for path in (found / "Human_ids").iterdir()],
            "found: expected label maps of cihp, found none",
        ),
    ],
)
def test_evaluate_names_the_label_map_that_is_wrong(label_maps, capsys, spoil, said):
    spoil(*label_maps)
    assert run("evaluate", *label_maps, "--format", "cihp") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("error: ") == 1 and "Traceback" not in error


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_files_that_cannot_be_evaluated_are_named_in_one_line(
    small_records, small_predictions, tmp_path, command, capsys
):
    def said(annotations: Path, predictions: Path, *options: str) -> str:
        assert run(command, annotations, predictions, *options) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        return error

    assert "no.json" in said(tmp_path / "no.json", small_predictions)
    assert "no.json" in said(small_records, tmp_path / "no.json")
    assert "found other JSON" in said(small_predictions, small_predictions)
    assert "found other JSON" in said(small_records, small_records)
    # The output is a folder.
    option = "--json" if command == "evaluate" else "--output"
    (tmp_path / "folder").mkdir()
    assert "folder" in said(small_records, small_predictions, option, str(tmp_path / "folder"))
    assert list(tmp_path.glob("*.tmp")) == []
    content = json.loads(small_records.read_text())
    content["annotations"][1]["segmentation"]["counts"] = "garbage!!"
    (tmp_path / "broken.json").write_text(json.dumps(content))
    assert "mask" in said(tmp_path / "broken.json", small_predictions)


def test_report_writes_a_page(small_records, small_predictions, capsys):
    output = small_records.parent / "new" / "page.html"
    (small_records.parent / "2.png").unlink()
    options = ["--output", str(output), "--examples", "3"]
    assert run("report", small_records, small_predictions, *options) == 0
    printed = capsys.readouterr()
    assert str(output) in printed.out
    assert printed.err.count("not a readable picture") == 1 and "2.png" in printed.err
    page = output.read_text()
    assert "Body parts: small.json" in page and "SHA-256" in page
    # Six pictures have people; each is drawn beside its truth but for the one that is missing.
    assert page.count("data:image/jpeg") == 10 and page.count("not a readable picture") == 1
    assert [p.name for p in output.parent.iterdir()] == ["page.html"]


def test_report_finds_pictures_elsewhere(small_records, small_predictions, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in small_records.parent.glob("*.png"):
        path.rename(elsewhere / path.name)
    output = tmp_path / "page.html"
    options = ["--output", str(output), "--images", str(elsewhere), "--examples", "1"]
    assert run("report", small_records, small_predictions, *options) == 0
    assert "not a readable" not in capsys.readouterr().err
    assert output.read_text().count("data:image/jpeg") == 4
