"""The command line. Commands import their stage when they run, so that `egoray --help` loads neither torch nor ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from egoray import __version__
from egoray.errors import EgorayError, StageError


class _Group(click.Group):
    """Prints an `EgorayError` as one line; exit 1 when a stage lost units, 2 when an input, a config or a model is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EgorayError as error:
            click.echo(f"egoray: {' '.join(str(error).split())}", err=True)
            sys.exit(1 if isinstance(error, StageError) else 2)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="egoray")
def main() -> None:
    """Pixel masks and referring expressions for egocentric video, on Ray.

    \b
    See it all work, with nothing but this machine:   egoray demo
    Your own clips and EgoTracks boxes:
      egoray annotate --tracks egotracks_train.json --videos clips/ --out work/
      egoray express  --annotations work/ --videos clips/
      egoray report   --annotations work/ --out work/report.html
    """


def stage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every stage takes."""
    for option in (
        click.option("--config", "config_file", metavar="FILE", help="YAML file of settings, as in jobs/<stage>.yaml."),
        click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="One setting; wins over --config. Repeatable."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N units."),
        click.option("--dry-run", is_flag=True, help="Print the plan (units, frames, hours, memory) and start nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("out", metavar="OUT")
@click.option("--videos", type=click.IntRange(min=1), default=6, show_default=True, help="Number of clips.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same worlds.")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Length of each clip.")
@click.option("--size", default="640x360", show_default=True, metavar="WxH", help="Pixels of a frame.")
@click.option(
    "--tier",
    type=click.Choice(["short", "medium", "long", "train"]),
    default="medium",
    show_default=True,
    help="Split to file them under; train: OUT/truth is a training set.",
)
def sample(out: str, videos: int, seed: int, seconds: float, size: str, tier: str) -> None:
    """Render egocentric clips whose truth is exact: OUT/clips, OUT/egotracks.json, OUT/truth."""
    from egoray import terminal
    from egoray.synthetic.sample import write_sample

    size_hw = terminal.parse_size(size)
    with terminal.counter("rendering", videos) as tick:
        write_sample(out, videos=videos, seed=seed, seconds=seconds, size_hw=size_hw, tier=tier, progress=tick)
    click.echo(f"{out}: {videos} clips of {seconds:g} s, their boxes in egotracks.json, their exact masks in truth/", err=True)


@main.command()
@click.option("--tracks", required=True, metavar="FILE", help="EgoTracks annotation file (RefEgo: add --set tracks_format=refego).")
@click.option("--videos", required=True, metavar="DIR", help="Folder of <clip_uid>.mp4 files.")
@click.option("--out", required=True, metavar="DIR", help="Work folder, local or s3:// or gs://; the same command resumes.")
@click.option(
    "--model",
    metavar="NAME",
    help="grabcut (no weights; the default), sam2 (2.1 large), or sam2:CHECKPOINT, a file or facebook/sam2.1-hiera-*.",
)
@click.option("--retry-failed", is_flag=True, help="Try again the units that earlier runs gave up.")
@stage_options
def annotate(tracks: str, videos: str, out: str, model: str | None, retry_failed: bool, **options: Any) -> None:
    """Boxes in, pixel masks out: track every object of every clip, clipped to its boxes.

    Results: OUT/masklets/*.parquet (a row an object and frame), OUT/videos, OUT/objects, OUT/failures (a row a lost unit),
    OUT/summary.json.
    """
    from egoray import registry, terminal
    from egoray.annotate.plan import forecast, plan_from_files
    from egoray.config import AnnotateConfig, absolute_under_job, load

    for option, path in (("--tracks", tracks), ("--videos", videos), ("--out", out)):
        absolute_under_job(path, option)
    config = load(AnnotateConfig, options["config_file"], options["overrides"], model=model)
    entry, _ = registry.tracker_entry(config.model)
    plan = plan_from_files(tracks, videos, config)
    if options["dry_run"]:
        return terminal.finish(forecast(plan, options["limit"], entry.frames_per_s, entry.gpu_memory_gb), options["as_json"])
    from egoray.annotate.ray_annotate import annotate as annotate_on_ray

    with terminal.units("annotate") as progress:
        summary = annotate_on_ray(plan, out, config, limit=options["limit"], retry_failed=retry_failed, progress=progress)
    return terminal.finish(summary, options["as_json"], failures_of=out, max_failures=config.max_failures)


@main.command()
@click.option("--annotations", required=True, metavar="DIR", help="The --out folder of `egoray annotate`; results go to DIR/expressions.")
@click.option("--videos", required=True, metavar="DIR", help="Folder of the annotated clips.")
@click.option(
    "--provider",
    type=click.Choice(["offline", "openai"]),
    help="Default: openai given a key in OPENAI_API_KEY or --base-url; else offline.",
)
@click.option("--base-url", metavar="URL", help="Any OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
@click.option("--llm", metavar="NAME", help="Vision model to ask.  [default: gpt-4o-2024-11-20]")
@click.option("--batch-submit", "mode", flag_value="batch-submit", help="Send the questions to the Batch API, at half price.")
@click.option("--batch-collect", "mode", flag_value="batch-collect", help="Fetch finished batches; --batch-submit again for what is left.")
@click.option("--retry-failed", is_flag=True, help="Try again the objects that earlier runs gave up; unusable answers are asked anew.")
@stage_options
def express(annotations: str, videos: str, mode: str | None, retry_failed: bool, **options: Any) -> None:
    """Referring expressions for every annotated object: about five sentences each, checked, those in doubt marked for review.

    Without a key they come from pixels and tracks alone. With one, a vision model is asked, within your limits (--set
    requests_per_min=..., tokens_per_min=...) and never above --set max_usd=...; try --dry-run first. The same command resumes
    and pays no answer twice. Results: DIR/expressions/*.parquet, failures/, summary.json.
    """
    from egoray import terminal
    from egoray.config import absolute_under_job
    from egoray.core.storage import Folder
    from egoray.express.plan import forecast, plan_from_files, settings

    for option, path in (("--annotations", annotations), ("--videos", videos)):
        absolute_under_job(path, option)
    given = {name: options[name] for name in ("provider", "base_url", "llm")}
    config, key = settings(options["config_file"], options["overrides"], **given)
    plan = plan_from_files(annotations, videos, config)
    out = f"{annotations.rstrip('/')}/expressions"
    if options["dry_run"]:
        return terminal.finish(forecast(plan, Folder(out), config, options["limit"]), options["as_json"])
    from egoray.express.ray_express import express as express_on_ray

    with terminal.answers("express") as progress:
        more = {"limit": options["limit"], "retry_failed": retry_failed, "mode": mode or "ask"}
        summary = express_on_ray(plan, out, config, key=key, progress=progress, **more)
    return terminal.finish(summary, options["as_json"], failures_of=out, max_failures=config.max_failures)


@main.command()
@click.option("--annotations", required=True, metavar="DIR", help="The --out folder of `egoray annotate`.")
@click.option("--videos", required=True, metavar="DIR", help="Folder of <clip_uid>.mp4 files.")
@click.option("--out", required=True, metavar="DATASET", help="Folder for the dataset, in the released EgoMask layout.")
@click.option(
    "--tier", type=click.Choice(["short", "medium", "long"]), default="medium", show_default=True, help="Split to file the clips under."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def build(annotations: str, videos: str, out: str, tier: str, as_json: bool) -> None:
    """Write a dataset in the released EgoMask layout: masks at 1 fps, frames, expressions."""
    from egoray import terminal
    from egoray.dataset.build import build as build_dataset

    terminal.finish(build_dataset(annotations, videos, out, tier=tier), as_json)


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--metric", default="IoU_gold_pred", show_default=True, help="Metric by which expressions changed most.")
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="How many of those to list.")
@click.option("--resamples", type=click.IntRange(min=100), default=10_000, show_default=True, help="Bootstrap draws.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same intervals.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object on stdout.")
def compare(a: str, b: str, metric: str, top: int, resamples: int, seed: int, as_json: bool) -> None:
    """Is B better than A? Paired 95 % bootstrap intervals on each metric and split, and the expressions that changed most.

    A and B are --out folders of `egoray evaluate`. Whole clips are drawn, since expressions of one clip vary together.
    """
    from egoray import terminal
    from egoray.evaluate.compare import compare as compare_runs

    result = compare_runs(a, b, metric=metric, top=top, resamples=resamples, seed=seed)
    if as_json:
        click.echo(json.dumps(result))
    else:
        terminal.comparison(result)


@main.command()
@click.option("--annotations", metavar="DIR", help="The --out folder of `egoray annotate`.")
@click.option("--evaluation", metavar="DIR", help="Or the --out folder of `egoray evaluate`.")
@click.option("--truth", metavar="DATASET", help="With --annotations: an EgoMask dataset of the same clips, to score against.")
@click.option("--split", default="medium", show_default=True, help="Split of --truth.")
@click.option("--out", required=True, metavar="FILE", help="The page to write, e.g. report.html; overlays and sheets go beside it.")
def report(annotations: str | None, evaluation: str | None, truth: str | None, split: str, out: str) -> None:
    """One self-contained page about an annotation run, or about an evaluation.

    Annotations: overlay videos, contact sheets, timelines, failures and, given the truth, scores. Evaluation: the paper's
    table with this run in it, ablations, slices, failures by type, and the worst sequences with their pictures.
    """
    if (annotations is None) == (evaluation is None):
        raise click.UsageError("give either --annotations or --evaluation")
    if evaluation:
        from egoray.report.evaluation import write_evaluation_report

        return click.echo(write_evaluation_report(evaluation, out))
    from egoray.evaluate.scores import score
    from egoray.report.html import write_report

    scores = score(truth, annotations, split) if truth else None
    return click.echo(write_report(annotations, out, scores=scores))


@main.command()
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Folder for everything that the demo writes.")
@click.option("--videos", type=click.IntRange(min=1), default=4, show_default=True, help="Number of clips.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which worlds.")
def demo(out: str, videos: int, seed: int) -> None:
    """Everything on this machine, no GPU, no key, no weights: sample, annotate, express, build, score, report."""
    from egoray.demo import run_demo

    run_demo(out, videos=videos, seed=seed)


@main.command()
@click.argument("video", metavar="VIDEO")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("--model", default="nano", show_default=True, metavar="NAME", help="One of `egoray models`, or NAME:CHECKPOINT.")
@click.option("--out", required=True, metavar="DIR", help="Folder for overlay.mp4, grounding.json and chosen_<n>.jpg.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, help="Frames looked at a second.")
@click.option("--device", help="A torch device.  [default: cuda where there is one, else cpu]")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="A setting of the model, as in jobs/predict.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print grounding.json on stdout.")
def ground(
    video: str, texts: tuple[str, ...], model: str, out: str, fps: float, device: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Where in VIDEO is the thing that TEXT means? Masks, an overlay to look at, and when each appearance starts and ends.

    \b
    egoray ground kitchen.mp4 "the red mug" --out found/
    """
    import time

    from egoray import terminal
    from egoray.config import PredictConfig, load
    from egoray.core.clip import VideoClip
    from egoray.registry import build_grounder, default_device
    from egoray.report.grounding import write_grounding

    config = load(PredictConfig, None, overrides, model=model)
    clip = VideoClip(video)
    clip = VideoClip(video, max(1, round(clip.fps / fps)))
    grounder = build_grounder(config.model, device or default_device(), **config.model_options())
    started = time.monotonic()
    try:
        answers = grounder.ground(clip, texts)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    content = write_grounding(clip, texts, answers, config.model, time.monotonic() - started, out)
    if as_json:
        return click.echo(json.dumps(content))
    return terminal.grounding(content, clip.num_frames, out)


@main.command()
@click.option(
    "--recipe", required=True, metavar="NAME|FILE", help="A recipe's name (`egoray train --recipe list` shows them), or a YAML file."
)
@click.option("--data", multiple=True, metavar="D", help="A training set, recognised by its files. Repeatable: a mix.")
@click.option("--out", metavar="DIR", help="Folder for checkpoints, curve, pictures and the model; the same command goes on there.")
@click.option("--local", is_flag=True, help="In this process, without Ray.")
@stage_options
def train(recipe: str, data: tuple[str, ...], out: str | None, local: bool, **options: Any) -> None:
    """Fine-tune a model; elastic on Ray: workers may die, leave and join, the batch stays the same.

    \b
    egoray sample rooms --tier train --videos 20
    egoray train --recipe nano-detector --data rooms/truth --out tuned
    egoray ground kitchen.mp4 "the red mug" --model nano:tuned/model/model.safetensors --out found/
    """
    from egoray import terminal
    from egoray.config import absolute_under_job
    from egoray.train.forecast import forecast, read_recipe
    from egoray.train.recipes import RECIPES

    if recipe == "list":
        return terminal.recipes(RECIPES)
    if out is None and not options["dry_run"]:
        raise click.UsageError("Missing option '--out'.")
    for option, path in (*(("--data", path) for path in data), *((("--out", out),) if out else ())):
        absolute_under_job(path, option)
    resolved = read_recipe(recipe, options["config_file"], options["overrides"], data, limit=options["limit"])
    if options["dry_run"]:
        return terminal.recipe(resolved, forecast(resolved), options["as_json"])
    if not options["as_json"]:
        terminal.recipe(resolved, None, False)
    from egoray.train.ray_train import train_here, train_on_ray

    with terminal.steps("train") as progress:
        summary = (train_here if local else train_on_ray)(resolved, out, progress)
    return terminal.finish(summary, options["as_json"], failures_of=out, max_failures=resolved.max_failures)


@main.command()
@click.option("--model", metavar="NAME", help="One of `egoray models`, or NAME:CHECKPOINT.  [default: nano]")
@click.option("--dataset", required=True, metavar="D", help="EgoMask's folder, or that of Ref-DAVIS17, MeViS, ReasonVOS, ReVOS.")
@click.option("--split", metavar="S", help="EgoMask: short, medium, long or full. Others: their usual one unless given.")
@click.option("--out", required=True, metavar="P", help="Folder for the answers; `evaluate --predictions P` reads them.")
@click.option("--retry-failed", is_flag=True, help="Try again the clips that earlier runs gave up.")
@stage_options
def predict(model: str | None, dataset: str, split: str | None, out: str, retry_failed: bool, **options: Any) -> None:
    """Ask a grounding model a benchmark's questions; its answers go into the layout that the benchmark's own evaluator reads.

    A clip's sentences are answered together, on as many GPUs or cores as the cluster has. The same command goes on where a
    run ended. Confidences of every frame and the run's records: P/work/<split>/.
    """
    from egoray import terminal
    from egoray.config import PredictConfig, absolute_under_job, load
    from egoray.evaluate.predict import forecast, plan_from_files, work_folder
    from egoray.registry import grounder_entry

    for option, path in (("--dataset", dataset), ("--out", out)):
        absolute_under_job(path, option)
    split = "medium" if split == "mid" else split
    config = load(PredictConfig, options["config_file"], options["overrides"], model=model)
    entry, _ = grounder_entry(config.model)
    plan = plan_from_files(dataset, split, config)
    if options["dry_run"]:
        return terminal.finish(forecast(plan, options["limit"]) | {"memory_gb": entry.memory_gb}, options["as_json"])
    from egoray.evaluate.ray_predict import predict as predict_on_ray

    with terminal.units("predict") as progress:
        summary = predict_on_ray(plan, out, config, limit=options["limit"], retry_failed=retry_failed, progress=progress)
    failures = work_folder(out, plan.split).uri
    return terminal.finish(summary, options["as_json"], failures_of=failures, max_failures=config.max_failures)


@main.command()
@click.option(
    "--dataset",
    required=True,
    metavar="D",
    help="EgoMask's folder, released or built; or Ref-DAVIS17, MeViS, ReasonVOS, ReVOS as released.",
)
@click.option(
    "--split",
    type=click.Choice(["short", "medium", "mid", "long", "full", "valid_u", "valid", "train", "test"]),
    help="EgoMask: which one. Others: valid_u (MeViS), valid (Ref-DAVIS17, ReVOS), test (ReasonVOS) unless given.",
)
@click.option(
    "--predictions", required=True, metavar="P", help="Holds <split>/<video>/<exp>/<exp>-<obj>.json; for others <video>/<exp>/<frame>.png."
)
@click.option("--out", required=True, metavar="DIR", help="Folder for summary.json, rows.parquet, videos.parquet, failures/.")
@click.option("--official-compat", is_flag=True, default=None, help="The released evaluator's figures, bug for bug, where it finishes.")
@click.option(
    "--missing", type=click.Choice(["error", "empty", "skip"]), help="An expression without prediction file: see docs/evaluate.md."
)
@click.option("--local", is_flag=True, help="In this process, without Ray.")
@stage_options
def evaluate(
    dataset: str,
    split: str | None,
    predictions: str,
    out: str,
    official_compat: bool | None,
    missing: str | None,
    local: bool,
    **options: Any,
) -> None:
    """Score predictions: T_recall, IoU_all, IoU_gold, IoU_gold_pred, J, F, detection, and slices that explain them.

    An exocentric set is known by its layout and scored by its own evaluator's rules.

    Exit 1 and no metrics where an expression has no prediction or a file is malformed; each is listed.
    """
    from egoray import terminal
    from egoray.config import EvaluateConfig, absolute_under_job, load

    for option, path in (("--dataset", dataset), ("--predictions", predictions), ("--out", out)):
        absolute_under_job(path, option)
    config = load(EvaluateConfig, options["config_file"], options["overrides"], official_compat=official_compat, missing=missing)
    if options["dry_run"]:
        from egoray.evaluate.run import forecast

        return terminal.finish(forecast(dataset, split, predictions, options["limit"]), options["as_json"])
    if local:
        from egoray.evaluate.run import evaluate as run
    else:
        from egoray.evaluate.ray_evaluate import evaluate_on_ray as run
    with terminal.units("evaluate") as progress:
        summary = run(dataset, split, predictions, out, config, limit=options["limit"], progress=progress)
    if not options["as_json"] and summary["metrics"]:
        terminal.evaluation(summary)
    shown = summary if options["as_json"] else {k: v for k, v in summary.items() if k not in ("metrics", "slices")}
    return terminal.finish(shown, options["as_json"], failures_of=out, max_failures=config.max_failures)


@main.command()
@click.option(
    "--dataset",
    required=True,
    metavar="DATASET",
    help="EgoMask's benchmark or training set; or MeViS, Ref-DAVIS17, ReasonVOS, ReVOS, Ref-YouTube-VOS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
def stats(dataset: str, as_json: bool) -> None:
    """The paper's table of dataset statistics for a dataset, beside the paper's own figures.

    Each figure is a mean over objects. Disappear ratio and adjacent IoU can be read in two ways: both are given, and
    gaps/present and both-present stand beside the paper's.
    """
    from rich.console import Console

    from egoray.dataset.ray_stats import stats as dataset_stats
    from egoray.dataset.stats import table

    parts = dataset_stats(dataset)
    if as_json:
        click.echo(json.dumps({"stage": "stats", "dataset": dataset, "parts": parts}))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table(parts))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def models(as_json: bool) -> None:
    """What --model takes: trackers for `annotate`, grounding models for `predict` and `ground`; memory needed and what is missing here."""
    from egoray import terminal
    from egoray.registry import models_here

    rows = models_here()
    return click.echo(json.dumps(rows)) if as_json else terminal.models(rows)


@main.command()
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Where results would go; 64 MB are written there and removed.")
@click.option("--model", "wanted", multiple=True, metavar="NAME", help="A model that must fit into the memory here. Repeatable.")
@click.option("--hash", "hashes", is_flag=True, help="Read all weights and compare their sha256; takes minutes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(out: str, wanted: tuple[str, ...], hashes: bool, as_json: bool) -> None:
    """Is this machine ready? Python, torch, decoders, disk, Ray, its token and ports, weights, memory: ok, warn or fail, with the remedy.

    Exit 1 where something fails.
    """
    from egoray import terminal
    from egoray.doctor import as_rows, examine

    found = as_rows(examine(out, models=wanted, hashes=hashes))
    if as_json:
        click.echo(json.dumps(found))
    else:
        terminal.doctor(found)
    sys.exit(found["level"] == "fail")


@main.command()
@click.argument("out", metavar="OUT")
@click.option("--watch", is_flag=True, help="Look again every 2 s until nothing runs there any more.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout (with --watch: one a look).")
def status(out: str, watch: bool, as_json: bool) -> None:
    """How far is the run whose --out is OUT, on this machine or another? Rate, time left, slowest units, failures by type.

    Reads what the run leaves in its folder, local or s3:// or gs://, so it needs no cluster and disturbs nothing. For training: loss and
    worker stretches.
    """
    import time

    from egoray import terminal
    from egoray.report.status import RUNNING
    from egoray.report.status import status as look

    while True:
        found = look(out)
        if watch and not as_json:
            click.clear()
        if as_json:
            click.echo(json.dumps(found))
        else:
            terminal.status(found)
        if not watch or all(part["state"] != RUNNING for part in found["stages"]):
            return
        time.sleep(2.0)


if __name__ == "__main__":
    main()
