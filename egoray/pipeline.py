"""A whole pipeline from one YAML file: its stages in order, each by its own command, skipping what is done, stopping where one fails.

    out: work                      # {out} below; pipeline.json there says what is done
    vars: {model: grabcut}         # {model} below
    stages:
      - annotate: {tracks: tracks.json, videos: clips, out: "{out}/annotations", model: "{model}", workers: 8}
      - build: {annotations: "{out}/annotations", videos: clips, out: "{out}/dataset"}

A key is an option of the stage's command, or else one of its settings (`--set`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import yaml
from pyarrow import fs

from egoray.cli import main
from egoray.config import AnnotateConfig, BuildConfig, EvaluateConfig, ExpressConfig, PredictConfig, absolute_under_job, load
from egoray.core import paths
from egoray.core.storage import Folder
from egoray.errors import ConfigError

STAGES = ("sample", "annotate", "express", "build", "validate", "stats", "export", "train", "predict", "evaluate", "compare", "report")
RESUMES = {"annotate", "express", "train", "predict"}
"""Each knows what it has done, unit by unit, and looks at its inputs itself; the others are skipped when nothing they read has changed."""
SETTINGS = {
    "annotate": AnnotateConfig,
    "express": ExpressConfig,
    "build": BuildConfig,
    "predict": PredictConfig,
    "evaluate": EvaluateConfig,
}
_VOLATILE = {"run.json", "summary.json", "progress.json"}
"""Told anew by each run, whether it did anything or not."""
_REWRITTEN = {"videos.parquet", "objects.parquet"}
"""Written anew by each run with the same content."""
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """A stage of a pipeline: the words of its command line, and the paths among them."""

    stage: str
    args: tuple[str, ...]
    reads: tuple[str, ...]
    out: str | None

    @property
    def line(self) -> str:
        """The command as one would type it."""
        return shlex.join(["egoray", self.stage, *self.args])

    def signature(self) -> str:
        """Changes whenever a file that the stage reads does."""
        digest = hashlib.sha256()
        for path in self.reads:
            for line in _files(path):
                digest.update(line.encode())
        return digest.hexdigest()


def read_pipeline(file: str, out: str | None = None, variables: Sequence[str] = ()) -> tuple[Folder, list[Step]]:
    """The pipeline's own folder and its stages, every option and setting checked.

    Args:
        file: the YAML file.
        out: instead of the file's ``out``.
        variables: name=value, each wins over the file's ``vars``.

    Raises:
        ConfigError: naming the file, the stage and the key that is wrong.
    """
    content = _read(file)
    names = {str(name): str(value) for name, value in (content.get("vars") or {}).items()}
    for given in variables:
        name, equals, value = given.partition("=")
        if not equals or name not in names:
            raise ConfigError(f"--var {given}: expected name=value; {file} has the vars {', '.join(names) or '(none)'}")
        names[name] = value
    root = out or content.get("out")
    if not isinstance(root, str):
        raise ConfigError(f"{file}: out: give the folder that the pipeline works in")
    absolute_under_job(root, "out")
    names["out"] = root
    steps = []
    for number, entry in enumerate(content["stages"], 1):
        if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())) or {}, dict):
            raise ConfigError(f"{file}: stages: number {number} is not of the form `- stage: {{option: value, ...}}`")
        ((stage, section),) = entry.items()
        try:
            steps.append(_step(str(stage), section or {}, names))
        except (ConfigError, click.ClickException) as error:
            reason = error.format_message() if isinstance(error, click.ClickException) else str(error)
            raise ConfigError(f"{file}: {stage}: {reason}") from error
    return Folder(root), steps


def run_pipeline(folder: Folder, steps: Sequence[Step], *, dry_run: bool = False) -> dict[str, Any]:
    """Run the stages in order until one fails.

    Returns:
        {"stage": "run", "exit_code", "stages": [{"stage", "state" (done, skipped, failed, left; planned, unplanned), "seconds"}]}

    Raises:
        ConfigError: if the pipeline's folder cannot be written.
    """
    known = folder.read_json("pipeline.json") if folder.exists("pipeline.json") else {}
    done = {step.line: known[step.line] for step in steps if step.line in known}
    rows, code, planned = [], 0, 0
    for number, step in enumerate(steps, 1):
        started = time.monotonic()
        row = {"stage": step.stage, "state": "left", "seconds": 0.0}
        rows.append(row)
        if code:
            continue
        click.echo(f"{number}/{len(steps)} {step.line}", err=True)
        if step.stage not in RESUMES and _is_done(step, done):
            row["state"] = "skipped"
            click.echo("    done before; nothing that it reads has changed", err=True)
            continue
        if dry_run:
            row["state"], failed = _plan(step, [earlier.out for earlier in steps[: number - 1] if earlier.out])
            planned = planned or failed
            continue
        done.pop(step.line, None)
        folder.write_json("pipeline.json", done)
        code = _run(step.stage, step.args)
        row |= {"state": "failed" if code else "done", "seconds": round(time.monotonic() - started, 1)}
        click.echo(f"    {row['state']}{f' with exit code {code}' if code else ''} after {row['seconds']} s", err=True)
        if not code and step.stage not in RESUMES:
            done[step.line] = {"signature": step.signature(), "ended": time.time()}
            folder.write_json("pipeline.json", done)
    return {"stage": "run", "exit_code": code or planned, "stages": rows}


def _read(file: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(paths.read(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list) or not content["stages"]:
        raise ConfigError(f"{file}: expected `out`, `vars` and a list of `stages`")
    if more := set(content) - {"out", "vars", "stages"}:
        raise ConfigError(f"{file}: {min(map(str, more))}: unknown; known are out, vars, stages")
    if not isinstance(content.get("vars") or {}, dict):
        raise ConfigError(f"{file}: vars: expected name: value")
    return content


def _step(stage: str, section: Mapping[str, Any], names: Mapping[str, str]) -> Step:
    if stage not in STAGES:
        raise ConfigError(f"no such stage; known are {', '.join(STAGES)}")
    command = main.commands[stage]
    settable = any(param.name == "overrides" for param in command.params)
    options: list[str] = []
    places: dict[str, str] = {}
    reads, out = [], None
    for key, raw in section.items():
        value, param = _filled(raw, names), _param(command, str(key))
        if param is None and not settable:
            raise ConfigError(f"{key}: unknown option; known are {', '.join(sorted(filter(None, map(_word, command.params))))}")
        if param is None:
            options += ["--set", f"{key}={json.dumps(value)}"]
        elif isinstance(param, click.Argument):
            places[str(param.name)] = str(value)
        elif isinstance(param, click.Option) and param.is_flag:
            options += [param.opts[-1]] if value else []
        else:
            for one in value if isinstance(value, list) else [value]:
                options += [param.opts[0], str(one)]
        if key == "out":
            out = str(value)
        else:
            reads += [str(one) for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and param]
    args = (*options, *(places[str(p.name)] for p in command.params if isinstance(p, click.Argument) and p.name in places))
    context = command.make_context(stage, list(args))
    if stage in SETTINGS:
        load(SETTINGS[stage], context.params["config_file"], context.params["overrides"])
    return Step(stage, args, tuple(reads), out)


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """The value with names put where ``{name}`` stands."""
    if isinstance(value, list):
        return [_filled(one, names) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, names) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    if unknown := [name for name in _NAME.findall(value) if name not in names]:
        raise ConfigError(f"{{{unknown[0]}}}: no such var; known are {', '.join(sorted(names))}")
    return _NAME.sub(lambda found: names[found[1]], value)


def _word(param: click.Parameter) -> str:
    """What a pipeline calls the parameter: its long option without dashes, or the argument's name."""
    return str(param.name) if isinstance(param, click.Argument) else max(param.opts, key=len).lstrip("-").replace("-", "_")


def _param(command: click.Command, key: str) -> click.Parameter | None:
    return next((param for param in command.params if _word(param) == key.replace("-", "_")), None)


def _files(path: str) -> Iterator[str]:
    """A line a file at or under the path: name, size and time, or digest."""
    if not paths.is_remote(path) and not os.path.exists(path):
        return
    store, inside = paths.resolve(path)
    with paths.reached(path):
        root = store.get_file_info(inside)
        found = (
            [root] if root.type == fs.FileType.File else store.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
        )
    for info in sorted(found, key=lambda info: str(info.path)):
        if info.type != fs.FileType.File or info.base_name in _VOLATILE:
            continue
        about = f"{info.size} {info.mtime_ns}"
        if info.base_name in _REWRITTEN:
            with store.open_input_file(info.path) as stream:
                about = hashlib.sha256(stream.read()).hexdigest()
        yield f"{info.path} {about}\n"


def _is_done(step: Step, done: Mapping[str, Any]) -> bool:
    found = done.get(step.line)
    return found is not None and (step.out is None or paths.exists(step.out)) and found["signature"] == step.signature()


def _plan(step: Step, earlier: Sequence[str]) -> tuple[str, int]:
    """What came of planning the stage, and its exit code; what an earlier stage has still to write cannot be planned with."""
    for path in step.reads:
        if any(path == out or path.startswith(f"{out.rstrip('/')}/") for out in earlier) and not paths.exists(path):
            click.echo(f"    needs {path}, which a stage above writes", err=True)
            return "unplanned", 0
    if not _param(main.commands[step.stage], "dry_run"):
        return "planned", 0
    code = _run(step.stage, (*step.args, "--dry-run"))
    return ("failed" if code else "planned"), code


def _run(stage: str, args: Sequence[str]) -> int:
    """The command's exit code."""
    try:
        main([stage, *args], prog_name="egoray", standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0
