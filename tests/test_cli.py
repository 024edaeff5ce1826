"""The command line as a user meets it: one line an error, the designed exit codes, a plan before the work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.config import AnnotateConfig, BuildConfig, ExpressConfig, PredictConfig, load
from support import release


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    release.write_release(folder, clips=2)
    return folder


def annotate(clips, out, *more):
    inputs = ["--tracks", str(clips / "egotracks.json"), "--videos", str(clips / "clips"), "--out", str(out)]
    return CliRunner().invoke(main, ["annotate", *inputs, *more])


def test_dry_run_prints_the_plan_and_starts_nothing(clips, tmp_path):
    done = annotate(clips, tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (plan["units"], plan["clips"], plan["trajectories"], plan["frames"]) == (2, 2, 8, 32)
    assert plan["hours_on_one_worker"] > 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "magic"], "--model magic: unknown; known are grabcut, sam2"),
        (["--set", "worker=2"], "worker: unknown setting; known are"),
        (["--set", "workers=0"], "workers: input should be greater than or equal to 1"),
        (["--set", "workers"], "--set workers: expected key=value"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read as YAML"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(clips, tmp_path, more, message):
    done = annotate(clips, tmp_path / "out", *more)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"egoray: {message}"), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not JSON"), (b"[1, 2]", "expected"), (b'{"images": []}', "expected"), (b"\xff\xfe", "not JSON"), (None, "not found")],
)
def test_a_wrong_tracks_file_is_one_line_and_exit_2(clips, tmp_path, content, message):
    path = tmp_path / "tracks.json"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(main, ["annotate", "--tracks", str(path), "--videos", str(clips / "clips"), "--out", str(tmp_path / "o")])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "tracks.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_relative_paths_are_refused_in_a_submitted_job(clips, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    done = annotate(clips, "work")
    assert done.exit_code == 2
    assert "--out work: a submitted job runs in a temporary folder" in done.stderr


def test_an_out_folder_that_cannot_be_written_is_one_line(clips, tmp_path):
    (tmp_path / "file").write_text("")
    done = annotate(clips, tmp_path / "file" / "out")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("stage", "config"), [("annotate", AnnotateConfig), ("express", ExpressConfig), ("predict", PredictConfig), ("build", BuildConfig)]
)
def test_the_jobs_settings_are_the_stages_own(stage, config):
    assert load(config, str(Path(__file__).parents[1] / "jobs" / f"{stage}.yaml")) == config()


def test_help_is_quick():
    """Whole process, generous against a busy machine; the promise is 0.5 s."""
    subprocess.run([sys.executable, "-m", "egoray.cli", "--help"], check=True, capture_output=True, timeout=5, env=os.environ)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    from support.predictions import write_dataset, write_predictions

    root = tmp_path_factory.mktemp("judged")
    dataset = write_dataset(root / "dataset", num_videos=1)
    return dataset, write_predictions(root / "predictions", dataset)


def evaluate(judged, out, *more):
    args = ["evaluate", "--dataset", judged[0], "--split", "medium", "--predictions", judged[1], "--out", str(out), "--local", *more]
    return CliRunner().invoke(main, args)


def test_evaluate_prints_the_metrics_or_the_summary(judged, tmp_path):
    done = evaluate(judged, tmp_path / "a")
    assert done.exit_code == 0
    assert "IoU_gold_pred" in done.stderr
    summary = json.loads(evaluate(judged, tmp_path / "b", "--json").stdout)
    assert summary["num_expressions"] == 4
    assert 0 < summary["metrics"]["IoU_gold_pred"] < 1


def test_evaluate_tells_what_it_would_score(judged, tmp_path):
    plan = json.loads(evaluate(judged, tmp_path / "out", "--dry-run", "--json").stdout)
    assert plan == {"expressions": 4, "videos": 1, "frames": 48, "missing_predictions": 0}
    assert not (tmp_path / "out").exists()


def test_evaluate_without_a_prediction_exits_1_and_says_which(judged, tmp_path):
    shutil.copytree(judged[1], tmp_path / "p")
    next((tmp_path / "p").rglob("2-2.json")).unlink()
    done = evaluate((judged[0], str(tmp_path / "p")), tmp_path / "out")
    assert done.exit_code == 1
    assert "2-2.json: no prediction" in done.stderr
    assert evaluate((judged[0], str(tmp_path / "p")), tmp_path / "out", "--missing", "empty").exit_code == 0
    assert evaluate((str(tmp_path), judged[1]), tmp_path / "out").exit_code == 2
