"""A model beside BodyPix 0.75 on real pictures, both on the CPU by ONNX Runtime.

    python benchmarks/bench_peer.py --model bodyparts.onnx --teacher model-stride16.json

On PASCAL-Person-Part's val215: mIoU of its six classes and background, of the label maps of whole
pictures. On Leeds Sports Pose Extended's validation pictures: of the elbows, wrists, knees and
ankles that lie in a predicted limb, how many lie in one of the other side (``swapped``), and PCK at
0.2 of the torso. Milliseconds a picture, by how many people there are.

BodyPix knows no instances: of its joints those with the best heatmap inside the labelled person's
box are taken, which favours it.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch

from detectron2_bodyparts.deploy import OnnxPredictor, default_model
from detectron2_bodyparts.modeling.bodypix import PARTS, BodyPix, channel_of, read_tfjs_weights
from detectron2_bodyparts.readers.pascal_person_part import DATASET, LABELS_FOLDER, read_split
from detectron2_bodyparts.readers.prepare import datasets_root
from detectron2_bodyparts.records import read_records
from detectron2_bodyparts.schema import BODYPARTS_11, COCO_17, LSP_14, PASCAL_PERSON_PART, SIDES

SIDE = 513  # BodyPix's longer side
STRIDE = 16
LIMB_JOINTS = ("elbow", "wrist", "knee", "ankle")
PAINT_THRESHOLD = 0.3


class Peer:
    """BodyPix as one ONNX graph, and what its users do with the answer."""

    def __init__(self, model: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Outputs(BodyPix(read_tfjs_weights(model))),
                (torch.zeros(1, 3, 65, 97),),
                graph,
                dynamo=False,
                input_names=["image"],
                output_names=["segments", "parts", "joints", "offsets"],
                dynamic_axes={"image": {2: "height", 3: "width"}},
            )
        self._session = onnxruntime.InferenceSession(graph.getvalue(), options)
        self._labels = np.array([BODYPARTS_11.index(channel_of(p)) for p in PARTS], np.uint8)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) BGR -> label map of bodyparts-11 (H, W), joints' heatmaps (17, h, w) and the
        picture positions of their cells (2, 17, h, w), x then y, offsets included."""
        height, width = image.shape[:2]
        scale = SIDE / max(height, width)
        size = [max(round((n * scale - 1) / STRIDE), 1) * STRIDE + 1 for n in (width, height)]
        pixels = cv2.resize(image, size)[:, :, ::-1].astype(np.float32) / 127.5 - 1
        segments, parts, joints, offsets = self._session.run(
            None, {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        )
        up = self._upsample(np.concatenate([segments[0], parts[0]]), size, (width, height))
        labels = self._labels[up[:, :, 1:].argmax(axis=2)]
        labels[up[:, :, 0] < 0] = 0
        rows, columns = np.mgrid[: joints.shape[2], : joints.shape[3]] * STRIDE
        x = (columns + offsets[0, 17:]) * ((width - 1) / (size[0] - 1))
        y = (rows + offsets[0, :17]) * ((height - 1) / (size[1] - 1))
        return labels, joints[0], np.stack([x, y])

    @staticmethod
    def _upsample(maps: np.ndarray, inner: list[int], size: tuple[int, int]) -> np.ndarray:
        """Cells lie at every 16th pixel of the inner size, the first and last at its corners."""
        step = [(inner[i] - 1) / STRIDE / (size[i] - 1) for i in (0, 1)]
        warp = np.array([[step[0], 0, 0], [0, step[1], 0]])
        channels = [
            cv2.warpAffine(
                m,
                warp,
                size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for m in maps
        ]
        return np.stack(channels, axis=2)


class _Outputs(torch.nn.Module):
    def __init__(self, model: BodyPix) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(image).values())


def mean_iou(confusion: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean and each class's intersection over union, in percent, of a (truth, prediction) count."""
    hits = np.diag(confusion)
    iou = 100 * hits / (confusion.sum(0) + confusion.sum(1) - hits)
    return float(iou.mean()), iou


def pascal_labels() -> np.ndarray:
    """bodyparts-11's labels as PASCAL-Person-Part's."""
    labels = np.zeros(len(BODYPARTS_11.channels), np.uint8)
    names = PASCAL_PERSON_PART.names_in(BODYPARTS_11)
    for channel in PASCAL_PERSON_PART.parts:
        labels[list(BODYPARTS_11.members[names[channel]])] = PASCAL_PERSON_PART.index(channel)
    return labels


def compare_parts(ours: OnnxPredictor, peer: Peer, root: Path, limit: int | None) -> dict:
    """mIoU and times of both on val215."""
    ids = read_split(root, "val")[:limit]
    as_pascal = pascal_labels()
    confusion = {name: np.zeros((7, 7), int) for name in ("ours", "BodyPix")}
    times = defaultdict(list)
    for name in ids:
        image = cv2.imread(str(root / "JPEGImages" / f"{name}.jpg"))
        truth = cv2.imread(str(root / LABELS_FOLDER / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        start = time.perf_counter()
        people = ours(image).confident(PAINT_THRESHOLD)
        found = people.view(PASCAL_PERSON_PART).label_map()
        middle = time.perf_counter()
        labels, _, _ = peer(image)
        times[len(people)].append((middle - start, time.perf_counter() - middle))
        for which, map_ in (("ours", found), ("BodyPix", as_pascal[labels])):
            pairs = 7 * truth[truth < 7].astype(int) + map_[truth < 7]
            confusion[which] += np.bincount(pairs, minlength=49).reshape(7, 7)
    names = ("background", *PASCAL_PERSON_PART.parts)
    return {
        "pictures": len(ids),
        "mIoU": {n: round(mean_iou(c)[0], 2) for n, c in confusion.items()},
        "IoU": {
            n: dict(zip(names, mean_iou(c)[1].round(1).tolist(), strict=True))
            for n, c in confusion.items()
        },
        "ms by people found": {
            count: [round(1000 * float(v), 1) for v in np.median(pairs, axis=0)]
            for count, pairs in sorted(times.items())
        },
    }


def compare_joints(ours: OnnxPredictor, peer: Peer, root: Path, limit: int | None) -> dict:
    """Swapped sides, and PCK, of both on LSPET's validation pictures."""
    records = read_records(root / "lspet_val.bodyparts-11.json")
    groups = records.by_image()
    sided = {i: n for i, n in enumerate(BODYPARTS_11.channels) if n.startswith(SIDES)}
    swapped = {"ours": [0, 0], "BodyPix": [0, 0]}
    hits = {"ours": [], "BodyPix": []}
    shared = [i for i, k in enumerate(LSP_14.keypoints) if k in COCO_17.keypoints]
    to_coco = [COCO_17.keypoints.index(LSP_14.keypoints[i]) for i in shared]
    for image in records.images[:limit]:
        (person,) = (a for a in groups[image["id"]] if not a["iscrowd"])
        picture = cv2.imread(str(root / image["file_name"]))
        joints = np.reshape(person["keypoints"], (14, 3))
        known = joints[:, 2] > 0
        x, y, w, h = person["bbox"]
        people = ours(picture).confident(PAINT_THRESHOLD)
        labels, heat, places = peer(picture)
        for which, map_ in (("ours", people.label_map()), ("BodyPix", labels)):
            for name, (px, py, v) in zip(LSP_14.keypoints, joints, strict=True):
                row, column = int(py), int(px)
                if not v or not name.endswith(LIMB_JOINTS):
                    continue
                if not (0 <= row < map_.shape[0] and 0 <= column < map_.shape[1]):
                    continue
                part = sided.get(int(map_[row, column]))
                if part is not None and part.endswith(("arm", "leg")):
                    is_arm = name.endswith(("elbow", "wrist"))
                    if is_arm == part.endswith("arm"):
                        swapped[which][0] += part.split("_")[0] != name.split("_")[0]
                        swapped[which][1] += 1
        names = LSP_14.keypoints
        ends = [names.index(n) for n in ("right_shoulder", "left_hip")]
        if not known[ends].all():
            continue
        torso = np.linalg.norm(joints[ends[0], :2] - joints[ends[1], :2])
        found = {"ours": best_joints(people, (x, y, x + w, y + h))}
        inside = (places[0] >= x) & (places[0] <= x + w) & (places[1] >= y) & (places[1] <= y + h)
        flat = np.where(inside, heat, -np.inf).reshape(17, -1).argmax(axis=1)
        found["BodyPix"] = places.reshape(2, 17, -1)[:, np.arange(17), flat].T
        for which, points in found.items():
            distance = np.linalg.norm(points[to_coco] - joints[shared, :2], axis=1)
            hits[which] += (distance[known[shared]] <= 0.2 * torso).tolist()
    return {
        "swapped %": {n: [round(100 * s / max(t, 1), 1), t] for n, (s, t) in swapped.items()},
        "PCK@0.2": {n: [round(100 * float(np.mean(h)), 1), len(h)] for n, h in hits.items()},
    }


def best_joints(people, box: tuple[float, ...]) -> np.ndarray:
    """(17, 2) pixel indices of the person whose box overlaps most with the true one."""
    if not len(people):
        return np.full((17, 2), np.inf)
    low = np.maximum(people.boxes[:, :2], box[:2])
    high = np.minimum(people.boxes[:, 2:], box[2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    area = np.prod(people.boxes[:, 2:] - people.boxes[:, :2], axis=1)
    union = area + (box[2] - box[0]) * (box[3] - box[1]) - both
    return people.keypoints[(both / union).argmax(), :, :2] - 0.5


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=str(default_model()))
    parser.add_argument("--teacher", required=True, help="BodyPix's model-stride16.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="pictures of each set")
    args = parser.parse_args()
    datasets = datasets_root()
    ours, peer = OnnxPredictor(args.model, threads=args.threads), Peer(args.teacher, args.threads)
    result = compare_parts(ours, peer, datasets / DATASET, args.limit)
    result |= compare_joints(ours, peer, datasets / "lspet", args.limit)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
