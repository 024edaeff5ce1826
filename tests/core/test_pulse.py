"""The sign of life of a run: written at its start, while it runs, and at its end, whatever the end."""

import json
import threading
import time

import pytest

from egoray.core import pulse
from egoray.core.pulse import Pulse
from egoray.core.storage import Folder


def written(folder):
    return json.loads((folder / "progress.json").read_text())


def test_a_run_from_its_start_to_its_end(tmp_path):
    with Pulse(Folder(tmp_path), "annotate") as told:
        assert (written(tmp_path)["stage"], written(tmp_path)["ended"]) == ("annotate", None)
        for i in range(20):
            told.tell({"done": i + 1, "total": 20, "unit": {"unit": f"u{i}", "seconds": float(i % 7), "frames": i}})
    end = written(tmp_path)
    assert (end["ended"], end["done"], end["total"], "unit" in end) == ("finished", 20, 20, False)
    assert [row["seconds"] for row in end["slowest"]] == [6.0, 6.0, 5.0, 5.0, 5.0]
    assert end["began"] <= end["at"] <= time.time()
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]


def test_a_failed_run_says_why(tmp_path):
    with pytest.raises(ValueError, match="two"), Pulse(Folder(tmp_path), "annotate"):
        raise ValueError("one\n  two")
    assert (written(tmp_path)["ended"], written(tmp_path)["message"]) == ("failed", "one two")


def test_it_is_written_while_units_end_and_while_none_does(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "EVERY_S", 0.05)
    monkeypatch.setattr(pulse, "STILL_S", 0.3)
    with Pulse(Folder(tmp_path), "annotate") as told:
        told.tell({"done": 1})
        deadline = time.monotonic() + 20
        while written(tmp_path).get("done") != 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        first = written(tmp_path)
        assert first["done"] == 1
        while written(tmp_path)["at"] == first["at"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert written(tmp_path)["at"] >= first["at"] + 0.3
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "progress.json").mkdir()
    with Pulse(Folder(tmp_path), "annotate") as told:
        told.tell({"done": 1})
    assert (tmp_path / "progress.json").is_dir()
