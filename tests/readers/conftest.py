"""What the readers' tests share."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from detectron2_bodyparts.records import decode_mask

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture
def run_script(monkeypatch):
    """Runs a script of ``datasets/``, in this process: ``run_script("prepare_coco.py", ...)``."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(DATASETS / name), run_name="__main__")

    return run


def rectangle(shape, y0, y1, x0, x1):
    """A boolean mask of ``shape``, ends exclusive."""
    mask = np.zeros(shape, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def only_person(shard):
    """The annotation of a shard of one picture and one person."""
    (picture,) = shard.pictures
    (annotation,) = picture.annotations
    return annotation


def masks_of(annotation):
    """Part -> boolean mask."""
    return {name: decode_mask(rle) for name, rle in annotation["part_segmentation"].items()}


def assert_masks(annotation, expected):
    """The annotation has these parts' masks and no others."""
    found = masks_of(annotation)
    assert sorted(found) == sorted(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def voc_xml(*objects):
    """VOC's XML of (name, xmin, ymin, xmax, ymax) and, after them, a difficult object's 1.

    Inside each object lies a part's box.
    """
    entries = ""
    for name, *numbers in objects:
        tags = ("xmin", "ymin", "xmax", "ymax")
        corners = "".join(f"<{t}>{n}</{t}>" for t, n in zip(tags, numbers, strict=False))
        part = f"<part><name>hand</name><bndbox>{corners}</bndbox></part>"
        flag = f"<difficult>{numbers[4]}</difficult>" if numbers[4:] else ""
        entries += f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox>{part}</object>"
    return f"<annotation><size><width>80</width></size>{entries}</annotation>"
