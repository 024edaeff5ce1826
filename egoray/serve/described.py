"""The types of the endpoint's answers, and its bodies and refusals, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from egoray.serve.uploads import About


class Problem(BaseModel):
    """What went wrong."""

    code: str
    message: str


class Error(BaseModel):
    """Every refusal has this body."""

    error: Problem


class Health(BaseModel):
    """The service answers."""

    status: str
    version: str


class Model(BaseModel):
    """A model that can be asked."""

    name: str
    summary: str
    ready: bool


class Models(BaseModel):
    """All of them; ``default`` answers where a question names none, which may hold ``max_texts`` sentences."""

    models: list[Model]
    default: str
    max_texts: int


class Sample(BaseModel):
    """A clip to try, where it is, and sentences about it."""

    name: str
    url: str
    texts: list[str]


class SampleList(BaseModel):
    """All of them."""

    samples: list[Sample]


class Rle(BaseModel):
    """COCO compressed run lengths, column by column."""

    size: tuple[int, int]
    counts: str


class Frame(BaseModel):
    """A native frame of the video in which the thing is seen. One of ``rle`` and ``png`` is there, as asked for, or neither."""

    frame: int
    time_s: float
    rle: Rle | None = None
    png: str | None = None
    box_xyxy: list[float]
    score: float | None


class Appearance(BaseModel):
    """A stretch of time in which it is in view."""

    start_s: float
    stop_s: float


class Result(BaseModel):
    """The answer to one sentence."""

    text: str
    frames: list[Frame]
    appearances: list[Appearance]
    detection: dict[str, Any] | None = None


class Answer(BaseModel):
    """The answer to a question."""

    model: str
    version: str
    results: list[Result]
    timing_s: dict[str, float]


ERROR: dict[str, Any] = {"model": Error}
VIDEO: dict[str, Any] = {"content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}}
_WHY = {
    400: "A body that is not what its headers say.",
    401: "No token, or another one than the service's.",
    403: "A `uri` that the service may not read; a page of another origin.",
    404: "No such model, sample, session or file.",
    408: "The upload stopped.",
    413: "More bytes, pixels, frames or seconds than the service takes.",
    415: "Neither a form nor JSON; a frame that is no jpg or png.",
    422: "A field is wrong, or the video is damaged or none.",
    429: "As many questions are under way as the service takes; see Retry-After.",
    503: "No replica can answer now; see Retry-After.",
}


def refusals() -> dict[int | str, dict[str, Any]]:
    """The responses of a route that takes a video."""
    lines = {"description": "The answer; with `stream`, NDJSON: start, frame, progress and done events."}
    described: dict[int | str, dict[str, Any]] = {status: {"model": Error, "description": why} for status, why in _WHY.items()}
    return {200: {"model": Answer, **lines, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}, **described}


def body(kind: type[About]) -> dict[str, Any]:
    """The request body of a route that takes a video: a form with files, or JSON."""
    fields = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    fields.pop("$defs", None)
    files = {
        "video": {"type": "string", "format": "binary", "description": "a video file"},
        "frames": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "or the jpg or png images of a clip"},
    }
    form = {
        "type": "object",
        "properties": {**files, **fields["properties"]},
        "required": fields.get("required", []),
        "additionalProperties": False,
    }
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": fields}}
    return {"requestBody": {"required": True, "content": content}}


def finish(app: FastAPI, *, secured: bool) -> None:
    """Say in the document how the token is sent, where there is one."""
    if not secured:
        return
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]
