"""Placement: what a cluster can never hold is told at once, with the shortfall; what its autoscaler may add is waited for."""

import contextlib
import time

import pytest

from egoray.annotate.plan import plan_from_files
from egoray.annotate.ray_annotate import annotate
from egoray.config import AnnotateConfig, EvaluateConfig, ExpressConfig, PredictConfig
from egoray.errors import StageError
from egoray.ray_cluster import Machines, has_gpus, machines, pool_size, room
from egoray.synthetic.sample import write_sample
from support import annotated, release
from support.predictions import write_dataset, write_predictions

SMALL = Machines(3, {"CPU": 4.0}, {"egoray.io/kind": "cpu"})
LARGE = Machines(2, {"CPU": 16.0, "GPU": 1.0}, {"egoray.io/kind": "gpu"})
SOON = Machines(4, {"CPU": 8.0, "GPU": 4.0})


def size(cluster, cpus=1.0, gpus=0.0, wanted=None, units=1000, **more):
    return pool_size(cluster, cpus=cpus, gpus=gpus, wanted=wanted, units=units, **more)


@pytest.mark.parametrize(
    ("cluster", "asked", "fits"),
    [
        ([SMALL], {}, 12),
        ([SMALL], {"cpus": 3.0}, 3),  # one a machine, not 12 / 3
        ([SMALL], {"cpus": 0.1}, 120),
        ([SMALL, LARGE], {}, 44),
        ([SMALL, LARGE], {"gpus": 1.0}, 2),
        ([SMALL, LARGE], {"gpus": 0.25, "cpus": 4.0}, 8),
        ([SMALL, LARGE], {"labels": {"egoray.io/kind": "cpu"}}, 12),
        ([SMALL, SOON], {"gpus": 1.0}, 16),
        ([SMALL, SOON], {"labels": {"egoray.io/kind": "cpu"}}, 44),  # nobody knows the labels of what is not there yet
        ([Machines(None, {"CPU": 2.0})], {"units": 7}, 7),
        ([SMALL], {"wanted": 5}, 5),
        ([SMALL], {"units": 2}, 2),
    ],
)
def test_actors_that_fit(cluster, asked, fits):
    assert size(cluster, **asked) == fits


@pytest.mark.parametrize(
    ("cluster", "asked", "message"),
    [
        ([SMALL], {"cpus": 6.0}, "an actor needs 6 CPU: the machine that comes nearest lacks 2 CPU; the cluster has 3 × (4 CPU); lower"),
        ([SMALL, LARGE], {"cpus": 8.0, "gpus": 2.0}, "nearest lacks 1 GPU; the cluster has 3 × (4 CPU), 2 × (16 CPU and 1 GPU); lower"),
        (
            [SMALL, SOON],
            {"gpus": 8.0},
            "lacks 4 GPU; the cluster has 3 × (4 CPU), 4 × (8 CPU and 4 GPU) that the autoscaler may add; lower",
        ),
        ([SMALL], {"labels": {"zone": "a"}}, "1 CPU and the label zone=a: no machine has that label; the cluster has 3 × (4 CPU); change"),
        ([Machines(1, {}, {})], {}, "lacks 1 CPU; the cluster has 1 × (no CPU); lower"),
        ([], {}, "no machine"),
    ],
)
def test_what_never_fits_is_told_with_the_shortfall(cluster, asked, message):
    with pytest.raises(StageError) as told:
        size(cluster, **asked)
    assert message in str(told.value)


def test_a_group_that_does_not_fit_whole():
    with pytest.raises(StageError, match=r"each of 5 workers needs 16 CPU: there is room for 2, 3 too few; the cluster has"):
        room([SMALL, LARGE], 5, "each of 5 workers needs", cpus=16, gpus=0, remedy="lower workers")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed")
    release.write_release(folder, clips=1)
    return folder


def run_annotate(work, out, **settings):
    config = AnnotateConfig(max_shard_frames=8, **settings)
    return annotate(plan_from_files(str(work / "egotracks.json"), str(work / "clips"), config), str(out), config)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cpus_per_worker": 64}, r"needs 64 CPU: the machine that comes nearest lacks 60 CPU; the cluster has 1 × \(4 CPU\)"),
        ({"node_labels": {"egoray.io/kind": "gpu"}}, r"the label egoray.io/kind=gpu: no machine has that label"),
    ],
)
def test_an_annotation_that_no_machine_can_hold_ends_within_5_s(cluster, work, tmp_path, settings, message):
    started = time.monotonic()
    with pytest.raises(StageError, match=message):
        run_annotate(work, tmp_path / "out", **settings)
    assert time.monotonic() - started < 5


@pytest.mark.ray
def test_the_other_stages_ask_too(cluster, work, tmp_path):
    from egoray.evaluate.predict import plan_from_files as plan_questions
    from egoray.evaluate.ray_evaluate import evaluate_on_ray
    from egoray.evaluate.ray_predict import predict
    from egoray.express.plan import plan_from_files as plan_expressions
    from egoray.express.ray_express import express

    nowhere = {"node_labels": {"egoray.io/kind": "gpu"}}
    annotated.write_annotated(tmp_path, clips=1)
    truth = write_dataset(tmp_path / "truth", num_videos=1)
    answers = write_predictions(tmp_path / "answers", truth)
    write_sample(tmp_path / "sample", videos=1, seed=3, seconds=4, size_hw=(72, 128), tier="short", workers=1)
    sentences, asking = ExpressConfig(provider="offline", **nowhere), PredictConfig(**nowhere)
    questions = plan_questions(str(tmp_path / "sample" / "truth"), "short", asking)
    for attempt in (
        lambda: express(plan_expressions(str(tmp_path / "work"), str(tmp_path / "clips"), sentences), str(tmp_path / "e"), sentences),
        lambda: predict(questions, str(tmp_path / "p"), asking),
        lambda: evaluate_on_ray(truth, "medium", answers, str(tmp_path / "s"), EvaluateConfig(**nowhere)),
    ):
        with pytest.raises(StageError, match=r"egoray.io/kind=gpu: no machine has that label"):
            attempt()


@pytest.mark.ray
def test_work_goes_to_machines_with_the_label(cluster, work, tmp_path):
    summary = run_annotate(work, tmp_path / "out", cpus_per_worker=0.5, workers=1, node_labels={"egoray.io/kind": "cpu"})
    assert summary["done"] == summary["expected"] > 0


@contextlib.contextmanager
def autoscaler_told(cluster, groups):
    """As an autoscaler tells Ray what it may start: name, resources and most machines of each group."""
    from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE, GcsClient
    from ray.core.generated.autoscaler_pb2 import ClusterConfig

    told = ClusterConfig()
    for name, resources, most in groups:
        told.node_group_configs.add(name=name, max_count=most).resources.update(resources)
    store = GcsClient(address=cluster.get_runtime_context().gcs_address)
    key, namespace = GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(), GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    store.internal_kv_put(key, told.SerializeToString(), True, namespace)
    try:
        yield
    finally:
        store.internal_kv_del(key, False, namespace)


@pytest.mark.ray
def test_machines_that_the_autoscaler_may_add_are_counted(cluster):
    assert machines() == [Machines(1, {"CPU": 4.0}, {"egoray.io/kind": "cpu"})]
    with autoscaler_told(cluster, [("gpu", {"CPU": 8, "GPU": 1}, 4), ("any", {"CPU": 2}, -1), ("none", {"CPU": 99}, 0)]):
        there = machines()
    assert there[1:] == [Machines(4, {"CPU": 8, "GPU": 1}), Machines(None, {"CPU": 2})]
    assert has_gpus(there)
    assert size(there, gpus=0.5) == 8
    assert size(there, cpus=2, units=10**9) > 10_000
    with pytest.raises(
        StageError, match=r"lacks 1 GPU; the cluster has 1 × \(4 CPU\), 4 × \(8 CPU and 1 GPU\) that the autoscaler may add"
    ):
        size(there, gpus=2)


@pytest.mark.ray
def test_work_goes_on_while_machines_are_waited_for(cluster, tmp_path):
    """Four actors are asked for, one finds room; the others never come."""
    release.write_release(tmp_path, clips=2)
    with autoscaler_told(cluster, [("more", {"CPU": 3}, 3)]):
        assert size(machines(), cpus=3.0) == 4
        summary = run_annotate(tmp_path, tmp_path / "out", cpus_per_worker=3)
    assert (summary["done"], summary["failed"]) == (summary["expected"], 0)
    assert summary["expected"] >= 4
