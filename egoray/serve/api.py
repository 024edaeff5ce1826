"""The endpoint as a FastAPI app over objects that answer; where those run, here or in replicas on Ray, it does not know."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response

from egoray import __version__
from egoray.config import ServeConfig
from egoray.serve import described
from egoray.serve.asking import Event, Grounding, Question, error_event, gathered_answer, plan
from egoray.serve.decoder import Decoder, Looked
from egoray.serve.limits import Admission, Guard
from egoray.serve.refusals import Refused
from egoray.serve.samples import Samples
from egoray.serve.segmenting import Segmenting, add_segment
from egoray.serve.uploads import About, Ask, Received, received

FPS = 5.0
_STATIC = Path(__file__).parent / "static"
_READY_S = 5.0
_NDJSON = "application/x-ndjson"


class Service:
    """What the routes share.

    Args:
        groundings: models by what requests call them; the first is the default.
        config: the settings.
        decoder: who decodes.
        segmenting: who follows clicks and boxes; None if nobody does.
        samples: clips to try; None if none are offered.
    """

    def __init__(
        self,
        groundings: Mapping[str, Grounding],
        config: ServeConfig,
        decoder: Decoder,
        segmenting: Segmenting | None = None,
        samples: Samples | None = None,
    ) -> None:
        self.groundings, self.config, self.decoder = dict(groundings), config, decoder
        self.segmenting, self.samples = segmenting, samples
        self.admission = Admission(config.capacity())

    def grounding(self, name: str | None) -> Grounding:
        """The model of this name, or the default.

        Raises:
            Refused: 404.
        """
        if name is None:
            return next(iter(self.groundings.values()))
        if name not in self.groundings:
            raise Refused(404, "no_such_model", f"known models are {', '.join(self.groundings)}")
        return self.groundings[name]

    async def look(self, got: Received) -> tuple[str, Looked]:
        """The path of the request's video and what it holds.

        Raises:
            Refused: if there is none, or it cannot be taken.
        """
        path = got.path
        if got.fields.sample is not None:
            path = await asyncio.to_thread(self.samples.path, got.fields.sample) if self.samples else None
            if path is None:
                raise Refused(404, "no_such_sample", "no sample clip of this name; see GET /v1/samples")
        if path is None:
            raise Refused(422, "invalid_field", "send a video: a file `video`, images as `frames`, a `uri` or a `sample`")
        return path, await asyncio.to_thread(self.decoder.look, path)

    def chosen(self, about: About, path: str, looked: Looked, start_s: float | None = None) -> tuple[list[int], list[float], float]:
        """The native frames to look at, their times, and the rate at which they follow each other.

        Raises:
            Refused: 413 if they are more than the service takes, 422 if there are none.
        """
        fps = None if os.path.isdir(path) and about.fps is None else about.fps or FPS
        start_s = about.start_s if start_s is None else start_s
        natives, stride = plan(looked, fps=fps, start_s=start_s, stop_s=about.stop_s, max_frames=about.max_frames)
        if len(natives) > self.config.max_frames:
            most = self.config.max_frames
            raise Refused(
                413, "too_large", f"{len(natives)} frames to look at; at most {most}: lower fps, or set start_s, stop_s, max_frames"
            )
        return natives, [looked.times_s[f] for f in natives], looked.fps / stride


def create_app(service: Service, token: str = "", *, read_ahead: bool = False) -> FastAPI:
    """The app; with a token, every request has to bear it but those for the page, its files, the docs and /healthz.

    ``read_ahead`` is the server's, see `Guard`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.decoder.warm)
        if service.samples:  # so that they are there when somebody opens the page
            threading.Thread(target=service.samples.listed, daemon=True).start()
        yield
        await asyncio.to_thread(service.decoder.close)

    about = {"title": "egoray", "version": __version__, "summary": "Where in a video is what a sentence means?"}
    app = FastAPI(**about, lifespan=lifespan, docs_url=None, redoc_url=None)  # theirs load scripts from elsewhere
    app.add_middleware(Guard, config=service.config, token=token, read_ahead=read_ahead)
    _add_errors(app)
    _add_offers(app, service)
    _add_ground(app, service)
    if service.segmenting:
        add_segment(app, service, service.segmenting)
    described.finish(app, secured=bool(token))
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(_STATIC / "docs.html")

    return app


def _add_errors(app: FastAPI) -> None:
    async def on_refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse(error.body(), error.status, error.headers())

    async def on_invalid(_: Request, error: Exception) -> Response:
        return JSONResponse(Refused(422, "invalid_field", "a field of the request is wrong; see /docs").body(), 422)

    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return JSONResponse(Refused(error.status_code, code, str(error.detail)).body(), error.status_code, error.headers)

    async def on_other(_: Request, error: Exception) -> Response:
        return JSONResponse(Refused(500, "internal", "the service failed; its log says why").body(), 500)

    app.add_exception_handler(Refused, on_refused)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_other)


def _add_offers(app: FastAPI, service: Service) -> None:
    async def is_ready(grounding: Grounding) -> bool:
        try:
            return await asyncio.wait_for(grounding.ready(), _READY_S)
        except (TimeoutError, Refused):
            return False

    @app.get("/healthz", responses={503: described.ERROR}, response_model=described.Health)
    async def healthz() -> dict[str, Any]:
        """Whether the weights of every model are loaded, so that a question is answered at once."""
        ready = await asyncio.gather(*map(is_ready, service.groundings.values()))
        if not all(ready):
            waiting = [name for name, is_up in zip(service.groundings, ready, strict=True) if not is_up]
            raise Refused(503, "not_ready", f"still loading: {', '.join(waiting)}", 2)
        return {"status": "ready", "version": __version__}

    @app.get("/v1/models", response_model=described.Models)
    async def models() -> dict[str, Any]:
        """The models that can be asked."""
        ready = await asyncio.gather(*map(is_ready, service.groundings.values()))
        rows = [{"name": n, "summary": g.summary, "ready": up} for (n, g), up in zip(service.groundings.items(), ready, strict=True)]
        return {"models": rows, "default": next(iter(service.groundings)), "max_texts": service.config.max_texts}

    @app.get("/v1/samples", response_model=described.SampleList)
    async def samples() -> dict[str, Any]:
        """Clips to try; rendered when the service first starts, which takes a few seconds."""
        return {"samples": await asyncio.to_thread(service.samples.listed) if service.samples else []}

    @app.get("/v1/samples/{name}.mp4", response_class=FileResponse, responses={404: described.ERROR, 200: described.VIDEO})
    async def sample(name: str) -> FileResponse:
        """One of them; it needs no token, since it shows a made-up room."""
        path = await asyncio.to_thread(service.samples.rendered, name) if service.samples else None
        if path is None:
            raise Refused(404, "no_such_sample", "no sample clip of this name; see GET /v1/samples")
        return FileResponse(path, media_type="video/mp4")


def _add_ground(app: FastAPI, service: Service) -> None:
    @app.post("/v1/ground", responses=described.refusals(), response_model=None, openapi_extra=described.body(Ask))
    async def ground(request: Request) -> Response:
        """Where in a video is what each sentence means? Masks, boxes and confidences by frame, and when each is in view."""
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(service.admission.place())
            got = await stack.enter_async_context(received(request, Ask, service.config))
            ask: Ask = got.fields
            grounding = service.grounding(ask.model)
            uploaded = time.monotonic()
            path, looked = await service.look(got)
            natives, times_s, fps = service.chosen(ask, path, looked)
            question = Question(
                path=path,
                texts=tuple(ask.text),
                natives=tuple(natives),
                times_s=tuple(times_s),
                size_hw=looked.size_hw,
                fps=fps,
                output=ask.output,
            )
            took = {"upload": uploaded - started, "look": time.monotonic() - uploaded}
            return await answer(request, lambda: grounding.ask(question), stack, took, stream=ask.stream)


async def answer(
    request: Request,
    ask: Callable[[], AsyncGenerator[list[Event], None]],
    stack: AsyncExitStack,
    took: Mapping[str, float],
    *,
    stream: bool,
    collect: Callable[[Sequence[Event]], dict[str, Any]] = gathered_answer,
) -> Response:
    """The response to a question: streamed, or whole. The stack, what the question holds, is closed when the last of it is sent.

    Raises:
        Refused: if the answer cannot begin or, where it is not streamed, ends with an error.
    """
    events = _timed(ask(), took)
    if not stream:
        return JSONResponse(collect(await _until_gone(request, _collected(events))))
    first = await _until_gone(request, anext(events))
    if first[0]["event"] == "error":
        await events.aclose()
        collect(first)
    held = stack.pop_all()

    async def lines() -> AsyncIterator[bytes]:
        async with held, aclosing(events):
            yield _lines(first)
            try:
                async for batch in events:
                    yield _lines(batch)
            except Refused as error:
                yield _lines([error_event(error)])

    return StreamingResponse(lines(), media_type=_NDJSON, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})


async def _timed(events: AsyncGenerator[list[Event], None], took: Mapping[str, float]) -> AsyncGenerator[list[Event], None]:
    """The events, with the stages' seconds in the last one; what is left of the time was spent on waiting for a replica."""
    asked = time.monotonic()
    waited: float | None = None
    async with aclosing(events) as source:
        async for batch in source:
            waited = time.monotonic() - asked if waited is None else waited
            if batch[-1]["event"] == "done":
                total = sum(took.values()) + time.monotonic() - asked
                times = {**took, "wait": waited, **batch[-1]["timing_s"], "total": total}
                batch[-1]["timing_s"] = {name: round(seconds, 4) for name, seconds in times.items()}
            yield batch


async def _collected(events: AsyncGenerator[list[Event], None]) -> list[Event]:
    async with aclosing(events) as source:
        return [event async for batch in source for event in batch if event["event"] not in ("start", "progress")]


async def _until_gone(request: Request, work: Any) -> Any:
    """The result, unless the client hangs up first: then the work is cancelled."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "gone", "the client hung up")
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def _lines(events: Sequence[Event]) -> bytes:
    shown = [{key: value for key, value in event.items() if key not in ("status", "retry_after_s")} for event in events]
    return "".join(json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n" for event in shown).encode()
