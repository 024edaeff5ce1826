"""The page: whole in one file, safe with any title, honest about what is missing."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from egoray.core.storage import Folder
from egoray.core.workfolder import write_failure
from egoray.errors import ConfigError
from egoray.report import html
from egoray.report.html import write_report
from egoray.schema import FailureRow
from support.annotated import write_annotated

HOSTILE = ('<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }} & 'quoted'")


class Page(HTMLParser):
    """Every start tag with its attributes, and the text."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(write_annotated(tmp_path_factory.mktemp("annotated"), titles=HOSTILE))


def row(**values: float | None) -> dict:
    ids = {"video_id": "clip-0", "object_id": "1", "title": "red cup", "num_gold": 4, "num_pred": 3}
    return {**ids, "iou_gold_pred": 0.5, "box_fill_iou_gold": 0.75, "ellipse_iou_gold": 0.8, **values}


def test_one_file_is_the_whole_page(work: Folder, tmp_path: Path) -> None:
    path = write_report(work, str(tmp_path / "report.html"))
    page = Page(path)
    sources = [a["src"] or "" for name in ("img", "video") for a in page.all(name)] + [a["poster"] or "" for a in page.all("video")]
    assert len(sources) == 2 + 18 + 2
    assert all(source.startswith("data:") for source in sources)
    assert not page.all("link") + page.all("script") + page.all("iframe")
    assert f"egoray review --annotations {work.uri}" in page.text
    assert set(re.findall(r"https?://[^\"' <]+", Path(path).read_text())) <= {"http://www.w3.org/2000/svg"}
    movie = base64.b64decode((page.all("video")[0]["src"] or "").removeprefix("data:video/mp4;base64,"))
    assert movie == (tmp_path / "overlays" / "clip-0.mp4").read_bytes()
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == [f"clip-{i}_{n}.png" for i in range(2) for n in (1, 2, 3)]


def test_titles_cannot_become_markup(work: Folder, tmp_path: Path) -> None:
    scores = {"rows": [row(iou_gold=0.9, title=HOSTILE[0])], "means": {"iou_gold": 0.9}}
    page = Page(write_report(work, str(tmp_path / "report.html"), scores=scores, title=HOSTILE[1]))
    assert not page.all("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all((a["src"] or "").startswith("data:") for a in page.all("img"))
    for title in HOSTILE:
        assert title in page.text


def test_the_same_folder_gives_the_same_page(work: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "_EMBEDDED_BYTES", 0)  # the page's own bytes, not the encoder's
    first, second = (write_report(work, str(tmp_path / name / "report.html")) for name in "ab")
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_figures_of_the_run_and_lost_units_are_shown(tmp_path: Path) -> None:
    work = Folder(write_annotated(tmp_path / "run", clips=1))
    for name, retryable in (("a", True), ("b", False)):
        write_failure(
            work,
            name,
            FailureRow(stage="annotate", unit=f"clip-{name}:0-9", error="FormatError", message="cut off", attempt=1, retryable=retryable),
        )
    page = Page(write_report(work, str(tmp_path / "report.html")))
    text = " ".join(page.text.split())
    for expected in (
        "units done 1 of 1",
        "frames per second 31.4",
        "clip-a:0-9 FormatError : cut off Run the same command with --retry-failed",
    ):
        assert expected in text
    assert "clip-b:0-9 FormatError : cut off Mend the input" in text


def test_scores_are_in_percent_and_a_missing_one_is_a_dash(work: Folder, tmp_path: Path) -> None:
    scores = {"rows": [row(iou_gold=0.9125), row(iou_gold=None)], "means": {"iou_gold": 0.9125, "box_fill_iou_gold": 0.75}}
    page = Page(write_report(work, str(tmp_path / "report.html"), scores=scores))
    cells = [a.get("data-name") for a in page.all("td") if a.get("data-name")]
    assert cells == ["Gold frames", "Masks, IoU_gold", "Box filled, IoU_gold"] * 2 + ["Masks, IoU_gold", "Box filled, IoU_gold"]
    assert "91.2 75.0" in " ".join(page.text.split())
    assert "– 75.0" in " ".join(page.text.split())


def test_clips_beyond_the_budget_are_linked(work: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(work, str(tmp_path / "report.html"))
    sizes = [(tmp_path / "overlays" / f"clip-{i}.mp4").stat().st_size for i in range(2)]
    monkeypatch.setattr(html, "_EMBEDDED_BYTES", sum(sizes) * 3 // 4)  # room for one
    page = Page(write_report(work, str(tmp_path / "report.html")))
    assert [a["aria-label"] for a in page.all("video")] == ["Clip clip-0 with the masks drawn"]
    assert [a["href"] for a in page.all("a")] == ["overlays/clip-1.mp4"]
    assert [a["alt"] for a in page.all("img") if a.get("class") == "still"] == ["The frame of clip clip-1 with the most objects"]


def test_a_clip_that_is_gone_keeps_its_timeline(tmp_path: Path) -> None:
    work = Folder(write_annotated(tmp_path / "run"))
    (tmp_path / "run" / "clips" / "clip-0.mp4").unlink()
    page = Page(write_report(work, str(tmp_path / "report.html")))
    assert len(page.all("video")) == 1
    assert len(page.all("svg")) == 2
    assert "No pictures: " in page.text
    assert "clip-0.mp4" in page.text


def test_clips_left_out_are_counted(work: Folder, tmp_path: Path) -> None:
    page = Page(write_report(work, str(tmp_path / "report.html"), max_clips=1))
    assert len(page.all("video")) == 1
    assert "The first 1 by id; 1 more are not shown" in page.text


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="egoray annotate"):
        write_report(str(tmp_path), str(tmp_path / "report.html"))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_fits_a_telephone_and_plays(work: Folder, tmp_path: Path) -> None:
    scores = {"rows": [row(iou_gold=0.9, title="word " * 40 + "x" * 200)], "means": {"iou_gold": 0.9}}
    write_report(work, str(tmp_path / "report.html"), scores=scores)
    frames = "".join(f'<iframe src="report.html" width="{width}" height="800"></iframe>' for width in (1280, 390, 320))
    probe = """<script>onload = () => { document.body.id = [...document.querySelectorAll("iframe")].map(f => {
      const page = f.contentDocument, root = page.documentElement;
      return root.scrollWidth - root.clientWidth + ":" + page.querySelector("video").duration.toFixed(1) }) }</script>"""
    (tmp_path / "probe.html").write_text(frames + probe)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "probe.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r'<body id="([^"]*)"', dom) == ["0:4.6,0:4.6,0:4.6"]
