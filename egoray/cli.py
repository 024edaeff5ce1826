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
    "--tier", type=click.Choice(["short", "medium", "long"]), default="medium", show_default=True, help="Split to file them under."
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
@click.option("--annotations", required=True, metavar="DIR", help="The --out folder of `egoray annotate`.")
@click.option("--truth", metavar="DATASET", help="An EgoMask dataset of the same clips, to score against.")
@click.option("--split", default="medium", show_default=True, help="Split of --truth.")
@click.option("--out", required=True, metavar="FILE", help="The page to write, e.g. report.html; overlays and sheets go beside it.")
def report(annotations: str, truth: str | None, split: str, out: str) -> None:
    """One self-contained page: overlay videos, contact sheets, timelines, failures and, given the truth, scores."""
    from egoray.evaluate.scores import score
    from egoray.report.html import write_report

    scores = score(truth, annotations, split) if truth else None
    click.echo(write_report(annotations, out, scores=scores))


@main.command()
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Folder for everything that the demo writes.")
@click.option("--videos", type=click.IntRange(min=1), default=4, show_default=True, help="Number of clips.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which worlds.")
def demo(out: str, videos: int, seed: int) -> None:
    """Everything on this machine, no GPU, no key, no weights: sample, annotate, build, score, report."""
    from egoray.demo import run_demo

    run_demo(out, videos=videos, seed=seed)


@main.command()
@click.option("--dataset", required=True, metavar="DATASET", help="Folder in the EgoMask layout: benchmark or training set.")
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
    """The trackers that --model takes."""
    from egoray.registry import TRACKERS

    rows = {
        name: {"summary": e.summary, "default_checkpoint": e.default_checkpoint, "uses_gpu": e.uses_gpu} for name, e in TRACKERS.items()
    }
    click.echo(json.dumps(rows) if as_json else "\n".join(f"{name:10} {row['summary']}" for name, row in rows.items()))


if __name__ == "__main__":
    main()
