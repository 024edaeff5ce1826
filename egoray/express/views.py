"""A clip's objects as its frames show them: key frames chosen, pictures made, colours named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egoray.config import ExpressConfig
from egoray.core.masks import area, decode
from egoray.core.video import Image, read_frames
from egoray.errors import FormatError
from egoray.express import checks
from egoray.express.colours import dominant
from egoray.express.keyframes import choose, sharpness
from egoray.express.offline import Sight, relative_place
from egoray.express.pictures import boxed, close_up
from egoray.express.plan import Clip, Shown
from egoray.express.writer import Subject

_BINS = 6  # of each of the three colour channels of a histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One object: what a model is shown of it, what the pixels say, and its colours' histogram, which sums to 1."""

    shown: Shown
    subject: Subject
    sight: Sight
    histogram: NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class _Frame:
    """What is kept of a decoded candidate frame."""

    sharpness: float
    view: bytes
    close_up: bytes
    pixels: NDArray[np.uint8]


def look(clip: Clip, config: ExpressConfig, threads: int) -> list[Seen]:
    """Decode the candidate frames once and see each object, in the clip's order.

    Raises:
        FormatError: if the clip is missing, does not decode, or is of another size than its masks.
    """
    taken: dict[str, dict[int, _Frame]] = {shown.object_id: {} for shown in clip.objects}
    wanted = sorted({frame for shown in clip.objects for frame in shown.masks})
    stride = clip.video.stride
    for native, image in read_frames(clip.video.uri, [frame * stride for frame in wanted], threads=threads):
        frame = native // stride
        for shown in clip.objects:
            if frame in shown.masks:
                taken[shown.object_id][frame] = _frame(clip.video.uri, image, shown, frame, config)
    return [_seen(clip, shown, taken[shown.object_id], config) for shown in clip.objects]


def most_alike(seen: Seen, others: Sequence[Seen], num: int) -> list[Seen]:
    """The ``num`` objects that look most like this one: words shared by the titles, and colours."""
    if not num:
        return []
    mine = set(checks.words(seen.shown.title))

    def likeness(other: Seen) -> float:
        theirs = set(checks.words(other.shown.title))
        return len(mine & theirs) / max(1, len(mine | theirs)) + float(np.minimum(seen.histogram, other.histogram).sum())

    return sorted(others, key=lambda other: (-likeness(other), other.shown.object_id))[:num]


def _frame(uri: str, image: Image, shown: Shown, frame: int, config: ExpressConfig) -> _Frame:
    box, mask = shown.boxes[frame], decode(shown.masks[frame])
    if mask.shape != image.shape[:2]:
        height, width = mask.shape
        raise FormatError(f"{uri}: is {image.shape[1]} x {image.shape[0]}, its masks are {width} x {height}; give the annotated clips")
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)  # its edge mixes with what is behind it
    asked = config.provider == "openai"
    return _Frame(
        sharpness=sharpness(image, box),
        view=boxed(image, box, config.max_tiles) if asked else b"",
        close_up=close_up(image, box) if asked else b"",
        pixels=image[inner if inner.any() else mask],
    )


def _seen(clip: Clip, shown: Shown, frames: dict[int, _Frame], config: ExpressConfig) -> Seen:
    areas = {frame: area(shown.masks[frame]) for frame in frames}
    chosen = choose(areas, {frame: taken.sharpness for frame, taken in frames.items()}, config.num_frames)
    best = max(chosen, key=lambda f: (areas[f] ** 0.5 * frames[f].sharpness, -f))
    subject = Subject(
        video_id=clip.video.video_id,
        object_id=shown.object_id,
        title=shown.title,
        views=tuple(frames[frame].view for frame in chosen),
        close_up=frames[best].close_up if config.zoom else None,
        portrait=frames[best].view,
    )
    width, height = clip.video.width_px, clip.video.height_px
    box = shown.boxes[best]
    centre = ((box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height)
    near = sorted(
        (o for o in clip.objects if o.object_id != shown.object_id and best in o.boxes), key=lambda o: _distance(box, o.boxes[best])
    )
    sight = Sight(
        object_id=shown.object_id,
        title=shown.title,
        colours=dominant([frames[frame].pixels for frame in chosen]),
        side=(max(areas.values()) / (width * height)) ** 0.5,
        centre=centre,
        neighbours=tuple((o.title, relative_place(box, o.boxes[best])) for o in near if o.title),
        story=shown.story,
    )
    return Seen(shown=shown, subject=subject, sight=sight, histogram=_histogram([frames[frame].pixels for frame in chosen]))


def _distance(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return float(np.hypot(first[0] + first[2] - second[0] - second[2], first[1] + first[3] - second[1] - second[3]))


def _histogram(pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Shares of ``_BINS`` cubed colours, ``(_BINS ** 3,)``; zeros without pixels."""
    every = np.concatenate(pixels).astype(np.int64) * _BINS // 256
    counts = np.bincount(every @ np.array([_BINS * _BINS, _BINS, 1]), minlength=_BINS**3)
    return counts / max(1, len(every))
