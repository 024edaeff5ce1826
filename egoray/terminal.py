"""What people see while a command runs and when it ends: on stderr, bars on a terminal and plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from egoray.core.storage import Folder
from egoray.core.workfolder import read_failures
from egoray.errors import ConfigError

LOG_EVERY_S = 10.0
SHOWN_FAILURES = 10
SHOWN_FINDINGS = 20
FEW_CLIPS = 10


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "640x360".

    Raises:
        ConfigError: if it is not WIDTHxHEIGHT.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT, as in 640x360")
    return int(height), int(width)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


@contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` equal things; call the yielded function with how many are done."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{what}: {total} to do")
        yield lambda done: None
        return
    with _bar(console) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def transfer(what: str) -> Iterator[Callable[[int, int], None]]:
    """How many of how many came: a bar on a terminal, a line each 10 s elsewhere; call the yielded function with both."""
    console = Console(stderr=True)
    bar = _bar(console) if console.is_terminal else None
    task, last = None, time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal task, last
        if bar:
            task = bar.add_task(what, total=total, note="") if task is None else task
            bar.update(task, completed=done, total=total, note=f"{done:,} of {total:,} {what}")
        elif time.monotonic() - last > LOG_EVERY_S:
            last = time.monotonic()
            print(f"{done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    with bar or nullcontext():
        yield update


@contextmanager
def units(stage: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of a stage's units: done, failed, frames/s and the time left; a bar on a terminal, a line each 10 s elsewhere."""

    def note(state: dict[str, Any]) -> str:
        rate = state["frames"] / state["seconds"] if state["seconds"] else 0.0
        left = (state["total_frames"] - state["frames"]) / rate if rate else 0.0
        return f"{_counts(state, 'units')}" + (f", {rate:.1f} frames/s, {duration(left)} left" if rate else "")

    with _notes(stage, note) as update:
        yield update


@contextmanager
def answers(stage: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of a stage that asks a server: objects done and failed, requests and money; shown as `units` does."""

    def note(state: dict[str, Any]) -> str:
        cost = f", ${state['usd'] + state['usd_unseen']:.4f}" if state["usd"] + state["usd_unseen"] else ""
        return _counts(state, "objects") + (f", {state['requests']} requests" if state["requests"] else "") + cost

    with _notes(stage, note) as update:
        yield update


@contextmanager
def steps(stage: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of a training run: loss, rates, workers and the time left; shown as `units` does."""

    def note(state: dict[str, Any]) -> str:
        loss = "–" if state["loss"] is None else f"{state['loss']:.4g}"
        left = f", {duration(state['left_s'])} left" if state.get("left_s") else ""
        memory = f", {state['memory_gb']:.1f} GB" if "memory_gb" in state else ""
        speed = f"{state['steps_per_s']:.2g} steps/s, {state['samples_per_s']:.1f} samples/s, {state['waiting']:.0%} waiting for data"
        skipped = f", {state['skipped']:g} unreadable" if state["skipped"] else ""
        where = f"step {state['step']:g}/{state['steps']}, loss {loss}, lr {state['lr']:.2g}"
        return f"{where}, {speed}, {state['workers']:g} workers{memory}{skipped}{left}"

    with _notes(stage, note) as update:
        yield lambda state: update(state | {"done": int(state["step"]), "failed": 0, "total": state["steps"]})


def recipes(known: dict[str, dict[str, Any]]) -> None:
    """Print the recipes and where their figures come from."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("recipe", "trains", "on", "figures", box=None, padding=(0, 2, 0, 0))
    for name, recipe in known.items():
        sources = "\n".join(f"{what}: {source}" for what, source in recipe["sources"].items())
        table.add_row(name, recipe["model"] or "the packaged nano-detector", "\n".join(recipe["data"]), Text(sources))
    console.print(table)


def recipe(resolved: Any, plan: dict[str, Any] | None, as_json: bool) -> None:
    """Print a recipe as it will be run, and what that takes."""
    if as_json:
        click.echo(json.dumps({"recipe": resolved.model_dump(mode="json"), "plan": plan}))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, value in (resolved.model_dump(mode="json", exclude_defaults=True) | (plan or {})).items():
        if key == "data":
            value = {name: {k: v for k, v in part.items() if v is not None} for name, part in value.items()}
        table.add_row(key.replace("_", " "), Text(_show(value)))
    Console(stderr=True).print(table)


def _counts(state: dict[str, Any], what: str) -> str:
    return f"{state['done'] + state['failed']}/{state['total']} {what}, {state['failed']} failed"


@contextmanager
def _notes(stage: str, note: Callable[[dict[str, Any]], str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with a note on a terminal; elsewhere the note as a line each 10 s and at the end."""
    console = Console(stderr=True)
    bar = _bar(console) if console.is_terminal else None
    last = 0.0
    task = None

    def update(state: dict[str, Any]) -> None:
        nonlocal last, task
        over = state["done"] + state["failed"]
        if bar:
            if task is None:
                task = bar.add_task(stage, total=state["total"], note=note(state))
            bar.update(task, completed=over, note=note(state))
        elif time.monotonic() - last > LOG_EVERY_S or over == state["total"]:
            last = time.monotonic()
            print(f"{stage}: {note(state)}", file=sys.stderr, flush=True)

    if bar:
        with bar:
            yield update
    else:
        yield update


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def finish(summary: dict[str, Any], as_json: bool, *, failures_of: str | None = None, max_failures: int | None = None) -> None:
    """Print the summary (a table on stderr, or JSON on stdout) and the first failures; exit 1 when too many units failed."""
    if as_json:
        click.echo(json.dumps(summary))
    else:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for key, value in summary.items():
            table.add_row(key.replace("_", " "), _show(value))
        Console(stderr=True).print(table)
    if failures_of and summary["failed"]:
        rows = list(read_failures(Folder(failures_of)))
        for row in rows[:SHOWN_FAILURES]:
            click.echo(f"failed: {row.unit}: {row.message}", err=True)
        if len(rows) > SHOWN_FAILURES:
            click.echo(f"... and {len(rows) - SHOWN_FAILURES} more in {failures_of}/failures", err=True)
    if max_failures is not None and summary["failed"] > max_failures:
        sys.exit(1)


def losses(summary: dict[str, Any], as_json: bool) -> None:
    """Print a summary and the first of what is ``lost``; exit 1 where anything is."""
    lost = summary["lost"]
    if not as_json:
        for name, reason in list(lost.items())[:SHOWN_FAILURES]:
            click.echo(f"failed: {name}: {reason}", err=True)
        if len(lost) > SHOWN_FAILURES:
            click.echo(f"... and {len(lost) - SHOWN_FAILURES} more; --json has them all", err=True)
    finish(summary if as_json else summary | {"lost": len(lost)}, as_json)
    if lost:
        sys.exit(1)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_show(v)}" for k, v in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def evaluation(summary: dict[str, Any]) -> None:
    """Print an evaluation's summary on stderr: every metric times 100, and by slice the four that explain most."""
    console = Console(stderr=True)
    name = " ".join(filter(None, (summary.get("benchmark"), summary["split"])))
    alone = summary.get("metrics_alone", {})
    table = Table("metric", title=f"{name}: {summary['num_expressions']:,} expressions", title_justify="left")
    table.add_column("mean × 100", justify="right")
    if alone:
        table.add_column("each expression alone", justify="right")
    for metric, value in summary["metrics"].items():
        if value is not None:
            table.add_row(metric, _percent(value), *([_percent(alone.get(metric))] if alone else []))
    for metric, value in summary.get("overall", {}).items():
        table.add_row(f"{metric}, overall", _percent(value))
    console.print(table)
    for model, (before, after) in summary.get("paper", {}).items():
        console.print(f"the paper's {model}: {_percent(before)}, fine-tuned on EgoMask-Train too {_percent(after)} (J or J&F: not stated)")
    if not summary.get("slices"):
        return
    shown = [metric for metric in ("IoU_gold_pred", "IoU_gold", "J&F", "T_recall") if metric in summary["metrics"]]
    table = Table("slice", "")
    for heading in ("n", *shown):
        table.add_column(heading, justify="right")
    for name, values in summary["slices"].items():
        for i, (value, found) in enumerate(values.items()):
            row = (name if i == 0 else "", value, f"{found['num']:,}", *(_percent(found.get(metric)) for metric in shown))
            table.add_row(*row, end_section=i == len(values) - 1)
    console.print(table)


def grounding(content: dict[str, Any], num_frames: int, out: str) -> None:
    """Print when each sentence's object is in view, and where the overlay lies."""
    console = Console()
    for result in content["results"]:
        console.print(f"{result['text']}: in {len(result['frames'])} of {num_frames} frames", markup=False, highlight=False)
        for run in result["appearances"]:
            console.print(f"    {run['start_s']:8.2f} s to {run['stop_s']:8.2f} s", highlight=False)
    rate = num_frames / content["timing_s"]["total"] if content["timing_s"]["total"] else 0.0
    console.print(f"{content['model']}: {rate:.1f} frames/s; look at {out}/overlay.mp4", markup=False, highlight=False, soft_wrap=True)


def models(rows: list[dict[str, Any]]) -> None:
    """Print what `registry.models_here` found."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("model", "for", "what it is", box=None, padding=(0, 2, 0, 0))
    table.add_column("memory", justify="right")
    table.add_column("missing here")
    for row in rows:
        lacks = "\n".join(row["missing"]) or "nothing"
        table.add_row(row["name"], row["for"], Text(row["summary"]), f"{row['memory_gb']:g} GB" if row["memory_gb"] else "", Text(lacks))
    console.print(table)


def findings(found: dict[str, Any]) -> None:
    """Print what `egoray.dataset.validate` found on stderr: the first faults and warnings, then how many there are of each."""
    for kind in ("warnings", "faults"):
        for line in found[kind][:SHOWN_FINDINGS]:
            click.echo(f"{kind.removesuffix('s')}: {line}", err=True)
        if len(found[kind]) > SHOWN_FINDINGS:
            click.echo(f"... and {len(found[kind]) - SHOWN_FINDINGS} more {kind}; --json has them all", err=True)
    looked_at = ", ".join(f"{number:,} {what}" for what, number in found["counts"].items())
    click.echo(f"{found['dataset']}: {len(found['faults'])} faults, {len(found['warnings'])} warnings in {looked_at}", err=True)


def doctor(found: dict[str, Any]) -> None:
    """Print what `doctor.as_rows` gives: a line a check, the remedy under each that is not well."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table("", "", "", show_header=False, box=None, padding=(0, 2, 0, 0))
    for row in found["checks"]:
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[row["level"]]
        table.add_row(Text(row["level"], style=colour), row["name"], Text(row["found"] + (f"\n→ {row['remedy']}" if row["remedy"] else "")))
    console.print(table)


def status(found: dict[str, Any]) -> None:
    """Print what `egoray.report.status.status` found: a block a stage."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in found["stages"]:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=f"{part['stage']}  {part['out']}", title_justify="left")
        over, total = part["done"] + part["failed"], part["total"]
        share = f", {over / total:.0%}" if total else ""
        left = f", about {duration(part['left_s'])} left" if part["left_s"] is not None else ""
        silent = f", silent for {duration(part['silent_s'])}" if part["silent_s"] is not None and part["state"] != "finished" else ""
        rows = {
            "state": part["state"] + left + silent + (f": {part['message']}" if part["message"] else ""),
            part["of"]: f"{over} of {total}{share}; {part['failed']} failed, {part['skipped']} were there before",
            "rate": f"{part['rate']:.3g} {part['rate_of']}" if part["rate"] else "",
            "failures": "\n".join(f"{count} × {kind}, e.g. {example}" for kind, (count, example) in part["failures"].items()),
            "at work": ", ".join(part["at_work"]),
            "slowest": "\n".join(f"{row['seconds']:.1f} s  {row['unit']}" for row in part["slowest"]),
            "workers": "\n".join(
                f"{row['workers']} for steps {row['first']} to {row['last']}, {duration(row['seconds'])}" for row in part["stretches"]
            ),
        } | {key.replace("_", " "): _show(value) for key, value in part["more"].items()}
        for key, value in rows.items():
            if value:
                table.add_row(key, Text(value))
        console.print(table)


def comparison(result: dict[str, Any]) -> None:
    """Print what `egoray.evaluate.compare.compare` found on stderr: a table a split, then the expressions that changed most."""
    console = Console(stderr=True)
    console.print(f"A {result['a']}\nB {result['b']}", markup=False, highlight=False, soft_wrap=True)
    if result["only_in_a"] or result["only_in_b"]:
        console.print(f"not compared: {result['only_in_a']} expressions only in A, {result['only_in_b']} only in B")
    for split, found in result["splits"].items():
        title = f"{split}: {found['num']:,} expressions of {found['num_clips']:,} clips; × 100; * the interval excludes 0"
        table = Table(title=title, title_justify="left")
        for heading in ("metric", "n", "A", "B", "B − A", f"{100 * result['confidence']:g} % interval"):
            table.add_column(heading, justify="left" if heading == "metric" else "right")
        for metric, row in found["metrics"].items():
            if row["num"]:
                marked = row["low"] is not None and (row["low"] > 0 or row["high"] < 0)
                interval = "one clip alone" if row["low"] is None else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
                change = f"{100 * row['difference']:+.1f}{'*' if marked else ' '}"
                table.add_row(metric, str(row["num"]), _percent(row["a"]), _percent(row["b"]), change, interval)
        console.print(table)
        if found["num_clips"] < FEW_CLIPS:
            console.print(f"{found['num_clips']} clips are few: the intervals are rough, and narrower than they should be")
    if not result["changed"]:
        return console.print(f"no expression changed in {result['metric']}")
    table = Table(title=f"changed most in {result['metric']}", title_justify="left")
    for heading in ("expression", "A", "B", "B − A", "text"):
        table.add_column(heading, justify="right" if heading in ("A", "B", "B − A") else "left", overflow="fold")
    for row in result["changed"]:
        name = Text(f"{row['video_id']}/{row['expression_id']}")
        text = Text(row["text"] or "")
        table.add_row(name, _percent(row["a"]), _percent(row["b"]), f"{100 * row['difference']:+.1f}", text)
    return console.print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
