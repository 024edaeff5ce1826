"""Ask a served model from Python: plain or async, retried where that makes sense, streamed if wanted.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.ground("kitchen.mp4", ["the red mug"])

`RemoteGrounder` makes a service look like any other grounding model.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import httpx2

from egoray.config import PredictConfig
from egoray.core.clip import ImageClip, VideoClip
from egoray.errors import ConfigError
from egoray.models.base import Clip, Detection, Grounded
from egoray.schema import MaskRLE
from egoray.serve.refusals import Refused

TOKEN_ENV = "EGORAY_SERVE_TOKEN"
Video = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A video file, or the images of a clip in order."""
_AGAIN = frozenset({408, 429, 502, 503, 504})
_BACKOFF_S, _MOST_BACKOFF_S = 0.25, 10.0
_WORKERS, _WORKER_CPUS = 4, 0.1


class _Asker:
    """What both clients know: where, as whom, and when to try again."""

    def __init__(self, url: str, token: str | None = None, *, retries: int = 4, timeout_s: float = 600.0) -> None:
        """Keep what a request needs.

        Args:
            url: of the service, e.g. http://127.0.0.1:8000.
            token: its bearer token; default: EGORAY_SERVE_TOKEN of the environment.
            retries: of a question that met a busy or dying replica.
            timeout_s: for the service to send something.
        """
        self.url, self.retries = url.rstrip("/"), retries
        token = os.environ.get(TOKEN_ENV) if token is None else token
        timeout = httpx2.Timeout(timeout_s, connect=10.0)
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "timeout": timeout,
        }

    def _wait(self, attempt: int, error: Refused | httpx2.TransportError) -> float:
        """Seconds until the next try.

        Raises:
            Refused: if there is none.
        """
        if isinstance(error, Refused) and (error.status not in _AGAIN or attempt >= self.retries):
            raise error
        if attempt >= self.retries or isinstance(error, httpx2.UnsupportedProtocol):
            kind = type(error).__name__
            raise Refused(503, "unreachable", f"{self.url}: no answer ({kind}); is `serve run` up there?") from error
        backoff = min(_MOST_BACKOFF_S, _BACKOFF_S * 2**attempt)
        asked_for = error.retry_after_s if isinstance(error, Refused) else None
        return (asked_for or backoff) + random.uniform(0, backoff)


class Client(_Asker):
    """A connection to a service; use it in a ``with``, or `close` it."""

    def __init__(self, url: str, token: str | None = None, *, retries: int = 4, timeout_s: float = 600.0) -> None:
        super().__init__(url, token, retries=retries, timeout_s=timeout_s)
        self._http = httpx2.Client(**self._options)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def ground(self, video: Video, texts: Sequence[str], **fields: Any) -> dict[str, Any]:
        """The whole answer of POST /v1/ground; ``fields`` are its other fields.

        Raises:
            Refused: if the service refuses, cannot be reached, or answers nothing it may be asked for again.
        """
        attempt = 0
        while True:
            try:
                with ExitStack() as stack:
                    found = self._http.post("/v1/ground", data=_fields(texts, fields), files=_files(video, stack))
                return _content(found)
            except (Refused, httpx2.TransportError) as error:
                time.sleep(self._wait(attempt, error))
                attempt += 1

    def stream(self, video: Video, texts: Sequence[str], **fields: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer; asked again only as long as none has come. Leaving early frees the model.

        Raises:
            Refused: as `ground`, and if the answer breaks off.
        """
        attempt, begun = 0, False
        while True:
            try:
                with ExitStack() as stack:
                    data, files = _fields(texts, {**fields, "stream": "true"}), _files(video, stack)
                    with self._http.stream("POST", "/v1/ground", data=data, files=files) as found:
                        if found.status_code != 200:
                            found.read()
                            _content(found)
                        for line in found.iter_lines():
                            begun = True
                            yield (event := _event(line))
                            if event["event"] == "done":
                                return
                raise _broken()
            except (Refused, httpx2.TransportError) as error:
                if begun:
                    raise error if isinstance(error, Refused) else _broken() from error
                time.sleep(self._wait(attempt, error))
                attempt += 1

    def get(self, path: str) -> dict[str, Any]:
        """What a GET of /v1/models, /v1/samples or /healthz answers.

        Raises:
            Refused: as `ground`.
        """
        attempt = 0
        while True:
            try:
                return _content(self._http.get(path))
            except (Refused, httpx2.TransportError) as error:
                time.sleep(self._wait(attempt, error))
                attempt += 1


class AsyncClient(_Asker):
    """`Client` for an event loop."""

    def __init__(self, url: str, token: str | None = None, *, retries: int = 4, timeout_s: float = 600.0) -> None:
        super().__init__(url, token, retries=retries, timeout_s=timeout_s)
        self._http = httpx2.AsyncClient(**self._options)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def ground(self, video: Video, texts: Sequence[str], **fields: Any) -> dict[str, Any]:
        """See `Client.ground`."""
        attempt = 0
        while True:
            try:
                with ExitStack() as stack:
                    found = await self._http.post("/v1/ground", data=_fields(texts, fields), files=_files(video, stack, whole=True))
                return _content(found)
            except (Refused, httpx2.TransportError) as error:
                await asyncio.sleep(self._wait(attempt, error))
                attempt += 1

    async def stream(self, video: Video, texts: Sequence[str], **fields: Any) -> AsyncGenerator[dict[str, Any], None]:
        """See `Client.stream`."""
        attempt, begun = 0, False
        while True:
            try:
                with ExitStack() as stack:
                    data, files = _fields(texts, {**fields, "stream": "true"}), _files(video, stack, whole=True)
                    async with self._http.stream("POST", "/v1/ground", data=data, files=files) as found:
                        if found.status_code != 200:
                            await found.aread()
                            _content(found)
                        async for line in found.aiter_lines():
                            begun = True
                            yield (event := _event(line))
                            if event["event"] == "done":
                                return
                raise _broken()
            except (Refused, httpx2.TransportError) as error:
                if begun:
                    raise error if isinstance(error, Refused) else _broken() from error
                await asyncio.sleep(self._wait(attempt, error))
                attempt += 1


class RemoteGrounder:
    """Satisfies `Grounder` by a service, for whatever takes a model.

    Args:
        url: of the service.
        model: which of its models; None: its default.
        token: see `Client`.
        retries: see `Client`; many, since a whole split waits for its turn.
    """

    def __init__(self, url: str, model: str | None = None, token: str | None = None, *, retries: int = 60) -> None:
        self.name, self._model = model or "default", model
        self._client = Client(url, token, retries=retries)
        self._most_texts = 0

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`; scores are those of the frames in which it was found. More sentences than the service takes go in turns.

        Raises:
            Refused: as `Client.ground`.
        """
        fields: dict[str, Any] = {"model": self._model} if self._model else {}
        video: Video
        if isinstance(clip, VideoClip):
            video, stride, fields["fps"] = clip.path, clip.stride, clip.fps / clip.stride
        else:
            video, stride = clip.paths if isinstance(clip, ImageClip) else [_Encoded(image) for _, image in clip.frames()], 1
        self._most_texts = self._most_texts or self._client.get("/v1/models")["max_texts"]
        found: list[Grounded] = []
        for turn in range(0, len(texts), self._most_texts):
            answer = self._client.ground(video, texts[turn : turn + self._most_texts], **fields)
            self.name = answer["model"]
            found += [_grounded(result, stride) for result in answer["results"]]
        return found


class _Encoded(os.PathLike[str]):
    """A picture in memory that passes for a file of an upload."""

    def __init__(self, image: Any) -> None:
        self.data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()

    def __fspath__(self) -> str:
        return "image.png"


def _fields(texts: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": list(texts), **{name: str(value) for name, value in fields.items() if value is not None}}


def _files(video: Video, stack: ExitStack, *, whole: bool = False) -> list[tuple[str, tuple[str, Any]]]:
    """The parts of the upload: files that are read while they are sent or, for an event loop, before."""
    if isinstance(video, str | os.PathLike):
        source = stack.enter_context(Path(video).open("rb"))  # noqa: SIM115
        return [("video", ("video", source.read() if whole else source))]
    images = [image.data if isinstance(image, _Encoded) else Path(image).read_bytes() for image in video]
    return [("frames", (f"{n}.jpg", image)) for n, image in enumerate(images)]


def _content(found: httpx2.Response) -> dict[str, Any]:
    try:
        content: dict[str, Any] = found.json()
    except ValueError:
        content = {}
    if found.status_code == 200 and content:
        return content
    error = content.get("error") or {"code": "bad_answer", "message": f"an answer of status {found.status_code}; ask again"}
    wait = found.headers.get("Retry-After", "")
    raise Refused(found.status_code, error["code"], error["message"], int(wait) if wait.isdigit() else None)


def _event(line: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(line)
    if event["event"] == "error":
        raise Refused(503, event["error"]["code"], event["error"]["message"])
    return event


def _broken() -> Refused:
    return Refused(503, "broken_off", "the answer broke off; ask again")


def _grounded(result: Mapping[str, Any], stride: int) -> Grounded:
    masks = {f["frame"] // stride: MaskRLE(size=tuple(f["rle"]["size"]), counts=f["rle"]["counts"]) for f in result["frames"]}
    scores = {f["frame"] // stride: f["score"] for f in result["frames"]}
    best = result.get("detection")
    detection = (best["frame"] // stride, Detection(box=tuple(best["box_xyxy"]), score=best["score"])) if best else None
    return Grounded(masks=masks, scores=scores, detection=detection)


def asked_at(url: str, config: PredictConfig) -> tuple[PredictConfig, dict[str, Any]]:
    """Settings and arguments of a `predict` run that asks a service: its actors only wait, so they take hardly any CPU.

    Raises:
        ConfigError: for a setting of the model, which is the service's.
        Refused: if the service cannot be reached, or has no such model.
    """
    if options := config.model_options():
        raise ConfigError(f"{min(options)}: a setting of the served model; set it in its serve_configs/*.yaml")
    with Client(url, retries=1) as client:
        offered = client.get("/v1/models")
    names = [model["name"] for model in offered["models"]]
    if config.model not in names:
        raise ConfigError(f"--model {config.model}: the service has {', '.join(names)}")
    waiting = {"workers": config.workers or _WORKERS, "cpus_per_worker": _WORKER_CPUS}
    return config.model_copy(update=waiting), {"build": partial(_remote, url, os.environ.get(TOKEN_ENV, "")), "uses_gpu": False}


def _remote(url: str, token: str, model: str, device: str) -> RemoteGrounder:
    return RemoteGrounder(url, model, token)
