#!/usr/bin/env python3
"""Does dataset preparation scale? J-HMDB and VOC-Part at full size, with generated files.

    python benchmarks/bench_prepare.py [--scale 0.1] [--folder FOLDER]

Writes the datasets' own formats (a few clips and images, hard-linked under all names), prepares
them with one process and with two, at a quarter of the size and in full, and prints images per
second and the peak memory of all processes together (proportional set size: Linux only). The first
row only imports. Memory that grows with the number of images would show between a quarter and the
full size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from detectron2_bodyparts.readers import figures

JHMDB_CLIPS, JHMDB_FRAMES = 928, 31_838
VOC_PICTURES = 3_500
DISTINCT = 8  # the number of different clips and images

# One run, in a process of its own.
_RUN = """
import json, os, time
from detectron2_bodyparts.readers import {module}
from detectron2_bodyparts.schema import BODYPARTS_7

if __name__ == "__main__":
    start = time.perf_counter()
    summary = {module}.prepare_{module}({root!r}, "{split}", BODYPARTS_7, workers={workers})
    assert not summary.left_out, summary
    seconds = time.perf_counter() - start
    size = os.path.getsize(summary.output) / 2**20
    print(json.dumps([summary.pictures, summary.people, seconds, size]))
"""


def memory(session: int) -> float:
    """Memory of all processes of a session in MiB; shared pages count once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session:
                rollup = (folder / "smaps_rollup").read_text()
                total += int(rollup.split("Pss:")[1].split()[0])
        except (ProcessLookupError, FileNotFoundError, IndexError):
            continue  # the process has just ended
    return total / 1024


def run(script: Path, code: str) -> tuple[list, float]:
    """Run the code. Returns the last line it printed, decoded from JSON, and its peak MiB."""
    script.write_text(code)
    command = [sys.executable, "-W", "ignore", str(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"a run failed with {process.returncode}")
    lines = process.stdout.read().splitlines()
    return json.loads(lines[-1]), peak


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def save(path: Path, **variables: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)
    return path


def person(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, dict, np.ndarray]:
    """A rendered image and its first person: image, body, fine parts, COCO keypoints."""
    while True:
        picture = figures.render(seed, figures.SyntheticConfig(image_size=(height, width)))
        if picture.people:
            one = picture.people[0]
            return picture.image, one.body, one.parts, one.keypoints
        seed += 10_000


def make_jhmdb(root: Path, clips: int) -> None:
    """Write ``clips`` clips; all JHMDB_CLIPS together have JHMDB_FRAMES frames."""
    lengths = [JHMDB_FRAMES // JHMDB_CLIPS + (i < JHMDB_FRAMES % JHMDB_CLIPS) for i in range(clips)]
    labels = ("torso", "head") + tuple(
        f"{side}_{limb}"
        for limb in ("upper_arm", "upper_leg", "lower_arm", "lower_leg")
        for side in ("right", "left")
    )
    models = {}
    for i in range(DISTINCT):
        image, body, parts, _ = person(i, 240, 320)
        for length in set(lengths):
            shift = [np.roll(body, t, axis=1) for t in range(length)]
            plane = np.zeros(body.shape, np.uint8)
            for number, part in enumerate(labels, start=1):
                plane[parts[part]] = number
            folder = root / "models" / f"{i}_{length}"
            rng = np.random.default_rng(i)
            models[i, length] = {
                "puppet_mask/{}/puppet_mask.mat": save(
                    folder / "mask.mat", part_mask=np.stack(shift, -1).astype(np.uint8)
                ),
                "puppet_flow_com/{}/puppet_flow.mat": save(
                    folder / "flow.mat",
                    part_mask=np.stack([np.roll(plane, t, 1) for t in range(length)], -1),
                ),
                "joint_positions/{}/joint_positions.mat": save(
                    folder / "joints.mat", pos_img=rng.uniform(1, 240, (2, 15, length))
                ),
            }
        cv2.imwrite(str(root / "models" / f"{i}.png"), image)
    (root / "splits").mkdir()
    lines = []
    for c, length in enumerate(lengths):
        item = f"wave/clip_{c:04d}"
        for name, source in models[c % DISTINCT, length].items():
            link(source, root / name.format(item))
        for t in range(1, length + 1):
            source = root / "models" / f"{c % DISTINCT}.png"
            link(source, root / "Rename_Images" / item / f"{t:05d}.png")
        lines.append(f"clip_{c:04d}.avi 1\n")
    (root / "splits" / "wave_test_split1.txt").write_text("".join(lines))


def make_voc_part(root: Path, pictures: int) -> None:
    """Write ``pictures`` images of 500x375 with up to four people and their parts."""
    part_type = [(name, "O") for name in ("part_name", "mask")]
    person_type = [(name, "O") for name in ("class", "class_ind", "mask", "parts")]
    short = {"upper_arm": "uarm", "lower_arm": "larm", "upper_leg": "uleg", "lower_leg": "lleg"}
    for i in range(DISTINCT):
        picture = figures.render(i, figures.SyntheticConfig(image_size=(375, 500)))
        people = []
        for one in picture.people:
            parts = []
            for name, mask in one.parts.items():
                side, _, limb = name.partition("_")
                voc = side[0] + short[limb] if limb in short else name
                parts.append((voc, mask.astype(np.uint8)))
            parts = np.array([parts], dtype=part_type)
            people.append(("person", 15, one.body.astype(np.uint8), parts))
        objects = np.array([people], dtype=person_type)
        save(root / "models" / f"{i}.mat", anno={"imname": str(i), "objects": objects})
        cv2.imwrite(str(root / "models" / f"{i}.jpg"), picture.image)
    for i in range(pictures):
        name = f"2008_{i:06d}"
        link(root / "models" / f"{i % DISTINCT}.mat", root / "Annotations_Part" / f"{name}.mat")
        link(root / "models" / f"{i % DISTINCT}.jpg", root / "JPEGImages" / f"{name}.jpg")


DATASETS = {
    "jhmdb": (make_jhmdb, JHMDB_CLIPS, "train1"),
    "voc_part": (make_voc_part, VOC_PICTURES, "all"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="bench_prepare_"))
    print(
        f"{'dataset':<10}{'pictures':>9}{'people':>8}{'processes':>10}{'seconds':>9}"
        f"{'pictures/s':>11}{'peak MiB':>10}{'JSON MiB':>9}"
    )
    script = folder / "run.py"
    imports = "from detectron2_bodyparts.readers import jhmdb, voc_part\nprint(0)"
    print(f"{'imports':<36}{run(script, imports)[1]:>30.0f}")
    try:
        for module, (make, full, split) in DATASETS.items():
            for share in (0.25, 1.0):
                root = folder / f"{module}_{share}"
                make(root, max(int(full * args.scale * share), DISTINCT))
                for workers in (1, 2):
                    settings = {"module": module, "split": split, "workers": workers}
                    code = _RUN.format(root=str(root), **settings)
                    (pictures, people, seconds, size), peak = run(script, code)
                    print(
                        f"{module:<10}{pictures:>9}{people:>8}{workers:>10}{seconds:>9.1f}"
                        f"{pictures / seconds:>11.0f}{peak:>10.0f}{size:>9.1f}",
                        flush=True,
                    )
                shutil.rmtree(root)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
