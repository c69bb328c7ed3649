"""The exported model against its original, on the CPU: time, and whether results agree.

    python benchmarks/bench_predictor.py pictures/ --config-file quick_schedules/... --weights ...

Both run on the same images in turns, so that a busy machine slows down both, and the fastest of
several runs counts: the time from an image to `People`, resizing included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from detectron2_bodyparts import People
from detectron2_bodyparts.commands.pictures import find_pictures
from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.deploy import OnnxPredictor
from detectron2_bodyparts.export import export_onnx
from detectron2_bodyparts.predictor import BodyPartsPredictor


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", nargs="+", type=Path, help="images and folders of images")
    parser.add_argument("--config-file", required=True, help="a path, or the name of one of ours")
    parser.add_argument("--weights", required=True, help="the config's checkpoint")
    parser.add_argument("--pictures", type=int, default=4, help="how many (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each (default: %(default)s)")
    parser.add_argument("--opts", nargs="*", default=[], help="config keys and values")
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    cfg = load_config(args.config_file, args.weights, ["MODEL.DEVICE", "cpu", *args.opts])
    detectron2 = BodyPartsPredictor(cfg)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(detectron2.model, cfg, path)
        print(f"{path.stat().st_size / 2**20:.1f} MiB, {args.threads} threads")
        exported = OnnxPredictor(path, threads=args.threads)

    times = []
    for picture in list(find_pictures(args.inputs))[: args.pictures]:
        image = cv2.imread(str(picture))
        theirs, ours = detectron2(image), exported(image)  # the first run, not timed
        times.append(in_turns([detectron2, exported], image, args.repeat))
        a, b = (1000 * seconds for seconds in times[-1])
        print(
            f"{picture.name} {image.shape[1]}x{image.shape[0]}: Detectron2 {a:.0f} ms, "
            f"ONNX Runtime {b:.0f} ms, ratio {a / b:.2f}; {difference(theirs, ours)}"
        )
    a, b = np.sum(times, axis=0)
    print(f"all together: ratio {a / b:.2f}")


def in_turns(
    functions: Sequence[Callable[[np.ndarray], People]], image: np.ndarray, repeat: int
) -> list[float]:
    """The shortest time of each function, in seconds."""
    times = np.empty((repeat, len(functions)))
    for row in times:
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function(image)
            row[i] = time.perf_counter() - start
    return times.min(axis=0).tolist()


def difference(theirs: People, ours: People) -> str:
    """The largest differences between two predictions, in words."""
    if len(theirs) != len(ours):
        return f"{len(theirs)} people against {len(ours)}"
    words = [f"{len(theirs)} people"]
    if len(theirs):
        words.append(f"boxes differ by {np.abs(theirs.boxes - ours.boxes).max():.1e} px")
        if theirs.part_probs is not None:
            words.append(f"masks by {np.abs(theirs.part_probs - ours.part_probs).max():.1e}")
        if theirs.keypoints is not None:
            places = np.abs(theirs.keypoints - ours.keypoints)[..., :2]
            words.append(f"joints by {places.max():.1e} px")
    return ", ".join(words)


if __name__ == "__main__":
    main()
