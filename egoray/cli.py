"""The command line. Commands import their stage when they run, so that `egoray --help` loads neither torch nor ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from egoray import __version__
from egoray.errors import ConfigError, EgorayError, StageError


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
@click.option("--annotations", required=True, metavar="DIR", help="The --out folder of `egoray annotate`; verdicts go to DIR/review.")
@click.option("--videos", metavar="DIR", help="Folder of <clip_uid>.mp4 files.  [default: where they were annotated]")
@click.option(
    "--model", default="grabcut", show_default=True, metavar="NAME", help="Tracker behind clicks and re-tracking, as for annotate."
)
@click.option("--device", default="cpu", show_default=True, help="A torch device for it.")
@click.option("--store", metavar="FILE", help="SQLite file of verdicts and edits.  [default: DIR/review/review.db]")
@click.option("--double", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of objects that two people decide.")
@click.option("--plant", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Share that comes again with a planted fault.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind; any other than loopback asks for tokens.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any free one.")
@click.option("--name", envvar="USER", default="me", help="Who reviews on this machine.  [default: your login name]")
@click.option("--reviewer", "reviewers", multiple=True, metavar="NAME", help="Make a link with a new token for this person. Repeatable.")
@click.option("--no-browser", is_flag=True, help="Do not open the page.")
@click.option("--export", "export_to", metavar="FILE", help="Write the whole history as JSON lines, and stop.")
@click.option("--import", "import_from", metavar="FILE", help="Add such a history to this review, and stop.")
def review(annotations: str, videos: str | None, store: str | None, double: float, plant: float, **options: Any) -> None:
    """A local page on which people confirm, mend or reject every mask and sentence, hardest first, by keyboard.

    Verdicts are safe as soon as the page says saved; DIR/review/*.parquet, for `egoray build`, follow within seconds. Stop with Ctrl-C;
    the same command goes on where you were.
    """
    from egoray.review.server import prepare, serve

    opened = prepare(annotations, videos, store, double=double, plant=plant)
    if options["import_from"]:
        try:
            with open(options["import_from"], encoding="utf-8") as lines:
                added = opened.store.load(lines, options["import_from"])
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--import {options['import_from']}: cannot be read ({error})") from error
        opened.store.export(opened.annotations.folder / "review")
        return click.echo(json.dumps(added))
    if options["export_to"]:
        with click.open_file(options["export_to"], "w", encoding="utf-8", atomic=options["export_to"] != "-") as out:
            out.writelines(line + "\n" for line in opened.store.dump())
        return click.echo(json.dumps(opened.store.export(opened.annotations.folder / "review")), err=True)
    from egoray.registry import build_tracker

    def ready(address: str, links: dict[str, str]) -> None:
        click.echo(f"review of {annotations}: {address} (Ctrl-C ends it)", err=True)
        for who, link in links.items():
            click.echo(f"  {who}: {link}", err=True)
        if not (options["no_browser"] or links):
            click.launch(address)

    tracker = build_tracker(options["model"], options["device"])
    where = {name: options[name] for name in ("host", "port", "name", "reviewers")}
    return serve(opened, tracker, takes_clicks=options["model"] != "grabcut", ready=ready, **where)


@main.command()
@click.option("--annotations", required=True, metavar="DIR", help="The --out folder of `egoray annotate`.")
@click.option("--videos", required=True, metavar="DIR", help="Folder of the annotated clips.")
@click.option("--out", required=True, metavar="DATASET", help="Folder for the dataset, in the released EgoMask layout.")
@click.option(
    "--sources", multiple=True, metavar="FILE", help="ego4d.json or EgoTracks file: which video a clip is from, so none is in two splits."
)
@click.option("--tier", type=click.Choice(["rules", "short", "medium", "long", "train"]), help="File every clip here.  [default: rules]")
@click.option("--fps", type=click.Choice(["1", "5"]), help="Masks and pictures a second.  [default: 1]")
@click.option("--seed", type=int, help="The same seed chooses the same videos and windows.  [default: 0]")
@click.option("--reviewed", type=click.Choice(["unless_rejected", "only", "all"]), help="Which objects.  [default: unless_rejected]")
@stage_options
def build(annotations: str, videos: str, out: str, sources: tuple[str, ...], fps: str | None, **options: Any) -> None:
    """Write a dataset in the released EgoMask layout: tiers by the paper's rules, masks, pictures, sentences, card, checksums.

    Short is under a minute, Medium one to three (cut at random from longer clips), Long over three; what they leave over is
    DATASET/egomask-train. Counts: --set short=200 --set medium=100 --set long=15 --set train=null (all that is left).
    """
    from collections import Counter

    from egoray import terminal
    from egoray.config import BuildConfig, absolute_under_job, load
    from egoray.dataset.build import make_plan, write_dataset

    for option, path in (("--annotations", annotations), ("--videos", videos), ("--out", out), *(("--sources", path) for path in sources)):
        absolute_under_job(path, option)
    given = {name: options[name] for name in ("tier", "seed", "reviewed")} | {"fps": int(fps) if fps else None}
    config = load(BuildConfig, options["config_file"], options["overrides"], **given)
    plan = make_plan(annotations, config, sources=sources, limit=options["limit"])
    if options["dry_run"]:
        summary = plan.summary()
    else:
        with terminal.counter("pictures of clips", plan.num_folders) as tick:
            summary = write_dataset(plan, videos, out, tick)
    if not options["as_json"]:
        summary["left_out"] = dict(Counter(summary["left_out"].values()))
    return terminal.finish(summary, options["as_json"])


@main.command()
@click.argument("dataset", metavar="DATASET")
@click.option("--no-checksums", is_flag=True, help="Do not read every file again to compare it with SHA256SUMS.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as one JSON object on stdout.")
def validate(dataset: str, no_checksums: bool, as_json: bool) -> None:
    """Is DATASET whole, in the EgoMask layout, released or built? Names every fault; exit 1 where there is one.

    What the release itself lacks (pictures, subset/medium/meta.json) is a warning.
    """
    from egoray import terminal
    from egoray.dataset.validate import validate as check

    found = check(dataset, checksums=not no_checksums).summary()
    if as_json:
        click.echo(json.dumps(found))
    else:
        terminal.findings(found)
    if not found["ok"]:
        sys.exit(1)


EXCHANGE = click.Choice(["coco", "youtube-vis", "davis", "sa-v", "huggingface", "fiftyone", "cvat", "label-studio"])


@main.command()
@click.argument("dataset", metavar="DATASET")
@click.option("--format", "kind", type=EXCHANGE, required=True, help="What to write; docs/export.md says what each keeps.")
@click.option("--split", type=click.Choice(["short", "medium", "long", "train", "all"]), default="all", show_default=True)
@click.option("--out", required=True, metavar="DIR", help="A new or empty folder.")
@click.option("--pictures", is_flag=True, help="Copy the pictures too, to where the format's loaders look for them.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def export(dataset: str, kind: str, split: str, out: str, pictures: bool, as_json: bool) -> None:
    """Write a dataset's masks and sentences in the format of another tool."""
    from egoray import terminal
    from egoray.dataset.export import export as export_dataset

    terminal.finish(export_dataset(dataset, split, kind, out, pictures=pictures), as_json)


@main.command(name="import")
@click.argument("source", metavar="SOURCE")
@click.option("--format", "kind", type=EXCHANGE, required=True, help="What SOURCE, a file or a folder, is.")
@click.option("--tier", type=click.Choice(["short", "medium", "long", "train"]), required=True, help="Where to file the videos.")
@click.option("--images", metavar="DIR", help="Folder from which SOURCE names its pictures; they are copied.")
@click.option("--out", required=True, metavar="DATASET", help="A new or empty folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def import_(source: str, kind: str, tier: str, images: str | None, out: str, as_json: bool) -> None:
    """Bring your own masks: a dataset in the EgoMask layout from the format of another tool, ready to train on and evaluate."""
    from egoray import terminal
    from egoray.dataset.export import import_masks

    terminal.finish(import_masks(kind, source, out, tier=tier, images=images), as_json)


@main.group()
def obtain() -> None:
    """The real data, step by step: annotations, clips, their pictures, weights. Every step resumes and checks what came.

    \b
    egoray obtain egomask --out data/
    egoray obtain ego4d data/egomask/subset/long/meta_expressions.json --out ego4d/
    egoray obtain ego4d data/egomask/subset/short/meta_expressions.json --out ego4d/ --kind full_scale --release v1
    egoray obtain frames --dataset data/egomask/ --videos ego4d/
    egoray obtain models sam2.1-large grounding-dino
    """


@obtain.command(name="egomask")
@click.option("--out", required=True, metavar="DIR", help="Where the annotations go.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the release.  [default: the newest]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def obtain_egomask(out: str, revision: str | None, as_json: bool) -> None:
    """EgoMask's annotations, from the Hugging Face hub; they hold no pictures."""
    from egoray import terminal
    from egoray.dataset.obtain_hub import EGOMASK
    from egoray.dataset.obtain_hub import obtain as fetch

    click.echo(EGOMASK.licence, err=True)
    with terminal.transfer("files") as progress:
        summary = fetch(EGOMASK, out, revision=revision, progress=progress)
    terminal.finish(summary, as_json)


@obtain.command(name="models")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--out", metavar="DIR", help="A folder for each below this one.  [default: the hub's cache, where --model looks]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def obtain_models(names: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Published weights: sam2.1-{tiny,small,base-plus,large}, grounding-dino, sa2va-4b, sa2va-26b, videolisa."""
    from egoray import terminal
    from egoray.dataset.obtain_hub import MODELS
    from egoray.dataset.obtain_hub import obtain as fetch

    if unknown := [name for name in names if name not in MODELS]:
        raise click.UsageError(f"{unknown[0]}: unknown; known are {', '.join(MODELS)}")
    for name in names:
        click.echo(MODELS[name].licence, err=True)
        with terminal.transfer("files") as progress:
            summary = fetch(MODELS[name], f"{out.rstrip('/')}/{name}" if out else None, progress=progress)
        terminal.finish(summary, as_json)


@obtain.command(name="ego4d")
@click.argument("ids", nargs=-1, required=True, metavar="ID|FILE...")
@click.option("--out", required=True, metavar="DIR", help="As the output directory of Ego4D's own command.")
@click.option(
    "--kind", default="clips", show_default=True, help="clips, clips_540ss (both by clip uid), full_scale or video_540ss (by video uid)."
)
@click.option("--release", default="v2", show_default=True, help="v2, or v1 for RefEgo's videos.")
@click.option("--store", metavar="URI", help="Root of Ego4D's releases.  [default: s3://ego4d-consortium-sharing/public]")
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True, help="Files at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def obtain_ego4d(ids: tuple[str, ...], out: str, kind: str, release: str, store: str | None, workers: int, as_json: bool) -> None:
    """Ego4D clips or videos by id, with the credentials of your own licence (`aws configure`, AWS_PROFILE).

    FILE holds ids separated by white space, or is a meta_expressions.json or an EgoTracks file: then its videos are meant.
    """
    from egoray import terminal
    from egoray.dataset.obtain_ego4d import LICENCE, STORE, read_ids
    from egoray.dataset.obtain_ego4d import obtain as fetch

    click.echo(LICENCE, err=True)
    more = {"dataset": kind, "version": release, "store": store or STORE, "workers": workers}
    with terminal.transfer("bytes") as progress:
        summary = fetch(read_ids(ids), out, progress=progress, **more)
    terminal.losses(summary, as_json)


@obtain.command(name="frames")
@click.option("--dataset", required=True, metavar="DATASET", help="A folder in the EgoMask layout; the pictures land in it.")
@click.option("--videos", required=True, multiple=True, metavar="DIR", help="Where the clips are, at any depth. Repeatable.")
@click.option("--workers", type=click.IntRange(min=1), help="Clips decoded at a time.  [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object on stdout.")
def obtain_frames(dataset: str, videos: tuple[str, ...], workers: int | None, as_json: bool) -> None:
    """The pictures that a released dataset names, cut from the clips at the release's own frames and under its names."""
    from egoray import terminal
    from egoray.dataset.obtain_frames import obtain as cut

    with terminal.transfer("folders") as progress:
        summary = cut(dataset, videos, workers=workers, progress=progress)
    terminal.losses(summary, as_json)


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
@click.option("--model", metavar="NAME", help="One of `egoray models`, or NAME:CHECKPOINT.  [default: nano, or the endpoint's own]")
@click.option("--out", required=True, metavar="DIR", help="Folder for overlay.mp4, grounding.json and chosen_<n>.jpg.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, help="Frames looked at a second.")
@click.option("--device", help="A torch device.  [default: cuda where there is one, else cpu]")
@click.option("--endpoint", metavar="URL", help="Ask a served model instead, e.g. http://127.0.0.1:8000; see docs/serve.md.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="A setting of the model, as in jobs/predict.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print grounding.json on stdout.")
def ground(
    video: str,
    texts: tuple[str, ...],
    model: str | None,
    out: str,
    fps: float,
    device: str | None,
    endpoint: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Where in VIDEO is the thing that TEXT means? Masks, an overlay to look at, and when each appearance starts and ends.

    \b
    egoray ground kitchen.mp4 "the red mug" --out found/
    """
    import time

    from egoray import terminal
    from egoray.config import PredictConfig, load
    from egoray.core.clip import VideoClip
    from egoray.models.base import Grounder
    from egoray.registry import build_grounder, default_device
    from egoray.report.grounding import write_grounding

    clip = VideoClip(video)
    clip = VideoClip(video, max(1, round(clip.fps / fps)))
    grounder: Grounder
    if endpoint:
        from egoray.serve.client import RemoteGrounder

        if overrides or device:
            raise click.UsageError("--set and --device are the endpoint's own; set them in its serve_configs/*.yaml")
        grounder = RemoteGrounder(endpoint, model)
    else:
        config = load(PredictConfig, None, overrides, model=model)
        grounder = build_grounder(config.model, device or default_device(), **config.model_options())
    started = time.monotonic()
    try:
        answers = grounder.ground(clip, texts)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    content = write_grounding(clip, texts, answers, grounder.name, time.monotonic() - started, out)
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
@click.option("--endpoint", metavar="URL", help="Ask a served model, several clips at a time (--set workers=N).")
@click.option("--retry-failed", is_flag=True, help="Try again the clips that earlier runs gave up.")
@stage_options
def predict(model: str | None, dataset: str, split: str | None, out: str, endpoint: str | None, retry_failed: bool, **options: Any) -> None:
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
    memory_gb, asking = 0.0, {}
    if endpoint:
        from egoray.serve.client import asked_at

        config, asking = asked_at(endpoint, config)
    else:
        memory_gb = grounder_entry(config.model)[0].memory_gb
    plan = plan_from_files(dataset, split, config)
    if options["dry_run"]:
        return terminal.finish(forecast(plan, options["limit"]) | {"memory_gb": memory_gb}, options["as_json"])
    from egoray.evaluate.ray_predict import predict as predict_on_ray

    with terminal.units("predict") as progress:
        summary = predict_on_ray(plan, out, config, limit=options["limit"], retry_failed=retry_failed, progress=progress, **asking)
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


@main.command()
@click.argument("file", metavar="PIPELINE")
@click.option("--out", metavar="DIR", help="The folder it works in.  [default: the file's `out`]")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="One of the file's `vars`. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Check every option, print each stage's plan as far as its inputs are there, start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of each stage as one JSON object on stdout.")
def run(file: str, out: str | None, variables: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """A whole pipeline from one YAML file, e.g. jobs/pipeline.yaml: stages in order, each skipping what is done.

    The first stage that fails ends the run with its exit code; the same command goes on there.
    """
    from egoray.pipeline import read_pipeline, run_pipeline

    found = run_pipeline(*read_pipeline(file, out, variables), dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(found))
    sys.exit(found["exit_code"])


if __name__ == "__main__":
    main()
