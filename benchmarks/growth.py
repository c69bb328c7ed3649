"""How cost grows: with people per image, with image size, with the size of the training set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mapper
import scenes
from decoding import heatmaps
from detectron2.config import CfgNode
from measure import BOUNDED, LINEAR, Row, Settings, growth_row, in_turns, peak_memory
from targets import HEIGHT, SIDE, WIDTH, part_masks
from whole_model import Picture, build, infer, train_step

from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.modeling.keypoint_head import decode_keypoints
from detectron2_bodyparts.records import Records, write_records
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

PEOPLE = (1, 10, 100)
SIZES = ((320, 512), (640, 1024), (1280, 2048))
RECORDS = (1_000, 10_000, 100_000)
REGIONS = 64

Function = Callable[[], Any]


def rows(settings: Settings) -> Iterator[Row]:
    """The rows of each axis; the reach applies to the step between the two largest sizes."""
    yield from _with_people(settings)
    yield from _with_size(settings)
    yield from _with_records(settings)


def _light_config() -> CfgNode:
    """A small model: growth does not depend on the model's width."""
    return load_config("quick_schedules/synthetic_quick_start.yaml")


def _times(functions: dict[float, Function], settings: Settings) -> list[tuple[float, float]]:
    seconds = in_turns(list(functions.values()), settings, 8)
    return [(size, 1000 * t) for size, t in zip(functions, seconds, strict=True)]


def _peaks(functions: dict[float, Function], settings: Settings) -> list[tuple[float, float]]:
    """Peak memory of functions that have run before."""
    return [(size, peak_memory(function, settings)) for size, function in functions.items()]


def _with_people(settings: Settings) -> Iterator[Row]:
    axis = "people"
    our_mapper = mapper.our_mapper()
    pictures = {n: scenes.dataset_dict(n, HEIGHT, WIDTH, settings.folder) for n in PEOPLE}
    sizes = [(n, mapper.item_size(our_mapper(p))) for n, p in pictures.items()]
    yield growth_row("mapper item, size", axis, sizes, "MiB", LINEAR)
    functions: dict[float, Function]
    functions = {n: lambda p=p: our_mapper(p) for n, p in pictures.items()}
    yield growth_row("mapper, time", axis, _times(functions, settings), "ms", LINEAR)

    functions = {}
    for n in PEOPLE:
        figures = scenes.figures(n, HEIGHT, WIDTH)
        masks = part_masks(scenes.whole_planes(figures, HEIGHT, WIDTH)).to(settings.device)
        person, boxes = (x.to(settings.device) for x in scenes.regions(figures, REGIONS))
        functions[n] = lambda m=masks, p=person, b=boxes: m[p].crop_and_resize(b, SIDE)
    name = f"mask targets of {REGIONS} regions"
    yield growth_row(f"{name}, time", axis, _times(functions, settings), "ms", BOUNDED)
    yield growth_row(f"{name}, peak memory", axis, _peaks(functions, settings), "MiB", BOUNDED)

    made_up = {n: heatmaps(n, settings.device)[:2] for n in PEOPLE}
    functions = {n: lambda m=m: decode_keypoints(*m) for n, m in made_up.items()}
    yield growth_row("joint decoding, time", axis, _times(functions, settings), "ms", LINEAR)

    found = {n: scenes.found_people(n, 1080, 1920) for n in PEOPLE}
    functions = {n: lambda p=p: replace(p).label_map() for n, p in found.items()}
    yield growth_row("label map, time", axis, _times(functions, settings), "ms", LINEAR)
    yield growth_row("label map, peak memory", axis, _peaks(functions, settings), "MiB", BOUNDED)

    model = build(_light_config(), settings.device)
    pictures = {n: Picture(n, 128, *SIZES[0], settings.device) for n in PEOPLE}
    functions = {n: lambda p=p: train_step(model, p, "gt_part_masks") for n, p in pictures.items()}
    name = "light model, training step"
    yield growth_row(f"{name}, time", axis, _times(functions, settings), "ms", LINEAR)
    yield growth_row(f"{name}, peak memory", axis, _peaks(functions, settings), "MiB", BOUNDED)


def _with_size(settings: Settings) -> Iterator[Row]:
    axis = "Mpixel"
    our_mapper = mapper.our_mapper()
    our_mapper.augmentations.augs.pop(0)  # not resized
    pictures = {(h * w / 1e6): scenes.dataset_dict(10, h, w, settings.folder) for h, w in SIZES}
    functions: dict[float, Function]
    functions = {size: lambda p=p: our_mapper(p) for size, p in pictures.items()}
    yield growth_row("mapper, time", axis, _times(functions, settings), "ms", LINEAR)

    found = {(h * w / 1e6): scenes.found_people(10, h, w) for h, w in SIZES}
    functions = {size: lambda p=p: replace(p).label_map() for size, p in found.items()}
    yield growth_row("label map, time", axis, _times(functions, settings), "ms", LINEAR)

    model = build(_light_config(), settings.device)
    scene = {(h * w / 1e6): Picture(10, 128, h, w, settings.device) for h, w in SIZES}
    functions = {size: lambda p=p: infer(model, p) for size, p in scene.items()}
    name = "light model, inference"
    yield growth_row(f"{name}, time", axis, _times(functions, settings), "ms", LINEAR)
    yield growth_row(f"{name}, peak memory", axis, _peaks(functions, settings), "MiB", LINEAR)


def _with_records(settings: Settings) -> Iterator[Row]:
    axis = "pictures"
    counts = RECORDS[:2] if settings.quick else RECORDS
    picture = scenes.dataset_dict(1, 480, 640, settings.folder)
    annotation = scenes.records(scenes.figures(1, 480, 640), 480, 640)[0]
    measured: dict[str, list[tuple[float, float]]] = {}
    for count in counts:
        records = Records(BODYPARTS_7, COCO_17)
        for _ in range(count):
            records.add_image(os.path.basename(picture["file_name"]), 480, 640, [annotation])
        path = settings.folder / "records.json"
        write_records(path, records)
        del records
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("start_up.py"))]
        output = subprocess.run([*command, str(path)], check=True, capture_output=True, text=True)
        for name, value in json.loads(output.stdout.splitlines()[-1]).items():
            measured.setdefault(name, []).append((count, value))
    yield growth_row("start-up, time", axis, measured["seconds"], "s", LINEAR)
    yield growth_row("start-up, peak memory", axis, measured["peak"], "MiB", LINEAR)
    yield growth_row("while training, main process", axis, measured["main"], "MiB", LINEAR)
    yield growth_row("each worker's own memory", axis, measured["worker"], "MiB", BOUNDED)
