"""One self-contained HTML page about an annotation run: what was done and lost, and what the masks look like."""

from __future__ import annotations

import base64
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import cv2
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from egoray.core.storage import Folder
from egoray.core.video import Image
from egoray.core.workfolder import read_failures, read_masklets, read_objects, read_videos
from egoray.errors import EgorayError
from egoray.report.expressions import Rows, expression_rows
from egoray.report.figures import presence_timeline, runs, score_bars
from egoray.report.overlays import contact_sheet, overlay_frames, palette, tiles, write_overlay
from egoray.schema import Masklet, ObjectTrack, Trajectory, VideoInfo

_EMBEDDED_BYTES = 9_000_000  # of mp4 in the page, 12 MB as base64; clips beyond it are linked
_SCORES = {  # column of `evaluate.scores.score` → its heading
    "iou_gold": "Masks, IoU_gold",
    "iou_gold_pred": "Masks, IoU_gold_pred",
    "box_fill_iou_gold": "Box filled, IoU_gold",
    "ellipse_iou_gold": "Ellipse in box, IoU_gold",
}

Annotated = tuple[ObjectTrack, Sequence[Trajectory], Masklet]


def write_report(
    annotations: Folder | str, out: str, *, scores: Mapping[str, Any] | None = None, title: str = "Annotation report", max_clips: int = 12
) -> str:
    """Write the page, and beside it ``overlays/<video_id>.mp4`` and ``sheets/<video_id>_<object_id>.png``; its path.

    The page needs no network, no script and none of the files beside it: overlay videos are embedded up to 9 MB in all,
    and a clip beyond that shows a still and links its file. A clip that cannot be opened has its section, with the reason
    in place of the pictures. Nothing is shown of an object without masks but its name and its row in the timeline.

    Args:
        annotations: the work folder of `egoray annotate`.
        out: the page's file, local or on an object store.
        scores: what `egoray.evaluate.scores.score` returns: ``rows`` (one mapping an object) and ``means``, in [0, 1].
        title: the page's heading.
        max_clips: clips shown in detail, the first by id; the page says how many it leaves out.

    Raises:
        ConfigError: if ``annotations`` holds no videos, or ``out`` cannot be written.
        FormatError: if a table of the folder cannot be read.
    """
    source = annotations if isinstance(annotations, Folder) else Folder(annotations)
    folder_uri, _, name = os.fspath(out).rpartition("/")
    target = Folder(folder_uri or ".")
    videos, masklets = read_videos(source), read_masklets(source)
    objects: dict[str, list[Annotated]] = {video_id: [] for video_id in videos}
    for track, trajectories in read_objects(source):
        nothing = Masklet(video_id=track.video_id, object_id=track.object_id, masks={})
        objects[track.video_id].append((track, trajectories, masklets.get((track.video_id, track.object_id), nothing)))
    told = expression_rows(source)
    budget = _EMBEDDED_BYTES
    clips = []
    for video_id in sorted(videos)[:max_clips]:
        clip, embedded = _clip(videos[video_id], objects[video_id], told, target, budget)
        clips.append(clip)
        budget -= embedded
    html = render(
        "report.html",
        title=title,
        source=source.uri,
        review=f"egoray review --annotations {shlex.quote(source.uri)}",
        facts=_facts(source, videos, objects),
        failures=list(read_failures(source)),
        scores=_scores(scores) if scores else None,
        clips=clips,
        num_left_out=len(videos) - len(clips),
    )
    target.write_bytes(name, html)
    return os.fspath(out)


def render(template: str, **values: Any) -> bytes:
    """The page that a template of this folder makes of the values, escaped."""
    pages = Environment(loader=PackageLoader("egoray", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(values).encode()


def _facts(source: Folder, videos: Mapping[str, VideoInfo], objects: Mapping[str, Sequence[Annotated]]) -> list[tuple[str, str]]:
    """The figures on top of the page: name and value."""
    annotated = [masklet for found in objects.values() for _, _, masklet in found]
    facts = [
        ("clips", f"{len(videos):,}"),
        ("objects", f"{len(annotated):,}"),
        ("objects with masks", f"{sum(bool(m.masks) for m in annotated):,}"),
        ("masks", f"{sum(len(m.masks) for m in annotated):,}"),
    ]
    if not source.exists("summary.json"):
        return [*facts, ("run", "not finished")]
    summary = source.read_json("summary.json")
    return [
        *facts,
        ("units done", f"{summary['done']:,} of {summary['expected']:,}"),
        ("units failed", f"{summary['failed']:,}"),
        ("frames per second", f"{summary['frames_per_s']:,.1f}" if summary["frames_per_s"] else "none new"),
        ("wall time", f"{summary['seconds']:,.0f} s"),
    ]


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The table's headings and rows as printed (times 100), and the bars of the means."""
    columns = {key: heading for key, heading in _SCORES.items() if key in scores["means"]}
    rows = [
        {
            "title": row["title"],
            "ids": f"{row['video_id']} / {row['object_id']}",
            "num_gold": row["num_gold"],
            "values": [percent(row.get(key)) for key in columns],
        }
        for row in scores["rows"]
    ]
    return {
        "headings": list(columns.values()),
        "rows": rows,
        "means": [percent(scores["means"][key]) for key in columns],
        "bars": Markup(score_bars([(columns[key], scores["means"][key]) for key in columns], "Mean scores over objects")),
    }


def percent(value: float | None) -> str:
    """A score times 100, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def _clip(
    video: VideoInfo, found: Sequence[Annotated], told: Mapping[tuple[str, str], Rows], target: Folder, budget: int
) -> tuple[dict[str, Any], int]:
    """A clip's section, and how many bytes of video it embeds; its pictures are written beside the page."""
    fps = video.fps / video.stride
    titles = {track.object_id: track.title for track, _, _ in found}
    colours = palette(titles)
    rows = [(t.title or f"object {t.object_id}", colours[t.object_id], runs(m.masks), runs(t.boxes)) for t, _, m in found]
    section: dict[str, Any] = {
        "video_id": video.video_id,
        "meta": f"{video.num_frames / video.fps:.1f} s, {video.width_px} × {video.height_px}, {video.fps:g} fps, annotated at {fps:g} fps",
        "timeline": Markup(presence_timeline(video.num_annotation_frames, fps, rows)),
        "objects": [],
        "problem": "",
    }
    embedded = 0
    try:
        data = _write_overlay(video, [m for _, _, m in found], titles, target)
        section["href"] = f"overlays/{quote(video.video_id)}.mp4"
        section["size"] = f"{len(data) / 1e6:.1f} MB"
        section["still"] = _still(video, found, titles)
        if len(data) <= budget:
            section["src"], embedded = _data_uri("video/mp4", data), len(data)
        for track, trajectories, masklet in found:
            shown = _object(video, track, trajectories, masklet, colours[track.object_id], target)
            section["objects"].append(shown | {"expressions": told.get((video.video_id, track.object_id), ())})
    except EgorayError as error:
        section["problem"] = str(error)
    return section, embedded


def _object(
    video: VideoInfo, track: ObjectTrack, trajectories: Sequence[Trajectory], masklet: Masklet, colour: str, target: Folder
) -> dict[str, Any]:
    pictures = tiles(video, masklet, trajectories, colour)
    title = track.title or f"object {track.object_id}"
    if pictures:
        (target / "sheets").write_bytes(f"{video.video_id}_{track.object_id}.png", contact_sheet(pictures, title))
    plural = "s" * (len(trajectories) != 1)
    counts = f"{len(masklet.masks):,} masks for {len(track.boxes):,} boxes in {len(trajectories)} appearance{plural}"
    return {
        "title": title,
        "object_id": track.object_id,
        "colour": colour,
        "counts": counts,
        "tiles": [(tile.caption, jpeg_uri(tile.image)) for tile in pictures],
    }


def _write_overlay(video: VideoInfo, masklets: Sequence[Masklet], titles: Mapping[str, str], target: Folder) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "overlay.mp4")
        write_overlay(video, masklets, titles, path)
        with open(path, "rb") as file:
            data = file.read()
    (target / "overlays").write_bytes(f"{video.video_id}.mp4", data)
    return data


def _still(video: VideoInfo, found: Sequence[Annotated], titles: Mapping[str, str]) -> str:
    """The frame with the most objects, as a data: URI."""
    masklets = [masklet for _, _, masklet in found]
    most = max(range(video.num_annotation_frames), key=lambda frame: sum(frame in m.masks for m in masklets))
    return jpeg_uri(next(overlay_frames(video, masklets, titles, [most], 360)))


def jpeg_uri(image: Image) -> str:
    """The RGB picture as a data: URI."""
    return _data_uri("image/jpeg", cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
