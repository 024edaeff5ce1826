"""A run's curve as a small SVG: what the trials said on worlds that were not trained on, over the training time."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 560, 240, 40, 14, 34, 150
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def read_curve(path: Path, figure: str) -> list[tuple[float, float]]:
    """(minutes, value) of a figure in a run's ``curve.csv``, in order; empty where it has none."""
    with path.open() as file:
        return [(float(row["elapsed_s"]) / 60, float(row["value"])) for row in csv.DictReader(file) if row["figure"] == figure]


def draw_curves(lines: Mapping[str, Sequence[tuple[float, float]]], title: str, across: str = "minutes") -> str:
    """Named lines of (x, value), values in [0, 1], as one SVG; the empty case is the axes alone."""
    longest = max((points[-1][0] for points in lines.values() if points), default=1.0)
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img")
    SubElement(root, "title").text = title
    SubElement(root, "rect", width=str(_WIDTH), height=str(_HEIGHT), fill="white")
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(x: float, value: float) -> tuple[float, float]:
        return round(_LEFT + wide * x / longest, 1), round(_TOP + tall * (1 - value), 1)

    for tick in range(6):
        _, y = at(0, tick / 5)
        SubElement(root, "line", x1=str(_LEFT), x2=str(_LEFT + wide), y1=str(y), y2=str(y), stroke="#ddd")
        _label(root, _LEFT - 6, y + 4, f"{tick / 5:.1f}", "end")
        _label(root, at(longest * tick / 5, 0)[0], _HEIGHT - 16, f"{longest * tick / 5:.0f}", "middle")
    _label(root, _LEFT + wide / 2, _HEIGHT - 2, across, "middle")
    for number, (figure, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path_points = " ".join(f"{x},{y}" for x, y in (at(*point) for point in points))
        SubElement(root, "polyline", points=path_points, fill="none", stroke=colour, **{"stroke-width": "2"})
        _label(root, _LEFT + wide + 10, _TOP + 14 + 18 * number, figure, "start", colour)
    return tostring(root, encoding="unicode")


def _label(root: Element, x: float, y: float, text: str, anchor: str, colour: str = "#333") -> None:
    SubElement(root, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": "12", "fill": colour}).text = text
