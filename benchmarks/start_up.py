"""One start of training on a file of records, up to the first batch.

    python benchmarks/start_up.py FILE

A process of its own for `growth`. Prints as JSON: seconds without imports; memory of the main
process beyond that after the imports, at its peak and after the first batch, in MiB; the largest
private memory of a worker, in MiB.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from pathlib import Path

from measure import memory

from detectron2_bodyparts.config import load_config
from detectron2_bodyparts.data import register_bodyparts_dataset
from detectron2_bodyparts.engine import Trainer


def main(file: Path) -> None:
    register_bodyparts_dataset("records", file, file.parent)
    cfg = load_config("quick_schedules/synthetic_quick_start.yaml")
    cfg.DATASETS.TRAIN = ("records",)
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.SOLVER.IMS_PER_BATCH = 2
    before = memory("self/status", "VmRSS")
    start = time.perf_counter()
    batches = iter(Trainer.build_train_loader(cfg))
    next(batches)
    seconds = time.perf_counter() - start
    workers = [process.pid for process in multiprocessing.active_children()]
    own = [memory(f"{pid}/smaps_rollup", "Private_Clean", "Private_Dirty") for pid in workers]
    result = {
        "seconds": seconds,
        "peak": memory("self/status", "VmHWM") - before,
        "main": memory("self/status", "VmRSS") - before,
        "worker": max(own),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
