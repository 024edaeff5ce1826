"""A folder of predictions from file to figures: any partition gives the same, nothing is lost unseen."""

import json
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from egoray.config import EvaluateConfig
from egoray.errors import ConfigError, FormatError
from egoray.evaluate.expression import DETECTION, METRICS
from egoray.evaluate.run import ALL, Part, evaluate, means, score_part
from egoray.formats.egomask import read_gold, read_items
from support.predictions import write_dataset, write_predictions


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    dataset = write_dataset(root / "dataset")
    return dataset, write_predictions(root / "predictions", dataset)


@pytest.fixture
def own(tmp_path):
    """Folders that a test may damage."""
    dataset = write_dataset(tmp_path / "dataset", num_videos=1)
    return dataset, write_predictions(tmp_path / "predictions", dataset)


def run(folders, out, limit=None, **settings):
    return evaluate(folders[0], "medium", folders[1], str(out), EvaluateConfig(**settings), limit=limit)


def test_the_summary_is_the_mean_of_the_rows(folders, tmp_path):
    summary = run(folders, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert (summary["expected"], summary["done"], summary["failed"], len(rows)) == (12, 12, 0, 12)
    assert [(r["video_id"], r["expression_id"]) for r in rows] == [(i.video_id, i.expression_id) for i in read_items(folders[0], "medium")]
    for metric in METRICS:
        values = [r[metric] for r in rows if r[metric] is not None]
        assert summary["metrics"][metric] == pytest.approx(np.mean(values), abs=1e-12)
    for metric in DETECTION:
        assert summary["metrics"][metric] == pytest.approx(sum(r[metric] or 0 for r in rows) / 12, abs=1e-12)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    videos = pq.read_table(tmp_path / "out" / "videos.parquet").to_pylist()
    assert [v["num_expressions"] for v in videos] == [4, 4, 4]
    ours = [r["IoU_gold"] for r in rows if r["video_id"] == videos[1]["video_id"]]
    assert videos[1]["IoU_gold"] == pytest.approx(np.mean(ours), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_any_partition_in_any_order_gives_the_same_to_the_last_bit(folders, seed):
    items = read_items(folders[0], "medium")
    config = EvaluateConfig()
    whole = score_part(*folders, "medium", items, config)
    rng = np.random.default_rng(seed)
    shuffled = [items[i] for i in rng.permutation(len(items))]
    cuts = [0, *sorted(rng.choice(np.arange(1, 12), 3, replace=False)), 12]
    parts = [score_part(*folders, "medium", shuffled[a:b], config) for a, b in pairwise(cuts)]
    together = reduce(Part.__add__, [parts[i] for i in rng.permutation(4)])
    assert together.sums == whole.sums
    assert means(together.sums[ALL, ""]) == means(whole.sums[ALL, ""])


def test_slices_share_out_the_whole(folders, tmp_path):
    slices = run(folders, tmp_path / "out")["slices"]
    for name in ("object_area", "presence", "num_trajectories", "kind", "tier"):
        assert sum(group["num"] for group in slices[name].values()) == 12
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert sum(group["num"] for group in slices["since_last_seen"].values()) == sum(r["num_gold"] for r in rows)
    assert slices["kind"].keys() == {"10 words or fewer", "more than 10 words"}


def prediction_files(predictions):
    return sorted(p for p in Path(predictions).rglob("*.json") if "grounding" not in p.name)


def test_a_missing_prediction_is_listed_and_there_are_no_metrics(own, tmp_path):
    gone = prediction_files(own[1])[1]
    gone.unlink()
    summary = run(own, tmp_path / "out")
    assert (summary["done"], summary["failed"], summary["metrics"]) == (3, 1, None)
    (failure,) = pq.read_table(tmp_path / "out" / "failures").to_pylist()
    assert str(gone.name) in failure["message"]
    assert "--missing" in failure["message"]
    empty = run(own, tmp_path / "empty", missing="empty")
    assert empty["metrics"]["T_recall"] < 1
    assert (empty["done"], empty["failed"]) == (4, 0)
    skip = run(own, tmp_path / "skip", missing="skip")
    assert (skip["done"], skip["skipped"], skip["failed"]) == (3, 1, 0)
    assert skip["metrics"]["T_recall"] > empty["metrics"]["T_recall"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ('{"00005": {"size": [40, 60], "counts": "0"}}', "frame 00005: the runs do not cover"),
        ('{"00005": {"size": [40, 61], "counts": [5, 3, 2432]}}', "frame 00005: masks of"),
        ('{"00005": [[1, 2, 3, 4, 5, 6]]}', "frame 00005: not a run-length mask"),
    ],
)
def test_a_malformed_file_costs_its_own_expression_and_names_the_frame(own, tmp_path, content, message):
    files = prediction_files(own[1])
    for bad in files[:2]:
        bad.write_text(content)
    summary = run(own, tmp_path / "out")
    assert (summary["done"], summary["failed"], summary["metrics"]) == (2, 2, None)
    failures = pq.read_table(tmp_path / "out" / "failures").to_pylist()
    assert all(message in f["message"] for f in failures), failures
    write_predictions(own[1], own[0])
    assert run(own, tmp_path / "out")["failed"] == 0
    assert not list((tmp_path / "out" / "failures").glob("*"))


def test_uncompressed_null_and_empty_masks_are_read(own, tmp_path):
    before = run(own, tmp_path / "before")
    path = prediction_files(own[1])[0]
    masks = json.loads(path.read_text())
    masks |= {"99999": None, "88888": {"size": [40, 60], "counts": [2400]}}
    path.write_text(json.dumps(masks))
    after = run(own, tmp_path / "after")
    assert after["metrics"] == before["metrics"]


def test_official_compat_gives_the_released_figures(own, tmp_path):
    summary = run(own, tmp_path / "out", official_compat=True)
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    assert summary["metrics"]["vIoU"] is None
    assert all(r["detection_flag"] is not None for r in rows)
    default = run(own, tmp_path / "default")
    assert summary["metrics"]["IoU_gold"] == pytest.approx(default["metrics"]["IoU_gold"], abs=1e-9)
    absent = next(i for i in read_items(own[0], "medium") if i.frame_names[0] not in read_gold(own[0], i))
    path = Path(own[1]) / f"medium/{absent.video_id}/{absent.expression_id}/{absent.expression_id}-{absent.object_id}.json"
    path.write_text(json.dumps({absent.frame_names[0]: None}))
    run(own, tmp_path / "stopped", official_compat=True)
    (failure,) = pq.read_table(tmp_path / "stopped" / "failures").to_pylist()
    assert "repeats the last expression's overlap" in failure["message"]
    assert run(own, tmp_path / "sane")["failed"] == 0


def test_a_wrong_split_and_an_empty_one(folders, tmp_path):
    with pytest.raises(ConfigError, match="no such split"):
        evaluate(folders[0], "longest", folders[1], str(tmp_path), EvaluateConfig())
    with pytest.raises(FormatError, match="has no expressions"):
        evaluate(folders[0], "short", folders[1], str(tmp_path), EvaluateConfig())


def test_a_limit_takes_the_first(folders, tmp_path):
    assert run(folders, tmp_path / "out", limit=5)["num_expressions"] == 5
