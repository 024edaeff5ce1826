"""Statistics against a dense oracle that shares no code, on drawn masks and on a sample world."""

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as coco

from egoray.cli import main
from egoray.core.masks import encode
from egoray.dataset import ray_stats
from egoray.dataset.ray_stats import stats
from egoray.dataset.stats import object_figures
from egoray.synthetic.sample import write_sample
from support.exocentric import FRAMES, SIZE, write_davis, write_mevis, write_reason


def oracle(stack: np.ndarray) -> dict[str, float]:
    """The figures of (T, H, W) bool masks, from pixels."""
    there = stack.reshape(len(stack), -1).any(1)
    out = {"frames": len(stack), "total_duration": there.mean(), "trajectories": 0}
    if not there.any():
        return out
    runs = [len(run) for run in "".join("x" if t else " " for t in there).split()]
    out |= {"trajectories": len(runs), "trajectory_length": np.mean(runs) / len(stack), "mask_area": stack[there].mean()}
    inner = there[there.argmax() : len(there) - there[::-1].argmax()]
    out |= {"disappear_gaps_present": (~inner).sum() / sum(runs), "disappear_absent_present": (~there).sum() / sum(runs)}
    pairs = [((a & b).sum() / max((a | b).sum(), 1), a.any(), b.any()) for a, b in itertools.pairwise(stack)]
    if both := [v for v, a, b in pairs if a and b]:
        out["adjacent_iou_both"] = np.mean(both)
    if either := [v for v, a, b in pairs if a or b]:
        out["adjacent_iou_either"] = np.mean(either)
    return out


@pytest.mark.parametrize("seed", range(20))
def test_one_object_equals_the_dense_count(seed):
    rng = np.random.default_rng(seed)
    stack = rng.random((rng.integers(1, 12), 7, 9)) < 0.4
    stack[rng.random(len(stack)) < (0.2, 0.5, 1.0)[seed % 3]] = False
    names = [f"{5 * i:05d}" for i in range(len(stack))]
    got = object_figures({n: encode(m) for n, m in zip(names, stack, strict=True)}, names)
    assert got == pytest.approx(oracle(stack), abs=1e-12)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_sample(out, videos=2, seed=3, seconds=8, size_hw=(72, 128), workers=1)
    return out / "truth"


def means(figures) -> dict[str, float]:
    """A row of the table: ratios in percent, each over the objects that have it."""
    found, plain = list(figures), ("frames", "trajectories")
    return {k: (1 if k in plain else 100) * np.mean([f[k] for f in found if k in f]) for k in set().union(*found)} | {"objects": len(found)}


def truth_figures(root) -> dict[str, float]:
    """The world's figures from its files, decoded here."""
    videos = json.loads((root / "subset/medium/meta_expressions.json").read_text())["videos"]
    found = []
    for video, entry in videos.items():
        for obj in {e["obj_id"] for e in entry["expressions"].values()}:
            masks = json.loads((root / f"annotations/{video}/{obj}.json").read_text())
            stack = [coco.decode(masks[n]).astype(bool) if n in masks else np.zeros((72, 128), bool) for n in entry["frames"]]
            found.append(oracle(np.array(stack)))
    return means(found)


def test_a_world_s_figures_are_its_truth(world):
    row, want = stats(str(world))["EgoMask medium"], truth_figures(world)
    assert {k: row[k] for k in want} == pytest.approx(want, abs=1e-9)
    assert row["expressions"] == 2 * row["objects"]


@pytest.mark.ray
def test_a_cluster_gives_the_same_bits(world, cluster):
    assert stats(str(world), local_objects=0) == stats(str(world))


@pytest.mark.ray
def test_a_dead_worker_changes_nothing(world, cluster, tmp_path, monkeypatch):
    marker, chunk_sums = str(tmp_path / "died"), ray_stats._sums

    def die_once(subjects):
        if not os.path.exists(marker):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk_sums(subjects)

    monkeypatch.setattr(ray_stats, "_sums", die_once)
    monkeypatch.setattr(ray_stats, "CHUNK", 3)
    on_ray = stats(str(world), local_objects=0)
    assert os.path.exists(marker)
    monkeypatch.setattr(ray_stats, "_sums", chunk_sums)
    assert on_ray == stats(str(world))


def stacks_of_mevis(root, split):
    lists = json.loads((root / split / "mask_dict.json").read_text())
    return [np.array([coco.decode(mask).astype(bool) if mask else np.zeros(SIZE, bool) for mask in row]) for row in lists.values()]


def stacks_of_davis(root):
    """The objects that have sentences: the first two of either video."""
    for video in ("clip0", "clip1"):
        numbers = np.array([np.asarray(Image.open(root / f"valid/Annotations/{video}/{frame}.png")) for frame in FRAMES])
        yield from (numbers == 1, numbers == 2)


def stacks_of_reason(root):
    for folder in sorted((root / "Annotations").iterdir()):
        yield np.array([np.asarray(Image.open(path)) > 0 for path in sorted(folder.iterdir())])


def test_exocentric_sets_have_the_dense_figures(tmp_path):
    write_mevis(tmp_path / "mevis")
    write_mevis(tmp_path / "mevis", "train", seed=1)
    write_davis(tmp_path / "davis")
    write_reason(tmp_path / "reason")
    found = {name: row for root in sorted(tmp_path.iterdir()) for name, row in stats(str(root)).items()}
    want = {
        "MeViS valid_u": stacks_of_mevis(tmp_path / "mevis", "valid_u"),
        "MeViS train": stacks_of_mevis(tmp_path / "mevis", "train"),
        "Ref-DAVIS val": list(stacks_of_davis(tmp_path / "davis")),
        "ReasonVOS": list(stacks_of_reason(tmp_path / "reason")),
    }
    assert found.keys() == want.keys()
    for name, stacks in want.items():
        assert {key: found[name][key] for key in means(map(oracle, stacks))} == pytest.approx(means(map(oracle, stacks)), abs=1e-9)
    assert (found["MeViS valid_u"]["videos"], found["MeViS valid_u"]["expressions"]) == (2, 6)
    assert (found["Ref-DAVIS val"]["expressions"], found["Ref-DAVIS val"]["expression_words"]) == (16, 3)


def test_the_table_shows_the_paper_s_row_below_ours(tmp_path):
    shown = CliRunner().invoke(main, ["stats", "--dataset", write_mevis(tmp_path, "train")]).stdout
    ours, papers = (shown.index(f"MeViS train, {where}") for where in ("here", "paper"))
    assert ours < papers < shown.index("6,719") < shown.index("Ref-DAVIS val, paper")


def test_the_command_prints_the_paper_s_figures_beside(world):
    shown = CliRunner().invoke(main, ["stats", "--dataset", str(world)])
    assert shown.exit_code == 0
    assert "187.84" in shown.stdout
    as_json = json.loads(CliRunner().invoke(main, ["stats", "--dataset", str(world), "--json"]).stdout)
    assert as_json["parts"] == stats(str(world))


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    done = CliRunner().invoke(main, ["stats", "--dataset", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds no EgoMask benchmark" in done.stderr
