"""From an annotation folder to the clips and objects to express, and what that would take."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from egoray.config import ExpressConfig, load
from egoray.core import paths, video
from egoray.core.masks import bounding_box
from egoray.core.storage import Folder
from egoray.core.workfolder import fingerprint, finished, read_masklets, read_objects, read_videos
from egoray.errors import ConfigError
from egoray.express import offline, prices, prompts, templates
from egoray.express.client import OPENAI_URL, checked_url
from egoray.express.keyframes import candidates
from egoray.express.pictures import boxed, close_up
from egoray.schema import Box, FailureRow, Masklet, MaskRLE, ObjectTrack, Trajectory, VideoInfo, to_row

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray express unit")
_SENTENCE = "the red mug with a chipped rim that stands on the counter beside the kettle"  # of usual length, for the forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One object of a clip: its candidate frames with their masks, and its boxes on every candidate frame of the clip."""

    unit: str
    object_id: str
    title: str
    masks: Mapping[int, MaskRLE]
    boxes: Mapping[int, Box]
    story: offline.Story


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The unit of decoding: a clip and those of its objects that have a mask."""

    video: VideoInfo
    objects: tuple[Shown, ...]

    def pack(self, todo: Sequence[str]) -> str:
        """The clip and which of its units to do, as one JSON string to travel to an actor."""
        return json.dumps({"clip": to_row(self), "todo": list(todo)})

    @staticmethod
    def unpack(text: str) -> tuple[Clip, set[str]]:
        """What `pack` packed."""
        value = json.loads(text)
        return Clip(video=VideoInfo(**value["clip"]["video"]), objects=tuple(map(_shown, value["clip"]["objects"]))), set(value["todo"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All units of a run by clip, and the objects lost before any starts."""

    clips: tuple[Clip, ...]
    failures: tuple[FailureRow, ...]

    @property
    def units(self) -> list[str]:
        """Every unit's id, in order."""
        return [shown.unit for clip in self.clips for shown in clip.objects]

    def first(self, limit: int | None) -> list[str]:
        """The ids of the first ``limit`` units; all for None."""
        return self.units[:limit]


def settings(path: str | None, overrides: Sequence[str], **given: Any) -> tuple[ExpressConfig, str]:
    """The stage's settings with provider and base_url decided, and the API key ("" where none is set or none is used).

    Raises:
        ConfigError: for a bad setting or address, or if OpenAI itself is to be asked without a key.
    """
    config = load(ExpressConfig, path, overrides, **given)
    key = os.environ.get(config.key_env, "").strip()
    url = config.base_url or os.environ.get("OPENAI_BASE_URL")
    if config.provider == "offline" or (config.provider is None and not key and not config.base_url):
        return config.model_copy(update={"provider": "offline"}), ""
    if not key and not url:
        raise ConfigError(f"--provider openai: no key in the environment variable {config.key_env}; set it, or give --base-url")
    prices.price_of(config)
    return config.model_copy(update={"provider": "openai", "base_url": checked_url(url or OPENAI_URL, key)}), key


def plan_from_files(annotations: str, videos_dir: str, config: ExpressConfig) -> Plan:
    """Every object of the annotation folder: a unit if it has a mask, else a failure row.

    A unit's id changes with the settings, the prompts' versions, the clip's file and the masks, boxes and titles of all objects of
    the clip, since an object's sentences are also about its neighbours.

    Raises:
        ConfigError: if ``annotations`` holds no videos.
    """
    source = Folder(annotations)
    videos, masklets = read_videos(source), read_masklets(source)
    versions = [offline.PROMPT_VERSION] if config.provider == "offline" else [prompts.VERSIONS, templates.VERSION]
    objects: dict[str, list[tuple[ObjectTrack, list[Trajectory], Masklet]]] = {}
    failures = []
    for track, trajectories in read_objects(source):
        if masklet := masklets.get((track.video_id, track.object_id)):
            objects.setdefault(track.video_id, []).append((track, trajectories, masklet))
        else:
            failures.append(_without_mask(track))
    clips = []
    for video_id, found in sorted(objects.items()):
        path = paths.join(videos_dir, paths.name(videos[video_id].uri))
        info = replace(videos[video_id], uri=path)
        digest = video.digest(path) if paths.exists(path) else ""
        masks = [[track.object_id, track.title, sorted(track.boxes.items()), _runs(masklet)] for track, _, masklet in found]
        clips.append(_clip(info, found, config, fingerprint([config.fingerprint_fields(), versions, video_id, digest, masks])))
    return Plan(clips=tuple(clips), failures=tuple(failures))


def forecast(plan: Plan, out: Folder, config: ExpressConfig, limit: int | None) -> dict[str, Any]:
    """What a run would take: objects, requests, tokens and USD at most, before any retry; units that are done are not counted.

    Tokens of the answers are their most; the cost of the Batch API is given beside the other. USD is None for an unknown price.
    """
    units = set(plan.first(limit))
    todo = units - finished(out)
    price = prices.price_of(config) if config.provider == "openai" else None
    requests = prompt = answer = 0
    for clip in plan.clips if config.provider == "openai" else ():
        sizes = (clip.video.height_px, clip.video.width_px)
        view, close = _blank(sizes, config.max_tiles)
        for shown in clip.objects:
            if shown.unit not in todo:
                continue
            pictures = [view] * min(len(shown.masks), config.num_frames) + [close] * config.zoom
            questions = [prompts.ask_for(kind, config, shown.title, pictures) for kind in config.strategies]
            if rivals := min(config.lookalikes, len(clip.objects) - 1):
                questions.append(prompts.ask_which(config, [_SENTENCE] * config.per_object, [view] * (rivals + 1)))
            requests += len(questions)
            prompt += sum(prices.prompt_tokens(q, price) for q in questions)
            answer += sum(map(prices.max_answer_tokens, questions))
    cost = prices.usd(price, prompt, 0, answer) if price else None
    return {
        "provider": config.provider,
        "model": config.llm if config.provider == "openai" else "none",
        "units": len(units) + len(plan.failures),
        "units_to_do": len(todo),
        "clips": len(plan.clips),
        "requests": requests,
        "prompt_tokens": prompt,
        "answer_tokens_at_most": answer,
        "usd_at_most": cost if cost is None else round(cost, 4),
        "usd_at_most_by_batch": cost if cost is None else round(cost * prices.BATCH_DISCOUNT, 4),
        "minutes_at_least": round(max(requests / config.requests_per_min, (prompt + answer) / config.tokens_per_min), 2),
    }


@lru_cache(maxsize=64)
def _blank(size_hw: tuple[int, int], max_tiles: int) -> tuple[bytes, bytes]:
    """Pictures of the sizes that a clip's views and close-ups have."""
    nothing = np.zeros((*size_hw, 3), dtype=np.uint8)
    return boxed(nothing, (1.0, 1.0, 2.0, 2.0), max_tiles), close_up(nothing, (1.0, 1.0, 2.0, 2.0))


def _clip(info: VideoInfo, found: Sequence[tuple[ObjectTrack, list[Trajectory], Masklet]], config: ExpressConfig, salt: str) -> Clip:
    frames = {
        track.object_id: candidates(masklet.masks, track.boxes, trajectories, rule=config.frame_rule, num=config.num_frames)
        for track, trajectories, masklet in found
    }
    looked_at = sorted({frame for of in frames.values() for frame in of})
    shown = [
        Shown(
            unit=str(uuid.uuid5(_NAMESPACE, f"{salt}/{track.object_id}")),
            object_id=track.object_id,
            title=" ".join(track.title.split()),
            masks={frame: masklet.masks[frame] for frame in frames[track.object_id]},
            boxes={f: track.boxes[f] if f in track.boxes else bounding_box(masklet.masks[f]) for f in looked_at if f in masklet.masks},
            story=offline.story(track.boxes, trajectories, info.num_annotation_frames, info.width_px),
        )
        for track, trajectories, masklet in found
    ]
    return Clip(video=info, objects=tuple(shown))


def _shown(row: dict[str, Any]) -> Shown:
    """An object from its JSON form, in which frames are strings."""
    masks = {int(frame): MaskRLE(size=tuple(rle["size"]), counts=rle["counts"]) for frame, rle in row["masks"].items()}
    boxes = {int(frame): tuple(box) for frame, box in row["boxes"].items()}
    return Shown(**{**row, "masks": masks, "boxes": boxes, "story": offline.Story(**row["story"])})


def _runs(masklet: Masklet) -> list[tuple[int, str]]:
    return [(frame, rle.counts) for frame, rle in sorted(masklet.masks.items())]


def _without_mask(track: ObjectTrack) -> FailureRow:
    unit = f"{track.video_id}/{track.object_id}"
    message = f"{track.title or unit}: has no mask on any frame, so there is nothing to show; look at the failures of `egoray annotate`"
    return FailureRow(stage="express", unit=unit, error="FormatError", message=message, attempt=1, retryable=True)
