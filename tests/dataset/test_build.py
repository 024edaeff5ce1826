"""The dataset of an annotation folder: what is kept, under which names, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest

from egoray.core.masks import decode
from egoray.core.storage import Folder
from egoray.dataset.build import build
from egoray.errors import FormatError
from egoray.formats.egomask import images_dir, read_gold, read_items
from egoray.schema import Expression, to_row
from support.annotated import write_annotated
from support.release import STRIDE, disc

NAMES = ("00000", "00005", "00010", "00015", "00020")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of three objects; the third object has masks on no kept frame."""
    folder = tmp_path_factory.mktemp("annotated")
    write_annotated(folder, titles=("red cup", "green lid", "blue pen"))
    return folder


@pytest.fixture(scope="module")
def built(folder: Path) -> tuple[Path, dict]:
    return folder / "dataset", build(str(folder / "work"), str(folder / "clips"), str(folder / "dataset"))


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
    assert summary["left_out"] == ["clip-0/3", "clip-1/3"]
    assert (summary["expected"], summary["done"], summary["videos"], summary["frames"]) == (6, 4, 2, 10)
    assert summary["expected"] == summary["done"] + len(summary["left_out"])


def test_a_second_build_gives_the_same_bytes(built: tuple[Path, dict], folder: Path) -> None:
    build(str(folder / "work"), str(folder / "clips"), str(folder / "again"))
    assert files(folder / "again") == files(built[0])


def test_the_tier_is_the_split(folder: Path) -> None:
    build(str(folder / "work"), str(folder / "clips"), str(folder / "long"), tier="long")
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
    build(work.uri, str(tmp_path / "clips"), str(tmp_path / "dataset"))
    assert [(i.object_id, i.text) for i in read_items(tmp_path / "dataset", "medium")] == [("1", e.text) for e in written]
    meta = json.loads((tmp_path / "dataset" / "subset" / "medium" / "meta.json").read_text())
    assert meta["videos"]["clip-0"]["objects"].keys() == {"1", "2"}
