"""What Prometheus gets: every series of the code is on the dashboard and in the docs, and a run's counts come out of Ray's exporter."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig
from egoray.ray_metrics import LATENCY_S, SERIES, Metrics, asked, trained, unit_ended
from support import release

ROOT = Path(__file__).parents[1]
_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


class Recorded(Metrics):
    """Keeps what is told instead of exporting it; the labels are checked as for real."""

    def __init__(self, **labels):
        super().__init__(**labels)
        self.told = {}

    def _series(self, name):
        recorder = self

        class One:
            def inc(self, amount, tags):
                recorder.told[name, *sorted(tags.items())] = recorder.told.get((name, *sorted(tags.items())), 0.0) + amount

            def set(self, value, tags):
                recorder.told[name, *sorted(tags.items())] = value

            observe = set

        return One()


def names_in(text):
    found = set(re.findall(r"ray_(egoray_\w+)", text))
    return {_HISTOGRAM.sub("", name) if _HISTOGRAM.sub("", name) in SERIES else name for name in found}


def test_the_dashboard_shows_every_series_and_no_other():
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    shown = names_in("\n".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]))
    assert shown == set(SERIES)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_a_label_on_the_dashboard_is_one_of_its_series():
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            (name,) = names_in(target["expr"])
            grouped = re.search(r"by \(([^)]*)\)", target["expr"])
            wanted = {label.strip() for label in grouped[1].split(",")} if grouped else set()
            assert wanted - {"le"} <= set(SERIES[name].labels), target["expr"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= wanted, target["legendFormat"]


def test_the_docs_list_every_series():
    assert set(re.findall(r"`ray_(egoray_\w+)`", (ROOT / "docs" / "operations.md").read_text())) == set(SERIES)


def test_a_unit_as_told():
    told = Recorded(stage="annotate")
    stage = ("stage", "annotate")
    unit_ended(told, {"unit": "a", "error": "", "frames": 30, "seconds": 4.0, "waited_s": 1.0}, "cuda")
    unit_ended(told, {"unit": "b", "error": "FormatError", "frames": 0, "seconds": 1.0}, "cuda")
    assert told.told == {
        ("egoray_units_done_total", stage): 1.0,
        ("egoray_units_failed_total", ("error", "FormatError"), stage): 1.0,
        ("egoray_frames_total", stage): 30.0,
        ("egoray_unit_seconds_total", stage): 4.0,
        ("egoray_decode_wait_seconds_total", stage): 1.0,
        ("egoray_busy_share", ("device", "cuda"), stage): 0.75,
    }


def test_a_worker_that_asks_is_told_once():
    from egoray.express.client import Tally

    def tally(n):
        from dataclasses import asdict

        return asdict(Tally(requests=n, retries=1, cached=n, prompt_tokens=100 * n, completion_tokens=n, usd=0.5 * n, usd_unseen=0.25))

    told = Recorded(stage="express")
    asked(told, {}, tally(2))
    asked(told, tally(2), tally(3))
    found = {key[0] if len(key) == 2 else (key[0], dict(key[1:])["kind"]): value for key, value in told.told.items()}
    assert found == {
        "egoray_requests_total": 3.0,
        "egoray_retries_total": 1.0,
        "egoray_cache_hits_total": 3.0,
        "egoray_usd_total": 1.75,
        ("egoray_tokens_total", "prompt"): 300.0,
        ("egoray_tokens_total", "completion"): 3.0,
    }


def test_training_as_told():
    told = Recorded(recipe="nano-detector")
    trained(told, {"step": 4, "loss": None, "samples_per_s": 2.5, "workers": 2})
    recipe = ("recipe", "nano-detector")
    assert told.told == {("egoray_train_step", recipe): 4, ("egoray_train_samples_per_s", recipe): 2.5, ("egoray_train_workers", recipe): 2}


def scraped(ray):
    """The lines of egoray's own series, from every node's exporter."""
    lines = []
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines += [line for line in answer.read().decode().splitlines() if line.startswith("ray_egoray_")]
    return lines


def count(lines, name, **labels):
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{") and all(w in line for w in wanted))


@pytest.mark.ray
def test_a_real_run_is_counted_by_rays_exporter(cluster, tmp_path):
    release.write_release(tmp_path)
    config = AnnotateConfig(max_shard_frames=8, cpus_per_worker=0.5, workers=1)
    before = scraped(cluster)
    summary = annotate(plan_from_files(str(tmp_path / "egotracks.json"), str(tmp_path / "clips"), config), str(tmp_path / "out"), config)
    serve = Metrics(model="asked here")
    serve.observe("egoray_serve_latency_seconds", 0.2, status="200")
    wanted = {"ray_egoray_units_done_total": summary["done"], "ray_egoray_frames_total": summary["frames"]}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = scraped(cluster)
        found = {name: count(lines, name, stage="annotate") - count(before, name, stage="annotate") for name in wanted}
        buckets = [line for line in lines if "serve_latency_seconds_bucket" in line and 'model="asked here"' in line]
        if found == wanted and buckets:
            break
        time.sleep(1.0)
    assert found == wanted
    assert count(lines, "ray_egoray_unit_seconds_total", stage="annotate") >= count(lines, "ray_egoray_decode_wait_seconds_total")
    assert count(lines, "ray_egoray_units_waiting", stage="annotate") == 0
    assert len(buckets) == len(LATENCY_S) + 1
