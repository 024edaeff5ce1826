"""The cost model: the table in the docs is what it says, and it says what arithmetic by hand does."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("benchmark_scale", ROOT / "benchmarks" / "scale.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_docs_show_what_the_model_gives(scale):
    text = (ROOT / "docs" / "scale.md").read_text()
    (table,) = re.findall(r"<!-- cost: .*?-->\n(.*?)\n<!-- end of cost -->", text, re.DOTALL)
    assert table == scale.markdown([scale.cost(dataset, scale.Figures()) for dataset in scale.DATASETS])


def test_the_docs_name_the_defaults(scale):
    text, figures = (ROOT / "docs" / "scale.md").read_text(), scale.Figures()
    for name in ("frame_ms", "object_ms", "speed", "efficiency", "decode_per_s", "tokens_per_min"):
        (row,) = [line for line in text.splitlines() if line.startswith("| ") and f"`{name}`" in line]
        assert f"{getattr(figures, name):,g}" in row


def test_an_object_that_is_always_there_costs_what_one_reckons(scale):
    """One object in one trajectory of nearly the whole clip: every frame is encoded once and shows it once."""
    dataset = scale.Dataset("one", 1000, 60.0, 1000)
    figures = replace(
        scale.Figures(), trajectories=1.0, trajectory_share=1e9, frame_ms=30.0, object_ms=20.0, speed=0.5, efficiency=1.0, gpus=4
    )
    found = scale.cost(dataset, figures)
    assert found["frames"] == found["object_frames"]
    assert found["frames"] == pytest.approx(1000 * 60 * 5 / 2, rel=0.15)  # it begins anywhere, so half of the clip on average
    assert found["gpu_hours"] == pytest.approx(found["frames"] * 0.050 / 0.5 / 3600)
    assert found["hours"]["annotate"] == pytest.approx(found["gpu_hours"] / 4)
    assert found["usd"]["annotate"] == pytest.approx(found["gpu_hours"] * figures.usd_gpu_hour)
    assert found["decode_core_hours"] == pytest.approx(found["frames"] * 6 / 350 / 3600)
    tokens, usd = scale.question_costs(figures)
    assert found["usd"]["express, gpt-4o"] == pytest.approx(1000 * usd)
    assert found["hours"]["express, gpt-4o"] == pytest.approx(1000 * tokens / 450_000 / 60)


def test_frames_shared_by_objects_are_encoded_once(scale):
    alone, crowded = (scale.cost(scale.Dataset("d", 300, 300.0, 300 * n), scale.Figures()) for n in (1, 8))
    assert crowded["object_frames"] == pytest.approx(8 * alone["object_frames"], rel=0.1)
    assert crowded["frames"] < 5 * alone["frames"]
    assert crowded["frames"] <= 300 * 300 * 5


@pytest.mark.parametrize(
    ("seconds", "workers", "takes"), [([3, 3, 2, 2, 2], 2, 7), ([1] * 8, 4, 2), ([5, 1], 4, 5), ([1, 1, 1, 1, 4], 2, 6)]
)
def test_a_queue_without_overhead(scale, seconds, workers, takes):
    assert scale.queue_alone(seconds, workers) == takes
