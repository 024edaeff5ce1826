"""A built dataset and the released layout pass; each planted fault is named where it is, by a rule of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import BuildConfig
from egoray.core.masks import encode
from egoray.dataset.build import build
from egoray.dataset.validate import validate
from egoray.errors import ConfigError
from support.mutations import mutate
from support.tiers import REFEGO, SIZE_HW, write_tiers

TRAIN = "egomask-train/train"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    config = BuildConfig(long=1, medium=2, medium_per_video=2)
    build(*write_tiers(folder), str(folder / "dataset"), config)
    return folder / "dataset"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "dataset"))


def test_what_build_writes_has_neither_fault_nor_warning(made: Path) -> None:
    found = validate(str(made))
    assert (found.faults, found.warnings) == ([], [])
    assert found.counts["videos"] == 5
    assert found.counts["images"] == len(list(made.rglob("*.jpg"))) + overlap(made)


@pytest.mark.parametrize(
    "config", [BuildConfig(fps=5, medium=1), BuildConfig(long=1, medium=3, medium_from="long"), BuildConfig(tier="medium")]
)
def test_so_does_every_other_way_to_build(made: Path, tmp_path: Path, config: BuildConfig) -> None:
    build(str(made.parent / "work"), str(made.parent / "clips"), str(tmp_path / "d"), config)
    found = validate(str(tmp_path / "d"))
    assert found.faults == []
    assert all("tier's length" in warning for warning in found.warnings)


def overlap(root: Path) -> int:
    """Pictures that two medium clips of one video share, by their names alone."""
    videos = json.loads((root / "subset/medium/meta_expressions.json").read_text())["videos"]
    frames = [(name.split("--")[0], frame) for name, entry in videos.items() for frame in entry["frames"]]
    return len(frames) - len(set(frames))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def as_released(root: Path) -> None:
    """What the release has and has not: no pictures, no medium/meta.json, no rle_save, plain numbers as ids, nothing of ours."""
    for name in ("JPEGImages", f"{TRAIN}/JPEGImages", f"{TRAIN}/rle_save"):
        shutil.rmtree(root / name)
    for name in ("dataset.json", "run.json", "SHA256SUMS", "README.md", "subset/medium/meta.json"):
        (root / name).unlink()
    for path in [*root.rglob("meta_expressions.json")]:
        edit(
            path,
            lambda v: [
                e.update(obj_id=int(e["obj_id"])) or e.pop("expression_id") for w in v["videos"].values() for e in w["expressions"].values()
            ],
        )
    edit(root / TRAIN / "mask_dict.json", lambda v: [v.update({key.replace("'1')", "1)"): v.pop(key)}) for key in list(v) if "'1')" in key])


def test_the_released_layout_passes_with_warnings_only_of_what_it_lacks(dataset: Path) -> None:
    as_released(dataset)
    found = validate(str(dataset))
    assert found.faults == []
    assert "subset/medium/meta.json: missing, as in the release" in found.warnings
    assert all("pictures" in warning or "medium/meta.json" in warning for warning in found.warnings)


@pytest.mark.parametrize("part", ["benchmark", "train"])
def test_either_half_passes_alone(dataset: Path, tmp_path: Path, part: str) -> None:
    as_released(dataset)
    if part == "train":
        root = dataset / "egomask-train"
    else:
        shutil.rmtree(dataset / "egomask-train")
        root = dataset
    assert validate(str(root)).faults == []


def of(root: Path, tier: str) -> str:
    return next(iter(json.loads((root / f"subset/{tier}/meta_expressions.json").read_text())["videos"]))


def tables(root: Path, tier: str, change: Callable[[Any], Any], name: str = "meta_expressions") -> None:
    """The same change to a tier's first video in both files that have it."""
    video_id = of(root, tier)
    for path in (root / f"{name}.json", root / f"subset/{tier}/{name}.json"):
        edit(path, lambda v: change(v["videos"][video_id]))


def gold(root: Path, tier: str = "long") -> Path:
    return root / "annotations" / of(root, tier) / "1.json"


def first_mask(root: Path, value: Any) -> None:
    edit(gold(root), lambda v: v.update({next(iter(v)): value}))


def rename(root: Path, frames: Callable[[list[str]], Any]) -> None:
    tables(root, "long", lambda v: frames(v["frames"]))


def wrong_size(root: Path) -> None:
    folder = root / "JPEGImages/refego" / REFEGO
    cv2.imwrite(str(folder / "img0000000041.jpg"), np.zeros((10, 12, 3), np.uint8))


def lists(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(root / TRAIN / "mask_dict.json", change)


def into_train(root: Path) -> None:
    """The long video is trained on too, in every table."""
    video_id = of(root, "long")
    entry = json.loads((root / "meta_expressions.json").read_text())["videos"][video_id]
    entry |= {"expressions": {}}
    edit(root / "egomask-train/meta_expressions/train/meta_expressions.json", lambda v: v["videos"].update({video_id: entry}))
    edit(root / TRAIN / "meta.json", lambda v: v["videos"].update({video_id: {"objects": {}}}))


def shorten(root: Path) -> None:
    medium = of(root, "medium")
    first = json.loads((root / "meta_expressions.json").read_text())["videos"][medium]["frames"][:30]
    tables(root, "medium", lambda v: v.update(frames=first))


SMALL = {"size": [4, 4], "counts": encode(np.eye(4, dtype=bool)).counts}
EMPTY = {"size": list(SIZE_HW), "counts": encode(np.zeros(SIZE_HW, bool)).counts}
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a table is missing": (lambda r: (r / "meta.json").unlink(), "meta.json: missing"),
    "a table is no JSON": (
        lambda r: (r / "subset/long/meta_expressions.json").write_text("{"),
        "subset/long/meta_expressions.json: not JSON",
    ),
    "a video lacks in the full table": (
        lambda r: edit(r / "meta_expressions.json", lambda v: v["videos"].pop(REFEGO)),
        f"meta_expressions.json: video {REFEGO} is not there",
    ),
    "a text differs in the full table": (
        lambda r: edit(r / "meta_expressions.json", lambda v: v["videos"][REFEGO]["expressions"]["0"].update(exp="it")),
        f"meta_expressions.json: video {REFEGO} differs from subset/short/meta_expressions.json",
    ),
    "an unknown object": (
        lambda r: tables(r, "short", lambda v: v["expressions"]["0"].update(obj_id="7")),
        "which meta.json does not have",
    ),
    "no text": (lambda r: tables(r, "short", lambda v: v["expressions"]["1"].update(exp=" ")), "expression 1: no text"),
    "a sentence twice": (
        lambda r: tables(r, "short", lambda v: v["expressions"]["1"].update(exp=v["expressions"]["0"]["exp"])),
        "expression 1: the same sentence as expression 0",
    ),
    "a gold file is missing": (lambda r: gold(r).unlink(), "1.json: missing, but an expression is about it"),
    "a broken mask": (lambda r: first_mask(r, {"size": list(SIZE_HW), "counts": "~"}), "frame 00000: "),
    "a null mask": (lambda r: first_mask(r, None), "frame 00000: null"),
    "an empty mask": (lambda r: first_mask(r, EMPTY), "frame 00000: an empty mask"),
    "a mask of another size": (lambda r: first_mask(r, SMALL), "masks of different sizes, 4 x 4 and 48 x 64"),
    "masks on other frames than meta.json's": (
        lambda r: edit(gold(r), lambda v: v.pop(next(iter(v)))),
        "are not those of meta.json",
    ),
    "an object never seen": (lambda r: gold(r, "short").write_text("{}"), "object 1 is on none of its frames"),
    "a frame twice": (lambda r: rename(r, lambda f: f.insert(1, f[0])), "a frame is named twice"),
    "frames out of order": (lambda r: rename(r, lambda f: f.reverse()), "frames are not in time order"),
    "a name that leads elsewhere": (
        lambda r: edit(r / "subset/short/meta_expressions.json", lambda v: v["videos"].update({"../x": v["videos"].pop(REFEGO)})),
        "cannot be the name of a file",
    ),
    "a video in two tiers": (
        lambda r: shutil.copy(r / "subset/short/meta_expressions.json", r / "subset/long/meta_expressions.json"),
        "is in the short tier too",
    ),
    "a video also trained on": (into_train, "is in long and in train"),
    "another length than its tier's": (shorten, "lasts 30 s, which is not the medium tier's length"),
    "a picture of another size": (wrong_size, "img0000000041.jpg: is 10 x 12, but its masks are 48 x 64"),
    "no picture": (lambda r: (r / "JPEGImages/refego" / REFEGO / "img0000000041.jpg").write_bytes(b"?"), "not a readable picture"),
    "a mask list too short": (lambda r: lists(r, lambda v: next(iter(v.values())).pop()), "masks, one a frame"),
    "a key that is no pair": (lambda r: lists(r, lambda v: v.update({"what": []})), "the key 'what' is not a pair"),
    "no masks of a trained object": (lambda r: lists(r, lambda v: v.pop(next(iter(v)))), "missing, but an expression is about it"),
    "the two layouts differ": (
        lambda r: edit(next((r / TRAIN / "rle_save").rglob("1.json")), lambda v: v.update({"00000": None})),
        "differs from train/mask_dict.json",
    ),
    "a format of the future": (
        lambda r: edit(r / "dataset.json", lambda v: v.update(format_version="9.0")),
        "format version '9.0' is not known",
    ),
    "a changed file": (lambda r: (r / "README.md").write_text("mine"), "README.md: changed since the dataset was built"),
    "an unfinished build": (lambda r: (r / "SHA256SUMS").unlink(), "SHA256SUMS: missing, so the build did not end"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_named(dataset: Path, name: str) -> None:
    plant, message = FAULTS[name]
    plant(dataset)
    found = validate(str(dataset), checksums="changed" in name or "unfinished" in name)
    assert any(message in fault for fault in found.faults), found.faults
    assert not any(str(dataset) in fault for fault in found.faults)


def test_one_wrong_value_anywhere_never_stops_the_check(dataset: Path) -> None:
    """Most are faults; none is a traceback, and none changes what the next one is told."""
    tables = [path for path in sorted(dataset.rglob("*.json")) if path.name != "run.json"]
    named = 0
    for seed in range(250):
        path = tables[seed % len(tables)]
        before = path.read_text()
        path.write_text(json.dumps(mutate(json.loads(before), seed)))
        try:
            named += bool(validate(str(dataset), checksums=False).faults)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {path}: {type(error).__name__}: {error}") from error
        path.write_text(before)
    assert named > 150
    assert validate(str(dataset)).faults == []


def test_missing_pictures_are_a_warning(dataset: Path) -> None:
    (dataset / "JPEGImages/refego" / REFEGO / "img0000000042.jpg").unlink()
    found = validate(str(dataset))
    assert found.faults == []
    assert f"JPEGImages/refego/{REFEGO}: 1 of 20 pictures are missing, such as img0000000042.jpg" in found.warnings


def test_the_command_exits_1_with_a_fault_and_2_without_a_dataset(dataset: Path, tmp_path: Path) -> None:
    good = CliRunner().invoke(main, ["validate", str(dataset)])
    assert (good.exit_code, "0 faults, 0 warnings in 5 videos" in good.stderr) == (0, True)
    (dataset / "README.md").write_text("mine")
    bad = CliRunner().invoke(main, ["validate", str(dataset)])
    assert (bad.exit_code, bad.stderr.splitlines()[0]) == (
        1,
        "fault: README.md: changed since the dataset was built (its SHA-256 is another)",
    )
    assert json.loads(CliRunner().invoke(main, ["validate", str(dataset), "--json"]).stdout)["ok"] is False
    with pytest.raises(ConfigError, match="give a folder in the EgoMask layout"):
        validate(str(tmp_path / "nothing"))
