"""The same figures from a cluster, also when a worker dies."""

import json
import os
import signal
from pathlib import Path

import pytest

from egoray.config import EvaluateConfig
from egoray.evaluate import ray_evaluate
from egoray.evaluate.ray_evaluate import evaluate_on_ray
from egoray.evaluate.run import evaluate, score_part
from support.predictions import write_dataset, write_predictions

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    dataset = write_dataset(root / "dataset", num_videos=12)
    return dataset, write_predictions(root / "predictions", dataset)


def without_time(out):
    summary = json.loads((Path(out) / "summary.json").read_text())
    return {k: v for k, v in summary.items() if k not in ("seconds", "frames_per_s")}


def test_a_cluster_gives_the_same_bytes_as_one_process(cluster, folders, tmp_path):
    seen = []
    evaluate(folders[0], "medium", folders[1], str(tmp_path / "local"), EvaluateConfig())
    evaluate_on_ray(folders[0], "medium", folders[1], str(tmp_path / "ray"), EvaluateConfig(), progress=seen.append)
    for name in ("rows.parquet", "videos.parquet"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
    assert without_time(tmp_path / "local") == without_time(tmp_path / "ray")
    assert seen[-1]["done"] == seen[-1]["total"] == 48


def test_a_dead_worker_changes_nothing(cluster, folders, tmp_path, monkeypatch):
    marker = str(tmp_path / "died")

    def die_once(*args, **more):
        if not os.path.exists(marker):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return score_part(*args, **more)

    monkeypatch.setattr(ray_evaluate, "score_part", die_once)
    evaluate_on_ray(folders[0], "medium", folders[1], str(tmp_path / "ray"), EvaluateConfig(workers=2))
    assert os.path.exists(marker)
    evaluate(folders[0], "medium", folders[1], str(tmp_path / "local"), EvaluateConfig())
    assert without_time(tmp_path / "local") == without_time(tmp_path / "ray")
