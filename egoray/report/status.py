"""How far a run is, from the files that it leaves in its work folder; nothing of the cluster is asked."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from egoray.core.pulse import SLOWEST, STILL_S
from egoray.core.storage import Folder
from egoray.core.workfolder import read_failures
from egoray.errors import ConfigError

RUNNING, FINISHED, FAILED, LOST, INCOMPLETE = "running", "finished", "failed", "lost", "incomplete"
SILENT_S = 3 * STILL_S
"""A run that has written nothing for so long is lost: its driver was killed, or its machine."""
SLOW_STEPS = 10
"""Steps of the rate so far that a training run may be silent for."""
SHOWN_AT_WORK = 10
_OWN = {"stage", "began", "ended", "message", "at", "slowest", "done", "failed", "skipped", "total", "frames", "total_frames", "seconds"}


def status(out: str, now: float | None = None) -> dict[str, Any]:
    """What is known of the run in a work folder, and of those inside it (``expressions/``, ``work/<split>/``).

    Args:
        out: the --out of annotate, train, evaluate; of predict; the --annotations of express.
        now: seconds since 1970, instead of the clock.

    Returns:
        {"out", "stages": [{"out", "stage", "state" (running, finished, failed, lost: nobody writes there any more, incomplete: ended
        with units left), "message", "of" ("units" or "steps"), "total", "done", "failed", "skipped", "rate" (None where unknown),
        "rate_of", "left_s" (None where unknown), "silent_s", "slowest": [{"unit", "seconds", "frames"}], "failures": {type: [count, an
        example]}, "at_work": ids of units that were started and have not ended, "stretches": [{"workers", "first", "last", "seconds"}],
        "more": what else the stage says}]}

    Raises:
        ConfigError: if no run has been there.
    """
    folder = Folder(out)
    inside = [folder, folder / "expressions", *(folder / "work" / split for split in (folder / "work").folders())]
    stages = [found for one in inside if (found := _stage(one, time.time() if now is None else now))]
    if not stages:
        raise ConfigError(f"{out}: no run has been there; give the --out folder of annotate, predict, train or evaluate")
    return {"out": out, "stages": stages}


def _stage(folder: Folder, now: float) -> dict[str, Any] | None:
    told, summary, run = (folder.read_json(name) if folder.exists(name) else {} for name in ("progress.json", "summary.json", "run.json"))
    if not (told or summary or run):
        return None
    stage = told.get("stage") or summary.get("stage") or run.get("stage", "")
    base = {"out": folder.uri, "stage": stage, "message": "", "slowest": [], "stretches": [], "more": {}, "skipped": 0}
    base |= {"failures": _failures(folder), "at_work": []}
    at = told.get("at")
    base["silent_s"] = None if at is None else max(0.0, now - at)
    if stage == "train":
        return base | _train(folder, told, summary, run, now)
    return base | _units(folder, told, summary, now)


def _units(folder: Folder, told: dict[str, Any], summary: dict[str, Any], now: float) -> dict[str, Any]:
    ended = told.get("ended", "finished" if summary else None)
    counts = summary if ended == "finished" and summary else told
    total = counts.get("expected", counts.get("total", 0))
    done, failed, skipped = (counts.get(name, 0) for name in ("done", "failed", "skipped"))
    over = done + failed + (skipped if summary.get("stage") == "evaluate" and counts is summary else 0)
    seconds, frames = told.get("seconds") or summary.get("seconds", 0.0), told.get("frames", summary.get("frames", 0))
    rate, rate_of, remaining = (frames / seconds if seconds else None), "frames/s", told.get("total_frames", 0) - frames
    if not frames:
        new = done + failed - skipped
        rate, rate_of, remaining = (new / seconds if seconds and new > 0 else None), "units/s", total - over
    state = _state(ended, total - over, told.get("at"), now, SILENT_S)
    starts = [] if state == FINISHED else [name.rsplit(".", 1)[0] for name in (folder / "attempts").names()]
    return {
        "state": state,
        "message": told.get("message", ""),
        "of": "units",
        "total": total,
        "done": done,
        "failed": failed,
        "skipped": skipped,
        "rate": rate,
        "rate_of": rate_of,
        "left_s": remaining / rate if state == RUNNING and rate else None,
        "slowest": told.get("slowest", []),
        "at_work": starts[:SHOWN_AT_WORK],
        "more": {name: value for name, value in told.items() if name not in _OWN and isinstance(value, (int, float)) and value},
    }


def _train(folder: Folder, told: dict[str, Any], summary: dict[str, Any], run: Mapping[str, Any], now: float) -> dict[str, Any]:
    stopped = folder.read_json("stopped.json") if folder.exists("stopped.json") else {}
    total, step = told.get("steps", summary.get("expected", 0)), int(told.get("step", summary.get("done", 0)))
    rate = told.get("steps_per_s")
    patience = max(SILENT_S, SLOW_STEPS / rate if rate else 0.0)
    whole = total > 0 and summary.get("done") == total and step >= total
    state = FAILED if stopped else _state("finished" if whole else None, 0, told.get("at"), now, patience)
    curve = _curve(folder)
    slowest = sorted(curve, key=lambda row: -row["seconds"])[:SLOWEST]
    stretches = []
    for workers, rows in groupby(curve, key=lambda row: row["workers"]):
        steps = list(rows)
        seconds = sum(row["seconds"] for row in steps)
        stretches.append({"workers": int(workers), "first": int(steps[0]["step"]), "last": int(steps[-1]["step"]), "seconds": seconds})
    shown = ("loss", "lr", "samples_per_s", "waiting", "memory_gb")
    return {
        "state": state,
        "message": stopped.get("message", ""),
        "of": "steps",
        "total": total,
        "done": step,
        "failed": 0,
        "rate": rate,
        "rate_of": "steps/s",
        "left_s": told.get("left_s") if state == RUNNING else None,
        "slowest": [{"unit": f"step {int(row['step'])}", "seconds": row["seconds"], "frames": 0} for row in slowest],
        "stretches": stretches,
        "more": {"recipe": run.get("config", {}).get("name")} | {name: told[name] for name in shown if told.get(name) is not None},
    }


def _state(ended: str | None, left: int, at: float | None, now: float, patience: float) -> str:
    if ended == "finished":
        return INCOMPLETE if left > 0 else FINISHED
    if ended == "failed":
        return FAILED
    return RUNNING if at is not None and now - at < patience else LOST


def _curve(folder: Folder) -> list[dict[str, float]]:
    if not folder.exists("curve.csv"):
        return []
    rows = csv.DictReader(io.StringIO(folder.read_bytes("curve.csv").decode()))
    return [{name: float(row[name]) for name in ("step", "workers", "seconds")} for row in rows]


def _failures(folder: Folder) -> dict[str, list[Any]]:
    """How many units each type of error cost, most first, and one of its messages."""
    found: dict[str, list[Any]] = {}
    for row in read_failures(folder):
        found.setdefault(row.error, [0, f"{row.unit}: {row.message}"])[0] += 1
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))
