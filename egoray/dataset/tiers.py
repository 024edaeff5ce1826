"""Which clip goes where: Short, Medium, Long or Train, by the paper's lengths, and no source video in two of them.

Source: the EgoMask paper on its construction. Short: under one minute, from RefEgo where there is any, else the annotated clips
that are as short. Medium: one to three minutes, cut at random from annotated long videos. Long: over three minutes. The
release cuts Medium from Long's own videos; ``medium_from="long"`` does the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from egoray.config import BuildConfig
from egoray.schema import Tier, VideoInfo

SHORT_BELOW_S, LONG_ABOVE_S = 60.0, 180.0
GRID_FPS = 5
"""Annotation frames a second, but for RefEgo's 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A clip that could be chosen: ``seen[object_id]`` are the kept frames, ascending, on which the object has a mask."""

    video: VideoInfo
    source_video: str
    seen: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A video of the dataset: the kept frames ``frames`` of a candidate, with some of its objects."""

    video_id: str
    tier: Tier
    candidate: Candidate
    frames: range
    object_ids: tuple[str, ...]


@dataclass(slots=True)
class Division:
    """What was chosen, and why each other clip was not."""

    choices: list[Choice] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def kept_frames(video: VideoInfo, fps: int) -> range:
    """The annotation frames that a dataset at ``fps`` frames a second keeps; RefEgo's all, as they are 2 a second."""
    return range(0, video.num_annotation_frames, 1 if video.source == "refego" else GRID_FPS // fps)


def seconds_of(video: VideoInfo) -> float:
    """How long the clip lasts."""
    return video.num_frames / video.fps


def length_tier(seconds: float) -> str:
    """The tier of a video that lasts so long: short under 60 s, long over 180 s, medium between, both ends included."""
    return "short" if seconds < SHORT_BELOW_S else "long" if seconds > LONG_ABOVE_S else "medium"


def divide(candidates: Sequence[Candidate], config: BuildConfig) -> Division:
    """Choose the videos of every tier; the same candidates and settings give the same choice, in any order given.

    Sources are drawn in the order of a hash of seed and name, so that one clip more moves no other. Long is filled
    first, then Medium from clips over three minutes (then whole clips of one to three minutes), then Short; Train has
    what is left. A medium clip is named ``<clip>--<first>-<last>`` and shows at least one object.
    """
    queue = sorted(candidates, key=lambda c: (_draw(config.seed, c.source_video), c.video.video_id))
    division = Division()
    if config.tier != "rules":
        for c in queue:
            if config.tier == "medium" and "--" in c.video.video_id:
                division.left_out[c.video.video_id] = "a name with -- cannot be a medium video's: the part before it is looked up"
            else:
                division.choices.append(_whole(c, config.tier, config))
        return division
    taken: dict[str, Tier] = {}

    def free(tier: Tier) -> list[Candidate]:
        return [c for c in queue if taken.get(c.source_video, tier) == tier]

    def choose(choice: Choice) -> None:
        division.choices.append(choice)
        taken.setdefault(choice.candidate.source_video, choice.tier)

    fits: dict[str, list[Candidate]] = {"short": [], "medium": [], "long": []}
    for c in queue:
        fits[length_tier(seconds_of(c.video))].append(c)
    for c in fits["long"][: config.long]:
        choose(_whole(c, "long", config))
    own = [c for tier in ("long", "medium") for c in fits[tier] if taken.get(c.source_video) is None and "--" not in c.video.video_id]
    pool = own if config.medium_from == "own" else [choice.candidate for choice in division.choices]
    for choice in _cut(pool, config):
        choose(choice)
    refego = [c for c in fits["short"] if c.video.source == "refego"]
    allowed = {id(c) for c in free("short")}
    for c in [c for c in refego or fits["short"] if id(c) in allowed][: config.short]:
        choose(_whole(c, "short", config))
    chosen = {choice.candidate.video.video_id for choice in division.choices}
    rest = [c for c in free("train") if c.video.video_id not in chosen]
    for c in rest[: config.train]:
        choose(_whole(c, "train", config))
    for c in queue:
        name = c.video.video_id
        if name not in {choice.candidate.video.video_id for choice in division.choices}:
            tier = taken.get(c.source_video, "train")
            reason = f"more than train={config.train} videos" if tier == "train" else f"its source video {c.source_video} is in {tier}"
            division.left_out[name] = reason
    return division


def _cut(pool: Sequence[Candidate], config: BuildConfig) -> list[Choice]:
    """Up to ``config.medium`` windows of 60 to 180 s, ``medium_per_video`` of a clip at most, no two of them the same."""
    cuts: list[Choice] = []
    for c in pool:
        frames = kept_frames(c.video, config.fps)
        whole = length_tier(seconds_of(c.video)) == "medium"
        drawn: dict[str, Choice] = {}
        for number in range(1 if whole else config.medium_per_video):
            if len(cuts) + len(drawn) == config.medium:
                break
            choice = _window(c, frames, whole, number, config)
            drawn.setdefault(choice.video_id, choice)
        cuts += drawn.values()
    return cuts


def _window(c: Candidate, frames: range, whole: bool, number: int, config: BuildConfig) -> Choice:
    """The ``number``-th window of a clip: length, then start, then objects at random, the start where an object is seen."""
    rng = np.random.default_rng(int(_draw(config.seed, f"{c.video.video_id} {number}")[:16], 16))
    shortest, longest = int(SHORT_BELOW_S) * config.fps, min(int(LONG_ABOVE_S) * config.fps, len(frames))
    length = len(frames) if whole else int(rng.integers(shortest, longest + 1))
    place = {frame: n for n, frame in enumerate(frames)}
    seen = np.zeros(len(frames) + 1, dtype=int)
    seen[[place[frame] + 1 for of in c.seen.values() for frame in of]] = 1
    before = np.cumsum(seen)
    starts = np.flatnonzero(before[length:] - before[: len(before) - length])
    start = int(rng.choice(starts))
    window = frames[start : start + length]
    inside = [object_id for object_id, of in c.seen.items() if any(frame in window for frame in of)]
    most = min(config.objects.get("medium", len(inside)), len(inside))
    picked = [inside[n] for n in sorted(rng.choice(len(inside), most, replace=False))]
    name = f"{c.video.video_id}--{window[0]:05d}-{window[-1]:05d}"
    return Choice(video_id=name, tier="medium", candidate=c, frames=window, object_ids=tuple(picked))


def _whole(c: Candidate, tier: Tier, config: BuildConfig) -> Choice:
    ids = tuple(sorted(c.seen, key=lambda object_id: _draw(config.seed, f"{c.video.video_id}/{object_id}")))
    kept = set(ids[: config.objects.get(tier, len(ids))])
    return Choice(
        video_id=c.video.video_id,
        tier=tier,
        candidate=c,
        frames=kept_frames(c.video, config.fps),
        object_ids=tuple(object_id for object_id in c.seen if object_id in kept),
    )


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
