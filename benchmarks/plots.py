"""Rows of growth as one plot. Matplotlib comes with Detectron2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from measure import Row

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def draw_growth(rows: Sequence[Row], path: Path) -> None:
    """A panel per axis of growth: cost, relative to that of the smallest size, against size."""
    axes = list(dict.fromkeys(row.axis for row in rows if row.series))
    if not axes:
        return
    figure, panels = plt.subplots(1, len(axes), figsize=(6 * len(axes), 5), squeeze=False)
    for axis, panel in zip(axes, panels[0], strict=True):
        chosen = [row for row in rows if row.axis == axis]
        for row in chosen:
            sizes, costs = zip(*row.series, strict=True)
            panel.plot(sizes, [cost / costs[0] for cost in costs], marker="o", label=row.name)
        sizes = [size for size, _ in chosen[0].series]
        linear = [size / sizes[0] for size in sizes]
        panel.plot(sizes, linear, color="black", linestyle="--", label="linear")
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="cost, of that of the smallest")
        panel.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
