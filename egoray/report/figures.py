"""The report's figures as inline SVG: no script, no fixed width, colours that follow the page's light or dark scheme.

Positions along x are percentages and text sizes are pixels, so that a figure fits a telephone and a wide screen without its
letters shrinking.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

Intervals = Sequence[tuple[int, int]]
"""Half-open frame ranges, ascending."""

_LABEL_LENGTH = 44  # characters that fit beside nothing at 390 px
_AXIS_PX = 24
_TICKS_S = (0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    """The half-open ranges of consecutive frames, ascending; empty without frames."""
    found: list[tuple[int, int]] = []
    for frame in sorted(set(frames)):
        if found and found[-1][1] == frame:
            found[-1] = (found[-1][0], frame + 1)
        else:
            found.append((frame, frame + 1))
    return found


def presence_timeline(num_frames: int, fps: float, rows: Sequence[tuple[str, str, Intervals, Intervals | None]]) -> str:
    """When each object is there, as an SVG with an axis in seconds; the empty case is a figure of the axis alone.

    Args:
        num_frames: length of the axis, in annotation frames.
        fps: annotation frames per second.
        rows: an object each: label, CSS colour, the intervals with a mask (thick bar), and those of the reference
            (thin line below), or None where there is none.

    Raises:
        ValueError: if ``num_frames`` or ``fps`` is not positive.
    """
    if num_frames <= 0 or fps <= 0:
        raise ValueError(f"a timeline needs frames and a rate, got {num_frames} frames at {fps} fps")
    row_px = 42
    duration_s = num_frames / fps
    svg = _figure(
        row_px * len(rows) + _AXIS_PX,
        f"When each object is visible, over {duration_s:.1f} s",
        "; ".join(f"{label}: {_spoken(predicted, fps)}" for label, _, predicted, _ in rows) or "no objects",
    )
    for i, (label, colour, predicted, reference) in enumerate(rows):
        top = i * row_px
        _text(svg, "0", top + 14, label)
        _bar(svg, (0, 1), top + 20, 10, "currentColor").set("fill-opacity", "0.08")
        for start, stop in predicted:
            bar = _bar(svg, (start / num_frames, (stop - start) / num_frames), top + 20, 10, colour)
            bar.set("stroke", colour)  # keeps a single frame of a long clip visible
            SubElement(bar, "title").text = f"{label}: {start / fps:.1f} to {stop / fps:.1f} s"
        for start, stop in reference or ():
            _bar(svg, (start / num_frames, (stop - start) / num_frames), top + 33, 3, "currentColor").set("fill-opacity", "0.55")
    _axis(svg, row_px * len(rows), duration_s)
    return tostring(svg, encoding="unicode")


def score_bars(rows: Sequence[tuple[str, float]], title: str, *, highlight: bool = True) -> str:
    """Horizontal bars of scores in [0, 1], printed times 100 as in the tables.

    The first is drawn in the accent colour and the others are muted; all in the accent colour without ``highlight``.

    Raises:
        ValueError: if a score lies outside [0, 1].
    """
    if any(not 0 <= score <= 1 for _, score in rows):
        raise ValueError(f"scores lie in [0, 1], got {[score for _, score in rows]}")
    row_px = 36
    svg = _figure(row_px * len(rows), title, "; ".join(f"{label}: {100 * score:.1f}" for label, score in rows))
    for i, (label, score) in enumerate(rows):
        _text(svg, "0", i * row_px + 13, label)
        _text(svg, "100%", i * row_px + 13, f"{100 * score:.1f}", anchor="end")
        _bar(svg, (0, 1), i * row_px + 19, 8, "currentColor").set("fill-opacity", "0.08")
        _bar(svg, (0, score), i * row_px + 19, 8, "var(--accent, #0072B2)" if i == 0 or not highlight else "var(--muted, #767676)")
    return tostring(svg, encoding="unicode")


def answer_timeline(frame_s: float, gold: Intervals, predicted: Sequence[tuple[str, str, Intervals]], num_frames: int) -> str:
    """When an object is visible and when it was predicted, as an SVG of two bars above an axis in seconds.

    Args:
        frame_s: seconds from frame to frame.
        gold: the frames where the truth shows the object.
        predicted: what the second bar is made of: name, CSS colour and frames of each part, which do not overlap.
        num_frames: length of the axis.

    Raises:
        ValueError: if ``num_frames`` or ``frame_s`` is not positive.
    """
    if num_frames <= 0 or frame_s <= 0:
        raise ValueError(f"a timeline needs frames and a rate, got {num_frames} frames of {frame_s} s")
    parts = "; ".join(f"{name}: {_spoken(frames, 1 / frame_s)}" for name, _, frames in predicted)
    svg = _figure(2 * 36 + 6 + _AXIS_PX, "The object's frames, and the predicted ones", f"visible: {_spoken(gold, 1 / frame_s)}; {parts}")
    rows = (("truth", [("visible", "currentColor", gold)]), ("predicted", predicted))
    for i, (label, bars) in enumerate(rows):
        _text(svg, "0", 36 * i + 13, label)
        _bar(svg, (0, 1), 36 * i + 19, 10, "currentColor").set("fill-opacity", "0.08")
        for name, colour, frames in bars:
            for start, stop in frames:
                bar = _bar(svg, (start / num_frames, (stop - start) / num_frames), 36 * i + 19, 10, colour)
                bar.set("stroke", colour)  # keeps a single frame of a long clip visible
                SubElement(bar, "title").text = f"{name}: {start * frame_s:g} to {stop * frame_s:g} s"
    _axis(svg, 2 * 36 + 6, num_frames * frame_s)
    return tostring(svg, encoding="unicode")


def share_bar(parts: Sequence[tuple[str, str, int]], title: str) -> str:
    """One bar divided by counts: name, CSS colour and count of each part; an empty bar where all are 0."""
    total = sum(count for _, _, count in parts)
    svg = _figure(18, title, "; ".join(f"{name}: {count}" for name, _, count in parts))
    _bar(svg, (0, 1), 2, 14, "currentColor").set("fill-opacity", "0.08")
    before = 0
    for name, colour, count in parts:
        if count:
            SubElement(_bar(svg, (before / total, count / total), 2, 14, colour), "title").text = f"{name}: {count}"
            before += count
    return tostring(svg, encoding="unicode")


def _figure(height_px: int, title: str, description: str) -> Element:
    style = "display:block;font:13px system-ui,sans-serif"
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "width": "100%", "height": str(height_px), "role": "img", "style": style})
    SubElement(svg, "title").text = title
    SubElement(svg, "desc").text = description
    return svg


def _bar(svg: Element, span: tuple[float, float], y: int, height: int, fill: str) -> Element:
    """A bar from ``span[0]`` over ``span[1]``, both shares of the width."""
    at = {"x": f"{100 * span[0]:.3f}%", "width": f"{100 * span[1]:.3f}%", "y": str(y), "height": str(height)}
    return SubElement(svg, "rect", {**at, "fill": fill})


def _text(svg: Element, x: str, y: int, text: str, anchor: str = "start") -> None:
    short = text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"
    SubElement(svg, "text", {"x": x, "y": str(y), "fill": "currentColor", "text-anchor": anchor}).text = short


def _axis(svg: Element, y: int, duration_s: float) -> None:
    """At most seven ticks at round seconds, the last one clear of the right border."""
    step = next((s for s in _TICKS_S if duration_s / s <= 6), duration_s / 6)
    for i in range(math.floor(duration_s / step) + 1):
        x = f"{100 * i * step / duration_s:.3f}%"
        SubElement(svg, "line", {"x1": x, "x2": x, "y1": "0", "y2": str(y + 4), "stroke": "currentColor", "stroke-opacity": "0.15"})
        anchor = "start" if i == 0 else "end" if i * step > 0.95 * duration_s else "middle"
        _text(svg, x, y + 18, f"{i * step:g} s", anchor)


def _spoken(intervals: Intervals, fps: float) -> str:
    return ", ".join(f"{start / fps:.1f} to {stop / fps:.1f} s" for start, stop in intervals) or "never"
