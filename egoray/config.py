"""One validated model a stage, read from YAML and ``--set key=value``; a wrong key or value is named, with the remedy."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from egoray.errors import ConfigError

Config = TypeVar("Config", bound="StageConfig")


class StageConfig(BaseModel):
    """What every stage takes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    max_failures: Annotated[int, Field(ge=0, description="exit with 1 when more units than this are lost")] = 0


class UnitConfig(StageConfig):
    """What every stage takes that runs a model over clips."""

    max_attempts: Annotated[int, Field(ge=1, description="starts of a unit before it is given up as one that kills its actor")] = 3
    workers: Annotated[int | None, Field(ge=1, description="actors; default: as many as the cluster's GPUs or CPUs allow")] = None
    cpus_per_worker: Annotated[float, Field(gt=0, description="CPUs an actor reserves; its libraries use as many threads")] = 1.0
    gpus_per_worker: Annotated[float, Field(ge=0, description="GPUs an actor reserves where the cluster has any; fractions share one")] = (
        1.0
    )
    node_labels: Annotated[
        dict[str, str], Field(description="labels that a machine must have to be given work, e.g. {egoray.io/kind: gpu}")
    ] = {}


class AnnotateConfig(UnitConfig):
    """Settings of `egoray annotate`. Those that change the masks are in `fingerprint_fields`; the rest only place the work."""

    model: Annotated[str, Field(description="grabcut, or sam2:CHECKPOINT (a .pt file or a published id)")] = "grabcut"
    tracks_format: Annotated[Literal["egotracks", "refego"], Field(description="format of --tracks")] = "egotracks"
    relax: Annotated[int, Field(ge=1, description="a step of at most so many frames between boxes continues a trajectory")] = 2
    prompt_every: Annotated[int, Field(ge=0, description="prompt at every k-th box of a trajectory too; 0: at the first only")] = 0
    fill_holes: Annotated[int, Field(ge=0, description="sam2: fill holes of at most so many pixels of the network's own mask")] = 0
    non_overlapping: Annotated[bool, Field(description="sam2: each pixel belongs to one object at most")] = False
    compile: Annotated[bool, Field(description="sam2: torch.compile; pays off in runs of many minutes")] = False
    max_shard_frames: Annotated[int, Field(ge=1, description="frames a shard spans at most, unless one trajectory is longer")] = 300

    def fingerprint_fields(self) -> dict[str, Any]:
        """The settings that change what a shard's masks are."""
        return self.model_dump(include={"model", "relax", "prompt_every", "max_shard_frames", "fill_holes", "non_overlapping"})

    def tracker_options(self) -> dict[str, Any]:
        """The settings that are the tracker's own, where they are not the default."""
        return self.model_dump(include={"fill_holes", "non_overlapping", "compile"}, exclude_defaults=True)


class PredictConfig(UnitConfig):
    """Settings of `egoray predict`. Those of the models are None where the model's own default stands."""

    model: Annotated[str, Field(description="see `egoray models`; NAME, or NAME:CHECKPOINT (a folder, a file or a published id)")] = "nano"
    detector: Annotated[str | None, Field(description="grounded-sam2, sa2va: a folder or ID@REVISION of a Grounding DINO")] = None
    threshold: Annotated[float | None, Field(ge=0, le=1, description="nano, grounded-sam2: a box counts above this score")] = None
    initialisation: Annotated[
        Literal["highest", "naive"] | None, Field(description="nano, grounded-sam2: follow from the most confident box or the first found")
    ] = None
    every: Annotated[int | None, Field(ge=1, description="nano, grounded-sam2: the detector sees each so many frames")] = None
    gate: Annotated[
        float | None, Field(ge=0, le=1, description="nano, grounded-sam2: no mask where the object is there with less confidence")
    ] = None
    detector_batch: Annotated[int | None, Field(ge=1, description="grounded-sam2: frames that the detector takes at once")] = None

    key_frames: Annotated[
        Literal["first", "uniform", "query_aware"] | None,
        Field(description="sa2va: the first ones (as published), spread ones, or where --set detector=... is most certain"),
    ] = None
    num_key_frames: Annotated[int | None, Field(ge=1, description="sa2va: how many")] = None
    propagate: Annotated[
        str | None, Field(description="sa2va: tracker that takes the key frames' masks further, e.g. sam2, instead of Sa2VA's own memory")
    ] = None
    batch: Annotated[int | None, Field(ge=1, description="videolisa: frames that SAM takes at once, 2.3 GB each")] = None
    clip: Annotated[str | None, Field(description="videolisa: folder or id of CLIP ViT-L/14 at 336 px, if the checkpoint has none")] = None

    def fingerprint_fields(self) -> dict[str, Any]:
        """The settings that change what a clip's answers are."""
        return {"model": self.model} | {k: v for k, v in self.model_options().items() if k not in ("detector_batch", "batch")}

    def model_options(self) -> dict[str, Any]:
        """The settings that are the model's own, where given."""
        return self.model_dump(exclude=set(UnitConfig.model_fields) | {"model"}, exclude_none=True)


class EvaluateConfig(StageConfig):
    """Settings of `egoray evaluate`."""

    missing: Annotated[
        Literal["error", "empty", "skip"], Field(description="an expression without prediction file: a failure, an empty answer, left out")
    ] = "error"
    official_compat: Annotated[bool, Field(description="the released evaluator's figures, bug for bug, where it finishes")] = False
    workers: Annotated[int | None, Field(ge=1, description="tasks at a time; default: as many as the cluster has CPUs")] = None
    node_labels: Annotated[
        dict[str, str], Field(description="labels that a machine must have to be given work, e.g. {egoray.io/kind: gpu}")
    ] = {}


class ExpressConfig(StageConfig):
    """Settings of `egoray express`. Those that change the sentences are in `fingerprint_fields`; the rest only place and pace the work."""

    provider: Annotated[
        Literal["offline", "openai"] | None,
        Field(description="offline: from pixels and tracks, no network; openai: any OpenAI-compatible server; default: openai given a key"),
    ] = None
    llm: Annotated[str, Field(description="the vision model to ask")] = "gpt-4o-2024-11-20"
    base_url: Annotated[str | None, Field(description="an OpenAI-compatible server; default: OPENAI_BASE_URL, else OpenAI's own")] = None
    key_env: Annotated[str, Field(description="environment variable that holds the key")] = "OPENAI_API_KEY"
    api_version: Annotated[str | None, Field(description="api-version of an Azure-style gateway; the key then goes as api-key too")] = None
    strategies: Annotated[tuple[Literal["direct", "metadata"], ...], Field(min_length=1, description="ways to make sentences")] = (
        "direct",
        "metadata",
    )
    per_object: Annotated[int, Field(ge=1, le=8, description="expressions an object has at most")] = 5
    short_max_words: Annotated[int, Field(ge=4, description="words of a short expression")] = 10
    long_max_words: Annotated[int, Field(ge=12, description="words of any other expression")] = 40
    structured: Annotated[
        Literal["auto", "schema", "text"], Field(description="answers by JSON schema, as plain JSON, or by schema where the server has it")
    ] = "auto"
    frame_rule: Annotated[
        Literal["clear", "paper"], Field(description="clear: large, sharp and spread; paper: largest box of each third of the appearances")
    ] = "clear"
    num_frames: Annotated[int, Field(ge=1, le=8, description="frames shown of an object")] = 3
    zoom: Annotated[bool, Field(description="also show the object close up")] = True
    max_tiles: Annotated[int, Field(ge=1, le=8, description="512 px tiles that a frame may take; each costs 170 tokens of gpt-4o")] = 2
    lookalikes: Annotated[int, Field(ge=0, le=3, description="objects of the clip to confuse each object with; 0: no ambiguity check")] = 3
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=64, description="tokens of an answer")] = 500
    requests_per_min: Annotated[float, Field(gt=0, description="your account's limit; all workers together stay below")] = 500
    tokens_per_min: Annotated[float, Field(gt=0, description="your account's limit, counted as prompt plus max_tokens")] = 450_000
    max_usd: Annotated[float | None, Field(gt=0, description="never spend more in this folder, all runs together")] = None
    usd_per_m_input: Annotated[float | None, Field(ge=0, description="price of a million prompt tokens; known for common models")] = None
    usd_per_m_cached: Annotated[float | None, Field(ge=0, description="the same for tokens of a cached prompt prefix")] = None
    usd_per_m_output: Annotated[float | None, Field(ge=0, description="the same for tokens of the answer")] = None
    timeout_s: Annotated[float, Field(gt=0, description="a request that takes longer is given up and sent again")] = 60
    deadline_s: Annotated[float, Field(gt=0, description="an answer that takes longer, retries and waits included, is lost")] = 600
    max_tries: Annotated[int, Field(ge=1, description="sends of one question at most")] = 6
    in_flight: Annotated[int, Field(ge=1, description="requests that one worker has open at once")] = 64
    batch_max_requests: Annotated[int, Field(ge=1, le=50_000, description="requests in a file for the Batch API")] = 50_000
    batch_max_mb: Annotated[float, Field(gt=0, le=200, description="megabytes of a file for the Batch API")] = 100
    max_attempts: Annotated[int, Field(ge=1, description="starts of a clip before it is given up as one that kills its actor")] = 3
    workers: Annotated[int, Field(ge=1, description="actors; each asks in_flight questions at once")] = 1
    cpus_per_worker: Annotated[float, Field(gt=0, description="CPUs an actor reserves; its decoder uses as many threads")] = 1.0
    node_labels: Annotated[
        dict[str, str], Field(description="labels that a machine must have to be given work, e.g. {egoray.io/kind: gpu}")
    ] = {}

    def fingerprint_fields(self) -> dict[str, Any]:
        """The settings that change what an object's sentences are."""
        pixels = {"provider", "per_object", "short_max_words", "long_max_words", "frame_rule", "num_frames"}
        asked = (
            {"llm", "strategies", "zoom", "max_tiles", "lookalikes", "temperature", "max_tokens"} if self.provider == "openai" else set()
        )
        return self.model_dump(mode="json", include=pixels | asked)


class ServedModel(BaseModel):
    """One model behind the endpoint, and how many replicas of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    name: Annotated[str, Field(description="see `egoray models`; NAME, or NAME:CHECKPOINT")]
    alias: Annotated[str | None, Field(description="what requests call it; default: NAME")] = None
    options: Annotated[dict[str, Any], Field(description="settings of the model, as in jobs/predict.yaml")] = {}
    device: Annotated[str | None, Field(description="a torch device; default: cuda where a replica has a GPU, else cpu")] = None
    cpus: Annotated[float, Field(ge=0, description="CPUs a replica reserves")] = 1.0
    gpus: Annotated[float, Field(ge=0, description="GPUs a replica reserves; fractions share one")] = 0.0
    min_replicas: Annotated[int, Field(ge=0, description="0: none while nobody asks; the first question then waits for the weights")] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    max_ongoing_requests: Annotated[
        int, Field(ge=1, description="questions in a replica; it answers one at a time, and has the next at hand")
    ] = 2
    max_queued_requests: Annotated[int, Field(ge=0, description="questions that wait for a replica; more get a 503")] = 4
    surge: Annotated[bool, Field(description="an update starts a new replica before it ends an old one, where there is room")] = False

    @property
    def label(self) -> str:
        """What requests call it."""
        return self.alias or self.name.partition(":")[0]


class ServeConfig(StageConfig):
    """Settings of the endpoint; each is a key under ``args`` in serve_configs/*.yaml."""

    models: Annotated[tuple[ServedModel, ...], Field(min_length=1, description="the first is the default")] = (ServedModel(name="nano"),)
    tracker: Annotated[
        str | None, Field(description="what /v1/segment follows with: grabcut, sam2, sam2:CHECKPOINT; null: no such route")
    ] = "grabcut"
    tracker_gpus: Annotated[float, Field(ge=0, description="GPUs that it reserves where the cluster has any")] = 0.0
    token_env: Annotated[str, Field(description="environment variable that holds the bearer token")] = "EGORAY_SERVE_TOKEN"
    roots: Annotated[tuple[str, ...], Field(description="folders and s3:// prefixes that a `uri` may lie under")] = ()
    fetch_hosts: Annotated[tuple[str, ...], Field(description="hosts that an https:// `uri` may name; none: no URL is fetched")] = ()
    samples: Annotated[bool, Field(description="offer rendered sample clips")] = True
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    max_upload_mb: Annotated[float, Field(gt=0)] = 200
    upload_stall_s: Annotated[float, Field(gt=0, description="an upload that brings nothing for so long is given up")] = 20
    max_images: Annotated[int, Field(ge=1, description="images in a request that sends frames")] = 2000
    max_pixels: Annotated[int, Field(ge=1, description="pixels of a frame")] = 4096 * 2304
    max_native_frames: Annotated[int, Field(ge=1, description="frames that a video may hold")] = 108_000
    max_duration_s: Annotated[float, Field(gt=0)] = 1800
    max_frames: Annotated[int, Field(ge=1, description="frames that a model looks at for one question")] = 3000
    max_texts: Annotated[int, Field(ge=1)] = 16
    max_text_chars: Annotated[int, Field(ge=1)] = 1000
    decode_memory_mb: Annotated[int, Field(ge=64, description="memory of the process that decodes, beside its libraries")] = 1024
    look_cpu_s: Annotated[int, Field(ge=1, description="CPU seconds to read what a video holds")] = 20
    decode_cpu_s: Annotated[int, Field(ge=1, description="CPU seconds to decode it once")] = 600
    max_waiting: Annotated[
        int | None, Field(ge=1, description="questions under way in an ingress replica; more get a 429; default: what the models take")
    ] = None
    session_s: Annotated[float, Field(gt=0, description="an unused session of /v1/segment ends after so long")] = 300
    max_sessions: Annotated[int, Field(ge=1)] = 4

    def capacity(self) -> int:
        """Questions that an ingress replica takes at once."""
        return self.max_waiting or sum(m.max_replicas * m.max_ongoing_requests + m.max_queued_requests for m in self.models)


class BuildConfig(StageConfig):
    """Settings of `egoray build`; the counts are the released benchmark's."""

    tier: Annotated[
        Literal["rules", "short", "medium", "long", "train"], Field(description="rules: by length, see docs/build.md; else every clip here")
    ] = "rules"
    fps: Annotated[Literal[1, 5], Field(description="frames a second of masks and pictures; RefEgo's stay at their 2")] = 1
    seed: Annotated[int, Field(description="chooses videos and windows; a further video moves no other one's place in the queue")] = 0
    reviewed: Annotated[
        Literal["unless_rejected", "only", "all"],
        Field(description="objects: all but the rejected; only accepted or fixed ones; all. Each with its status"),
    ] = "unless_rejected"
    short: Annotated[int, Field(ge=0, description="videos of the short tier, under 60 s")] = 200
    medium: Annotated[int, Field(ge=0, description="videos of the medium tier, 60 to 180 s, cut from longer ones")] = 100
    long: Annotated[int, Field(ge=0, description="videos of the long tier, over 180 s")] = 15
    train: Annotated[int | None, Field(ge=0, description="videos to train on; null: all that the tiers leave over")] = None
    medium_from: Annotated[
        Literal["own", "long"], Field(description="cut medium from videos of its own, or, as the release does, from the long tier's")
    ] = "own"
    medium_per_video: Annotated[int, Field(ge=1, description="medium clips cut from one video at most")] = 7
    objects: Annotated[
        dict[Literal["short", "medium", "long", "train"], Annotated[int, Field(ge=1)]],
        Field(description="objects of a video at most, by tier; the release has {short: 1, medium: 1}"),
    ] = {}
    expressions: Annotated[int | None, Field(ge=1, description="sentences an object has at most in the tiers; the release has 2")] = None
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    workers: Annotated[int | None, Field(ge=1, description="clips decoded at a time; default: one for every core")] = None


def load(
    kind: type[Config], path: str | None, overrides: Sequence[str] = (), *, defaults: Mapping[str, Any] | None = None, **given: Any
) -> Config:
    """The stage's settings: defaults, then the YAML file, then ``key=value`` overrides, then the options given (None: not given).

    ``a.b=value`` overrides the entry b of the setting a. ``defaults`` stand where neither file nor overrides say otherwise.

    Raises:
        ConfigError: naming the file and the key that is unknown or holds a bad value.
    """
    values: dict[str, Any] = copy.deepcopy(dict(defaults or {}))
    if path is not None:
        try:
            with open(path, encoding="utf-8") as stream:
                read = yaml.safe_load(stream) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        if not isinstance(read, dict):
            raise ConfigError(f"{path}: expected `key: value` lines")
        values |= read
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected key=value")
        _put(values, key.strip().split("."), yaml.safe_load(value), override)
    values |= {key: value for key, value in given.items() if value is not None}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        reason = f"unknown setting; known are {known}" if first["type"] == "extra_forbidden" else first["msg"].lower()
        raise ConfigError(f"{key}: {reason}" + (f" (in {path})" if path else "")) from error


def _put(values: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {key} has no entries")
    values[keys[-1]] = value


def absolute_under_job(path: str, option: str) -> None:
    """Refuse a relative path in a process that `ray job submit` started: it would land in a temporary folder.

    Raises:
        ConfigError: naming the option.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(path) and "://" not in path:
        raise ConfigError(
            f"{option} {path}: a submitted job runs in a temporary folder; give an absolute path or an s3:// or gs:// address"
        )
