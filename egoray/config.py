"""One validated model a stage, read from YAML and ``--set key=value``; a wrong key or value is named, with the remedy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egoray.errors import ConfigError

Config = TypeVar("Config", bound="StageConfig")


class StageConfig(BaseModel):
    """What every stage takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    max_failures: Annotated[int, Field(ge=0, description="exit with 1 when more units than this are lost")] = 0


class AnnotateConfig(StageConfig):
    """Settings of `egoray annotate`. Those that change the masks are in `fingerprint_fields`; the rest only place the work."""

    model: Annotated[str, Field(description="grabcut, or sam2:CHECKPOINT (a .pt file or a published id)")] = "grabcut"
    tracks_format: Annotated[Literal["egotracks", "refego"], Field(description="format of --tracks")] = "egotracks"
    relax: Annotated[int, Field(ge=1, description="a step of at most so many frames between boxes continues a trajectory")] = 2
    prompt_every: Annotated[int, Field(ge=0, description="prompt at every k-th box of a trajectory too; 0: at the first only")] = 0
    fill_holes: Annotated[int, Field(ge=0, description="sam2: fill holes of at most so many pixels of the network's own mask")] = 0
    non_overlapping: Annotated[bool, Field(description="sam2: each pixel belongs to one object at most")] = False
    compile: Annotated[bool, Field(description="sam2: torch.compile; pays off in runs of many minutes")] = False
    max_shard_frames: Annotated[int, Field(ge=1, description="frames a shard spans at most, unless one trajectory is longer")] = 300
    max_attempts: Annotated[int, Field(ge=1, description="starts of a unit before it is given up as one that kills its actor")] = 3
    workers: Annotated[int | None, Field(ge=1, description="actors; default: as many as the cluster's GPUs or CPUs allow")] = None
    cpus_per_worker: Annotated[float, Field(gt=0, description="CPUs an actor reserves; its libraries use as many threads")] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0, description="GPUs an actor reserves where the cluster has any; fractions share one")] = (
        1.0
    )

    def fingerprint_fields(self) -> dict[str, Any]:
        """The settings that change what a shard's masks are."""
        return self.model_dump(include={"model", "relax", "prompt_every", "max_shard_frames", "fill_holes", "non_overlapping"})

    def tracker_options(self) -> dict[str, Any]:
        """The settings that are the tracker's own, where they are not the default."""
        return self.model_dump(include={"fill_holes", "non_overlapping", "compile"}, exclude_defaults=True)


class EvaluateConfig(StageConfig):
    """Settings of `egoray evaluate`."""

    missing: Annotated[
        Literal["error", "empty", "skip"], Field(description="an expression without prediction file: a failure, an empty answer, left out")
    ] = "error"
    official_compat: Annotated[bool, Field(description="the released evaluator's figures, bug for bug, where it finishes")] = False
    workers: Annotated[int | None, Field(ge=1, description="tasks at a time; default: as many as the cluster has CPUs")] = None


def load(kind: type[Config], path: str | None, overrides: Sequence[str] = (), **given: Any) -> Config:
    """The stage's settings: defaults, then the YAML file, then ``key=value`` overrides, then the options given (None: not given).

    Raises:
        ConfigError: naming the file and the key that is unknown or holds a bad value.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            with open(path, encoding="utf-8") as stream:
                values = yaml.safe_load(stream) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected `key: value` lines")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected key=value")
        values[key.strip()] = yaml.safe_load(value)
    values |= {key: value for key, value in given.items() if value is not None}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        reason = f"unknown setting; known are {known}" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise ConfigError(f"{key}: {reason}" + (f" (in {path})" if path else "")) from error


def absolute_under_job(path: str, option: str) -> None:
    """Refuse a relative path in a process that `ray job submit` started: it would land in a temporary folder.

    Raises:
        ConfigError: naming the option.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(path) and "://" not in path:
        raise ConfigError(
            f"{option} {path}: a submitted job runs in a temporary folder; give an absolute path or an s3:// or gs:// address"
        )
