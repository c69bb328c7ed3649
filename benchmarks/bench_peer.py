"""A model against BodyPix 0.75 on real images, both on the CPU in ONNX Runtime, in one run.

    python benchmarks/bench_peer.py --teacher model-stride16.json \\
      $DETECTRON2_DATASETS/pascal_person_part/pascal_person_part_val.pascal-person-part.json \\
      $DETECTRON2_DATASETS/lspet/lspet_val.bodyparts-11.json

For every annotation file (images and label maps lie beside it):

mIoU      of the whole image's label map, if PASCAL-Person-Part's are there: its six classes and the
          background.
metrics   of people, as in `detectron2_bodyparts.metrics`. BodyPix's people are what its maps show
          inside the ground-truth boxes, with a score of 1: it cannot miss anybody, and has no false
          positives.
found     PCK of the people whom our model detects, matched one to one by their boxes: both models
          are measured on the same people, and missed people do not count.
swapped   of the labelled elbows, wrists, knees and ankles that lie in a predicted limb, how many
          lie in one of the other side; of those that do for both models; and how many of all lie in
          a limb of their own side.

In square brackets: 95 % intervals from 1,000 bootstrap samples of the images. Then milliseconds per
image of one, three and ten people (the same people, cut out and put side by side), and memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from peer import Maps, Peer, export_peer, person_in_box

from detectron2_bodyparts.deploy import OnnxPredictor, default_model
from detectron2_bodyparts.metrics import evaluate
from detectron2_bodyparts.metrics.matching import box_iou, takers
from detectron2_bodyparts.metrics.pose import evaluate_pck
from detectron2_bodyparts.people import People
from detectron2_bodyparts.readers.pascal_person_part import LABELS_FOLDER
from detectron2_bodyparts.records import Records, read_records
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17, PASCAL_PERSON_PART, SIDES

BOTH = ("ours", "BodyPix")
LIMB_JOINTS = ("elbow", "wrist", "knee", "ankle")
PAINT_THRESHOLD = 0.3
SAMPLES = 1000
CANVAS = (375, 500)  # (H, W) of the timed images: VOC's usual size
CROWDS = {1: (1, 1), 3: (1, 3), 10: (2, 5)}  # people: rows and columns
CROWD_PICTURES = 8
METRICS = {
    "bbox": ("AP", "AP50"),
    "body": ("AP", "AP50"),
    "parts": ("AP", "AP50"),
    "parsing": ("APr_vol_strict", "APp_vol", "APp_50", "PCP_50"),
    "keypoints": ("AP", "AP50"),
    "pck": ("PCK@0.2_torso",),
    "sides": ("confusion", "pairs"),
}


def compare(file: Path, ours: OnnxPredictor, peer: Peer, limit: int | None) -> dict[str, Any]:
    """All results of both models on a file of records."""
    records = read_records(file)
    records.images = records.images[:limit]
    kept = {image["id"] for image in records.images}
    records.annotations = [a for a in records.annotations if a["image_id"] in kept]
    groups = records.by_image()
    schema, joints = records.part_schema, records.keypoint_schema
    found: dict[str, list[dict]] = {name: [] for name in BOTH}
    confusions: dict[str, list[np.ndarray]] = {name: [] for name in BOTH}
    sides: dict[str, list[np.ndarray]] = {name: [] for name in BOTH}
    people_found: list[dict] = []
    of_found: dict[str, list[dict]] = {name: [] for name in BOTH}
    for image in records.images:
        picture = cv2.imread(str(file.parent / image["file_name"]))
        people, maps = ours(picture), peer(picture)
        persons = [a for a in groups[image["id"]] if not a["iscrowd"]]
        answers = people.view(schema).to_annotations(image["id"], joints)
        found["ours"] += answers
        for person, taker in zip(persons, takers(persons, answers, box_iou), strict=True):
            x, y, w, h = person["bbox"]
            in_box = person_in_box(maps, np.array([x, y, x + w, y + h]), schema, joints)
            answer = {"image_id": image["id"], **in_box}
            found["BodyPix"].append(answer)
            if taker is not None:
                people_found.append(person)
                of_found["ours"].append(taker)
                of_found["BodyPix"].append(answer)
        labels = {"ours": people.confident(PAINT_THRESHOLD).label_map(), "BodyPix": maps.labels}
        for name in BOTH:
            sides[name].append(sides_at_joints(persons, joints.keypoints, labels[name]))
        truth = file.parent / LABELS_FOLDER / f"{Path(image['file_name']).stem}.png"
        if truth.is_file():
            true = cv2.imread(str(truth), cv2.IMREAD_GRAYSCALE)
            labels["ours"] = people.confident(PAINT_THRESHOLD).view(PASCAL_PERSON_PART).label_map()
            labels["BodyPix"] = _AS_PASCAL[maps.labels]
            for name in BOTH:
                pairs = 7 * true[true < 7].astype(int) + labels[name][true < 7]
                confusions[name].append(np.bincount(pairs, minlength=49).reshape(7, 7))
    return {
        "pictures": len(records.images),
        "people": sum(not a["iscrowd"] for a in records.annotations),
        **(_label_map_figures(confusions) if confusions["ours"] else {}),
        **_people_figures(records, found),
        **_figures_of_found(replace(records, annotations=people_found), of_found),
        **_side_figures(sides),
    }


def _pascal_labels() -> np.ndarray:
    """bodyparts-11's label -> PASCAL-Person-Part's."""
    labels = np.zeros(len(BODYPARTS_11.channels), np.uint8)
    names = PASCAL_PERSON_PART.names_in(BODYPARTS_11)
    for channel in PASCAL_PERSON_PART.parts:
        members = BODYPARTS_11.members[names[channel]]
        labels[list(members)] = PASCAL_PERSON_PART.index(channel)
    return labels


_AS_PASCAL = _pascal_labels()


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Each class's intersection over union, in percent, of (..., truth, prediction) counts."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 100 * hits / (confusion.sum(axis=-2) + confusion.sum(axis=-1) - hits)


def interval(values: np.ndarray, figure: Callable[[np.ndarray], float]) -> str:
    """A figure of counts summed over images, and its 95 % bootstrap interval.

    Args:
        values: (images, ...) counts.
        figure: computes the figure from summed counts.
    """
    rng = np.random.default_rng(0)
    count = len(values)
    samples = [
        figure(np.tensordot(np.bincount(rng.integers(0, count, count), minlength=count), values, 1))
        for _ in range(SAMPLES)
    ]
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return f"{figure(values.sum(axis=0)):.1f} [{low:.1f}, {high:.1f}]"


def _label_map_figures(confusions: dict[str, list[np.ndarray]]) -> dict[str, dict[str, str]]:
    counts = {name: np.array(values) for name, values in confusions.items()}
    figures = {
        "mIoU": {n: interval(c, lambda s: float(class_iou(s).mean())) for n, c in counts.items()}
    }
    for i, label in enumerate(("background", *PASCAL_PERSON_PART.parts)):
        figures[f"IoU {label}"] = {
            n: f"{class_iou(c.sum(axis=0))[i]:.1f}" for n, c in counts.items()
        }
    return figures


def _people_figures(records: Records, found: dict[str, list[dict]]) -> dict[str, dict[str, str]]:
    results = {n: evaluate(records, p, joints=COCO_17.keypoints) for n, p in found.items()}
    return {
        f"{group} {name}": {n: f"{r[group][name]:.1f}" for n, r in results.items()}
        for group, names in METRICS.items()
        for name in names
        if not np.isnan(results["ours"].get(group, {}).get(name, np.nan))
    }


def _figures_of_found(records: Records, found: dict[str, list[dict]]) -> dict[str, dict[str, str]]:
    (name,) = METRICS["pck"]
    if not any(a["num_keypoints"] for a in records.annotations):
        return {}
    known = [j for j in records.keypoint_schema.keypoints if j in COCO_17.keypoints]
    pck = {n: evaluate_pck(records, p, joints=known)[name] for n, p in found.items()}
    return {f"pck {name}, found": {n: f"{value:.1f}" for n, value in pck.items()}}


def sides_at_joints(
    people: Sequence[dict], joints: Sequence[str], labels: np.ndarray
) -> np.ndarray:
    """Whether labelled limb keypoints lie in a limb of their side (1), the other (-1) or none (0).

    Args:
        people: annotations.
        joints: the names of their keypoints.
        labels: (H, W), channels of bodyparts-11.
    """
    answers = []
    for person in people:
        for name, (x, y, v) in zip(joints, np.reshape(person["keypoints"], (-1, 3)), strict=True):
            if not v or not name.endswith(LIMB_JOINTS):
                continue
            row, column = round(y), round(x)
            inside = 0 <= row < labels.shape[0] and 0 <= column < labels.shape[1]
            part = BODYPARTS_11.channels[labels[row, column]] if inside else ""
            kind = "arm" if name.endswith(("elbow", "wrist")) else "leg"
            if part.startswith(SIDES) and part.endswith(kind):
                answers.append(1 if part.split("_")[0] == name.split("_")[0] else -1)
            else:
                answers.append(0)
    return np.array(answers, int)


def _side_figures(sides: dict[str, list[np.ndarray]]) -> dict[str, dict[str, str]]:
    if not any(s.any() for s in sides["ours"]):
        return {}
    by_both = [(a != 0) & (b != 0) for a, b in zip(*sides.values(), strict=True)]
    rows: dict[str, dict[str, str]] = {"swapped %": {}, "swapped %, both": {}, "own side %": {}}
    for name, pictures in sides.items():
        judged = [s[s != 0] for s in pictures]
        shared = [s[both] for s, both in zip(pictures, by_both, strict=True)]
        rows["swapped %"][name] = _share(judged, -1)
        rows["swapped %, both"][name] = _share(shared, -1)
        rows["own side %"][name] = _share(pictures, 1)
    return rows


def _share(pictures: Sequence[np.ndarray], answer: int) -> str:
    """The percentage of the images' keypoints with this answer, and the number of keypoints."""
    counts = np.array([((p == answer).sum(), len(p)) for p in pictures])
    share = interval(counts, lambda s: 100 * s[0] / max(s[1], 1))
    return f"{share} of {counts[:, 1].sum()}"


def crowds(file: Path) -> dict[int, list[np.ndarray]]:
    """Images of 1, 3 and 10 people: people who are alone in an image of the records, in a grid."""
    records = read_records(file)
    groups = records.by_image()
    alone = []
    for image in records.images:
        (first, *others) = groups[image["id"]] or [None]
        if first is not None and not others and first["bbox"][3] >= CANVAS[0] / 2:
            alone.append((image["file_name"], first["bbox"]))
    pictures: dict[int, list[np.ndarray]] = {count: [] for count in CROWDS}
    for start in range(CROWD_PICTURES):
        for count, (rows, columns) in CROWDS.items():
            canvas = np.full((*CANVAS, 3), 127, np.uint8)
            height, width = CANVAS[0] // rows, CANVAS[1] // columns
            for i in range(count):
                name, (x, y, w, h) = alone[(start + i) % len(alone)]
                picture = cv2.imread(str(file.parent / name))
                crop = picture[int(y) : int(y + h), int(x) : int(x + w)]
                scale = 0.9 * min(height / crop.shape[0], width / crop.shape[1])
                crop = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
                top = i // columns * height + (height - crop.shape[0]) // 2
                left = i % columns * width + (width - crop.shape[1]) // 2
                canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
            pictures[count].append(canvas)
    return pictures


def times(
    ours: OnnxPredictor, peer: Peer, pictures: dict[int, list[np.ndarray]], repeats: int = 5
) -> dict[str, dict[str, str]]:
    """Median milliseconds from an image to its label map.

    The models take turns after several images, as one in use sees one image after the other; the
    first image of each turn does not count.

    Args:
        ours: with the threshold of the people to paint; others would cost it time.
        peer: BodyPix.
        pictures: by the number of people in them.
        repeats: turns of each model.
    """

    def run_ours(canvas: np.ndarray) -> None:
        found = ours(canvas)
        found.label_map()
        people.append(len(found))

    figures = {}
    for count, canvases in pictures.items():
        spent: dict[str, list[float]] = {name: [] for name in BOTH}
        people: list[int] = []
        for _ in range(repeats):
            for name, run in zip(BOTH, (run_ours, peer), strict=True):
                run(canvases[-1])
                for canvas in canvases:
                    start = time.perf_counter()
                    run(canvas)
                    spent[name].append(time.perf_counter() - start)
        medians = {n: 1000 * float(np.median(v)) for n, v in spent.items()}
        figures[f"ms, {count} people ({np.mean(people):.1f} found)"] = {
            **{n: f"{ms:.0f}" for n, ms in medians.items()},
            "ratio": f"{medians['ours'] / medians['BodyPix']:.2f}",
        }
    return figures


def painter(model: str, threads: int) -> OnnxPredictor:
    """Our model, as it is used for label maps."""
    return OnnxPredictor(model, threads=threads, threshold=PAINT_THRESHOLD)


def _peak_memory() -> float:
    """Peak memory of this process in MiB; ``ru_maxrss`` would start at the parent's."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return int(line.split()[1]) / 1024


def _peak(which: str, model: str, pictures: list[np.ndarray], threads: int, queue: Any) -> None:
    before = _peak_memory()
    run: Callable[[np.ndarray], People | Maps]
    run = painter(model, threads) if which == "ours" else Peer(Path(model), threads)
    for picture in pictures:
        run(picture)
    queue.put(_peak_memory() - before)


def memory(models: dict[str, str], pictures: list[np.ndarray], threads: int) -> dict[str, str]:
    """Peak memory of each model in a process of its own, beyond that after the imports, in MiB."""
    context = multiprocessing.get_context("spawn")
    figures = {}
    for which, model in models.items():
        queue = context.Queue()
        process = context.Process(target=_peak, args=(which, model, pictures, threads, queue))
        process.start()
        figures[which] = f"{queue.get(timeout=300):.0f}"
        process.join()
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "records", nargs="+", type=Path, help="annotation files; people of the first are timed"
    )
    parser.add_argument("--model", default=str(default_model()))
    parser.add_argument("--teacher", required=True, help="BodyPix's model-stride16.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="images of each set")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "bodypix.onnx"
        export_peer(args.teacher, graph)
        models = {"ours": args.model, "BodyPix": str(graph)}
        ours, peer = OnnxPredictor(args.model, threads=args.threads), Peer(graph, args.threads)
        result: dict[str, Any] = {}
        for file in args.records:
            name = f"{file.parent.name}/{file.name}"
            result[name] = compare(file, ours, peer, args.limit)
            _print(name, result[name])
        pictures = crowds(args.records[0])
        speed = times(painter(args.model, args.threads), peer, pictures)
        speed["peak memory, MiB"] = memory(models, pictures[10], args.threads)
        speed["file, MB"] = {n: f"{Path(m).stat().st_size / 1e6:.1f}" for n, m in models.items()}
        result["speed"] = speed
        _print(f"speed, {args.threads} threads", speed)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def _print(title: str, figures: dict[str, Any]) -> None:
    counts = ", ".join(f"{v} {k}" for k, v in figures.items() if not isinstance(v, dict))
    print(f"\n{title}{f': {counts}' if counts else ''}")
    print(f"{'':36} {'ours':26} BodyPix")
    for name, row in figures.items():
        if isinstance(row, dict):
            more = f"  ratio {row['ratio']}" if "ratio" in row else ""
            print(f"{name:36} {row['ours']:26} {row['BodyPix']}{more}")


if __name__ == "__main__":
    main()
