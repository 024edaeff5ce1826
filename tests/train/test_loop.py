"""The loop's promises, on a toy network: any number of workers, a kill, an unreadable sample, a bad step, a full disk."""

import multiprocessing
import resource
import signal
from contextlib import contextmanager

import pytest
import torch

from egoray.core.storage import Folder
from egoray.errors import ModelError, StageError
from egoray.train.checkpoints import Checkpoints, Mark
from support.training import Recorder, Toy, one_of, pace, run_toy


def weights(loop):
    return {name: value.clone() for name, value in loop.task.module.state_dict().items()}


def in_processes(size, tmp_path, *, out=None, kill_after=None, sharded=False, **options):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    store = tmp_path / f"store{size}{sharded}{kill_after}"
    args = [
        (rank, size, str(store), str(out or tmp_path / f"out{size}{sharded}"), kill_after, sharded, dict(options), results)
        for rank in range(size)
    ]
    workers = [context.Process(target=one_of, args=arg) for arg in args]
    for worker in workers:
        worker.start()
    found = {} if kill_after else dict(sorted((rank, (steps, error)) for rank, steps, error in (results.get(timeout=100) for _ in workers)))
    for worker in workers:
        worker.join(30)
    return found


@pytest.mark.parametrize(("size", "sharded"), [(2, False), (3, False), (2, True)])
def test_any_number_of_workers_makes_the_same_steps(tmp_path, size, sharded):
    alone = Recorder()
    run_toy(tmp_path / "alone", watcher=alone)
    together = in_processes(size, tmp_path, sharded=sharded)
    for steps, error in together.values():
        assert error == ""
        assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in alone.steps], abs=1e-5)
        assert [s["grad_norm"] for s in steps] == pytest.approx([s["grad_norm"] for s in alone.steps], rel=1e-4)
        assert {s["workers"] for s in steps} == {size}


def test_a_sum_that_is_a_mean_over_workers_would_be_noticed(tmp_path, monkeypatch):
    """The planted bug: gradients divided by the workers."""
    import egoray.train.world as world

    alone, wrong = Recorder(), Recorder()
    run_toy(tmp_path / "a", watcher=alone)
    real = world.World.sum_gradients

    def halved(self, parameters):
        parameters = list(parameters)
        real(self, parameters)
        for parameter in parameters:
            parameter.grad /= 2

    monkeypatch.setattr(world.World, "sum_gradients", halved)
    run_toy(tmp_path / "b", watcher=wrong)
    assert wrong.steps[-1]["grad_norm"] != pytest.approx(alone.steps[-1]["grad_norm"], rel=1e-4)


def test_a_killed_run_ends_with_the_same_weights_and_redoes_one_interval_at_most(tmp_path):
    straight = run_toy(tmp_path / "straight", save_steps=5)
    out = tmp_path / "killed"
    context = multiprocessing.get_context("spawn")
    doomed = context.Process(target=run_toy, args=(str(out),), kwargs={"watcher": Recorder(kill_after=13), "save_steps": 5})
    doomed.start()
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL
    watcher = Recorder()
    resumed = run_toy(out, watcher=watcher, save_steps=5)
    assert watcher.steps[0]["step"] == 11  # from the checkpoint of step 10
    for name, value in weights(straight).items():
        torch.testing.assert_close(weights(resumed)[name], value, rtol=0, atol=0)


def test_two_killed_workers_go_on_as_one(tmp_path):
    alone = Recorder()
    run_toy(tmp_path / "alone", watcher=alone)
    out = tmp_path / "shrunk"
    in_processes(2, tmp_path, out=out, kill_after=12, save_steps=5)
    watcher = Recorder()
    run_toy(out, watcher=watcher, save_steps=5)
    assert [s["step"] for s in watcher.steps] == list(range(11, 21))
    assert [s["loss"] for s in watcher.steps] == pytest.approx([s["loss"] for s in alone.steps[10:]], abs=1e-5)


def test_a_run_that_is_over_does_nothing(tmp_path):
    run_toy(tmp_path)
    watcher = Recorder()
    assert run_toy(tmp_path, watcher=watcher).step == 20
    assert watcher.steps == []


def test_an_unreadable_sample_is_skipped_named_and_counted_by_all(tmp_path):
    watcher = Recorder()
    loop = run_toy(tmp_path / "a", Toy(bad=("v3",)), watcher)
    assert {clip for _, clip in watcher.skips} == {"egomask-train/v3/1"}
    assert loop.skipped == len(watcher.skips) == watcher.steps[-1]["skipped"] > 0
    found = in_processes(2, tmp_path, toy={"bad": ("v3",)})
    assert [s["loss"] for s in found[0][0]] == pytest.approx([s["loss"] for s in watcher.steps], abs=1e-5)
    assert found[1][0][-1]["skipped"] == loop.skipped


def test_a_loss_that_is_not_a_number_stops_every_worker_and_names_the_clip(tmp_path):
    found = in_processes(2, tmp_path, toy={"nan_at": 5})
    for _, error in found.values():
        assert error.startswith("StageError: step 0: the loss of sample")
        assert "egomask-train/v5/1" in error


def test_a_gradient_that_is_not_a_number_names_the_batch(tmp_path):
    class Steep(Toy):
        def loss(self, sample):
            loss, figures = super().loss(sample)
            return loss * 1e38 * 1e38 * 0 + loss * 3e38, figures

    with pytest.raises(StageError, match=r"step 0: the (gradient|loss)"):
        run_toy(tmp_path, Steep())


def test_memory_that_runs_out_says_which_setting_to_change(tmp_path):
    class Large(Toy):
        def loss(self, sample):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(StageError, match=r"out of memory on sample 0 .*recompute=true"):
        run_toy(tmp_path, Large())


@contextmanager
def full_disk(num_bytes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before_whole(tmp_path):
    run_toy(tmp_path, steps=5)
    with full_disk(2000), pytest.raises(StageError, match=r"step 10: no checkpoint: .* free some space"):
        run_toy(tmp_path, steps=20, save_steps=5)
    assert [mark.step for mark in Checkpoints(Folder(tmp_path), 2, "x").marks()] == [5]
    assert run_toy(tmp_path).step == 20


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    run_toy(tmp_path, steps=5)
    with pytest.raises(ModelError, match=r"step-00000005: is of another recipe .* give a new --out"):
        run_toy(tmp_path, recipe="other")


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path):
    run_toy(tmp_path, steps=5)
    (tmp_path / "checkpoints/step-00000005/state.pt").write_bytes(b"PK torn")
    with pytest.raises(ModelError, match=r"step-00000005/state.pt: cannot be read .* delete that folder"):
        run_toy(tmp_path)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="nothing to train"):
        run_toy(tmp_path, Toy(frozen=True))


def test_the_latest_and_the_best_checkpoints_stay(tmp_path):
    checkpoints = Checkpoints(Folder(tmp_path), 2, "IoU")
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.3), (4, float("nan")), (5, 0.1)):
        checkpoints.save(Mark(step=step, recipe="r", figures={"IoU": score}), {"model": {}})
    assert [mark.step for mark in checkpoints.marks()] == [2, 4, 5]
    assert checkpoints.best().step == 2
    (tmp_path / "checkpoints/step-00000005/checkpoint.json").unlink()
    assert [mark.step for mark in checkpoints.marks()] == [2, 4]


def test_the_rate_rises_in_a_line_and_falls_as_told():
    slow = pace(steps=100, warmup_steps=10, warmup_from=0.1, lr=1.0)
    assert slow.rate(0) == pytest.approx(0.19)
    assert slow.rate(9) == slow.rate(10) == pytest.approx(1.0)
    assert slow.rate(55) == pytest.approx(0.5)
    assert pace(steps=100, warmup_steps=0, schedule="linear", lr=1.0).rate(25) == pytest.approx(0.75)


def test_no_thread_of_a_loader_outlives_the_run(tmp_path):
    import threading

    run_toy(tmp_path)
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]
