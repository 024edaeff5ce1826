"""POST /v1/segment: a box or clicks on one frame, followed from there, in sessions that keep a video and its features warm."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field, field_validator, model_validator
from starlette.responses import Response

from egoray import __version__
from egoray.config import ServeConfig
from egoray.core.video import Image
from egoray.formats.grounding_json import appearances, frame_json
from egoray.models.base import Prompt, TrackedMask, TrackRequest, VideoTracker
from egoray.serve import described
from egoray.serve.asking import Event, refused, shaped, told
from egoray.serve.decoder import DecodedClip, Decoder, Looked
from egoray.serve.refusals import Refused
from egoray.serve.uploads import About, received

if TYPE_CHECKING:
    from egoray.serve.api import Service

WARM_FRAMES = 64
"""Frames of a session whose pixels, and whose features where the tracker has any, are kept."""
Pixels = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]


class Cue(About):
    """Fields of POST /v1/segment."""

    session: Annotated[str | None, Field(max_length=100, description="of an earlier answer, instead of a video")] = None
    frame: Annotated[int, Field(ge=0, le=10**9, description="the native frame that the box or the clicks are on")] = 0
    box: Annotated[tuple[Pixels, Pixels, Pixels, Pixels] | None, Field(description="x1, y1, x2, y2 in pixels")] = None
    points: Annotated[tuple[tuple[Pixels, Pixels], ...], Field(max_length=64, description="[x, y] of clicks")] = ()
    labels: Annotated[tuple[Literal[0, 1], ...], Field(max_length=64, description="one a click: 1 on the object, 0 beside it")] = ()

    @field_validator("box", mode="before")
    @classmethod
    def _box_of_form(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("points", mode="before")
    @classmethod
    def _points_of_form(cls, value: Any) -> Any:
        return [point.split(",") for point in value.split(";")] if isinstance(value, str) else value

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_of_form(cls, value: Any) -> Any:
        return [int(v) if v.strip() in ("0", "1") else v for v in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_something(self) -> Cue:
        if self.box is None and not self.points:
            raise ValueError("give a box or points")
        if self.labels and len(self.labels) != len(self.points):
            raise ValueError("labels: one for each of the points")
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError("box: x1 < x2 and y1 < y2")
        return self


class Followed(BaseModel):
    """The answer: the session to ask again in, and the object in every frame in which it is seen."""

    session: str
    model: str
    version: str
    frames: list[described.Frame]
    appearances: list[described.Appearance]
    timing_s: dict[str, float]


class Segmenting(Protocol):
    """Who follows boxes and clicks, wherever it runs."""

    async def open(self, path: str, looked: Looked) -> str:
        """A new session on a copy of the video; the least used one ends where there are too many."""
        ...

    def ask(self, session: str, cue: dict[str, Any]) -> AsyncGenerator[list[Event], None]:
        """The events of the answer, as those of `Grounding.ask` but without a ``text_index``."""
        ...


@runtime_checkable
class Stepping(Protocol):
    """A tracker whose features of a frame can be kept for another object: SAM 2."""

    def session(self, size_hw: tuple[int, int], num_frames: int | None = None) -> Any:
        """Steps through a video by hand."""
        ...

    def encode(self, image: Image) -> Any:
        """The features of a frame."""
        ...


@dataclass(slots=True)
class _Session:
    folder: str
    path: str
    looked: Looked
    used: float
    images: dict[int, Image] = field(default_factory=dict)
    features: dict[int, Any] = field(default_factory=dict)


class LocalSegmenting:
    """Satisfies `Segmenting` in this process.

    Args:
        tracker: who follows.
        decoder: who decodes.
        config: how long and how many sessions are kept.
        clock: seconds that only go on.
    """

    def __init__(self, tracker: VideoTracker, decoder: Decoder, config: ServeConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._tracker, self._decoder, self._config, self._clock = tracker, decoder, config, clock
        self._sessions: dict[str, _Session] = {}
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()

    async def open(self, path: str, looked: Looked) -> str:
        """See `Segmenting.open`."""
        return await asyncio.to_thread(self._open, path, looked)

    async def ask(self, session: str, cue: dict[str, Any]) -> AsyncGenerator[list[Event], None]:
        """See `Segmenting.ask`."""
        self.expire()
        found = self._sessions.get(session)
        if found is None:
            raise Refused(404, "no_such_session", "the session has ended; send the video again")
        found.used = self._clock()
        work = told(lambda tell: self._follow(session, found, Cue(**cue), tell), self._one_at_a_time)
        async with aclosing(work) as events:
            async for batch in events:
                yield batch

    def expire(self) -> None:
        """End the sessions that nobody used for long, and the least used of too many."""
        with self._lock:
            by_age = sorted(self._sessions, key=lambda key: self._sessions[key].used)
            late = [key for key in by_age if self._clock() - self._sessions[key].used > self._config.session_s]
            for key in dict.fromkeys([*late, *by_age[: max(0, len(by_age) - self._config.max_sessions)]]):
                shutil.rmtree(self._sessions.pop(key).folder, ignore_errors=True)

    def close(self) -> None:
        """End all sessions."""
        with self._lock:
            for session in self._sessions.values():
                shutil.rmtree(session.folder, ignore_errors=True)
            self._sessions.clear()

    def _open(self, path: str, looked: Looked) -> str:
        folder = tempfile.mkdtemp(prefix="egoray-session-")
        copy = os.path.join(folder, "video")
        (shutil.copytree if os.path.isdir(path) else shutil.copyfile)(path, copy)
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._sessions[key] = _Session(folder, copy, looked, self._clock())
        self.expire()
        return key

    def _follow(self, key: str, session: _Session, cue: Cue, tell: Callable[[Event | None], None]) -> None:
        started, looked = time.monotonic(), session.looked
        if cue.frame >= len(looked.times_s):
            raise Refused(422, "invalid_field", f"frame: the video has {len(looked.times_s)} frames, counted from 0")
        stride = max(1, round(looked.fps / (cue.fps or 5.0)))
        stop_s = float("inf") if cue.stop_s is None else cue.stop_s
        natives = [f for f in range(cue.frame, len(looked.times_s), stride) if f == cue.frame or looked.times_s[f] < stop_s]
        natives = natives[: min(cue.max_frames or self._config.max_frames, self._config.max_frames)]
        times_s = [looked.times_s[f] for f in natives]
        base = {"session": key, "model": self._tracker.name, "version": __version__}
        tell({"event": "start", **base, "num_frames": len(natives), "fps": looked.fps / stride, "size_hw": list(looked.size_hw)})
        clip = DecodedClip(self._decoder, session.path, natives, looked.size_hw, lambda: tell(None))
        seen = []
        for frame, found in self._tracked(session, clip, natives, _prompt(cue, looked.size_hw)):
            if found is not None and found.patch.any():
                seen.append(frame)
                shown = frame_json(natives[frame], times_s[frame], found.patch.encode(), found.score)
                tell({"event": "frame"} | shaped(shown, cue.output))
            tell({"event": "progress", "done": frame + 1, "total": len(natives)})
        timing = {"model": round(time.monotonic() - started, 4)}
        tell({"event": "done", **base, "appearances": appearances(seen, times_s), "timing_s": timing})

    def _tracked(
        self, session: _Session, clip: DecodedClip, natives: Sequence[int], prompt: Prompt
    ) -> Iterator[tuple[int, TrackedMask | None]]:
        frames = self._frames(session, clip, natives)
        if not isinstance(self._tracker, Stepping):
            boxes = {0: prompt.box} if prompt.box else {}
            request = TrackRequest(key="object", start=0, stop=len(natives), prompts={0: prompt}, boxes=boxes)
            for frame, found in self._tracker.track(frames, [request]):
                yield frame, found.get("object")
            return
        steps = self._tracker.session(clip.size_hw, len(natives))
        for frame, image in frames:
            native = natives[frame]
            if native not in session.features:
                _keep(session.features, native, self._tracker.encode(image))
            step = steps.advance(frame, session.features[native], {"object": prompt} if frame == 0 else {})
            yield frame, step.masks().get("object")

    def _frames(self, session: _Session, clip: DecodedClip, natives: Sequence[int]) -> Iterator[tuple[int, Image]]:
        """The clip's frames; the first ones from memory, as far as they are there."""
        warm = 0
        while warm < len(natives) and natives[warm] in session.images:
            yield warm, session.images[natives[warm]]
            warm += 1
        for frame, image in clip.frames(range(warm, len(natives))):
            _keep(session.images, natives[frame], image)
            yield frame, image


def add_segment(app: FastAPI, service: Service, segmenting: Segmenting) -> None:
    """Add POST /v1/segment to the app."""
    from egoray.serve.api import answer

    responses = described.refusals() | {200: {"model": Followed, "description": "The answer; with `stream`, NDJSON as of /v1/ground."}}

    @app.post("/v1/segment", responses=responses, response_model=None, openapi_extra=described.body(Cue))
    async def segment(request: Request) -> Response:
        """What a box or clicks mean, in their frame and from there on. The answer names a session, in which the next is faster."""
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(service.admission.place())
            got = await stack.enter_async_context(received(request, Cue, service.config))
            cue: Cue = got.fields
            if cue.session is not None and (got.path or cue.sample):
                raise Refused(422, "invalid_field", "session: send it or a video")
            session = cue.session
            if session is None:
                session = await segmenting.open(*(await service.look(got)))
            took = {"upload": time.monotonic() - started}
            asked = cue.model_dump()
            return await answer(request, lambda: segmenting.ask(session, asked), stack, took, stream=cue.stream, collect=_followed)


def _followed(events: Sequence[Event]) -> dict[str, Any]:
    if not events or events[-1]["event"] != "done":
        raise refused(events[-1] if events else {})
    frames = [{k: v for k, v in event.items() if k != "event"} for event in events if event["event"] == "frame"]
    return {key: value for key, value in events[-1].items() if key != "event"} | {"frames": frames}


def _prompt(cue: Cue, size_hw: tuple[int, int]) -> Prompt:
    height, width = size_hw
    inside = [(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)) for x, y in cue.points]
    labels = cue.labels or (1,) * len(inside)
    return Prompt(box=cue.box, points=tuple(inside), labels=labels)


def _keep(kept: dict[int, Any], native: int, value: Any) -> None:
    kept[native] = value
    if len(kept) > WARM_FRAMES:
        del kept[next(iter(kept))]
