"""Express on Ray Data: clips → asynchronous actors → each object's sentences in Parquet, resumable object by object.

A row of the dataset is one clip with its objects; the actor decodes the candidate frames once and has the objects' conversations
side by side. Each object leaves its own file or its own failure row, whatever becomes of the others, so blocks hold many rows.
One `Desk` actor has the limits, the money, the key and the counts of the whole run; when it is lost, nothing more is sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.data
import ray.exceptions

from egoray import __version__
from egoray.config import ExpressConfig
from egoray.core import paths
from egoray.core.log import UnitLog
from egoray.core.pulse import Pulse
from egoray.core.storage import Folder
from egoray.core.workfolder import drop_stale, fingerprint, finished
from egoray.errors import EgorayError, ModelError, StageError
from egoray.express import purse
from egoray.express.answers import Answers
from egoray.express.batch import BatchApi, CachedAsk, forget_errors
from egoray.express.client import Client, Tally
from egoray.express.limits import Gate, Lease, Limiter, Want
from egoray.express.plan import Plan
from egoray.express.prices import price_of
from egoray.express.worker import Status, Worker
from egoray.ray_cluster import connected, pool_size, quiet_data, stage_error
from egoray.ray_metrics import Metrics, asked

Progress = Callable[[dict[str, Any]], None]
"""Called about twice a second with {"done", "failed", "left", "total", "seconds", "requests", "usd"}."""
ROWS_A_BLOCK = 64
"""Rows of a block at most; a block costs about 13 ms, whatever it holds."""
_ROWS_A_CALL = 16  # that Ray Data keeps going at once within one call of an asynchronous actor
_POLL_S = 0.5
_MODES = ("ask", "batch-submit", "batch-collect")


class Desk:
    """The run's one limiter, purse and counter, on an actor of its own.

    Args:
        out: the stage's work folder.
        config: the stage's settings as a dict.
        spent_usd: what the batches have spent or reserved, which the cap counts too.
    """

    def __init__(self, out: str, config: dict[str, Any], spent_usd: float) -> None:
        folder, settings = Folder(out), ExpressConfig(**config)
        self._key = ""
        self._tallies: dict[str, dict[str, Any]] = {}
        self._metrics = Metrics(stage="express")
        self._ends = {"done": 0, "failed": 0, "left": 0}
        self._limiter = Limiter(
            requests_per_min=settings.requests_per_min,
            tokens_per_min=settings.tokens_per_min,
            max_usd=settings.max_usd,
            spent_usd=spent_usd + purse.spent_online(folder),
            keep=lambda spent, reserved: purse.keep(folder, spent - spent_usd, reserved),
        )

    def set_key(self, key: str) -> None:
        self._key = key

    async def key(self) -> str:
        return self._key

    async def lease(self, wants: list[Want]) -> Lease:
        return await self._limiter.lease(wants)

    async def settle(self, reserved_usd: float, spent_usd: float) -> None:
        self._limiter.settle(reserved_usd, spent_usd)

    async def pause(self, seconds: float) -> None:
        self._limiter.pause(seconds)

    async def stop(self, kind: str, message: str) -> None:
        self._limiter.stop(kind, message)

    async def report(self, worker: str, tally: dict[str, Any], status: Status) -> None:
        asked(self._metrics, self._tallies.get(worker, {}), tally)
        self._tallies[worker] = tally
        self._ends[status["end"]] += 1
        if status["end"] == "done":
            self._metrics.add("egoray_units_done_total")
        if status["end"] == "failed":
            self._metrics.add("egoray_units_failed_total", error=status["error"])

    async def state(self) -> dict[str, Any]:
        """The counts so far, over all workers, and why the run was stopped, if it was."""
        total = asdict(Tally())
        for tally in self._tallies.values():
            total = {name: total[name] + tally[name] for name in total}
        return total | self._ends | {"stop": self._limiter.stopped}

    async def close(self) -> None:
        """Write down what was spent; requests that were never settled stay reserved."""
        self._limiter.keep()


class _RemotePurse:
    """The desk's purse, as `Client` uses it: calls do not wait."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        self._desk.settle.remote(reserved_usd, spent_usd)

    def pause(self, seconds: float) -> None:
        self._desk.pause.remote(seconds)

    def stop(self, kind: str, message: str) -> None:
        self._desk.stop.remote(kind, message)


class ExpressClips:
    """The actor: takes a packed clip, leaves a file or a failure row an object, returns their statuses.

    Args:
        out: the stage's work folder.
        run_id: see `Worker`.
        config: the stage's settings as a dict, with provider and base_url.
        desk: the run's `Desk`.
        mode: "ask" the server, or walk with the cache alone to fill the outbox ("batch-submit") or to finish ("batch-collect").
        retry_bad: see `Worker`.
    """

    def __init__(self, out: str, run_id: str, config: dict[str, Any], desk: Any, mode: str, retry_bad: bool) -> None:
        self._out, self._run_id, self._config, self._desk, self._mode = Folder(out), run_id, ExpressConfig(**config), desk, mode
        self._retry_bad = retry_bad
        self._name = f"{os.getpid()}-{time.time_ns():x}"
        self._tally = Tally()
        self._starting = asyncio.Lock()
        self._worker: Worker | None = None
        self._log = UnitLog("express")

    async def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        async with self._starting:  # the client belongs to the event loop of the calls
            self._worker = self._worker or await self._start()
        if not isinstance(self._ask, CachedAsk):
            return {"statuses": json.dumps(await self._worker.clip(str(row["packed"])))}
        async with self._starting:  # one clip at a time, so that its questions make one file
            statuses = await self._worker.clip(str(row["packed"]))
            if self._mode == "batch-submit":
                self._ask.flush(self._out / "batches" / "outbox", statuses[0]["unit"])
        return {"statuses": json.dumps(statuses)}

    async def _start(self) -> Worker:
        config, price = self._config, price_of(self._config)
        self._ask: Any = None
        if config.provider == "openai" and self._mode == "ask":
            client = Client(
                config,
                Answers(self._out),
                Gate(self._desk.lease.remote),
                _RemotePurse(self._desk),
                key=await self._desk.key.remote(),
                base_url=config.base_url or "",
                price=price,
            )
            self._ask, self._tally = client.ask, client.tally
        elif config.provider == "openai":
            self._ask = CachedAsk(self._out, schema=config.structured != "text", price=price)
        return Worker(self._out, config, self._run_id, self._ask, retry_bad=self._retry_bad, report=self._report)

    def _report(self, status: Status) -> None:
        failed = status["end"] == "failed"
        self._log(f"unit {status['end']}", level=logging.ERROR if failed else logging.INFO, **{k: v for k, v in status.items() if v != ""})
        self._desk.report.remote(self._name, asdict(self._tally), status)


def express(
    plan: Plan,
    out: str,
    config: ExpressConfig,
    *,
    key: str = "",
    limit: int | None = None,
    retry_failed: bool = False,
    mode: str = "ask",
    progress: Progress = lambda _: None,
) -> dict[str, Any]:
    """Express every object of the plan that has no result yet; returns what ``summary.json`` holds.

    Args:
        plan: see `plan_from_files`.
        out: the stage's work folder, DIR/expressions.
        config: the stage's settings, with the provider and, for openai, the base_url decided.
        key: the API key.
        limit: only the first so many objects.
        retry_failed: try the objects again that earlier runs gave up.
        mode: "ask", "batch-submit" or "batch-collect".
        progress: see `Progress`.

    Raises:
        ConfigError: if ``out`` cannot be written, or the cap needs a price.
        ModelError: if the server refuses the key, the account or the model.
        StageError: if the cap is reached, the cluster cannot run it, or units are unaccounted for.
    """
    assert mode in _MODES, mode
    started = time.monotonic()
    folder = Folder(out)
    price = price_of(config)
    units = plan.first(limit)
    drop_stale(folder, folder, set(plan.units), plan.failures, retry_failed)
    (folder / "batches").sweep()
    if retry_failed:
        forget_errors(folder)
    _record_run(folder, plan, config)
    told: dict[str, Any] = {}
    batches = BatchApi(folder, config, key=key, base_url=config.base_url or "", price=price) if mode != "ask" else None
    if batches and mode == "batch-collect":
        told = asyncio.run(batches.collect())
    present, given_up = finished(folder), finished(folder / "failures")
    todo = set(units) - present - given_up
    rows = [{"packed": clip.pack(wanted)} for clip in plan.clips if (wanted := [s.unit for s in clip.objects if s.unit in todo])]
    outbox = folder / "batches" / "outbox"
    for name in outbox.names():
        outbox.delete(name)
    skipped = len(present & set(units))
    base = {"total": len(units) + len(plan.failures), "done": skipped, "failed": len(plan.failures) + len(given_up & set(units) - present)}
    with Pulse(folder, "express") as pulse:
        pulse.tell(base | {"skipped": skipped})

        def tell(state: dict[str, Any]) -> None:
            pulse.tell({name: value for name, value in state.items() if name != "stop"})
            progress(state)

        final = _run(rows, folder, config, key, mode, retry_failed, base, tell) if rows else {"stop": None, **asdict(Tally())}
    if batches and mode == "batch-submit":
        told = asyncio.run(batches.submit(outbox))
    done = finished(folder) & set(units)
    failed = len(plan.failures) + len((finished(folder / "failures") - done) & set(units))
    left = len(units) + len(plan.failures) - len(done) - failed
    summary = {
        "stage": "express",
        "provider": config.provider,
        "model": config.llm if config.provider == "openai" else "",
        "expected": base["total"],
        "done": len(done),
        "failed": failed,
        "left": left,
        "skipped": skipped,
        **_sentences(folder, done),
        "seconds": round(time.monotonic() - started, 3),
        **_costs(folder, final, config, known=price is not None),
        **told,
    }
    folder.write_json("summary.json", summary)
    if final["stop"]:
        kind, message = final["stop"]
        rest = f"{left} of {base['total']} objects are left"
        if kind == "budget":
            raise StageError(f"{message}; {rest}: raise max_usd and run the same command again")
        raise ModelError(f"{message}; {rest}")
    if left and mode == "ask":
        raise StageError(f"{out}: {left} of {base['total']} objects have neither a result nor a failure row; run the same command again")
    return summary


def _run(
    rows: list[dict[str, str]],
    folder: Folder,
    config: ExpressConfig,
    key: str,
    mode: str,
    retry_bad: bool,
    base: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Send the rows through the actors; the desk's last state."""
    out = paths.absolute(folder.uri)
    with connected() as cluster:
        calls = max(1, math.ceil(config.in_flight / _ROWS_A_CALL))
        place = {"cpus": config.cpus_per_worker, "gpus": 0.0, "labels": config.node_labels}
        size = pool_size(cluster, wanted=config.workers, units=len(rows), **place)
        quiet_data()
        batches_usd = purse.spent(folder) - purse.spent_online(folder)
        desk: Any = ray.remote(Desk).options(num_cpus=0).remote(out, config.model_dump(), batches_usd)
        ray.get(desk.set_key.remote(key))
        run_id = f"{ray.get_runtime_context().get_job_id()}-{time.time_ns():x}"
        blocks = math.ceil(len(rows) / min(ROWS_A_BLOCK, math.ceil(len(rows) / (size * calls))))
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
            ExpressClips,
            fn_constructor_args=(out, run_id, config.model_dump(), desk, mode, retry_bad),
            compute=ray.data.ActorPoolStrategy(size=size, max_concurrent_calls_per_actor=calls, max_tasks_in_flight_per_actor=calls + 1),
            num_cpus=config.cpus_per_worker,
            label_selector=config.node_labels or None,
        )
        try:
            with _watched(desk, base, progress):
                for _ in dataset.iter_rows():
                    pass
            ray.get(desk.close.remote())
            return dict(ray.get(desk.state.remote()))
        except EgorayError:
            raise
        except ray.exceptions.RayError as error:
            raise stage_error(error) from error


@contextmanager
def _watched(desk: Any, base: dict[str, Any], progress: Progress) -> Iterator[None]:
    """Report the desk's counts while the body runs, and once more at its end."""
    started, over, metrics = time.monotonic(), threading.Event(), Metrics(stage="express")

    def tell() -> None:
        state = ray.get(desk.state.remote())
        metrics.show("egoray_units_waiting", base["total"] - base["done"] - base["failed"] - state["done"] - state["failed"])
        ends = {"done": base["done"] + state["done"], "failed": base["failed"] + state["failed"]}
        progress(state | ends | {"total": base["total"], "seconds": time.monotonic() - started})

    def watch() -> None:
        while not over.wait(_POLL_S):
            tell()

    thread = threading.Thread(target=watch, name="express-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    tell()


def _sentences(folder: Folder, done: set[str]) -> dict[str, int]:
    """How many sentences there are, and how many a person should look at."""
    marks = [row["review"] for row in folder.read_rows(columns=["review"], names=[f"{unit}.parquet" for unit in sorted(done)])]
    return {"expressions": len(marks), "to_review": sum(map(bool, marks))}


def _costs(folder: Folder, final: dict[str, Any], config: ExpressConfig, *, known: bool) -> dict[str, Any]:
    """What the run has asked and paid; USD is None where the price is not known, and there is nothing to tell of the offline provider."""
    if config.provider == "offline":
        return {}
    money = {name: round(final[name], 6) if known else None for name in ("usd", "usd_unseen")}
    return {name: final[name] for name in asdict(Tally())} | money | {"usd_in_all": round(purse.spent(folder), 6) if known else None}


def _record_run(folder: Folder, plan: Plan, config: ExpressConfig) -> None:
    folder.write_json(
        "run.json",
        {
            "stage": "express",
            "config": config.model_dump(mode="json"),
            "versions": {"egoray": __version__, "ray": ray.__version__},
            "fingerprint": fingerprint([config.fingerprint_fields(), sorted(plan.units)]),
        },
    )
