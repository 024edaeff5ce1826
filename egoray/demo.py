"""The whole road on one machine: sample → annotate → express → build → score → predict → evaluate → report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table


def run_demo(out: str, *, videos: int, seed: int) -> None:
    """Run every stage into ``out`` and print a short table and the report's path; a second run reuses the masks.

    Raises:
        EgorayError: as the stages do.
    """
    from egoray import terminal
    from egoray.annotate.plan import plan_from_files
    from egoray.annotate.ray_annotate import annotate
    from egoray.config import AnnotateConfig, BuildConfig, EvaluateConfig, ExpressConfig, PredictConfig
    from egoray.dataset.build import build
    from egoray.dataset.validate import validate
    from egoray.evaluate.predict import plan_from_files as plan_questions
    from egoray.evaluate.ray_predict import predict
    from egoray.evaluate.run import evaluate
    from egoray.evaluate.scores import score
    from egoray.express.plan import plan_from_files as plan_expressions
    from egoray.express.ray_express import express
    from egoray.report.evaluation import write_evaluation_report
    from egoray.report.html import write_report
    from egoray.synthetic.knobs import WorldConfig
    from egoray.synthetic.sample import write_sample

    sample, work, dataset = (os.path.join(out, name) for name in ("sample", "annotations", "dataset"))
    clips, truth = os.path.join(sample, "clips"), os.path.join(sample, "truth")
    small = {"size_hw": (144, 256), "fps": 10, "stride": 2}
    others = [(WorldConfig(seconds=185, **small), "long"), (WorldConfig(seconds=30, **small), "short")]
    what = f"1/8 sample: render {videos} egocentric clips of 60 s, and small ones of 185 and 30 s, with exact truth"
    with _step(what), terminal.counter("rendering", videos + len(others)) as tick:
        write_sample(sample, videos=videos, seed=seed, others=others, progress=tick)
    with _step("2/8 annotate: boxes in, pixel masks out (GrabCut on a local Ray cluster)"):
        config = AnnotateConfig()
        plan = plan_from_files(os.path.join(sample, "egotracks.json"), clips, config)
        with terminal.units("annotate") as progress:
            summary = annotate(plan, work, config, progress=progress)
    with _step("3/8 express: sentences that point at each object, from pixels and tracks (no key, no network)"):
        offline = ExpressConfig(provider="offline")
        with terminal.answers("express") as progress:
            express(plan_expressions(work, clips, offline), os.path.join(work, "expressions"), offline, progress=progress)
    with _step("4/8 build: a dataset in the released EgoMask layout, every tier; validate it"):
        built = build(work, clips, dataset, BuildConfig(short=1, medium=max(1, videos - 1), long=1))
        found = validate(dataset)
        parts = ", ".join(f"{tier} {row['videos']}" for tier, row in built["tiers"].items())
        click.echo(f"    videos: {parts}; {len(found.faults)} faults", err=True)
    with _step("5/8 score: against the exact truth"):
        scores = score(truth, work, "medium")
    with _step("6/8 predict: where, in every frame, is the thing each sentence means (nano, from the package alone)"):
        asking = PredictConfig()
        questions = plan_questions(truth, "medium", asking)
        with terminal.units("predict") as progress:
            predict(questions, os.path.join(out, "answers"), asking, progress=progress)
    with _step("7/8 evaluate: the answers, by the paper's metrics"):
        grounded = evaluate(truth, "medium", os.path.join(out, "answers"), os.path.join(out, "evaluation"), EvaluateConfig())
        write_evaluation_report(os.path.join(out, "evaluation"), os.path.join(out, "evaluation.html"))
    with _step("8/8 report: overlays, contact sheets, expressions, timelines"):
        page = write_report(work, os.path.join(out, "report.html"), scores=scores)
    table = Table(title="mean over objects, or sentences, in % (higher is better)")
    for column in ("", "IoU_gold", "IoU_gold_pred"):
        table.add_column(column, justify="left" if not column else "right")
    means = scores["means"]
    table.add_row("egoray annotate, grabcut", _percent(means["iou_gold"]), _percent(means["iou_gold_pred"]))
    table.add_row("the box itself, filled", _percent(means["box_fill_iou_gold"]), "")
    table.add_row("the ellipse in the box", _percent(means["ellipse_iou_gold"]), "")
    found = grounded["metrics"]
    table.add_row("egoray predict, nano: from the sentence alone", _percent(found["IoU_gold"]), _percent(found["IoU_gold_pred"]))
    Console(stderr=True).print(table)
    click.echo(f"{summary['done']} of {summary['expected']} units done; look at {os.path.abspath(page)} and evaluation.html beside it")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


@contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.monotonic()
    click.echo(what, err=True)
    yield
    click.echo(f"    {time.monotonic() - started:.1f} s", err=True)
