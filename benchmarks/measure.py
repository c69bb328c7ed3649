"""The rows of the benchmarks, and how their time and memory are measured."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

MIB = 2**20
_FEWEST, _MOST = 3, 200  # repetitions
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@dataclass(frozen=True)
class Settings:
    """The settings of `run.py`.

    Args:
        device: "cpu" or "cuda".
        quick: use small sizes that only check that everything runs.
        folder: an empty folder to write to.
    """

    device: str
    quick: bool
    folder: Path


@dataclass(frozen=True)
class Row:
    """Ours against an alternative.

    Args:
        name: what was measured.
        compared: both sides, in words.
        ours, alternative: in ``unit``; the alternative is None if the bound is on ours alone.
        unit: of both.
        reach: the bound on the ratio, or on ours alone; None if the row is for information only.
        at_least: whether the bound is a lower one.
        axis, series: for rows of growth: what grows, and the measured points (size, cost).
    """

    name: str
    compared: str
    ours: float
    alternative: float | None
    unit: str
    reach: float | None
    at_least: bool = False
    axis: str = ""
    series: list[tuple[float, float]] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The quantity that the reach bounds."""
        return self.ours if self.alternative is None else self.ours / self.alternative

    @property
    def met(self) -> bool | None:
        """Whether the reach is met; None if there is none."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach


LINEAR = 1.1  # a reach of growth: no worse than linear, with room for noise
BOUNDED = 0.15  # a reach of no growth, between two sizes that differ by a factor of ten


def growth_row(
    name: str, axis: str, series: Sequence[tuple[float, float]], unit: str, reach: float
) -> Row:
    """How a cost grows with a size, between the two largest sizes.

    ``ours`` is the growth of the cost, ``alternative`` that of the size: a ratio of 1 is linear.
    `BOUNDED` assumes that the size grows by a factor of ten.

    Args:
        axis: what grows.
        series: (size, cost), ascending.
        unit: of the cost.
    """
    (size_0, cost_0), (size_1, cost_1) = series[-2:]
    sizes, costs = (", ".join(f"{x:.3g}" for x in column) for column in zip(*series, strict=True))
    return Row(
        name,
        f"{axis} {sizes}: {costs} {unit}",
        cost_1 / cost_0,
        size_1 / size_0,
        "times",
        reach,
        axis=axis,
        series=list(series),
    )


def in_turns(
    functions: Sequence[Callable[[], Any]], settings: Settings, seconds: float = 10
) -> list[float]:
    """The median time of each function, in seconds.

    They run in turns, so that other load on the machine affects all of them. On a CPU with one
    thread, CPU time is measured, which other programs disturb less than wall-clock time; on an idle
    machine the two are equal.

    Args:
        functions: what to time; each runs once before, which may compile, load or allocate.
        seconds: roughly how long to measure; every function runs at least three times (with
            ``quick``, once).
    """
    first = sum(_timed(function, settings.device) for function in functions)
    repeat = 1 if settings.quick else int(np.clip(seconds / max(first, 1e-9), _FEWEST, _MOST))
    times = [[_timed(function, settings.device) for function in functions] for _ in range(repeat)]
    return np.median(times, axis=0).tolist()


def _timed(function: Callable[[], Any], device: str) -> float:
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    _wait(device)
    start = clock()
    function()
    _wait(device)
    return clock() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(function: Callable[[], Any], settings: Settings) -> float:
    """Peak memory of a call beyond what was held before, in MiB.

    On a GPU, what PyTorch allocates there. Else resident memory of this process as Linux counts it,
    whoever allocates it; free memory is returned and the high-water mark reset before. The function
    should have run before: what is loaded or compiled once is not a cost of a call.
    """
    gc.collect()
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    libc = ctypes.CDLL(None)
    # Large arrays in pages of their own: a heap fragmented by earlier calls would add or hide some.
    libc.mallopt(_M_MMAP_THRESHOLD, 2**17)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): VmHWM = VmRSS
    before = memory("self/status", "VmHWM")
    function()
    peak = memory("self/status", "VmHWM") - before
    # The values that glibc would reach by itself: freed pages are kept.
    libc.mallopt(_M_MMAP_THRESHOLD, 2**25)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**26)
    return peak


def memory(file: str, *names: str) -> float:
    """The sum of the named entries of a file in /proc, in MiB."""
    text = Path("/proc", file).read_text()
    return sum(int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) for name in names) / 1024


def activations(function: Callable[[], Any], module: torch.nn.Module) -> float:
    """Memory that a forward pass saves for the backward pass, without parameters, in MiB."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = function()
    del output  # held until here, so that no memory is freed and reused
    return sum(kept.values()) / MIB


def compare(
    name: str,
    compared: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    settings: Settings,
    *,
    time_reach: float | None,
    memory_reach: float | None = None,
    per: int = 1,
    seconds: float = 10,
) -> list[Row]:
    """Rows of time and, with a ``memory_reach``, of peak memory.

    Args:
        per: divisor of the time, for a time per image or region.
    """
    a, b = (1000 * t / per for t in in_turns([ours, theirs], settings, seconds))
    rows = [Row(f"{name}, time", compared, a, b, "ms", time_reach)]
    if memory_reach is not None:
        a, b = (peak_memory(function, settings) for function in (ours, theirs))
        rows.append(Row(f"{name}, peak memory", compared, a, b, "MiB", memory_reach))
    return rows
