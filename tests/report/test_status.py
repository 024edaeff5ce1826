"""`egoray status`: what a folder says about its run, in each state that a run can be in."""

import json
import time

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.pulse import Pulse
from egoray.core.storage import Folder
from egoray.core.workfolder import start_attempt, write_failure
from egoray.errors import ConfigError
from egoray.report.status import SILENT_S, status
from egoray.schema import FailureRow


def only(out, now=None):
    (found,) = status(str(out), now)["stages"]
    return found


def told(out, stage="annotate", **state):
    """A run that is under way in ``out``."""
    begun = Pulse(Folder(out), stage)
    begun.__enter__()
    begun.tell(state)
    begun._write()
    return begun


def fail(out, unit, error):
    write_failure(Folder(out), unit, FailureRow(stage="annotate", unit=unit, error=error, message="m", attempt=1, retryable=True))


def test_a_running_stage(tmp_path):
    unit = {"unit": "u1", "seconds": 9.5, "frames": 300}
    begun = told(tmp_path, done=3, failed=1, skipped=2, total=10, frames=600, total_frames=2400, seconds=20.0, unit=unit)
    start_attempt(Folder(tmp_path), "u.7", "job-1")
    for name, error in (("a", "FormatError"), ("b", "FormatError"), ("c", "OSError")):
        fail(tmp_path, name, error)
    found = only(tmp_path)
    begun.__exit__(None, None, None)
    assert (found["state"], found["stage"], found["total"], found["done"], found["failed"]) == ("running", "annotate", 10, 3, 1)
    assert (found["rate"], found["rate_of"], found["left_s"]) == (30.0, "frames/s", 60.0)
    assert found["slowest"] == [unit]
    assert found["failures"] == {"FormatError": [2, "a: m"], "OSError": [1, "c: m"]}
    assert list(found["failures"]) == ["FormatError", "OSError"]
    assert found["at_work"] == ["u.7"]


def test_a_stage_without_frames_has_a_rate_of_units(tmp_path):
    begun = told(tmp_path / "expressions", "express", done=12, failed=0, skipped=2, total=32, seconds=5.0, usd=0.25, requests=40)
    found = only(tmp_path)
    begun.__exit__(None, None, None)
    assert (found["rate"], found["rate_of"], found["left_s"]) == (2.0, "units/s", 10.0)
    assert found["more"] == {"usd": 0.25, "requests": 40}


def test_a_run_that_went_silent_is_lost(tmp_path):
    begun = told(tmp_path, done=1, failed=0, total=3, frames=10, total_frames=30, seconds=1.0)
    begun._over.set()
    begun._thread.join()
    (state, left) = (only(tmp_path, time.time() + SILENT_S + 1)[key] for key in ("state", "left_s"))
    assert (state, left) == ("lost", None)


def test_a_finished_run_an_incomplete_one_and_a_failed_one(tmp_path):
    with Pulse(Folder(tmp_path / "a"), "annotate") as pulse:
        pulse.tell({"done": 2, "failed": 0, "total": 2, "frames": 8, "seconds": 2.0})
    Folder(tmp_path / "a").write_json("summary.json", {"stage": "annotate", "expected": 2, "done": 2, "failed": 0, "skipped": 0})
    found = only(tmp_path / "a")
    assert (found["state"], found["rate"], found["left_s"]) == ("finished", 4.0, None)
    with Pulse(Folder(tmp_path / "b"), "express") as pulse:
        pulse.tell({"done": 1, "failed": 0, "total": 2})
    assert only(tmp_path / "b")["state"] == "incomplete"
    with pytest.raises(ConfigError), Pulse(Folder(tmp_path / "c"), "annotate"):
        raise ConfigError("the disk is full")
    assert (only(tmp_path / "c")["state"], only(tmp_path / "c")["message"]) == ("failed", "the disk is full")


def test_a_rerun_is_told_from_the_summary_of_the_run_before(tmp_path):
    Folder(tmp_path).write_json("summary.json", {"stage": "annotate", "expected": 2, "done": 2, "failed": 0, "skipped": 0})
    assert only(tmp_path)["state"] == "finished", "a folder of before there was a progress.json"
    begun = told(tmp_path, done=2, failed=0, skipped=2, total=9, frames=0, total_frames=70, seconds=0.0)
    found = only(tmp_path)
    begun.__exit__(None, None, None)
    assert (found["state"], found["total"], found["rate"], found["left_s"]) == ("running", 9, None, None)


@pytest.fixture
def trained(tmp_path):
    folder = Folder(tmp_path)
    folder.write_json("run.json", {"stage": "train", "config": {"name": "nano-detector"}})
    rows = [(1, 2, 1.0), (2, 2, 2.0), (3, 1, 4.0), (4, 1, 3.0), (5, 2, 1.5)]
    text = "step,workers,loss,seconds\n" + "".join(f"{step},{workers},0.5,{seconds}\n" for step, workers, seconds in rows)
    folder.write_bytes("curve.csv", text.encode())
    state = {"step": 5, "steps": 10, "steps_per_s": 0.5, "left_s": 10.0, "loss": 0.5, "waiting": None, "at": time.time()}
    folder.write_json("progress.json", state)
    return folder


def test_training_has_stretches_of_workers(trained):
    found = only(trained.uri)
    assert (found["state"], found["of"], found["done"], found["total"], found["rate"], found["left_s"]) == (
        *("running", "steps", 5, 10),
        *(0.5, 10.0),
    )
    assert found["stretches"] == [
        {"workers": 2, "first": 1, "last": 2, "seconds": 3.0},
        {"workers": 1, "first": 3, "last": 4, "seconds": 7.0},
        {"workers": 2, "first": 5, "last": 5, "seconds": 1.5},
    ]
    assert [row["unit"] for row in found["slowest"]] == ["step 3", "step 4", "step 2", "step 5", "step 1"]
    assert found["more"] == {"recipe": "nano-detector", "loss": 0.5}


def test_training_lost_stopped_and_finished(trained):
    assert only(trained.uri, time.time() + 60)["state"] == "lost"
    trained.write_json("stopped.json", {"error": "ModelError", "message": "no weights"})
    assert (only(trained.uri)["state"], only(trained.uri)["message"]) == ("failed", "no weights")
    trained.delete("stopped.json")
    trained.write_json("progress.json", trained.read_json("progress.json") | {"step": 10})
    trained.write_json("summary.json", {"stage": "train", "expected": 10, "done": 10, "failed": 0})
    assert only(trained.uri, time.time() + 60)["state"] == "finished"


def test_the_command(tmp_path, trained):
    Folder(tmp_path / "work" / "long").write_json("summary.json", {"stage": "predict", "expected": 1, "done": 0, "failed": 1, "skipped": 0})
    fail(tmp_path / "work" / "long", "clip", "FormatError")
    done = CliRunner().invoke(main, ["status", str(tmp_path), "--json"])
    assert [part["stage"] for part in json.loads(done.stdout)["stages"]] == ["train", "predict"]
    shown = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert (done.exit_code, shown.exit_code) == (0, 0)
    for text in ("running, about 10 s left", "1 for steps 3 to 4, 7 s", "1 × FormatError, e.g. clip: m"):
        assert text in shown.stdout
    empty = CliRunner().invoke(main, ["status", str(tmp_path / "nowhere")])
    assert (empty.exit_code, "no run has been there" in empty.stderr) == (2, True)
    over = CliRunner().invoke(main, ["status", str(tmp_path / "work"), "--watch"])
    assert over.exit_code == 2
