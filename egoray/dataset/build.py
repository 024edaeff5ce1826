"""From an annotation folder to a dataset in the released EgoMask layout: tiers, masks, pictures, sentences, card and checksums."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from egoray.config import BuildConfig
from egoray.core import paths
from egoray.core.masks import area
from egoray.core.reviewed import Reviewed, read_reviewed
from egoray.core.storage import Folder
from egoray.core.workfolder import read_expressions, read_masklets, read_objects, read_videos
from egoray.dataset.card import FORMAT_VERSION, write_card
from egoray.dataset.checksums import write_checksums
from egoray.dataset.frames import Pictures, write_pictures
from egoray.dataset.sources import read_sources, source_of
from egoray.dataset.tiers import Candidate, Choice, Division, divide, kept_frames, seconds_of
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import BenchmarkObject, BenchmarkVideo, clip_of, frame_name, write_benchmark, write_train
from egoray.formats.refego import image_name
from egoray.schema import Expression, MaskRLE, ObjectTrack, VideoInfo

TRAIN = "egomask-train"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray title")
_KEPT = {"only": ("accepted", "fixed"), "unless_rejected": ("", "accepted", "fixed", "skipped")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a build will write: the division of the clips, and each object's title, masks, status and sentences."""

    annotations: str
    config: BuildConfig
    division: Division
    tracks: Mapping[tuple[str, str], ObjectTrack]
    masks: Mapping[tuple[str, str], Mapping[int, MaskRLE]]
    status: Mapping[tuple[str, str], str]
    expressions: Mapping[tuple[str, str], Sequence[Expression]]
    left_out: Mapping[str, str]
    expected: int

    @property
    def num_folders(self) -> int:
        """Folders of pictures to write: one a clip, in the benchmark or in the training set."""
        return len({(c.candidate.video.video_id, c.tier == "train") for c in self.division.choices})

    @property
    def used(self) -> set[tuple[str, str]]:
        """The objects that are in the dataset, by clip and object id."""
        return {(c.candidate.video.video_id, object_id) for c in self.division.choices for object_id in c.object_ids}

    def summary(self) -> dict[str, Any]:
        """What goes where, in numbers; every object is ``done`` or has its reason in ``left_out``."""
        tiers: dict[str, dict[str, int]] = {}
        for choice in self.division.choices:
            keys = [(choice.candidate.video.video_id, object_id) for object_id in choice.object_ids]
            row = tiers.setdefault(choice.tier, {"videos": 0, "frames": 0, "objects": 0, "expressions": 0})
            row["videos"] += 1
            row["frames"] += len(choice.frames)
            row["objects"] += len(keys)
            row["expressions"] += sum(len(_sentences(self, key, choice)) for key in keys)
        used = self.used
        return {
            "stage": "build",
            "tiers": {tier: tiers[tier] for tier in ("short", "medium", "long", "train") if tier in tiers},
            "expected": self.expected,
            "done": len(used),
            "left_out": dict(self.left_out),
        }


def make_plan(annotations: str, config: BuildConfig, *, sources: Sequence[str] = (), limit: int | None = None) -> Plan:
    """Decide what a build writes; nothing is written and no clip is opened.

    People's corrections in ``annotations/review`` replace masks and sentences. Without ``annotations/expressions`` each
    object has one sentence, its title. An object without a mask on any kept frame is left out, with the reason.

    Args:
        annotations: the work folder of `egoray annotate`.
        config: tiers, counts, seed, rate and what reviewers must have said.
        sources: files that say which full video each clip is from, see `read_sources`.
        limit: only the first so many clips, by id.

    Raises:
        ConfigError: if ``annotations`` holds no videos, or ``reviewed`` is "only" and nobody has reviewed anything.
        FormatError: if a table cannot be read.
    """
    source = Folder(annotations)
    infos, masklets, sentences = read_videos(source), read_masklets(source), read_expressions(source)
    reviewed = read_reviewed(source)
    if reviewed is None and config.reviewed == "only":
        raise ConfigError(f"{annotations}: nothing is reviewed; run `egoray review --annotations {annotations}`, or drop reviewed=only")
    reviewed = reviewed or Reviewed()
    known = read_sources(sources)
    tracks, masks, left_out = {}, {}, {}
    shown = sorted(infos)[:limit]
    status: dict[tuple[str, str], str] = {}
    for track, _ in read_objects(source):
        key = (track.video_id, track.object_id)
        if track.video_id not in shown:
            continue
        tracks[key] = track
        status[key] = reviewed.items.get(key, {}).get("status", "")
        if status[key] not in _KEPT.get(config.reviewed, (status[key],)):
            left_out["/".join(key)] = f"{status[key]} in review" if status[key] else "not reviewed"
            continue
        all_masks = {**(masklets[key].masks if key in masklets else {}), **reviewed.masks.get(key, {})}
        kept = {f: all_masks[f] for f in kept_frames(infos[track.video_id], config.fps) if f in all_masks and area(all_masks[f])}
        if kept:
            masks[key] = kept
        else:
            left_out["/".join(key)] = f"no mask on any frame kept at {config.fps} fps"
    by_clip: dict[str, dict[str, tuple[int, ...]]] = {}
    for (video_id, object_id), of in masks.items():
        by_clip.setdefault(video_id, {})[object_id] = tuple(of)
    candidates = [Candidate(video=infos[v], source_video=source_of(infos[v], known), seen=seen) for v, seen in sorted(by_clip.items())]
    division = divide(candidates, config)
    expressions = {key: _worded(sentences.get(key, []), reviewed) if sentences is not None else [_title(tracks[key])] for key in masks}
    plan = Plan(
        annotations=annotations,
        config=config,
        division=division,
        tracks=tracks,
        masks=masks,
        status=status,
        expressions=expressions,
        left_out=left_out,
        expected=len(tracks),
    )
    used = plan.used
    for video_id, object_id in masks.keys() - used:
        inside = "not drawn: outside its medium clips, or more than `objects` allows"
        left_out[f"{video_id}/{object_id}"] = division.left_out.get(video_id, inside)
    return replace(plan, left_out=dict(sorted(left_out.items())))


def build(annotations: str, videos: str, out: str, config: BuildConfig | None = None, *, sources: Sequence[str] = ()) -> dict[str, Any]:
    """`make_plan` and `write_dataset` in one."""
    return write_dataset(make_plan(annotations, config or BuildConfig(), sources=sources), videos, out)


def write_dataset(plan: Plan, videos: str, out: str, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write what the plan says; its summary, in which every object is ``done`` or left out with a reason.

    Frame numbers stay those of the 5 fps grid: at 1 fps 00000, 00005, ...; RefEgo's pictures keep their names. The
    benchmark lies at ``out``, the training set at ``out/egomask-train``, with its own pictures. ``dataset.json`` (format
    version, settings, origin of each video), ``README.md`` (card with statistics) and, last of all, ``SHA256SUMS`` go
    beside them: a folder without it is unfinished. The same command resumes, and the same inputs give the same bytes.

    Args:
        plan: from `make_plan`.
        videos: the folder of the annotated clips, files or folders of images.
        out: the dataset's folder, new or of an earlier build.
        progress: called with the number of folders of pictures that are done, after each of ``plan.num_folders``.

    Raises:
        ConfigError: if ``out`` cannot be written, or holds files that no build wrote.
        FormatError: before anything is written, if clips are missing: a benchmark without some of its frames is none.

    Source: EgoMask section on its construction; the released layout (`formats.egomask`).
    """
    target = Folder(out)
    chosen = {c.candidate.video.video_id: c.candidate.video for c in plan.division.choices}
    clips = {v: paths.join(videos, paths.name(info.uri.rstrip("/"))) for v, info in sorted(chosen.items())}
    if missing := [path for path in clips.values() if not paths.exists(path)]:
        raise FormatError(f"{missing[0]}: clip not found ({len(missing)} of {len(clips)} are missing); check --videos")
    write_pictures(target, _pictures(plan, clips), plan.config, progress)
    benchmark = [_video(plan, choice) for choice in sorted(plan.division.choices, key=lambda c: c.video_id)]
    write_benchmark(out, [video for video in benchmark if video.tier != "train"])
    if train := [video for video in benchmark if video.tier == "train"]:
        write_train((target / TRAIN).uri, train)
    summary = plan.summary()
    record = {
        "format": "EgoMask",
        "format_version": FORMAT_VERSION,
        "settings": plan.config.model_dump(mode="json", exclude={"workers", "max_failures"}),
        "videos": {c.video_id: _origin(plan, c) for c in plan.division.choices},
        **{key: summary[key] for key in ("tiers", "left_out")},
    }
    target.write_json("dataset.json", record)
    write_card(target, record)
    write_checksums(target)
    return summary


def _origin(plan: Plan, choice: Choice) -> dict[str, Any]:
    video = choice.candidate.video
    keys = [(video.video_id, object_id) for object_id in choice.object_ids]
    return {
        "tier": choice.tier,
        "clip": video.video_id,
        "source": video.source,
        "source_video": choice.candidate.source_video,
        "clip_seconds": round(seconds_of(video), 3),
        "native_fps": video.fps,
        "native_stride": video.stride * choice.frames.step,
        "fps": round(video.fps / video.stride / choice.frames.step, 3),
        "first_frame": choice.frames[0],
        "stop_frame": choice.frames.stop,
        "height_px": video.height_px,
        "width_px": video.width_px,
        "status": {object_id: plan.status[video.video_id, object_id] for _, object_id in keys},
    }


def _name(video: VideoInfo, frame: int) -> str:
    return image_name(video.video_id, frame) if video.source == "refego" else frame_name(frame)


def _pictures(plan: Plan, clips: Mapping[str, str]) -> list[Pictures]:
    """One task for every folder of pictures: the frames that some video of the dataset shows of a clip."""
    wanted: dict[tuple[str, str], dict[int, str]] = {}
    by_id = {}
    for choice in plan.division.choices:
        video = choice.candidate.video
        by_id[video.video_id] = video
        kind = "refego" if video.source == "refego" else "egotracks"
        folder = f"{TRAIN}/train/JPEGImages" if choice.tier == "train" else f"JPEGImages/{kind}"
        names = wanted.setdefault((video.video_id, f"{folder}/{clip_of(choice.video_id, choice.tier)}"), {})
        names |= {frame * video.stride: _name(video, frame) for frame in choice.frames}
    return [
        Pictures(path=clips[video_id], folder=folder, names=dict(sorted(names.items()))) for (video_id, folder), names in wanted.items()
    ]


def _video(plan: Plan, choice: Choice) -> BenchmarkVideo:
    video, objects, sentences = choice.candidate.video, [], []
    for object_id in choice.object_ids:
        key = (video.video_id, object_id)
        masks = {_name(video, frame): rle for frame, rle in plan.masks[key].items() if frame in choice.frames}
        item = BenchmarkObject(object_id=object_id, category=plan.tracks[key].title, masks=masks, status=plan.status[key])
        objects.append(item)
        sentences += [replace(e, video_id=choice.video_id) for e in _sentences(plan, key, choice)]
    return BenchmarkVideo(
        video_id=choice.video_id,
        tier=choice.tier,
        frame_names=tuple(_name(video, frame) for frame in choice.frames),
        objects=tuple(objects),
        expressions=tuple(sentences),
    )


def _sentences(plan: Plan, key: tuple[str, str], choice: Choice) -> list[Expression]:
    """The object's sentences; of a benchmark's, at most ``expressions``, each kind once before any twice."""
    found = list(plan.expressions[key])
    if choice.tier == "train" or plan.config.expressions is None:
        return found
    kinds: dict[str, int] = {}
    rank = []
    for e in found:
        kinds[e.kind] = kinds.get(e.kind, 0) + 1
        rank.append(kinds[e.kind])
    first = sorted(range(len(found)), key=lambda n: (rank[n], n))[: plan.config.expressions]
    return [found[n] for n in sorted(first)]


def _worded(sentences: Sequence[Expression], reviewed: Reviewed) -> list[Expression]:
    """The sentences as reviewers left them: rewritten where they did, without those that they emptied."""
    changed = [replace(e, text=reviewed.texts.get(e.expression_id, e.text)) for e in sentences]
    return [e for e in changed if e.text.strip()]


def _title(track: ObjectTrack) -> Expression:
    """The object's title as its only expression."""
    text = track.title or f"object {track.object_id}"
    return Expression(
        expression_id=str(uuid.uuid5(_NAMESPACE, f"{track.video_id}/{track.object_id}/{text}")),
        video_id=track.video_id,
        object_id=track.object_id,
        text=text,
        kind="title",
        source="annotation",
    )
