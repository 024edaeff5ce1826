"""Pictures of masks on their frames: an overlay video of a clip, and a few telling crops of each object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from egoray.core.masks import Mask, area, bounding_box, decode
from egoray.core.video import Image, read_frames
from egoray.core.video_writer import VideoWriter
from egoray.schema import Box, Masklet, MaskRLE, Trajectory, VideoInfo

# Okabe and Ito's eight colours without black: told apart with any common colour vision.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

_DARK = (24, 24, 24)
_TILE_WIDTH_PX = 320
_TILES_A_ROW = 3
_MAX_TILES = 6
_CRF = 30  # about 1.5 MB for a minute of 360-line handheld video at 5 fps


class Tile(NamedTuple):
    """A captioned crop around an object, RGB."""

    caption: str
    image: Image


def palette(object_ids: Iterable[str]) -> dict[str, str]:
    """A CSS colour (``#RRGGBB``) for each object of a clip, by ascending id; the colours repeat after seven."""
    return {object_id: PALETTE[i % len(PALETTE)] for i, object_id in enumerate(sorted(object_ids, key=int))}


def draw(frame_rgb: Image, masks: Mapping[str, Mask], labels: Mapping[str, str], colours: Mapping[str, str]) -> Image:
    """A copy of the ``(H, W, 3)`` uint8 RGB frame with each ``(H, W)`` bool mask filled, outlined and labelled.

    An empty mask draws nothing, and an object without a label gets none. Letters outside ASCII print as "?".
    """
    shown = frame_rgb.copy()
    for object_id, mask in masks.items():
        rgb = _rgb(colours[object_id])
        shown[mask] = (0.6 * shown[mask] + 0.4 * np.array(rgb)).astype(np.uint8)
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for colour, width_px in ((_DARK, 2), (rgb, 1)):  # a dark rim keeps the outline visible on its own colour
            cv2.drawContours(shown, outline, -1, colour, width_px, cv2.LINE_AA)
    for object_id, mask in masks.items():  # above every fill
        if labels.get(object_id) and mask.any():
            rows, columns = np.nonzero(mask)
            _label(shown, labels[object_id], (int(columns.min()), int(rows.min())), _rgb(colours[object_id]))
    return shown


def overlay_frames(
    video: VideoInfo, masklets: Sequence[Masklet], titles: Mapping[str, str], frames: Iterable[int], max_height: int
) -> Iterator[Image]:
    """The annotation frames asked for, ascending, with every object drawn, at most ``max_height`` lines; one at a time.

    ``titles`` has every object of the clip by id; its colours follow from it. A frame without objects is shown plain.
    """
    height, width = _display_size(video, max_height)
    colours = palette(titles)
    for native, frame_rgb in read_frames(video.uri, [frame * video.stride for frame in frames]):
        small = cv2.resize(frame_rgb, (width, height), interpolation=cv2.INTER_AREA)
        frame = native // video.stride
        masks = {m.object_id: _resize(decode(m.masks[frame]), (height, width)) for m in masklets if frame in m.masks}
        yield draw(small, masks, titles, colours)


def write_overlay(
    video: VideoInfo, masklets: Sequence[Masklet], titles: Mapping[str, str], out_path: str, *, max_height: int = 360
) -> None:
    """Write the clip's annotation frames with every object drawn as an H.264 mp4 at the annotation rate.

    Frames stream from decoder to encoder: memory does not grow with the clip.

    Args:
        video: the clip; ``uri`` is its file.
        masklets: the objects with masks.
        titles: the name of every object of the clip by id.
        out_path: a local path.
        max_height: lines of the result at most; a smaller clip keeps its size.

    Raises:
        FormatError: if the clip cannot be read.
    """
    with VideoWriter(out_path, video.fps / video.stride, _display_size(video, max_height), crf=_CRF) as writer:
        for shown in overlay_frames(video, masklets, titles, range(video.num_annotation_frames), max_height):
            writer.write(shown)


def key_frames(masklet: Masklet, trajectories: Sequence[Trajectory]) -> dict[int, str]:
    """At most six telling frames of an object, ascending, each with the reason it was chosen; empty without masks.

    They are the first, the largest and the last mask, then the largest of each further appearance, larger ones first.
    """
    areas = {frame: area(rle) for frame, rle in masklet.masks.items()}
    frames = sorted(frame for frame in areas if areas[frame])
    if not frames:
        return {}
    chosen = {frames[0]: "first", frames[-1]: "last"}
    chosen.setdefault(max(frames, key=areas.__getitem__), "largest")
    peaks = {}
    for number, trajectory in enumerate(trajectories, start=1):
        inside = [frame for frame in frames if trajectory.start <= frame < trajectory.stop]
        if inside:
            peaks[max(inside, key=areas.__getitem__)] = f"appearance {number}"
    for frame in sorted(peaks.keys() - chosen.keys(), key=lambda f: (-areas[f], f))[: _MAX_TILES - len(chosen)]:
        chosen[frame] = peaks[frame]
    return dict(sorted(chosen.items()))


def tiles(video: VideoInfo, masklet: Masklet, trajectories: Sequence[Trajectory], colour: str) -> list[Tile]:
    """The object's key frames as crops around it with its mask drawn, 320 px wide and in the clip's aspect ratio."""
    reasons = key_frames(masklet, trajectories)
    found = []
    for native, frame_rgb in read_frames(video.uri, [frame * video.stride for frame in reasons]):
        frame = native // video.stride
        picture = closeup(frame_rgb, {"": masklet.masks[frame]}, {"": colour})
        found.append(Tile(f"{native / video.fps:.1f} s, {reasons[frame]}", picture))
    return found


def closeup(frame_rgb: Image, masks: Mapping[str, MaskRLE], colours: Mapping[str, str]) -> Image:
    """The part of an ``(H, W, 3)`` frame around all of the masks, with each drawn in its colour; 320 px wide, of the frame's shape.

    The masks have the frame's size, and one at least has foreground.
    """
    height, width = frame_rgb.shape[:2]
    boxes = np.array([bounding_box(rle) for rle in masks.values() if area(rle)])
    window = _window((*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)), (height, width))
    size_wh = (_TILE_WIDTH_PX, max(1, round(_TILE_WIDTH_PX * height / width)))
    crop = cv2.resize(frame_rgb[window], size_wh, interpolation=cv2.INTER_AREA)
    return draw(crop, {name: _resize(decode(rle)[window], size_wh[::-1]) for name, rle in masks.items()}, {}, colours)


def contact_sheet(pictures: Sequence[Tile], title: str) -> bytes:
    """The tiles on one PNG, three a row, captioned, below the title.

    Raises:
        ValueError: if there is no tile.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one tile")
    height, strip = pictures[0].image.shape[0], 26
    num_rows = -(-len(pictures) // _TILES_A_ROW)
    sheet = np.full((strip + num_rows * (height + strip), min(len(pictures), _TILES_A_ROW) * _TILE_WIDTH_PX, 3), 255, dtype=np.uint8)
    _write(sheet, title, (6, 18))
    for i, tile in enumerate(pictures):
        top, left = strip + (i // _TILES_A_ROW) * (height + strip), (i % _TILES_A_ROW) * _TILE_WIDTH_PX
        sheet[top : top + height, left : left + _TILE_WIDTH_PX] = tile.image
        _write(sheet, tile.caption, (left + 6, top + height + 18))
    return cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes()


def _display_size(video: VideoInfo, max_height: int) -> tuple[int, int]:
    scale = min(1.0, max_height / video.height_px)
    return max(1, round(scale * video.height_px)), max(1, round(scale * video.width_px))


def _window(box: Box, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns in the image's aspect ratio that hold the box twice over, and a quarter of each side at least."""
    height, width = size_hw
    scale = min(1.0, max(0.25, 2 * (box[2] - box[0]) / width, 2 * (box[3] - box[1]) / height))
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    top = min(max(0, round((box[1] + box[3] - rows) / 2)), height - rows)
    left = min(max(0, round((box[0] + box[2] - columns) / 2)), width - columns)
    return slice(top, top + rows), slice(left, left + columns)


def _resize(mask: Mask, size_hw: tuple[int, int]) -> Mask:
    return cv2.resize(mask.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_AREA) >= 0.5


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _label(image: Image, text: str, corner_xy: tuple[int, int], rgb: tuple[int, int, int]) -> None:
    """The text on a dark plate above the corner, pushed inside the image."""
    short = _ascii(text if len(text) <= 28 else text[:27] + "...")
    (width, height), _ = cv2.getTextSize(short, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    left = max(0, min(corner_xy[0], image.shape[1] - width - 8))
    bottom = max(height + 7, corner_xy[1] - 2)
    cv2.rectangle(image, (left, bottom - height - 7), (left + width + 8, bottom), _DARK, cv2.FILLED)
    cv2.rectangle(image, (left, bottom - height - 7), (left + 2, bottom), rgb, cv2.FILLED)
    cv2.putText(image, short, (left + 6, bottom - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)


def _write(sheet: Image, text: str, origin_xy: tuple[int, int]) -> None:
    cv2.putText(sheet, _ascii(text), origin_xy, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _DARK, 1, cv2.LINE_AA)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
