"""Training on real Ray: the same steps as in one process, errors in one line, workers that die, come and are taken away."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egoray.errors import ConfigError, EgorayError, FormatError, StageError
from egoray.synthetic.sample import write_sample
from egoray.train.forecast import read_recipe

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Clips of two rooms as a training set."""
    folder = tmp_path_factory.mktemp("rooms")
    write_sample(folder, videos=2, seed=31, seconds=6, size_hw=(90, 160), fps=5, tier="train", workers=1)
    return str(folder / "truth")


def recipe(rooms, **settings):
    chosen = {"batch": 4, "steps": 3, "epochs": None, "tensorboard": False} | settings
    return read_recipe("nano-detector", None, [f"{key}={json.dumps(value)}" for key, value in chosen.items()], [rooms])


def curve(out):
    path = Path(out) / "curve.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


@pytest.mark.ray
def test_two_workers_on_ray_make_the_steps_of_one_process(cluster, rooms, tmp_path):
    from egoray.train.ray_train import train_here, train_on_ray

    seen = []
    summary = train_on_ray(recipe(rooms, workers=[2, 2]), str(tmp_path / "ray"), seen.append)
    train_here(recipe(rooms), str(tmp_path / "here"))
    there, here = curve(tmp_path / "ray"), curve(tmp_path / "here")
    assert [row["workers"] for row in there] == ["2"] * 3
    assert [float(row["loss"]) for row in there] == pytest.approx([float(row["loss"]) for row in here], abs=1e-5)
    assert (summary["expected"], summary["done"], summary["failed"]) == (3, 3, 0)
    assert seen[-1]["step"] == 3
    assert not (tmp_path / "ray" / "ray").exists()
    started = time.monotonic()
    assert train_on_ray(recipe(rooms, workers=[2, 2]), str(tmp_path / "ray"))["done"] == 3
    assert len(curve(tmp_path / "ray")) == 3
    assert time.monotonic() - started < 60


@pytest.mark.ray
def test_what_every_worker_would_meet_again_is_one_line_and_not_tried_again(cluster, rooms, tmp_path):
    from egoray.train.ray_train import train_on_ray

    with pytest.raises(EgorayError, match=r"options.num_sentence: unknown; known are absent"):
        train_on_ray(recipe(rooms, **{"options.num_sentence": 3}), str(tmp_path))


@pytest.mark.ray
def test_a_cluster_too_small_is_told_with_the_shortfall(cluster, rooms, tmp_path):
    from egoray.train.ray_train import train_on_ray

    with pytest.raises(StageError, match=r"each of 40 workers needs 1 CPU: there is room for 4, 36 too few; the cluster has 1 × \(4 CPU\)"):
        train_on_ray(recipe(rooms, workers=[40, 50]), str(tmp_path))


def test_recipes_name_what_is_missing_and_drop_it_on_request(rooms):
    with pytest.raises(ConfigError, match=r"also trains on mevis, revos, ref-youtube-vos.*--set missing=drop"):
        read_recipe("sa2va-4b-egomask", None, [], [rooms])
    with pytest.raises(ConfigError, match=r"egoray cannot read vos, sem_seg, refer_seg, reason_seg"):
        read_recipe("videolisa-3.8b-egomask", None, [], [rooms])
    kept = read_recipe("sa2va-4b-egomask", None, ["missing=drop", "batch=64", "options.lora_rank=8"], [rooms])
    assert (list(kept.data), kept.data["egomask-train"].repeats, kept.batch, kept.options) == (["egomask-train"], 50, 64, {"lora_rank": 8})


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sa2va-5b", [], r"--recipe sa2va-5b: unknown; known are sa2va-4b-egomask"),
        ("nano-detector", ["learning_rate=1"], r"learning_rate: unknown setting"),
        ("nano-detector", ["lr=-1"], r"lr: input should be greater than 0"),
        ("nano-detector", ["batch.x=1"], r"--set batch.x=1: batch has no entries"),
    ],
)
def test_a_wrong_setting_is_named(rooms, name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(name, None, overrides, [rooms])


def test_a_folder_without_a_training_set_is_named(tmp_path, rooms):
    from egoray.train.forecast import forecast
    from egoray.train.run import read_mix

    with pytest.raises(FormatError, match=r"no training set; expected train/mask_dict\.json"):
        read_mix(read_recipe("nano-detector", None, [], [str(tmp_path)]))
    with pytest.raises(ConfigError, match="set epochs or steps"):
        forecast(recipe(rooms, epochs=2))


def test_the_forecast_counts_parameters_steps_and_shares(rooms):
    from egoray.train.forecast import forecast

    plan = forecast(recipe(rooms, batch=16, workers=[1, 3]))
    assert plan["share_of_a_worker"]["3"] == "6 + 5 + 5"
    assert plan["parameters_trained"] > 1_500_000
    assert plan["parameters_frozen"] == 0
    assert plan["steps"] == 3


def test_a_recipe_is_a_yaml_file_too(rooms, tmp_path):
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe(rooms).model_dump(mode="json")))
    assert read_recipe(str(path), None, [], []) == recipe(rooms)


@pytest.fixture
def raylets(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_health_check_period_ms", "1000"), ("RAY_health_check_failure_threshold", "3")):
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0})
    yield cluster
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_shrinks_grows_and_saves_before_a_machine_is_taken_away(raylets, rooms, tmp_path):
    from ray._raylet import GcsClient

    nodes = [raylets.add_node(num_cpus=1) for _ in range(2)]
    raylets.wait_for_nodes()
    settings = {"steps": 260, "epochs": None, "batch": 4, "workers": [1, 2], "save_steps": 10, "save_s": 1000, "resize_s": 3}
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "egoray.cli", "train", "--recipe", "nano-detector", "--data", rooms, "--out", str(tmp_path), *pairs]
    run = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": raylets.address}, stderr=subprocess.PIPE, text=True)

    def until(ready):
        ends = time.monotonic() + 200
        while time.monotonic() < ends and run.poll() is None:
            if (rows := curve(tmp_path)) and ready(rows):
                return rows
            time.sleep(0.2)
        raise AssertionError(f"{run.poll()}, the curve ends with {curve(tmp_path)[-1:]}")

    until(lambda rows: len(rows) > 12 and rows[-1]["workers"] == "2")
    os.kill(nodes[1].all_processes["raylet"][0].process.pid, signal.SIGKILL)
    raylets.remove_node(nodes[1], allow_graceful=False)
    until(lambda rows: rows[-1]["workers"] == "1")
    third = raylets.add_node(num_cpus=1)
    told = int(until(lambda rows: rows[-1]["workers"] == "2")[-1]["step"])
    GcsClient(address=raylets.address).drain_node(third.node_id, 2, "spot", int((time.time() + 30) * 1000))
    ends = time.monotonic() + 30
    while not any(mark > told and mark % 10 for mark in marks(tmp_path)):
        assert time.monotonic() < ends, "no checkpoint before the deadline"
        time.sleep(0.2)
    raylets.remove_node(third, allow_graceful=False)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    rows = curve(tmp_path)
    assert [int(row["step"]) for row in rows] == list(range(1, 261))
    assert {row["workers"] for row in rows} == {"1", "2"}


def marks(out):
    return [int(path.parent.name[5:]) for path in Path(out).glob("checkpoints/step-*/checkpoint.json")]
