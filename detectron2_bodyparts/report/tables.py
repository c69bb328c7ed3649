"""The results of `metrics.evaluate` as tables that explain each number."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..metrics.pose import PCK_THRESHOLD

_PCK = f"PCK@{PCK_THRESHOLD}"
_NAME_WIDTH = 24
_LINE_LENGTH = 100


@dataclass(frozen=True)
class Table:
    """Numbers in percent, nan without ground truth; ``str()`` gives plain text.

    Args:
        title: the table's title.
        columns: column headings.
        rows: (name, one number per column) each.
        notes: (term, explanation) each.
        of_channels: whether rows are named after channels.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]
    notes: tuple[tuple[str, str], ...]
    of_channels: bool = False

    def __str__(self) -> str:
        widths = [max(len(column), 6) + 2 for column in self.columns]

        def line(name: str, words: Sequence[str]) -> str:
            columns = zip(words, widths, strict=True)
            return f"{name:<{_NAME_WIDTH}}" + "".join(f"{w:>{width}}" for w, width in columns)

        rows = [line(name, [percent(value) for value in values]) for name, values in self.rows]
        notes = [
            textwrap.fill(
                f"{term}: {meaning}", _LINE_LENGTH, initial_indent="  ", subsequent_indent="    "
            )
            for term, meaning in self.notes
        ]
        return "\n".join([self.title, line("", self.columns), *rows, *notes])


def percent(value: float) -> str:
    """One decimal place; ``-`` for nan."""
    return "-" if math.isnan(value) else f"{value:.1f}"


def result_tables(results: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """The tables of the groups of `metrics.evaluate` that are in the results."""
    tables = []
    if "parts" in results:
        tables.append(_ap_table(results))
    if "parsing" in results:
        tables += [_parsing_table(results["parsing"]), _class_table(results["parsing"])]
    if "pck" in results:
        tables.append(_pck_table(results["pck"]))
    if "sides" in results:
        tables.append(_sides_table(results["sides"]))
    return tables


def _ap_table(results: Mapping[str, Mapping[str, float]]) -> Table:
    columns = ("AP", "AP50", "AP75")

    def row(name: str, group: str, suffix: str = "") -> tuple[str, tuple[float, ...]]:
        return name, tuple(results[group][column + suffix] for column in columns)

    return Table(
        "Average precision (COCO)",
        columns,
        (
            row("box", "bbox"),
            row("body", "body"),
            row("mean of parts", "parts"),
            *(row(part, "parts", f"-{part}") for part in _names(results["parts"], "AP-")),
            row("joints", "keypoints"),
        ),
        (
            ("AP", "pycocotools' own, mean over IoU 0.50:0.95; of joints over OKS"),
            ("AP50, AP75", "at IoU (OKS) 0.5 and 0.75"),
            ("body, parts", "each channel's masks by themselves, with the person's score"),
            ("unknown", "people in whom a channel is unknown are ignore regions for it"),
        ),
        of_channels=True,
    )


def _parsing_table(parsing: Mapping[str, float]) -> Table:
    kinds = ("official", "strict")
    rows = [(name, (parsing[name],)) for name in ("mIoU", "APp_50", "APp_vol", "PCP_50")]
    for name in ("APr_50", "APr_vol", "APh"):
        rows += [(f"{name} {kind}", (parsing[f"{name}_{kind}"],)) for kind in kinds]
    return Table(
        "Human parsing",
        ("percent",),
        tuple(rows),
        (
            (
                "mIoU",
                "mean IoU of the classes and the background over all pixels; people of score"
                f" {parsing['mIoU_paint_threshold']:g} and more are painted",
            ),
            (
                "APp",
                "people by the mean IoU of their parts: _50 at 0.5, _vol mean over 0.1 ... 0.9",
            ),
            ("PCP_50", "share of a true person's parts found with IoU above 0.5"),
            ("APr", "each part of each person by its IoU: _50 at 0.5, _vol mean over 0.1 ... 0.9"),
            ("APh", "silhouettes, mean over IoU 0.50:0.95"),
            ("official", "as the published scripts count: duplicates are right, 100 may be passed"),
            ("strict", "one to one: of several that find the same, the surest is right"),
        ),
    )


def _class_table(parsing: Mapping[str, float]) -> Table:
    keys = ("APr_50_official", "APr_50_strict", "APr_vol_official", "APr_vol_strict")
    return Table(
        "Human parsing by class",
        ("IoU", *(key.replace("_o", " o").replace("_s", " s") for key in keys)),
        tuple(
            (
                name,
                (parsing[f"IoU-{name}"], *(parsing.get(f"{k}-{name}", math.nan) for k in keys)),
            )
            for name in _names(parsing, "IoU-")
        ),
        (),
        of_channels=True,
    )


def _pck_table(pck: Mapping[str, float]) -> Table:
    references = [name for name in ("bbox", "torso") if f"{_PCK}_{name}" in pck]
    rows = [("all joints", ""), *((name, f"-{name}") for name in _names(pck, f"{_PCK}_bbox-"))]
    return Table(
        _PCK,
        tuple(references),
        tuple(
            (name, tuple(pck[f"{_PCK}_{reference}{suffix}"] for reference in references))
            for name, suffix in rows
        ),
        (
            (
                _PCK,
                f"labelled joints found within {PCK_THRESHOLD} of a reference length of the truth",
            ),
            ("bbox", "the reference is the longer side of the person's true box"),
            ("torso", "the reference is the distance from left shoulder to right hip"),
            ("people", "matched by box IoU, at least 0.5; all joints of missed people are wrong"),
        ),
    )


def _sides_table(sides: Mapping[str, float]) -> Table:
    names = _names(sides, "confusion-")
    return Table(
        f"Left and right ({sides['pairs']:.0f} pairs judged)",
        ("swapped",),
        (
            ("all pairs", (sides["confusion"],)),
            *((name, (sides[f"confusion-{name}"],)) for name in names),
        ),
        (
            (
                "swapped",
                "pairs whose predicted left lies rather on the true right; of people matched at"
                " IoU 0.5, where both sides are there in truth and prediction",
            ),
        ),
    )


def _names(results: Mapping[str, float], prefix: str) -> Sequence[str]:
    return [key.removeprefix(prefix) for key in results if key.startswith(prefix)]
