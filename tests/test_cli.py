from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.cli import find_pictures, main, read_picture
from detectron2_bodyparts.readers.synthetic import prepare_synthetic
from detectron2_bodyparts.records import Records, encode_mask, person_annotation, write_records
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
    for name in ("text.jpg", "empty.jpg", "missing.jpg"):
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


def test_inspect_takes_as_many_as_it_is_told_and_leaves_out_empty_pictures(small_records):
    assert len(cells(inspect(small_records))) == 6
    assert len(inspect(small_records, "--empty")) == 4
    assert len(cells(inspect(small_records, "--num", "3"))) == 3
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
            "expected a mask of (30, 40), found [9, 9]",
        ),
        (
            lambda _, crowd: crowd.update(
                segmentation=encode_mask(np.ones((9, 9), bool)), iscrowd=1
            ),
            "expected a mask of (30, 40), found [9, 9]",
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
