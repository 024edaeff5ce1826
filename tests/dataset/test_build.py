"""The dataset of an annotation folder: what is kept, under which names, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import BuildConfig
from egoray.core.masks import decode, encode
from egoray.core.reviewed import write_reviewed
from egoray.core.storage import Folder
from egoray.core.workfolder import write_expressions
from egoray.dataset.build import build
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import images_dir, read_gold, read_items, read_train
from egoray.schema import Expression, to_row
from support.annotated import write_annotated
from support.release import STRIDE, disc, write_clip
from support.tiers import REFEGO, seen, write_tiers

MEDIUM = BuildConfig(tier="medium")
NAMES = ("00000", "00005", "00010", "00015", "00020")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of three objects; the third object has masks on no kept frame."""
    folder = tmp_path_factory.mktemp("annotated")
    write_annotated(folder, titles=("red cup", "green lid", "blue pen"))
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> tuple[Path, dict]:
    return folder / "dataset", build(str(folder / "work"), str(folder / "clips"), str(folder / "dataset"), MEDIUM)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_masks_are_those_of_every_fifth_frame(built: tuple[Path, dict]) -> None:
    items = read_items(built[0], "medium")
    assert [(i.video_id, i.object_id, i.text) for i in items] == [
        (f"clip-{n}", object_id, text) for n in range(2) for object_id, text in (("1", "red cup"), ("2", "green lid"))
    ]
    for item in items:
        assert item.frame_names == NAMES
        gold = read_gold(built[0], item)
        assert list(gold) == ["00000", "00005", "00015", "00020"]
        for name, rle in gold.items():
            assert np.array_equal(decode(rle), disc(int(name), int(item.object_id) - 1)[0])


def test_frames_are_the_native_ones_of_their_numbers(built: tuple[Path, dict], folder: Path) -> None:
    for item in read_items(built[0], "medium"):
        pictures = Path(images_dir(str(built[0]), item))
        assert sorted(p.name for p in pictures.iterdir()) == [f"{name}.jpg" for name in NAMES]
        with av.open(str(folder / "clips" / f"{item.video_id}.mp4")) as clip:
            decoded = [frame.to_ndarray(format="rgb24").astype(int) for frame in clip.decode(video=0)]
        for name in NAMES:
            image = cv2.imread(str(pictures / f"{name}.jpg"))[:, :, ::-1]
            distance = [abs(image - frame).mean() for frame in decoded]
            assert distance[STRIDE * int(name)] < 5
            assert np.argmin(distance) // STRIDE == int(name)


def test_every_object_is_done_or_listed(built: tuple[Path, dict]) -> None:
    summary = built[1]
    assert summary["left_out"] == dict.fromkeys(["clip-0/3", "clip-1/3"], "no mask on any frame kept at 1 fps")
    assert (summary["expected"], summary["done"]) == (6, 4)
    assert summary["tiers"] == {"medium": {"videos": 2, "frames": 10, "objects": 4, "expressions": 4}}
    assert summary["expected"] == summary["done"] + len(summary["left_out"])


def test_a_second_build_gives_the_same_bytes(built: tuple[Path, dict], folder: Path) -> None:
    build(str(folder / "work"), str(folder / "clips"), str(folder / "again"), MEDIUM)
    assert files(folder / "again") == files(built[0])


def test_the_tier_is_the_split(folder: Path) -> None:
    build(str(folder / "work"), str(folder / "clips"), str(folder / "long"), BuildConfig(tier="long"))
    assert len(read_items(folder / "long", "long")) == 4
    assert read_items(folder / "long", "medium") == []


def test_a_missing_clip_stops_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"clip-0.mp4: clip not found \(2 of 2 are missing\); check --videos"):
        build(str(folder / "work"), str(tmp_path), str(tmp_path / "dataset"))
    assert not (tmp_path / "dataset").exists()


def test_expressions_replace_the_titles(tmp_path: Path) -> None:
    work = Folder(write_annotated(tmp_path, clips=1))
    written = [
        Expression(
            expression_id=f"{i}", video_id="clip-0", object_id="1", text=text, kind="short", source="llm", model="m", prompt_version="1"
        )
        for i, text in enumerate(["the cup that is lifted", "the red one"])
    ]
    schema = pa.schema([(f.name, pa.string()) for f in dataclasses.fields(Expression)])
    (work / "expressions").write_rows("shard.parquet", [to_row(e) for e in reversed(written)], schema)
    build(work.uri, str(tmp_path / "clips"), str(tmp_path / "dataset"), MEDIUM)
    assert [(i.object_id, i.text) for i in read_items(tmp_path / "dataset", "medium")] == [("1", e.text) for e in written]
    meta = json.loads((tmp_path / "dataset" / "subset" / "medium" / "meta.json").read_text())
    assert meta["videos"]["clip-0"]["objects"].keys() == {"1", "2"}


def test_every_file_has_its_sum_and_the_card_its_figures(built: tuple[Path, dict]) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=built[0], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(files(built[0])) - 1
    card = (built[0] / "README.md").read_text()
    assert card.startswith("---\n")
    assert "EgoMask medium, here | 5.00 | 80.00" in card  # four of five frames, by hand


def test_an_earlier_build_gives_way_and_a_strangers_folder_does_not(folder: Path, tmp_path: Path) -> None:
    work, clips, out = str(folder / "work"), str(folder / "clips"), tmp_path / "dataset"
    build(work, clips, str(out), BuildConfig(tier="train", fps=5))
    assert len(list((out / "egomask-train/train/JPEGImages/clip-0").iterdir())) == 23
    build(work, clips, str(out), MEDIUM)
    build(work, clips, str(tmp_path / "fresh"), MEDIUM)
    assert files(out) == files(tmp_path / "fresh")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/meta.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds files that no build wrote, such as meta\.json"):
        build(work, clips, str(tmp_path / "own"), MEDIUM)
    assert files(tmp_path / "own") == {"meta.json": b"{}"}


def test_a_stopped_build_goes_on_and_a_changed_clip_is_taken_anew(folder: Path, tmp_path: Path) -> None:
    work, clips, out = str(folder / "work"), tmp_path / "clips", tmp_path / "dataset"
    shutil.copytree(folder / "clips", clips)
    build(work, str(clips), str(out), MEDIUM)
    whole = files(out)
    for name in ("SHA256SUMS", "JPEGImages/egotracks/clip-0/00005.jpg"):
        (out / name).unlink()
    marked = out / "JPEGImages/egotracks/clip-1/00000.jpg"
    marked.write_bytes(b"kept, since its clip is the same")
    build(work, str(clips), str(out), MEDIUM)
    changed = {name for name, data in files(out).items() if data != whole[name]}
    assert changed == {str(marked.relative_to(out)), "SHA256SUMS"}
    write_clip(clips / "clip-1.mp4", 23, 3, seed=99)
    build(work, str(clips), str(out), MEDIUM)
    assert cv2.imread(str(marked)) is not None


def reviewed_work(folder: Path) -> str:
    """Clip 0's first object is fixed (one mask moved, one emptied, one sentence rewritten, one dropped), its second rejected."""
    work = Folder(write_annotated(folder))
    moved = disc(3, 0)[0]
    rows = [
        {"video_id": "clip-0", "object_id": "1", "frame": frame, "height": 72, "width": 96, "counts": encode(mask).counts}
        for frame, mask in ((5, moved), (15, np.zeros_like(moved)))
    ]
    verdict = {"video_id": "clip-0", "reviewer": "ann", "time": "2026-01-01T00:00:00Z", "data_version": "1", "note": ""}
    items = [verdict | {"object_id": "1", "status": "fixed"}, verdict | {"object_id": "2", "status": "rejected"}]
    sentences = [
        Expression(expression_id=f"e{n}", video_id="clip-0", object_id="1", text=f"cup {n}", kind=kind, source="llm")
        for n, kind in enumerate(("short", "short", "long"))
    ]
    write_expressions(work / "expressions", "one", sentences)
    write_reviewed(work / "review", items, rows, [{"expression_id": "e0", "text": "my cup"}, {"expression_id": "e1", "text": ""}])
    return work.uri


def test_what_people_changed_is_what_is_built(tmp_path: Path) -> None:
    summary = build(reviewed_work(tmp_path), str(tmp_path / "clips"), str(tmp_path / "d"), BuildConfig(tier="medium", reviewed="only"))
    assert summary["left_out"] == {"clip-0/2": "rejected in review", "clip-1/1": "not reviewed", "clip-1/2": "not reviewed"}
    items = read_items(tmp_path / "d", "medium")
    assert [i.text for i in items] == ["my cup", "cup 2"]
    gold = read_gold(tmp_path / "d", items[0])
    assert list(gold) == ["00000", "00005", "00020"]
    assert np.array_equal(decode(gold["00005"]), disc(3, 0)[0])
    assert json.loads((tmp_path / "d/meta.json").read_text())["videos"]["clip-0"]["objects"]["1"]["status"] == "fixed"


@pytest.mark.parametrize(("reviewed", "objects"), [("unless_rejected", 3), ("all", 4)])
def test_the_rejected_stay_out_unless_all_are_asked_for(tmp_path: Path, reviewed: str, objects: int) -> None:
    assert build(reviewed_work(tmp_path), str(tmp_path / "clips"), str(tmp_path / "d"), BuildConfig(reviewed=reviewed))["done"] == objects


def test_only_reviewed_items_of_a_folder_that_nobody_reviewed_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is reviewed; run `egoray review"):
        build(str(folder / "work"), str(folder / "clips"), str(tmp_path / "d"), BuildConfig(reviewed="only"))


def test_a_benchmark_has_one_sentence_of_each_kind_before_a_second(tmp_path: Path) -> None:
    work = reviewed_work(tmp_path)
    shutil.rmtree(Path(work) / "review")
    build(work, str(tmp_path / "clips"), str(tmp_path / "d"), BuildConfig(expressions=2))
    assert [i.text for i in read_items(tmp_path / "d", "short")] == ["cup 0", "cup 2"]


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One long clip, two medium ones of another, a RefEgo clip and one to train on."""
    folder = tmp_path_factory.mktemp("tiers")
    config = BuildConfig(long=1, medium=2, medium_per_video=2, objects={"medium": 1})
    return folder, build(*write_tiers(folder), str(folder / "dataset"), config)


def test_all_tiers_are_built_and_each_reads_back(tiered: tuple[Path, dict]) -> None:
    root, summary = tiered[0] / "dataset", tiered[1]
    assert {tier: row["videos"] for tier, row in summary["tiers"].items()} == {"short": 1, "medium": 2, "long": 1, "train": 1}
    [train] = read_train(root)
    assert [e.text for e in train.expressions] == [
        f"the {kind} {title}" for title in ("red cup", "green lid") for kind in ("long", "short")
    ]
    for split, folder, step in (("short", "refego", 1), ("medium", "egotracks", 5), ("long", "egotracks", 5)):
        for item in read_items(root, split):
            clip = item.video_id.split("--")[0] if split == "medium" else item.video_id
            pictures = root / "JPEGImages" / folder / clip
            assert {f"{name}.jpg" for name in item.frame_names} <= {p.name for p in pictures.iterdir()}
            frames = [int(name.removeprefix("img")) - (41 if split == "short" else 0) for name in item.frame_names]
            assert set(np.diff(frames)) == {step}
            gold = read_gold(root, item)
            assert set(gold) == {name for name, frame in zip(item.frame_names, frames, strict=True) if seen(frame, int(item.object_id) - 1)}
    origin = json.loads((root / "dataset.json").read_text())["videos"]
    assert {(v["tier"], v["source"], v["fps"]) for v in origin.values()} == {
        ("short", "refego", 2.0),
        ("medium", "egotracks", 1.0),
        ("long", "egotracks", 1.0),
        ("train", "egotracks", 1.0),
    }
    assert origin[REFEGO]["source_video"] == "film"


def test_pictures_that_are_jpegs_already_are_copied(tiered: tuple[Path, dict]) -> None:
    name = "img0000000041.jpg"
    assert (tiered[0] / "dataset/JPEGImages/refego" / REFEGO / name).read_bytes() == (tiered[0] / "clips" / REFEGO / name).read_bytes()


def test_five_frames_a_second_keep_every_annotated_mask(tiered: tuple[Path, dict], tmp_path: Path) -> None:
    build(str(tiered[0] / "work"), str(tiered[0] / "clips"), str(tmp_path / "d"), BuildConfig(fps=5, medium=0, long=1, train=0))
    [item] = {i.object_id: i for i in read_items(tmp_path / "d", "long") if i.object_id == "1"}.values()
    assert item.frame_names == tuple(f"{n:05d}" for n in range(1000))
    assert len(read_gold(tmp_path / "d", item)) == 400
    assert len(next(i for i in read_items(tmp_path / "d", "short")).frame_names) == 20


def test_the_command_builds_and_plans(tiered: tuple[Path, dict], tmp_path: Path) -> None:
    inputs = ["build", "--annotations", str(tiered[0] / "work"), "--videos", str(tiered[0] / "clips"), "--out", str(tmp_path / "d")]
    more = ["--set", "long=1", "--set", "objects={medium: 1}", "--set", "medium=2", "--set", "medium_per_video=2", "--json"]
    plan = json.loads(CliRunner().invoke(main, [*inputs, *more, "--dry-run"]).stdout)
    assert plan == tiered[1]
    assert not (tmp_path / "d").exists()
    assert json.loads(CliRunner().invoke(main, [*inputs, *more]).stdout) == plan
    assert files(tmp_path / "d") == files(tiered[0] / "dataset")


def test_a_killed_build_is_no_dataset_and_the_same_command_finishes_it(tiered: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "d"
    command = [sys.executable, "-m", "egoray.cli", "build", "--annotations", str(tiered[0] / "work"), "--videos", str(tiered[0] / "clips")]
    command += ["--out", str(out), "--set", "long=1", "--set", "medium=2", "--set", "medium_per_video=2", "--set", "objects={medium: 1}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        while killed.poll() is None and len(list(out.rglob("*.jpg"))) < 30:
            time.sleep(0.001)
        killed.kill()
        assert killed.wait() == -9
    assert not (out / "SHA256SUMS").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert files(out) == files(tiered[0] / "dataset")
