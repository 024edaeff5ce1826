"""Which full video a clip was cut from, by the files that say so: no source video may end in two splits of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from egoray.errors import FormatError
from egoray.formats.tracks_file import load_json
from egoray.schema import VideoInfo

_EXPECTED = "expected ego4d.json, an EgoTracks file, or {clip_uid: {video_uid}}"


def read_sources(paths: Sequence[str]) -> dict[str, str]:
    """The source video's id of each clip that the files name.

    Args:
        paths: any of ``ego4d.json`` (``clips[]``), an EgoTracks release (``videos[].clips[]``), and EgoMask's derived
            ``{clip_uid: {"video_uid": ...}}``; none give {}.

    Raises:
        FormatError: if a file is missing, not JSON or none of these.
    """
    found: dict[str, str] = {}
    for path in paths:
        pairs = dict(_pairs(load_json(path, _EXPECTED)))
        if not pairs:
            raise FormatError(f"{path}: names no clip's video; {_EXPECTED}")
        found |= pairs
    return found


def _pairs(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for clip in _dicts(document.get("clips")):
        yield from _pair(clip.get("clip_uid"), clip.get("video_uid"))
    for video in _dicts(document.get("videos")):
        for clip in _dicts(video.get("clips")):
            yield from _pair(clip.get("exported_clip_uid") or clip.get("clip_uid"), video.get("video_uid"))
            yield from _pair(clip.get("clip_uid"), video.get("video_uid"))
    for clip_uid, entry in document.items():
        if isinstance(entry, dict):
            yield from _pair(clip_uid, entry.get("video_uid"))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pair(clip_uid: Any, video_uid: Any) -> Iterator[tuple[str, str]]:
    if isinstance(clip_uid, str) and isinstance(video_uid, str) and clip_uid and video_uid:
        yield clip_uid, video_uid


def source_of(video: VideoInfo, sources: Mapping[str, str]) -> str:
    """The full video behind a clip: RefEgo's names hold it, ``sources`` may say it; otherwise the clip is its own source."""
    return video.video_id.split("--")[0] if video.source == "refego" else sources.get(video.video_id, video.video_id)
