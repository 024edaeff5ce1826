"""Figures: well-formed, to scale, and safe with any label."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from egoray.report.figures import answer_timeline, presence_timeline, runs, score_bars, share_bar

SVG = "{http://www.w3.org/2000/svg}"


def bars(svg: str, fill: str) -> list[tuple[float, float]]:
    """(start, width) in percent of every bar of this colour."""
    found = [r for r in ElementTree.fromstring(svg).iter(f"{SVG}rect") if r.get("fill") == fill]
    return [(float(r.get("x", "").rstrip("%")), float(r.get("width", "").rstrip("%"))) for r in found]


def test_runs_join_consecutive_frames() -> None:
    assert runs([7, 3, 4, 4, 5, 9]) == [(3, 6), (7, 8), (9, 10)]
    assert runs([]) == []


def test_bars_are_to_scale() -> None:
    svg = presence_timeline(200, 5.0, [("cup", "#E69F00", [(0, 50), (150, 200)], [(0, 100)])])
    assert bars(svg, "#E69F00") == [(0, 25), (75, 25)]
    assert (0, 50) in bars(svg, "currentColor")


def test_no_reference_draws_no_line() -> None:
    assert bars(presence_timeline(10, 5.0, [("cup", "#E69F00", [], None)]), "currentColor") == [(0, 100)]


@pytest.mark.parametrize(("num_frames", "last"), [(5, "1 s"), (300, "60 s"), (2400, "480 s"), (90_000, "18000 s")])
def test_axis_is_in_seconds_with_few_ticks(num_frames: int, last: str) -> None:
    root = ElementTree.fromstring(presence_timeline(num_frames, 5.0, []))
    ticks = [t.text for t in root.iter(f"{SVG}text")]
    assert ticks[0] == "0 s"
    assert ticks[-1] == last
    assert 2 <= len(ticks) <= 7


def test_labels_are_escaped_and_described() -> None:
    label = '<script>alert("x")</script> & more'
    svg = presence_timeline(50, 5.0, [(label, "#E69F00", [(5, 10)], None)])
    assert "<script" not in svg
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title") is not None
    assert root.findtext(f"{SVG}desc") == f"{label}: 1.0 to 2.0 s"


def test_scores_are_printed_times_100() -> None:
    svg = score_bars([("masks", 0.875), ("box", 0.5)], "Mean IoU")
    assert "87.5" in svg
    assert bars(svg, "var(--muted, #767676)") == [(0, 50)]


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(ValueError, match="timeline"):
        presence_timeline(0, 5.0, [])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        score_bars([("masks", 87.5)], "Mean IoU")


def test_an_answers_bars_are_to_scale() -> None:
    svg = answer_timeline(0.5, [(0, 10)], [("right", "#009E73", [(5, 10)]), ("hallucinated", "#CC79A7", [(15, 20)])], 20)
    assert (bars(svg, "#009E73"), bars(svg, "#CC79A7")) == ([(25, 25)], [(75, 25)])
    assert bars(svg, "currentColor") == [(0, 100), (0, 50), (0, 100)]
    assert [t.text for t in ElementTree.fromstring(svg).iter(f"{SVG}text")][-1] == "10 s"
    with pytest.raises(ValueError, match="needs frames"):
        answer_timeline(1.0, [], [], 0)


def test_shares_fill_the_bar() -> None:
    svg = share_bar([("right", "#009E73", 3), ("missed", "#7F7F7F", 1), ("boundary", "#F0E442", 0)], "Frames")
    assert (bars(svg, "#009E73"), bars(svg, "#7F7F7F"), bars(svg, "#F0E442")) == ([(0, 75)], [(75, 25)], [])
    assert bars(share_bar([("right", "#009E73", 0)], "Frames"), "#009E73") == []


def test_equal_bars_have_one_colour() -> None:
    svg = score_bars([("a", 0.5), ("b", 0.25)], "Scores", highlight=False)
    assert bars(svg, "var(--accent, #0072B2)") == [(0, 50), (0, 25)]
