"""The loop on a network of one number: it ends by the clock, goes on where it was, and a SIGTERM costs nothing."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from egoray.errors import ModelError
from egoray.train.clock import Loop, LoopConfig


class One:
    """Pulls a single weight to 3."""

    def __init__(self, width=1):
        self.net = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    def batches(self, progress):
        while True:
            yield torch.ones(1)

    def weights(self, net):
        return net.state_dict()

    def loss(self, batch):
        loss = ((self.net.weight - 3) ** 2).sum()
        return loss, {"distance": float(loss.detach()) ** 0.5}

    def trial(self, net):
        return {"weight": float(net.weight.detach()[0, 0])}


def config(seconds, **more):
    return LoopConfig(minutes=seconds / 60, peak_lr=0.05, weight_decay=0.0, **more)


def curve(folder):
    with (folder / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_learns_ends_by_the_clock_and_leaves_the_averaged_weights(tmp_path):
    start = time.monotonic()
    Loop(One(), config(1.0), tmp_path).run()
    assert 0.9 < time.monotonic() - start < 4
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)["model"]
    assert weights["weight"].item() == pytest.approx(3, abs=0.1)
    assert float(next(row for row in curve(tmp_path) if row["figure"] == "weight")["value"]) == pytest.approx(3, abs=0.1)


def test_a_run_that_is_over_is_not_run_again_and_a_longer_one_goes_on(tmp_path):
    Loop(One(), config(0.3), tmp_path).run()
    longer = Loop(One(), config(0.6), tmp_path)
    assert longer.progress == pytest.approx(0.5, abs=0.1)
    before = longer.step
    longer.run()
    again = Loop(One(), config(0.6), tmp_path)
    assert again.step > before > 10
    assert again.progress == 1


def test_time_while_stopped_does_not_count(tmp_path, monkeypatch):
    loop = Loop(One(), config(300), tmp_path)
    clock = iter([0.0, 1.0, 5000.0, 5001.0, 1e9])
    monkeypatch.setattr("egoray.train.clock.time.monotonic", lambda: next(clock))
    steps = []
    train = loop._train
    loop._train = lambda batch: (steps.append(1), loop._stop() if len(steps) == 3 else None, train(batch))[2]
    loop.run()
    assert loop.elapsed_s == pytest.approx(1 + 20 + 1)


def test_the_state_of_another_network_is_refused(tmp_path):
    Loop(One(), config(0.1), tmp_path).run()
    with pytest.raises(ModelError, match="another network"):
        Loop(One(width=2), config(0.1), tmp_path)


def test_sigterm_saves_and_ends_well(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_clock import Loop, One, config
Loop(One(), config(60), Path({str(tmp_path)!r})).run()
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(6)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
    assert Loop(One(), config(60), tmp_path).step > 10
