"""What a reader of boxes hands to the pipeline, and what it does with the boxes that cannot be used."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egoray.core import paths
from egoray.core.boxes import clip_box
from egoray.core.storage import Folder
from egoray.errors import FormatError
from egoray.schema import Box, FailureRow, ObjectTrack

_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TracksFile:
    """What an annotation file holds: ``len(tracks) + len(failures)`` is the number of objects that should have a box.

    ``clip_ids`` are all clips in file order, also those without tracks; ``clip_fps`` those that state a rate. ``repairs``
    counts what was mended or left out, by name; ``failures`` are the objects lost.
    """

    tracks: tuple[ObjectTrack, ...]
    clip_ids: tuple[str, ...]
    clip_fps: dict[str, float]
    repairs: dict[str, int]
    failures: tuple[FailureRow, ...]


@dataclass(slots=True)
class Findings:
    """Collects what a reader finds, and becomes a `TracksFile` when it is done."""

    tracks: list[ObjectTrack] = field(default_factory=list)
    clip_fps: dict[str, float | None] = field(default_factory=dict)
    repairs: Counter[str] = field(default_factory=Counter)
    failures: list[FailureRow] = field(default_factory=list)

    def box(self, xywh: Sequence[object], size_hw: tuple[int, int]) -> Box | None:
        """(x, y, width, height) in pixels as a `Box`, or None, counted, where it cannot be used; size (0, 0) is unknown."""
        numbers = [finite(value) for value in xywh]
        if len(numbers) != 4 or None in numbers:
            self.repairs["box without four finite numbers"] += 1
            return None
        x, y, width, height = (value for value in numbers if value is not None)
        box = (x, y, x + width, y + height)
        fault = box_fault(box, size_hw)
        if fault:
            self.repairs[fault] += 1
        return None if fault else box

    def put(self, boxes: dict[int, Box], frame: int, box: Box) -> None:
        """Store the box of a frame; the last one of a frame wins, and the one that it replaces is counted."""
        self.repairs["box replaced by a later one of its frame"] += frame in boxes
        boxes[frame] = box

    def add(self, video_id: str, object_id: str, title: str, boxes: Mapping[int, Box], size_hw: tuple[int, int]) -> None:
        """Store an object: as a track with ascending frames, or as lost when no box is left."""
        if boxes:
            ordered = dict(sorted(boxes.items()))
            video_id, title = printable(video_id), printable(title)
            self.tracks.append(ObjectTrack(video_id=video_id, object_id=object_id, title=title, boxes=ordered, size_hw=size_hw))
        else:
            self.lose(video_id, object_id, "EmptyTrack", f"{title or 'object'}: has no box that can be used")

    def lose(self, video_id: str, object_id: str, error: str, message: str) -> None:
        """Record an object as lost for good."""
        unit, message = printable(f"{video_id}/{object_id}"), printable(message)
        self.failures.append(FailureRow(stage="annotate", unit=unit, error=error, message=message, attempt=1, retryable=False))

    def finish(self) -> TracksFile:
        """All that was found."""
        return TracksFile(
            tracks=tuple(self.tracks),
            clip_ids=tuple(self.clip_fps),
            clip_fps={clip_id: fps for clip_id, fps in self.clip_fps.items() if fps is not None},
            repairs={name: count for name, count in sorted(self.repairs.items()) if count},
            failures=tuple(self.failures),
        )


def printable(text: str) -> str:
    """The text with what is no legal Unicode (halves of characters, bytes of foreign file names) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def box_fault(box: Box, size_hw: tuple[int, int]) -> str | None:
    """Why the box covers nothing of an image of (height, width), or None; size (0, 0) is unknown and has no outside."""
    if not all(math.isfinite(value) for value in box):
        return "box without four finite numbers"
    if box[2] <= box[0] or box[3] <= box[1]:
        return "box without area"
    if all(size_hw) and clip_box(box, size_hw) is None:
        return "box outside the image"
    return None


def load_json(path: str | os.PathLike[str], expected: str) -> dict[str, Any]:
    """The JSON object in the file (a local path or s3://, gs://).

    Raises:
        FormatError: if it is missing, not JSON or not an object; the message ends in ``expected``.
    """
    folder, name = paths.parent(os.fspath(path)), paths.name(os.fspath(path))
    try:
        document = Folder(folder or ".").read_json(name)
    except (FormatError, OSError) as error:
        raise FormatError(f"{error}; {expected}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{os.fspath(path)}: holds no JSON object; {expected}")
    return document


def finite(value: object) -> float | None:
    """The number as a float; None for what is not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """The number as an int; None for what is not a whole number of a frame's or an image side's range."""
    number = finite(value)
    return int(number) if number is not None and number.is_integer() and abs(number) <= _LARGEST else None
