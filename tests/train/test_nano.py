"""The one command: it renders in some processes, makes batches in others, trains both networks, and can be ended and gone on with."""

import os
import signal
import subprocess
import sys
import time
from importlib import resources

import pytest
import torch
from click.testing import CliRunner

from egoray.models.sam2_engine import Sam2Engine
from egoray.train.nano import main

NETWORKS = ("nano-detector", "nano-tracker")


def test_help_says_how_to_use_a_gpu():
    done = CliRunner().invoke(main, ["nano", "--help"])
    assert done.exit_code == 0
    assert "--device cuda --minutes 22 --workers 14" in " ".join(done.output.split())


def start(folder, minutes):
    command = [
        sys.executable,
        "-m",
        "egoray.train",
        "nano",
        "--out",
        str(folder),
        "--minutes",
        str(minutes),
        "--workers",
        "3",
        "--shards",
        "1",
    ]
    return subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_networks_are_trained_ended_and_gone_on_with(tmp_path):
    process = start(tmp_path, 60)
    try:
        while not all((tmp_path / name / "pid").exists() for name in NETWORKS):
            assert process.poll() is None
            time.sleep(0.5)
        time.sleep(25)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) == 0
    finally:
        process.kill()
    states = {name: torch.load(tmp_path / name / "state.pt", weights_only=True) for name in NETWORKS}
    assert all(state["step"] > 0 for state in states.values())
    assert start(tmp_path, 0.9).wait(timeout=300) == 0
    for name in NETWORKS:
        after = torch.load(tmp_path / name / "state.pt", weights_only=True)
        assert after["step"] > states[name]["step"]
        assert "trial" in (tmp_path / name / "curve.csv").read_text() or "ap50" in (tmp_path / name / "curve.csv").read_text()
    config = tmp_path / "nano-tracker" / "weights.yaml"
    config.write_text((resources.files("egoray.models.nano") / "tracker.yaml").read_text())
    assert Sam2Engine(str(tmp_path / "nano-tracker" / "weights.pt")).name == "sam2"
