"""What grounding a video leaves behind: an overlay video, the masks as JSON, and a picture of the frame that was followed from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from egoray.core.clip import VideoClip
from egoray.core.masks import decode
from egoray.core.storage import Folder
from egoray.core.video import Image, frame_times
from egoray.core.video_writer import VideoWriter
from egoray.formats.grounding_json import answer_json
from egoray.models.base import Grounded
from egoray.report.overlays import draw, palette

MAX_LINES = 720


def write_grounding(
    clip: VideoClip, texts: Sequence[str], answers: Sequence[Grounded], model: str, seconds: float, out: str
) -> dict[str, Any]:
    """Write OUT/overlay.mp4, OUT/grounding.json and OUT/chosen_<n>.jpg (n counts the sentences from 1); returns what the JSON holds.

    Args:
        clip: what was asked about.
        texts: the sentences.
        answers: one a sentence.
        model: who answered.
        seconds: how long it took.
        out: a local folder, made if need be.

    Raises:
        ConfigError: if the folder cannot be written.
    """
    times = frame_times(clip.path)[:: clip.stride][: clip.num_frames]
    results = [answer_json(text, found.masks, found.scores, times, clip.stride) for text, found in zip(texts, answers, strict=True)]
    content = {"model": model, "results": results, "timing_s": {"total": round(seconds, 3)}}
    os.makedirs(out, exist_ok=True)
    colours = palette([str(n) for n in range(len(texts))])
    labels = {str(n): text for n, text in enumerate(texts)}
    height, width = _size(clip)
    with VideoWriter(os.path.join(out, "overlay.mp4"), clip.fps / clip.stride, (height, width)) as video:
        for frame, shown in _drawn(clip, answers, labels, colours):
            small = cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA) if shown.shape[:2] != (height, width) else shown
            video.write(small)
            for n, found in enumerate(answers):
                if found.detection and found.detection[0] == frame:
                    _write_chosen(shown, found, colours[str(n)], os.path.join(out, f"chosen_{n + 1}.jpg"))
    Folder(out).write_json("grounding.json", content)
    return content


def _drawn(clip: VideoClip, answers: Sequence[Grounded], labels: dict[str, str], colours: dict[str, str]) -> Iterator[tuple[int, Image]]:
    for frame, image in clip.frames():
        masks = {str(n): decode(found.masks[frame]) for n, found in enumerate(answers) if frame in found.masks}
        yield frame, draw(image, masks, labels, colours)


def _write_chosen(shown: Image, found: Grounded, colour: str, path: str) -> None:
    assert found.detection is not None
    picture = shown.copy()
    x1, y1, x2, y2 = (round(v) for v in found.detection[1].box)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    cv2.rectangle(picture, (x1, y1), (x2, y2), (red, green, blue), 2)
    _, data = cv2.imencode(".jpg", picture[..., ::-1])
    Path(path).write_bytes(data.tobytes())


def _size(clip: VideoClip) -> tuple[int, int]:
    height, width = clip.size_hw
    scale = min(1.0, MAX_LINES / height)
    return round(height * scale), round(width * scale)
