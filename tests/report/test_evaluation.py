"""The page about an evaluation: figures as counted elsewhere, failures where they were planted, honest about what is gone."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.formats.egomask import read_items
from egoray.report.evaluation import COLOURS, PAPER_TABLE, write_evaluation_report
from support.evaluated import write_evaluated


class Page(HTMLParser):
    """Start tags, tables as rows of cells, and the text in one line."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.inside = False
        self.words: list[str] = []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th") or (self.inside and tag != "tr")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.inside:
            self.rows[-1][-1] += data.strip()

    def row(self, name: str) -> list[str]:
        return next(cells[1:] for cells in self.rows if cells and cells[0] == name)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_evaluated(tmp_path_factory.mktemp("evaluated")))


@pytest.fixture(scope="module")
def page(work: Path) -> Page:
    return Page(write_evaluation_report(str(work), str(work.parent / "report.html")))


def copied(work: Path, tmp_path: Path) -> Path:
    """A copy whose dataset, predictions and rows may be spoilt."""
    shutil.copytree(work.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("clips"))
    folder = Folder(str(tmp_path / "copy" / "evaluation"))
    places = {name: str(tmp_path / "copy" / part) for name, part in (("dataset", "truth"), ("predictions", "predictions"))}
    folder.write_json("run.json", {"config": folder.read_json("run.json")["config"] | places})
    return tmp_path / "copy"


def test_the_run_stands_in_the_papers_table_under_its_split(work: Path, page: Page) -> None:
    scores = [row["IoU_gold_pred"] for row in pq.read_table(work / "rows.parquet").to_pylist()]
    assert page.row("This run") == ["–", "–", f"{100 * sum(scores) / len(scores):.2f}"]
    for name, cells in PAPER_TABLE:
        assert page.row(name) == [f"{cell:.2f}" for cell in cells]


def test_failures_are_counted_where_they_were_planted(work: Path, page: Page) -> None:
    rows = pq.read_table(work / "rows.parquet").to_pylist()
    frames = Counter()
    for number, row in enumerate(rows):
        if number % 5 == 1:
            frames["missed"] += row["num_gold"]
        frames["hallucinated"] += row["num_pred"] - row["num_both"]
    for kind, num in frames.items():
        assert page.row(kind)[1] == str(num)
    at_stake = sum(row["num_gold"] + row["num_pred"] - row["num_both"] for row in rows)
    assert sum(int(page.row(kind)[1]) for kind in COLOURS) == at_stake
    assert sum(int(page.row(kind)[3]) for kind in COLOURS) == len(rows)
    assert f"in {sum(row['num_frames'] for row in rows) - at_stake} further frames" in page.text


def test_ablations_split_the_expressions(work: Path, page: Page) -> None:
    rows = pq.read_table(work / "rows.parquet").to_pylist()
    first = {i.video_id: i.frame_names[:5] for i in read_items(work.parent / "truth", "long")}
    folder = Folder(str(work.parent / "truth"))
    early = [r for r in rows if folder.read_json(f"annotations/{r['video_id']}/{r['object_id']}.json").keys() & set(first[r["video_id"]])]
    assert 0 < len(early) < len(rows)
    mean = 100 * sum(r["IoU_gold_pred"] for r in early) / len(early)
    assert page.row("visible in them")[:2] == [str(len(early)), f"{mean:.1f}"]
    assert page.row("not visible in them")[0] == str(len(rows) - len(early))
    detected = sum(r["detection_flag"] == 1 for r in rows)
    assert page.row("started on a frame with the object")[0] == str(detected)


def test_the_worst_come_first_with_timeline_and_stills(work: Path, page: Page) -> None:
    headings = re.findall(r"“(.*?)”", page.text)
    rows = pq.read_table(work / "rows.parquet").to_pylist()
    scores = sorted(row["IoU_gold_pred"] for row in rows)
    shown = [float(score) for score in re.findall(r"IoU_gold_pred ([\d.]+) IoU_gold ", page.text.split("Worst sequences first")[1])]
    assert shown == [pytest.approx(100 * score, abs=0.051) for score in scores[: len(shown)]]
    assert len(headings) == len(shown) == min(12, len(rows))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= len(shown)
    assert all((p["src"] or "").startswith("data:image/jpeg;base64,") for p in pictures)
    for kind in ("missed", "hallucinated", "wrong object, IoU 0"):
        assert any((p["alt"] or "").endswith(kind) for p in pictures)


def test_the_page_is_whole_in_one_file(work: Path, page: Page) -> None:
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    assert not [a for _, a in page.tags if (a.get("src") or a.get("href") or "data:").split(":")[0] != "data"]
    for svg in re.findall(r"<svg.*?</svg>", (work.parent / "report.html").read_text(), re.S):
        ElementTree.fromstring(svg)
    assert "inference, frames/s 3.25" in page.text


def test_without_the_dataset_the_scores_stay(work: Path, tmp_path: Path) -> None:
    copy = copied(work, tmp_path)
    shutil.rmtree(copy / "truth")
    shutil.rmtree(copy / "predictions")
    page = Page(write_evaluation_report(str(copy / "evaluation"), str(tmp_path / "report.html")))
    assert len(page.row("This run")) == 3
    assert "Not shown 1 could not be read again" in page.text
    assert "Worst sequences" not in page.text
    assert "inference, frames/s not recorded" in page.text


def test_a_spoilt_answer_and_missing_images_are_counted(work: Path, tmp_path: Path) -> None:
    copy = copied(work, tmp_path)
    shutil.rmtree(copy / "truth" / "JPEGImages")
    spoilt = sorted((copy / "predictions" / "long").rglob("*.json"))[0]
    spoilt.write_text('{"00000": 3}')
    page = Page(write_evaluation_report(str(copy / "evaluation"), str(tmp_path / "report.html")))
    assert f"1 could not be read again; failures and sequences below are without them, the scores above have them. {spoilt}" in page.text
    assert "pictures left out" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_a_hostile_sentence_is_text(work: Path, tmp_path: Path) -> None:
    copy = copied(work, tmp_path)
    hostile = '<script>alert("x")</script>{{ 7 * 7 }}'
    for name in ("meta_expressions.json", "subset/long/meta_expressions.json"):
        table = Folder(str(copy / "truth")).read_json(name)
        for video in table["videos"].values():
            for expression in video["expressions"].values():
                expression["exp"] = hostile
        Folder(str(copy / "truth")).write_json(name, table)
    page = Page(write_evaluation_report(str(copy / "evaluation"), str(tmp_path / "report.html"), max_sequences=1))
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert f"“{hostile}”" in page.text


def test_the_command(work: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "report.html")
    done = CliRunner().invoke(main, ["report", "--evaluation", str(work), "--out", out])
    assert (done.exit_code, done.stdout.strip()) == (0, out)
    assert CliRunner().invoke(main, ["report", "--out", out]).exit_code == 2
    assert CliRunner().invoke(main, ["report", "--evaluation", "a", "--annotations", "b", "--out", out]).exit_code == 2
    with pytest.raises(FormatError, match=r"summary\.json; give the --out folder of a finished `egoray evaluate`"):
        write_evaluation_report(str(tmp_path), out)


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_fits_a_telephone(page: Page, work: Path, tmp_path: Path) -> None:
    shutil.copy(work.parent / "report.html", tmp_path)
    frames = "".join(f'<iframe src="report.html" width="{width}" height="800"></iframe>' for width in (1280, 390, 320))
    probe = """<script>onload = () => { document.body.id = [...document.querySelectorAll("iframe")].map(f => {
      const root = f.contentDocument.documentElement; return root.scrollWidth - root.clientWidth }) }</script>"""
    (tmp_path / "probe.html").write_text(frames + probe)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "probe.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.findall(r'<body id="([^"]*)"', dom) == ["0,0,0"]
