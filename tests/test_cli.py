from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.cli import find_pictures, main, read_picture
from detectron2_bodyparts.readers.synthetic import prepare_synthetic
from detectron2_bodyparts.schema import BODYPARTS_7


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


def test_inspect_draws_pages_of_a_file_of_records(tmp_path, capsys):
    prepare_synthetic(tmp_path, "val", 3, BODYPARTS_7)
    (tmp_path / "images" / "val_000001.jpg").write_text("no picture")
    json_file = tmp_path / "synthetic_val.bodyparts-7.json"
    arguments = ["--output", str(tmp_path / "pages"), "--rows", "1", "--columns", "2"]
    assert main(["inspect", str(json_file), *arguments]) == 0
    pages = sorted((tmp_path / "pages").iterdir())
    assert len(pages) == 2
    page = cv2.imread(str(pages[0]))
    assert page.shape[0] == 320 and page.shape[1] > 800
    # The schema's colours are in the legend, in BGR.
    for color in BODYPARTS_7.colors:
        assert (np.abs(page[:, 800:].astype(int) - color[::-1]).max(axis=2) < 30).any()
    assert "skipped, not a readable picture: images/val_000001.jpg" in capsys.readouterr().err


def test_inspect_of_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing.json")]) == 2
    assert "nothing.json" in capsys.readouterr().err


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "command" in capsys.readouterr().err
