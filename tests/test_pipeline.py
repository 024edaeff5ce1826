"""`egoray run`: stages in order from one file, what is done is skipped, the first that fails ends it; the example for real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from egoray.cli import main
from egoray.pipeline import read_pipeline
from support.predictions import write_dataset, write_predictions

ROOT = Path(__file__).parents[1]


@pytest.fixture
def judged(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", num_videos=1)
    write_predictions(tmp_path / "answers", dataset)
    return tmp_path


def write(folder, stages, **more):
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"out": str(folder / "run"), "stages": stages} | more))
    return str(path)


def run(path, *more):
    done = CliRunner().invoke(main, ["run", path, "--json", *more])
    found = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None
    return done, [row["state"] for row in found["stages"]] if found else []


def scored(judged, **more):
    """Two stages that need neither Ray nor a model."""
    asked = {"dataset": str(judged / "dataset"), "split": "medium"}
    return [
        {"validate": {"dataset": str(judged / "dataset")}},
        {"evaluate": {**asked, "predictions": str(judged / "answers"), "out": "{out}/scores", "local": True} | more},
    ]


def test_stages_run_in_order_and_a_second_run_skips_them(judged):
    path = write(judged, scored(judged))
    done, states = run(path)
    assert (done.exit_code, states) == (0, ["done", "done"]), done.output
    before = (judged / "run" / "scores" / "summary.json").stat().st_mtime_ns
    done, states = run(path)
    assert (done.exit_code, states) == (0, ["skipped", "skipped"])
    assert (judged / "run" / "scores" / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "states"),
    [
        (lambda judged: shutil.rmtree(judged / "run" / "scores"), ["skipped", "done"]),
        (lambda judged: os.utime(next((judged / "answers").rglob("*.json"))), ["skipped", "done"]),
        (lambda judged: os.utime(next((judged / "dataset").rglob("meta_expressions.json"))), ["done", "done"]),
        (lambda judged: write(judged, scored(judged, missing="empty")), ["skipped", "done"]),
    ],
)
def test_a_stage_is_redone_when_its_result_inputs_or_settings_are_others(judged, change, states):
    path = write(judged, scored(judged))
    run(path)
    change(judged)
    assert run(path)[1] == states
    assert run(path)[1] == ["skipped", "skipped"]


def test_the_first_that_fails_ends_it_with_its_exit_code_and_the_same_command_goes_on(judged):
    (lost,) = (judged / "answers").rglob("2-2.json")
    kept = lost.read_bytes()
    lost.unlink()
    path = write(judged, [*scored(judged), {"stats": {"dataset": str(judged / "dataset")}}])
    done, states = run(path)
    assert (done.exit_code, states) == (1, ["done", "failed", "left"])
    assert "2-2.json: no prediction" in done.stderr
    lost.write_bytes(kept)
    done, states = run(path)
    assert (done.exit_code, states) == (0, ["skipped", "done", "done"])


def test_an_error_of_a_stage_is_its_own_line_and_exit_code(tmp_path):
    path = write(tmp_path, [{"evaluate": {"dataset": str(tmp_path), "predictions": str(tmp_path), "out": "{out}/s", "local": True}}])
    done, states = run(path)
    assert (done.exit_code, states) == (2, ["failed"])
    assert [line for line in done.stderr.splitlines() if line.startswith("egoray: ")]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"annotated": {}}], "annotated: no such stage; known are sample, annotate,"),
        ([{"validate": {"dataset": "d", "fix": True}}], "validate: fix: unknown option; known are dataset, json, no_checksums"),
        ([{"annotate": {"tracks": "t", "videos": "v", "out": "o", "worker": 2}}], "annotate: worker: unknown setting; known are"),
        ([{"annotate": {"tracks": "t", "videos": "v", "out": "o", "workers": 0}}], "annotate: workers: input should be greater"),
        ([{"annotate": {"videos": "v", "out": "o"}}], "annotate: Missing option"),
        ([{"sample": {"out": "{where}"}}], "sample: {where}: no such var; known are out"),
        (["sample"], "stages: number 2 is not of the form"),
        ([], "expected `out`, `vars` and a list of `stages`"),
    ],
)
def test_a_wrong_pipeline_is_one_line_and_starts_nothing(tmp_path, stages, message):
    done, _ = run(write(tmp_path, [{"sample": {"out": "{out}/s", "videos": 1}}, *stages] if stages else stages))
    assert done.exit_code == 2
    assert message in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_vars_and_out_of_the_command_line_win(tmp_path):
    path = write(tmp_path, [{"sample": {"out": "{out}/s", "videos": "{n}"}}], vars={"n": 2})
    folder, (step,) = read_pipeline(path, str(tmp_path / "other"), ["n=7"])
    assert folder.uri == str(tmp_path / "other")
    assert step.args == ("--videos", "7", f"{tmp_path}/other/s")
    done, _ = run(path, "--var", "m=1")
    assert "--var m=1: expected name=value" in done.stderr


def test_settings_keep_their_types(tmp_path):
    section = {
        "annotations": "a",
        "videos": "v",
        "out": "o",
        "objects": {"short": 1},
        "train": None,
        "medium_from": "long",
        "dry-run": True,
    }
    _, (step,) = read_pipeline(write(tmp_path, [{"build": section}]))
    context = main.commands["build"].make_context("build", list(step.args))
    assert context.params["dry_run"] is True
    assert set(context.params["overrides"]) == {'objects={"short": 1}', "train=null", 'medium_from="long"'}


def test_the_plan_starts_nothing(tmp_path):
    done, states = run(str(ROOT / "jobs" / "pipeline.yaml"), "--out", str(tmp_path / "run"), "--dry-run")
    assert done.exit_code == 0
    assert states == ["planned"] + ["unplanned"] * 8
    assert f"needs {tmp_path}/run/dataset, which a stage above writes" in done.stderr
    assert "egoray: " not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_with_what_is_there_and_with_what_nobody_writes(judged):
    path = write(judged, scored(judged))
    assert run(path, "--dry-run")[1] == ["planned", "planned"]
    shutil.rmtree(judged / "dataset")
    done, states = run(path, "--dry-run")
    assert (done.exit_code, states) == (2, ["planned", "failed"])
    assert "meta_expressions.json: not found" in done.stderr


@pytest.mark.ray
def test_the_example_runs_as_a_job_would_and_skips_itself(cluster, tmp_path):
    command = [sys.executable, "jobs/pipeline.py", "jobs/pipeline.yaml", "--out", str(tmp_path / "run"), "--json"]
    command += ["--var", "videos=1", "--var", "seconds=6"]
    environment = os.environ | {"RAY_ADDRESS": cluster.get_runtime_context().gcs_address}
    first, second = (subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280) for _ in range(2))
    assert first.returncode == 0, first.stderr[-3000:]
    stages = [row["stage"] for row in json.loads(first.stdout.splitlines()[-1])["stages"]]
    assert [row["state"] for row in json.loads(first.stdout.splitlines()[-1])["stages"]] == ["done"] * len(stages)
    again = {stage: row["state"] for stage, row in zip(stages, json.loads(second.stdout.splitlines()[-1])["stages"], strict=True)}
    assert again == {stage: "done" if stage in ("annotate", "express", "predict") else "skipped" for stage in stages}
    scores = json.loads((tmp_path / "run" / "evaluation" / "summary.json").read_text())
    assert scores["num_expressions"] > 0
    assert (tmp_path / "run" / "evaluation.html").stat().st_size > 10_000
