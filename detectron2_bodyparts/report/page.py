"""A self-contained HTML page: tables, charts as SVG, images as data URIs."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..drawing import JOINT_THRESHOLD, draw_annotations
from ..metrics.coco_ap import CURVE_IOU, RECALLS, precision_curves
from ..metrics.parsing import confusion_matrix
from ..records import Records
from ..schema import BODY, SIDES, PartSchema
from .examples import Comparison, Person, Swap, compare, surest_swaps, worst_and_best
from .tables import Table, percent, result_tables

ReadPicture = Callable[[Mapping[str, Any]], np.ndarray | None]

_PICTURE_SIDE = 480  # maximum pixels of the longer side of a drawn image
_PERSON_SIDE = 240  # the same for the drawing of one person
_PERSON_MARGIN = 0.15  # around one person, as a fraction of the longer side of the box
_LARGEST = 2000  # maximum side of an image that is enlarged so that one person fills _PERSON_SIDE
_JPEG_QUALITY = 80
_CHART = (560, 380)  # width, height
_MARGINS = (50, 10, 12, 40)  # of the chart: left, right, top, bottom

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1e1e1e; max-width: 1120px;
  margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: .3em 0; white-space: nowrap; }
th, td { padding: .12em .7em; text-align: right; border-bottom: 1px solid #e4e4e4; }
th:first-child { text-align: left; font-weight: normal; }
thead th { border-bottom: 1px solid #888; }
dl { font-size: 13px; margin: .5em 0; max-width: 34em; }
dt { float: left; clear: left; font-weight: bold; margin-right: .5em; }
dd { margin: 0; color: #444; }
.settings td { text-align: left; overflow-wrap: anywhere; }
.tables, .chart, .key { display: flex; flex-wrap: wrap; gap: .5em 3em; align-items: flex-start; }
.tables > section { break-inside: avoid; margin-bottom: 1em; }
.key { gap: .2em 1.2em; font-size: 13px; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .4em;
  border: 1px solid #1e1e1e; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr));
  gap: 1.2em; }
.people { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
.pair { display: flex; gap: 4px; }
.pair > * { flex: 1; min-width: 0; }
.pair svg { width: 100%; height: auto; display: block; background: #1e1e1e; }
.people .pair svg { height: 200px; }
.empty { background: #eee; color: #a04000; padding: 2em 1em; text-align: center;
  overflow-wrap: anywhere; }
.label { font: bold 12px sans-serif; fill: #fff; stroke: #000; stroke-width: 3px;
  paint-order: stroke; }
.found { fill: none; stroke: #fff; stroke-width: 1.5; }
.missed { fill: none; stroke: #ff3020; stroke-width: 3; stroke-dasharray: 7 4; }
.false { fill: none; stroke: #ff40ff; stroke-width: 3; }
.excused { fill: none; stroke: #bbb; stroke-width: 1.5; stroke-dasharray: 2 3; }
@media print { body { margin: 0; max-width: none; font-size: 12px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def report_page(
    records: Records,
    predictions: Sequence[Person],
    results: Mapping[str, Mapping[str, float]],
    read_picture: ReadPicture,
    *,
    title: str,
    paint_threshold: float,
    examples: int,
    settings: Mapping[str, str],
) -> str:
    """Render the page.

    Args:
        records, predictions: as for `metrics.evaluate`.
        results: its results.
        read_picture: an entry of `Records.images` -> (H, W, 3) BGR uint8, or None if the image
            cannot be read: the page then names it and leaves its place empty.
        title: the page's heading.
        paint_threshold: people with a lower score are neither painted nor drawn.
        examples: number of worst images, of best images, and of swapped pairs to draw.
        settings: name -> value, listed at the end.

    Returns:
        ASCII HTML that loads nothing from elsewhere.
    """
    schema = records.part_schema
    comparisons = compare(records, predictions, threshold=paint_threshold)
    worst, best = worst_and_best(comparisons, examples)
    swaps = surest_swaps(comparisons, examples)
    matrix = confusion_matrix(records, predictions, paint_threshold=paint_threshold)
    draw = _Drawing(records, read_picture)

    people = sum(not a["iscrowd"] for a in records.annotations)
    counts = {
        "part schema": schema.name,
        "keypoint schema": records.keypoint_schema.name,
        "pictures": str(len(records.images)),
        "people": str(people),
        "predictions": str(len(predictions)),
    }
    drawn = (
        f"People of score {paint_threshold:g} and more are drawn. Pictures are ranked by the mean"
        " part IoU of their people, in which each person who was missed and each false alarm"
        " counts 0. Left the truth, right what was found; the number after the colon is a"
        " person&#8217;s mean part IoU. Bones and joints of the right side are orange, of the left"
        " cyan. The squares above a person are the channels: filled known, hollow unknown, a bar"
        " empty."
    )
    swap_count = sum(len(c.swaps) for c in comparisons)
    body = [
        f"<header><h1>{escape(title)}</h1>"
        f"<p>{len(records.images)} pictures, {people} people, {len(predictions)} predictions."
        " All results in percent; &#8220;-&#8221;: no truth to judge by.</p></header>",
        "<section id='results'><h2>Results</h2><div class='tables'>",
        *(_table(table, schema) for table in result_tables(results)),
        "</div></section>",
        "<section id='curves'><h2>Precision and recall of each part</h2>"
        f"<p>At mask IoU {CURVE_IOU:g}, all scores; the area under a curve is AP50.</p>",
        _curves(precision_curves(records, predictions), schema),
        "</section>",
        "<section id='confusion'><h2>Which part is taken for which</h2><p>Pixels of each true part"
        " (row) by what was painted there (column), in percent of the row. People of score"
        f" {paint_threshold:g} and more are painted; it is the matrix that mIoU is computed"
        " from.</p>",
        _matrix(matrix, schema),
        "</section>",
        f"<section id='worst'><h2>The worst pictures</h2><p>{drawn}</p>",
        _part_key(schema),
        _frame_key(),
        _pictures((draw.picture(c) for c in worst), "There is nothing to judge."),
        "</section><section id='best'><h2>The best pictures</h2>",
        _pictures((draw.picture(c) for c in best), "There are no more pictures."),
        "</section><section id='swaps'><h2>Left taken for right</h2>"
        f"<p>{swap_count} pairs whose predicted left lies rather on the true right; drawn are"
        f" {len(swaps)}, those of the greatest score. Left the truth, right what was found; only"
        " this pair is painted.</p>",
        _part_key(schema),
        _pictures((draw.swap(*found) for found in swaps), "There is none.", "people"),
        "</section><section id='settings'><h2>Settings and versions</h2>"
        "<table class='settings'><tbody>",
        *(
            f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
            for name, value in {**settings, **counts}.items()
        ),
        "</tbody></table></section>",
    ]
    page = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )
    return page.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _table(table: Table, schema: PartSchema) -> str:
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in table.columns)
    rows = "".join(
        f"<tr>{_row_heading(name, schema if table.of_channels else None)}"
        + "".join(f"<td>{percent(value)}</td>" for value in values)
        + "</tr>"
        for name, values in table.rows
    )
    notes = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in table.notes
    )
    return (
        f"<section><table><caption>{escape(table.title)}</caption><thead><tr><th></th>{head}</tr>"
        f"</thead><tbody>{rows}</tbody></table><dl>{notes}</dl></section>"
    )


def _row_heading(name: str, schema: PartSchema | None) -> str:
    """The name, with its colour if it is a channel of the schema."""
    swatch = _swatch(name, schema) if schema is not None and name in schema.channels else ""
    return f"<th scope='row'>{swatch}{escape(name)}</th>"


def _swatch(name: str, schema: PartSchema) -> str:
    return f"<span class='swatch' style='background:{_color(name, schema)}'></span>"


def _color(channel: str, schema: PartSchema) -> str:
    return "#" + "".join(f"{v:02x}" for v in schema.colors[schema.index(channel)])


def _part_key(schema: PartSchema) -> str:
    parts = [f"<span>{_swatch(part, schema)}{escape(part)}</span>" for part in schema.parts]
    return f"<p class='key'>{''.join(parts)}</p>"


def _frame_key() -> str:
    kinds = [
        ("found", "found"),
        ("missed", "missed person"),
        ("false", "false alarm"),
        ("excused", "not judged: people there need not be labelled"),
    ]
    frames = [
        "<span><svg width='16' height='14'><rect width='16' height='14' fill='#777'/>"
        f"<rect class='{kind}' x='2' y='2' width='12' height='10'/></svg> {words}</span>"
        for kind, words in kinds
    ]
    return f"<p class='key'>{''.join(frames)}</p>"


def _curves(curves: Mapping[str, np.ndarray], schema: PartSchema) -> str:
    width, height = _CHART
    left, right, top, bottom = _MARGINS

    def at(recall: float, precision: float) -> tuple[float, float]:
        return (
            left + recall * (width - left - right),
            height - bottom - precision * (height - top - bottom),
        )

    marks = []
    for i in range(6):
        x, y = at(i / 5, i / 5)
        (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
        marks.append(
            f"<path d='M{x:g} {y0:g}V{y1:g}M{x0:g} {y:g}H{x1:g}' stroke='#ddd'/>"
            f"<text x='{x:g}' y='{y0 + 16:g}' text-anchor='middle'>{20 * i}</text>"
            f"<text x='{x0 - 6:g}' y='{y + 4:g}' text-anchor='end'>{20 * i}</text>"
        )
    rows = []
    for channel, precision in curves.items():
        style = f"fill='none' stroke='{_color(channel, schema)}' stroke-width='2.5'"
        if channel.startswith(f"{SIDES[1]}_"):
            style += " stroke-dasharray='7 4'"
        known = not np.isnan(precision).any()
        if known:
            points = " ".join(
                "{:.1f},{:.1f}".format(*at(*point))
                for point in zip(RECALLS, precision, strict=True)
            )
            marks.append(
                f"<polyline points='{points}' {style}><title>{escape(channel)}</title></polyline>"
            )
        line = f"<svg width='34' height='10'><path d='M0 5H34' {style}/></svg>"
        area = percent(100 * float(precision.mean())) if known else "-"
        rows.append(f"<tr><th scope='row'>{line} {escape(channel)}</th><td>{area}</td></tr>")
    return (
        f"<div class='chart'><svg viewBox='0 0 {width} {height}' width='{width}' role='img'"
        " aria-label='Precision by recall of each part' font-size='12' font-family='sans-serif'>"
        f"{''.join(marks)}<text x='{width / 2:g}' y='{height - 6}' text-anchor='middle'>recall,"
        f" %</text><text x='14' y='{height / 2:g}' text-anchor='middle'"
        f" transform='rotate(-90 14 {height / 2:g})'>precision, %</text></svg>"
        "<table><thead><tr><th></th><th scope='col'>AP50</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _matrix(matrix: np.ndarray, schema: PartSchema) -> str:
    names = ("background", *schema.parts)
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = int(counts.sum())
        cells = []
        for count in counts:
            share = 100 * count / total if total else math.nan
            depth = 0.0 if total == 0 else share / 100
            ink = "#fff" if depth > 0.6 else "#1e1e1e"
            style = f"background:rgba(40,90,220,{depth:.2f});color:{ink}"
            cells.append(f"<td style='{style}'>{percent(share)}</td>")
        rows.append(f"<tr>{_row_heading(name, schema)}{''.join(cells)}<td>{total}</td></tr>")
    return (
        f"<table><thead><tr><th>truth</th>{head}<th scope='col'>pixels</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _pictures(figures: Iterable[str], otherwise: str, kind: str = "") -> str:
    drawn = "".join(figures)
    return f"<div class='pictures {kind}'>{drawn}</div>" if drawn else f"<p>{otherwise}</p>"


class _Mark(NamedTuple):
    """A frame around a person in a drawn image."""

    kind: str  # one of the style sheet's classes
    person: Person
    label: str = ""


@dataclass(frozen=True)
class _Drawing:
    """Figures of the examples: ground truth and predictions side by side."""

    records: Records
    read_picture: ReadPicture

    def picture(self, comparison: Comparison) -> str:
        """A whole image, with matches, missed people and false alarms marked."""
        matches, image = comparison.matches, comparison.image
        true_marks, found_marks = [], []
        for i, match in enumerate(matches, start=1):
            iou = "-" if math.isnan(match.iou) else f"{match.iou:.2f}"
            true_marks.append(_Mark("found", match.person, str(i)))
            found_marks.append(_Mark("found", match.prediction, f"{i}: {iou}"))
        true_marks += [_Mark("missed", person) for person in comparison.missed]
        found_marks += [_Mark("false", p) for p in comparison.false_alarms]
        found_marks += [_Mark("excused", p) for p in comparison.excused]
        true_people = [a for a in self.records.annotations if a["image_id"] == image["id"]]
        found_people = [self._annotation(mark.person) for mark in found_marks]
        words = (
            f"mean part IoU {comparison.quality:.2f}; {len(matches)} found,"
            f" {len(comparison.missed)} missed, {len(comparison.false_alarms)} false alarms"
        )
        picture, fault = self._read(image)
        if picture is None:
            return _figure([_empty(fault)], image, words)
        scale = min(_PICTURE_SIDE / max(picture.shape[:2]), 1.0)
        drawings = (
            _svg(self._draw(picture, people, scale), scale, marks)
            for people, marks in ((true_people, true_marks), (found_people, found_marks))
        )
        return _figure(drawings, image, words)

    def swap(self, comparison: Comparison, swap: Swap) -> str:
        """One person with only the pair painted."""
        image = comparison.image
        words = (
            f"{swap.pair.name}: IoU of the predicted left with the true right"
            f" {swap.pair.to_right:.2f}, with the true left {swap.pair.to_left:.2f};"
            f" score {swap.prediction['score']:.2f}"
        )
        picture, fault = self._read(image)
        if picture is None:
            return _figure([_empty(fault)], image, words)
        people = (swap.person, self._annotation(swap.prediction))
        x0, y0, x1, y1 = _window([p["bbox"] for p in people], picture.shape[:2])
        scale = min(_PERSON_SIDE / max(x1 - x0, y1 - y0), _LARGEST / max(picture.shape[:2]))
        drawings = []
        for person in people:
            drawn = self._draw(picture, [self._only(person, swap.pair.name)], scale)
            rows, columns = (
                slice(int(a * scale), math.ceil(b * scale)) for a, b in ((y0, y1), (x0, x1))
            )
            drawings.append(_svg(drawn[rows, columns], scale, []))
        return _figure(drawings, image, words)

    def _read(self, image: Mapping[str, Any]) -> tuple[np.ndarray | None, str]:
        picture = self.read_picture(image)
        expected = (image["height"], image["width"])
        if picture is None:
            return None, "not a readable picture"
        if picture.shape[:2] != expected:
            return None, f"expected a picture of {expected}, found {picture.shape[:2]}"
        return picture, ""

    def _draw(self, picture: np.ndarray, people: Sequence[Person], scale: float) -> np.ndarray:
        height, width = picture.shape[:2]
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(picture, size, interpolation=method)
        return draw_annotations(
            small,
            people,
            self.records.part_schema,
            self.records.keypoint_schema,
            boxes=False,
            size=(height, width),
        )

    def _annotation(self, prediction: Person) -> dict[str, Any]:
        """The prediction as an annotation for `drawing.draw_annotations`."""
        joints = np.zeros((len(self.records.keypoint_schema), 3))
        if prediction.get("keypoints"):
            joints = np.array(prediction["keypoints"], dtype=float).reshape(-1, 3)
            joints[:, 2] = np.where(joints[:, 2] >= JOINT_THRESHOLD, 2, 0)
        return {
            **prediction,
            "iscrowd": 0,
            "part_segmentation": prediction.get("part_segmentation", {}),
            "part_state": dict.fromkeys(self.records.part_schema.channels, "known"),
            "keypoints": joints.ravel().tolist(),
        }

    def _only(self, person: Person, pair: str) -> dict[str, Any]:
        """The person without keypoints and without parts other than the pair."""
        schema = self.records.part_schema
        names = [schema.channels[i] for i in schema.unions[pair]]
        kept = {k: v for k, v in person.items() if k not in ("unsided", "ignore_segmentation")}
        return {
            **kept,
            "part_segmentation": {name: person["part_segmentation"][name] for name in names},
            "part_state": {k: v for k, v in person["part_state"].items() if k in (BODY, *names)},
            "keypoints": [0] * 3 * len(self.records.keypoint_schema),
        }


def _window(
    boxes: Sequence[Sequence[float]], shape: tuple[int, int]
) -> tuple[float, float, float, float]:
    """XYXY of the hull of the XYWH boxes plus a margin, clipped to the image."""
    x0, y0 = (min(box[i] for box in boxes) for i in (0, 1))
    x1, y1 = (max(box[i] + box[i + 2] for box in boxes) for i in (0, 1))
    margin = _PERSON_MARGIN * max(x1 - x0, y1 - y0)
    return (
        max(x0 - margin, 0),
        max(y0 - margin, 0),
        min(x1 + margin, shape[1]),
        min(y1 + margin, shape[0]),
    )


def _figure(drawings: Iterable[str], image: Mapping[str, Any], words: str) -> str:
    return (
        f"<figure><div class='pair'>{''.join(drawings)}</div>"
        f"<figcaption><b>{escape(image['file_name'])}</b><br>{escape(words)}</figcaption></figure>"
    )


def _empty(fault: str) -> str:
    return f"<div class='empty'>{escape(fault)}</div>"


def _svg(image: np.ndarray, scale: float, marks: Sequence[_Mark]) -> str:
    """A drawn image, (h, w, 3) uint8, ``scale`` times the original, with frames over it."""
    height, width = image.shape[:2]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    uri = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    frames, words = [], []
    for mark in marks:
        x, y, w, h = (scale * v for v in mark.person["bbox"])
        frames.append(
            f"<rect class='{mark.kind}' x='{x:.1f}' y='{y:.1f}' width='{w:.1f}' height='{h:.1f}'/>"
        )
        words.append(
            f"<text class='label' x='{x + 3:.1f}' y='{min(y + h - 4, height - 4):.1f}'>"
            f"{escape(mark.label)}</text>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img'>"
        f"<image href='{uri}' width='{width}' height='{height}'/>"
        f"{''.join(frames)}{''.join(words)}</svg>"
    )
