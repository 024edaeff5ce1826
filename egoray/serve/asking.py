"""A question as a replica answers it: events, told as the model judges frames, and the whole answer gathered from them.

The model runs on a thread, one question at a time; whoever asked may go away at any time, and the model then stops at its next frame.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from egoray import __version__
from egoray.core.masks import decode
from egoray.errors import EgorayError
from egoray.formats.grounding_json import appearances, frame_json
from egoray.models.base import Grounded, Grounder, Judged, streamed
from egoray.schema import MaskRLE
from egoray.serve.decoder import DecodedClip, Decoder, Looked
from egoray.serve.refusals import Refused

Event = dict[str, Any]
_PROGRESS_S = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked: sentences about some native frames of a video.

    ``natives`` are ascending, ``times_s`` their times; ``fps`` is the rate at which they follow each other; ``output`` is rle,
    boxes or png.
    """

    path: str
    texts: tuple[str, ...]
    natives: tuple[int, ...]
    times_s: tuple[float, ...]
    size_hw: tuple[int, int]
    fps: float
    output: str = "rle"


class Grounding(Protocol):
    """A model that answers, wherever it runs."""

    name: str
    summary: str

    async def ready(self) -> bool:
        """Whether its weights are loaded and it can be asked."""
        ...

    def ask(self, question: Question) -> AsyncGenerator[list[Event], None]:
        """The events of the answer, some at a time; the last is "done" or "error". Closing it frees the model.

        Raises:
            Refused: if it takes no question now.
        """
        ...


class Gone(Exception):
    """Nobody waits for the answer."""


class LocalGrounding:
    """Satisfies `Grounding` in this process.

    Args:
        grounder: the model.
        decoder: who decodes.
        name: what requests call it.
        summary: what it is, in a line.
    """

    def __init__(self, grounder: Grounder, decoder: Decoder, name: str, summary: str = "") -> None:
        self._grounder, self._decoder, self.name, self.summary = grounder, decoder, name, summary
        self._one_at_a_time = threading.Lock()

    async def ready(self) -> bool:
        """See `Grounding.ready`."""
        return True

    async def ask(self, question: Question) -> AsyncGenerator[list[Event], None]:
        """See `Grounding.ask`."""
        async with aclosing(told(lambda tell: self._answer(question, tell), self._one_at_a_time)) as events:
            async for batch in events:
                yield batch

    def _answer(self, question: Question, tell: Callable[[Event | None], None]) -> None:
        started = time.monotonic()
        progress = _Progress(2 * len(question.natives), tell)  # models read a clip about twice
        clip = _TimedClip(self._decoder, question.path, question.natives, question.size_hw, progress.step)
        tell(
            {
                "event": "start",
                "model": self.name,
                "version": __version__,
                "texts": list(question.texts),
                "num_frames": len(question.natives),
                "fps": question.fps,
                "size_hw": list(question.size_hw),
            }
        )
        judging = streamed(self._grounder, clip, question.texts)
        try:
            while True:
                try:
                    judged = next(judging)
                except StopIteration as end:
                    answers: list[Grounded] = end.value
                    break
                tell(None)
                if judged.mask is not None:
                    tell(_frame_event(judged, question))
        finally:
            judging.close()
        progress.finish()
        timing = {"decode": round(clip.waited_s, 4), "model": round(time.monotonic() - started - clip.waited_s, 4)}
        results = [_result(text, found, question) for text, found in zip(question.texts, answers, strict=True)]
        tell({"event": "done", "model": self.name, "version": __version__, "results": results, "timing_s": timing})


async def told(work: Callable[[Callable[[Event | None], None]], None], lock: threading.Lock) -> AsyncGenerator[list[Event], None]:
    """What the work tells on a thread of its own, under the lock; a failure is the last event.

    The work calls ``tell`` with an event, or with None to see whether anybody still listens: it raises `Gone` if not.
    """
    loop, events, gone = asyncio.get_running_loop(), asyncio.Queue[Event](), threading.Event()

    def tell(event: Event | None) -> None:
        if gone.is_set():
            raise Gone
        if event is not None:
            loop.call_soon_threadsafe(events.put_nowait, event)

    def run() -> None:
        try:
            with lock:
                tell(None)
                work(tell)
        except Gone:
            return
        except Exception as error:
            if not isinstance(error, EgorayError | ValueError):
                _log.exception("a question could not be answered")
            if not gone.is_set():
                loop.call_soon_threadsafe(events.put_nowait, _failure(error))

    thread = threading.Thread(target=run, name="answer", daemon=True)
    thread.start()
    try:
        while True:
            batch = [await events.get()]
            while not events.empty():
                batch.append(events.get_nowait())
            yield batch
            if batch[-1]["event"] in ("done", "error"):
                return
    finally:
        gone.set()


def plan(
    looked: Looked, *, fps: float | None, start_s: float | None, stop_s: float | None, max_frames: int | None
) -> tuple[list[int], int]:
    """The native frames to look at, and the step between them.

    The grid begins at native frame 0 whatever the start, so that parts of a video fit together. ``max_frames`` widens the step.

    Raises:
        Refused: 422 if no frame lies between start and stop.
    """
    stride = max(1, round(looked.fps / fps)) if fps else 1
    low, high = start_s or 0.0, float("inf") if stop_s is None else stop_s
    while True:
        natives = [f for f in range(0, len(looked.times_s), stride) if low <= looked.times_s[f] < high]
        if max_frames is None or len(natives) <= max_frames:
            break
        stride = max(stride + 1, stride * len(natives) // max_frames)
    if not natives:
        end = looked.times_s[-1]
        raise Refused(422, "nothing_to_look_at", f"no frame between start_s and stop_s at this fps; the video ends at {end:.2f} s")
    return natives, stride


def gathered_answer(events: Iterable[Event]) -> dict[str, Any]:
    """The whole answer, of events that end with "done"; frames ascend.

    Raises:
        Refused: if they end with an error.
    """
    frames: dict[int, list[Event]] = {}
    last: Event = {}
    for last in events:
        if last["event"] == "frame":
            frames.setdefault(last["text_index"], []).append({k: v for k, v in last.items() if k not in ("event", "text_index")})
    if last.get("event") != "done":
        raise refused(last)
    for n, result in enumerate(last["results"]):
        result["frames"] = sorted(frames.get(n, []), key=lambda frame: frame["frame"])
    return {key: value for key, value in last.items() if key != "event"}


def refused(event: Event) -> Refused:
    """What an error event says."""
    error = event.get("error", {"code": "broken_off", "message": "the answer broke off; ask again"})
    return Refused(event.get("status", 503), error["code"], error["message"], event.get("retry_after_s"))


def error_event(error: Refused) -> Event:
    """The event that ends a stream that cannot go on."""
    return {"event": "error", **error.body(), "status": error.status, "retry_after_s": error.retry_after_s}


def _failure(error: Exception) -> Event:
    if isinstance(error, Refused):
        return error_event(error)
    if isinstance(error, ValueError):
        return error_event(Refused(422, "invalid_field", " ".join(str(error).split())[:300]))
    if isinstance(error, EgorayError):
        return error_event(
            Refused(503, "model_failed", "the model cannot answer this; try a shorter video, or ask who runs the service", 5)
        )
    return error_event(Refused(500, "internal", "the service failed; its log says why"))


class _Progress:
    """Frames read of those that will be, told at most ten times a second."""

    def __init__(self, total: int, tell: Callable[[Event | None], None]) -> None:
        self._total, self._tell, self._done, self._last = total, tell, 0, 0.0

    def step(self) -> None:
        self._done += 1
        due = time.monotonic() - self._last >= _PROGRESS_S
        self._tell({"event": "progress", "done": min(self._done, self._total - 1), "total": self._total} if due else None)
        if due:
            self._last = time.monotonic()

    def finish(self) -> None:
        self._tell({"event": "progress", "done": self._total, "total": self._total})


class _TimedClip(DecodedClip):
    """Knows how long its reader waited for frames."""

    waited_s = 0.0

    def _read(self, wanted: Sequence[int], backward: bool = False) -> Any:
        frames = super()._read(wanted, backward)
        while True:
            asked = time.monotonic()
            found = next(frames, None)
            self.waited_s += time.monotonic() - asked
            if found is None:
                return
            yield found


def _frame_event(judged: Judged, question: Question) -> Event:
    assert judged.mask is not None
    native, time_s = question.natives[judged.frame], question.times_s[judged.frame]
    return {"event": "frame", "text_index": judged.text_index} | shaped(
        frame_json(native, time_s, judged.mask, judged.score), question.output
    )


def shaped(frame: dict[str, Any], output: str) -> dict[str, Any]:
    """The frame with its mask as asked for: run lengths, a PNG (base64 of 8 bit grey, 255 on the object), or its box alone."""
    if output == "rle":
        return frame
    rle = frame.pop("rle")
    if output == "png":
        mask = decode(MaskRLE(size=tuple(rle["size"]), counts=rle["counts"]))
        frame["png"] = base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()).decode()
    return frame


def _result(text: str, found: Grounded, question: Question) -> dict[str, Any]:
    detection = None
    if found.detection:
        frame, best = found.detection
        detection = {"frame": question.natives[frame], "box_xyxy": list(best.box), "score": best.score}
    return {"text": text, "appearances": appearances(sorted(found.masks), question.times_s), "detection": detection}
