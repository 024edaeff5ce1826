"""Is this folder a dataset in the EgoMask layout? Every fault by its place; what the release itself lacks is only a warning.

A fault is something that stops a loader or the official evaluator, or makes a figure wrong. Checked are the tables of the
benchmark, of the training set and, where a build wrote them, ``dataset.json`` and ``SHA256SUMS``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from egoray.core.storage import Folder
from egoray.dataset.card import FORMAT_VERSION
from egoray.dataset.checks import Findings, Video, check_mask, check_pictures, check_video, read_tables, within
from egoray.dataset.checksums import NAME as SUMS
from egoray.dataset.checksums import read_checksums
from egoray.dataset.tiers import length_tier
from egoray.errors import ConfigError, FormatError
from egoray.formats.egomask import TIERS, clip_of
from egoray.formats.egomask_json import bare, json_object, number_order, path_part, read_pair

_TRAIN_FILES = ("meta_expressions/train/meta_expressions.json", "train/meta.json", "train/mask_dict.json")


def validate(root: str, *, checksums: bool = True) -> Findings:
    """Check the benchmark, the training set, or both, in ``root``.

    Missing pictures, a missing ``subset/medium/meta.json`` and a missing ``rle_save``, all as in the release, are
    warnings at most; so are videos of another length than their tier's where no ``dataset.json`` promises the rules.

    Args:
        root: a dataset's folder, local or in an object store.
        checksums: also read every file that ``SHA256SUMS`` lists.

    Raises:
        ConfigError: if the folder holds neither a benchmark nor a training set.
    """
    folder, found = Folder(root), Findings(dataset=root)
    names = set(folder.files())
    has_benchmark = any(
        name in names for name in ("meta_expressions.json", "meta.json", *(f"subset/{t}/meta_expressions.json" for t in TIERS))
    )
    train = "egomask-train/" if any(name.startswith("egomask-train/") for name in names) else ""
    has_train = any(f"{train}{name}" in names for name in _TRAIN_FILES)
    if not has_benchmark and not has_train:
        raise ConfigError(f"{root}: neither meta_expressions.json nor train/mask_dict.json is there; give a folder in the EgoMask layout")
    record = _record(folder, names, found)
    splits: dict[str, set[str]] = {}
    if has_benchmark:
        _benchmark(folder, names, found, record, splits)
    if has_train:
        _train(
            folder / train.rstrip("/") if train else folder, {n.removeprefix(train) for n in names if n.startswith(train)}, found, splits
        )
    _sources(splits, record, found)
    if checksums and SUMS in names:
        _checksums(folder, names, found)
    elif record and SUMS not in names:
        found.faults.append(f"{SUMS}: missing, so the build did not end; run `egoray build` again")
    return found


def _record(folder: Folder, names: set[str], found: Findings) -> dict[str, Any]:
    """``dataset.json``; {} where no build wrote one."""
    if "dataset.json" not in names:
        return {}
    try:
        record = json_object(folder.read_json("dataset.json"), "dataset.json")
    except FormatError as error:
        found.faults.append(within(folder, error))
        return {}
    if str(record.get("format_version")).split(".")[0] != FORMAT_VERSION.split(".")[0]:
        found.faults.append(f"dataset.json: format version {record.get('format_version')!r} is not known; this is for {FORMAT_VERSION}")
    return record


def _benchmark(folder: Folder, names: set[str], found: Findings, record: Mapping[str, Any], splits: dict[str, set[str]]) -> None:
    full, full_objects = read_tables(folder, names, "meta.json", "meta_expressions.json", found)
    seen: dict[str, str] = {}
    gold: dict[str, dict[str, Any] | None] = {}
    for tier in TIERS:
        videos, objects = read_tables(folder, names, f"subset/{tier}/meta.json", f"subset/{tier}/meta_expressions.json", found)
        has_meta = f"subset/{tier}/meta.json" in names
        for video_id, video in videos.items():
            of = (objects if has_meta else full_objects).get(video_id)
            if video_id in seen:
                found.faults.append(f"{video.where}: is in the {seen[video_id]} tier too")
            seen[video_id] = tier
            splits.setdefault(tier, set()).add(clip_of(video_id, tier))
            whole = full.get(video_id)
            if full and (whole is None or (whole.frames, whole.texts) != (video.frames, video.texts)):
                said = "is not there" if whole is None else f"differs from {video.where.partition(',')[0]}"
                found.faults.append(f"meta_expressions.json: video {video_id} {said}")
            check_video(video_id, video, of, found)
            _length(video_id, video, tier, record, found)
            _gold(folder, names, video_id, video, of, tier, gold, found)
    for video_id in sorted(full.keys() - seen.keys()):
        found.faults.append(f"meta_expressions.json: video {video_id} is in no subset")
    for name in sorted(name for name in names if name.startswith("annotations/") and name not in gold):
        found.warnings.append(f"{name}: no expression is about it")
    found.counts["videos"] += len(seen)


def _length(video_id: str, video: Video, tier: str, record: Mapping[str, Any], found: Findings) -> None:
    origin = record.get("videos", {}).get(video_id, {})
    names = video.frames
    refego = bool(names) and names[0].startswith("img")
    steps = [int(b) - int(a) for a, b in itertools.pairwise(names) if a.isdigit() and b.isdigit()]
    fps = 2.0 if refego else 5 / min(steps) if steps and min(steps) > 0 else 1.0
    by_frames = tier == "medium" or "clip_seconds" not in origin
    seconds = len(names) / fps if by_frames else float(origin["clip_seconds"])
    if length_tier(seconds) == tier:
        return
    promised = record.get("settings", {}).get("tier") == "rules"
    (found.faults if promised else found.warnings).append(f"{video.where}: lasts {seconds:.0f} s, which is not the {tier} tier's length")


def _gold(
    folder: Folder,
    names: set[str],
    video_id: str,
    video: Video,
    objects: Mapping[str, Any] | None,
    tier: str,
    gold: dict[str, dict[str, Any] | None],
    found: Findings,
) -> None:
    """The masks and the pictures of a video of the benchmark."""
    clip = clip_of(video_id, tier)
    sizes: dict[tuple[int, int], str] = {}
    about = sorted({object_id for object_id, _ in video.texts.values()} | set(objects or {}), key=number_order)
    for object_id in about:
        name = f"annotations/{clip}/{object_id}.json"
        if name not in gold:
            gold[name] = _masks(folder, names, name, found)
        masks = gold[name]
        if masks is None:
            continue
        inside = [frame for frame in video.frames if frame in masks]
        found.counts["objects"] += 1
        if not inside:
            found.faults.append(f"{video.where}: object {object_id} is on none of its frames; its score would be no number")
        sizes |= {masks[frame]: f"{name}, frame {frame}" for frame in inside}
        listed = (objects or {}).get(object_id)
        listed = listed.get("frames") if isinstance(listed, dict) else None
        if isinstance(listed, list) and {bare(str(frame)) for frame in listed} != set(inside):
            found.faults.append(f"{name}: its frames in video {video_id} are not those of meta.json")
        if tier != "medium" and (strange := sorted(set(masks) - set(video.frames))):
            found.warnings.append(f"{name}: has frames that video {video_id} lacks, such as {strange[0]}")
    found.counts["expressions"] += len(video.texts)
    if len(sizes) > 1:
        found.faults.append(f"{video.where}: masks of different sizes, {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}")
    folders = [f"JPEGImages/{kind}/{clip}" for kind in ("egotracks", "refego")]
    check_pictures(folder, names, folders, video, next(iter(sizes), None), found)


def _masks(folder: Folder, names: set[str], name: str, found: Findings) -> dict[str, tuple[int, int]] | None:
    """The size of each frame's mask; None where the file cannot be used at all."""
    if name not in names:
        found.faults.append(f"{name}: missing, but an expression is about it")
        return None
    sizes: dict[str, tuple[int, int]] = {}
    try:
        document = json_object(folder.read_json(name), name)
    except FormatError as error:
        found.faults.append(within(folder, error))
        return None
    for frame, value in document.items():
        if size := check_mask(value, f"{name}, frame {frame}", found):
            sizes[bare(frame)] = size
    return sizes


def _train(folder: Folder, names: set[str], found: Findings, splits: dict[str, set[str]]) -> None:
    sentences, meta, lists = _TRAIN_FILES
    videos, objects = read_tables(folder, names, meta, sentences, found)
    rows: dict[str, dict[str, Any]] = {}
    if lists not in names:
        found.faults.append(f"{lists}: missing")
    else:
        try:
            document = json_object(folder.read_json(lists), lists)
        except FormatError as error:
            found.faults.append(within(folder, error))
            document = {}
        for key, row in document.items():
            try:
                video_id, object_id = read_pair(key, lists)
            except FormatError as error:
                found.faults.append(str(error))
                continue
            rows.setdefault(video_id, {})[object_id] = row
            if video_id not in videos and sentences in names:
                found.faults.append(f"{lists}: {key} is of a video that {sentences} does not have")
    splits["train"] = set(videos)
    has_saved = any(name.startswith("train/rle_save/") for name in names)
    for video_id, video in videos.items():
        of = objects.get(video_id)
        check_video(video_id, video, of, found)
        in_order = sorted(video.frames)
        sizes: set[tuple[int, int]] = set()
        for object_id in sorted({o for o, _ in video.texts.values()} | rows.get(video_id, {}).keys(), key=number_order):
            where = f"{lists}: ({video_id}, {object_id})"
            row = rows.get(video_id, {}).get(object_id)
            if row is None:
                found.faults.append(f"{where}: missing, but an expression is about it")
                continue
            if not isinstance(row, list) or len(row) != len(in_order):
                found.faults.append(f"{where}: expected a list of {len(in_order)} masks, one a frame")
                continue
            here = {
                frame: check_mask(value, f"{where}, frame {frame}", found)
                for frame, value in zip(in_order, row, strict=True)
                if value is not None
            }
            sizes |= {size for size in here.values() if size}
            found.counts["objects"] += 1
            entry = (of or {}).get(object_id)
            listed = entry.get("frames") if isinstance(entry, dict) else None
            if of is not None and entry is None:
                found.faults.append(f"{where}: {meta} does not have it")
            if isinstance(listed, list) and {bare(str(frame)) for frame in listed} != here.keys():
                found.faults.append(f"{where}: its frames are not those of {meta}")
            if has_saved:
                _saved(folder, names, video_id, object_id, dict(zip(in_order, row, strict=True)), found)
        if len(sizes) > 1:
            found.faults.append(f"{lists}: video {video_id} has masks of different sizes")
        found.counts["expressions"] += len(video.texts)
        check_pictures(folder, names, [f"train/JPEGImages/{video_id}"], video, next(iter(sizes), None), found)
    found.counts["videos"] += len(videos)


def _saved(folder: Folder, names: set[str], video_id: str, object_id: str, row: Mapping[str, Any], found: Findings) -> None:
    """The second layout of the masks says the same as the first."""
    name = f"train/rle_save/{path_part(video_id, folder.uri)}/{int(object_id) if object_id.isdigit() else object_id}.json"
    if name not in names:
        found.faults.append(f"{name}: missing, though other objects have theirs")
        return
    try:
        same = json_object(folder.read_json(name), name) == row
    except FormatError as error:
        found.faults.append(within(folder, error))
        return
    if not same:
        found.faults.append(f"{name}: differs from train/mask_dict.json")


def _sources(splits: Mapping[str, Iterable[str]], record: Mapping[str, Any], found: Findings) -> None:
    """No source video in two splits; Medium may be cut from Long's, unless a build promised otherwise."""
    origins = {v.get("clip"): v.get("source_video") for v in record.get("videos", {}).values() if isinstance(v, dict)}
    own = record.get("settings", {}).get("medium_from") == "own"
    where: dict[str, str] = {}
    for split, clips in splits.items():
        for source in sorted({str(origins.get(clip) or clip) for clip in clips}):
            before = where.setdefault(source, split)
            if before != split and (own or {before, split} != {"medium", "long"}):
                found.faults.append(f"source video {source}: is in {before} and in {split}")


def _checksums(folder: Folder, names: set[str], found: Findings) -> None:
    try:
        sums = read_checksums(folder)
    except FormatError as error:
        found.faults.append(within(folder, error))
        return
    for name, value in sums.items():
        if name not in names:
            kind = found.warnings if name.endswith(".jpg") else found.faults
            kind.append(f"{name}: is in {SUMS}, but missing")
        elif folder.sha256(name) != value:
            found.faults.append(f"{name}: changed since the dataset was built (its SHA-256 is another)")
    for name in sorted(names - sums.keys() - {SUMS}):
        found.warnings.append(f"{name}: is not in {SUMS}")
