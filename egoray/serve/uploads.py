"""What a request brings: its fields, checked, and its video on disk, gone again when the request is over."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from egoray.config import ServeConfig
from egoray.serve import sources
from egoray.serve.refusals import Refused

Fields = TypeVar("Fields", bound="About")
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, le=1e7)]
_LISTS = ("text",)
_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class About(BaseModel):
    """Which video, and which frames of it."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    uri: Annotated[str | None, Field(max_length=4096, description="a video under the service's roots, instead of an upload")] = None
    sample: Annotated[str | None, Field(max_length=200, description="a clip of GET /v1/samples, instead of an upload")] = None
    fps: Annotated[float | None, Field(gt=0, le=1000, allow_inf_nan=False, description="frames looked at a second; default: 5")] = None
    start_s: Annotated[Seconds | None, Field(description="look from here on")] = None
    stop_s: Annotated[Seconds | None, Field(description="and before here")] = None
    max_frames: Annotated[int | None, Field(ge=1, le=10**6, description="look at no more frames than this, further apart")] = None
    output: Annotated[Literal["rle", "boxes", "png"], Field(description="masks as COCO run lengths, as PNG in base64, or boxes alone")] = (
        "rle"
    )
    stream: Annotated[bool, Field(description="answer in lines of JSON, as frames are ready")] = False


class Ask(About):
    """Fields of POST /v1/ground."""

    text: Annotated[list[str], Field(min_length=1, description="what to look for; several share the work")]
    model: Annotated[str | None, Field(max_length=200, description="one of GET /v1/models")] = None

    @field_validator("text", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A request's fields, and the local path of its video: a file, or a folder of images. ``folder`` goes with the request."""

    fields: Any
    path: str | None
    folder: str


@asynccontextmanager
async def received(request: Request, kind: type[Fields], config: ServeConfig) -> AsyncIterator[Received]:
    """Read the request to disk and check its fields; the files are deleted at the end.

    Raises:
        Refused: 400 for a body that is not what it says, 413 and 403 as `sources`, 415 for another type of body, 422 for a field.
    """
    folder = tempfile.mkdtemp(prefix="egoray-serve-")
    try:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media == "multipart/form-data":
            fields, path = await _from_form(request, folder, config)
        elif media == "application/json":
            fields, path = await _from_json(request), None
        else:
            raise Refused(415, "unsupported", "send multipart/form-data with a video, or application/json with a uri")
        about = checked(kind, fields)
        if isinstance(about, Ask):
            check_texts(about.text, config)
        given = [name for name, value in (("video", path), ("uri", about.uri), ("sample", about.sample)) if value is not None]
        if len(given) > 1:
            raise Refused(422, "invalid_field", f"{' and '.join(given)}: send one of them")
        if about.uri is not None:
            path = await asyncio.to_thread(_from_uri, about.uri, folder, config)
        yield Received(fields=about, path=path, folder=folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def checked(kind: type[Fields], fields: Mapping[str, Any]) -> Fields:
    """The fields as their type.

    Raises:
        Refused: 422, naming the first that is wrong; values are not repeated.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:80]
        reason = f"unknown field; known are {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else first["msg"]
        raise Refused(422, "invalid_field", f"{name}: {reason}") from None


def check_texts(texts: list[str], config: ServeConfig) -> None:
    """Refuse too many sentences, and one that is too long or names nothing.

    Raises:
        Refused: 422.
    """
    if len(texts) > config.max_texts:
        raise Refused(422, "invalid_field", f"text: {len(texts)} sentences; at most {config.max_texts} at once")
    if any(len(text) > config.max_text_chars for text in texts):
        raise Refused(422, "invalid_field", f"text: a sentence has at most {config.max_text_chars} characters")
    if not all(any(c.isalnum() for c in text) for text in texts):
        raise Refused(422, "invalid_field", "text: nothing to look for; a sentence needs a word")


async def _from_json(request: Request) -> dict[str, Any]:
    try:
        fields = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, "bad_request", "the body is not JSON") from None
    except ClientDisconnect:
        raise Refused(400, "bad_request", "the body broke off") from None
    if not isinstance(fields, dict):
        raise Refused(422, "invalid_field", "the body is an object with the fields of the question")
    return fields


async def _from_form(request: Request, folder: str, config: ServeConfig) -> tuple[dict[str, Any], str | None]:
    try:
        form = await request.form(max_files=config.max_images, max_fields=100 + config.max_texts)
    except (MultiPartException, ClientDisconnect, KeyError, ValueError, AssertionError):
        raise Refused(400, "bad_request", "the form is damaged or has too many parts; send the video again") from None
    except Exception as error:
        if type(error).__name__ == "HTTPException":
            raise Refused(400, "bad_request", "the form is damaged or has too many parts; send the video again") from None
        raise
    try:
        fields: dict[str, Any] = {}
        for name in form:
            values = [value for value in form.getlist(name) if isinstance(value, str)]
            if values:
                fields[name] = values if name in _LISTS else values[-1]
        return {k: v for k, v in fields.items() if k not in ("video", "frames")}, await _stored(form, folder)
    finally:
        await form.close()


async def _stored(form: FormData, folder: str) -> str | None:
    videos = [value for value in form.getlist("video") if isinstance(value, UploadFile)]
    images = [value for value in form.getlist("frames") if isinstance(value, UploadFile)]
    others = [name for name, value in form.multi_items() if isinstance(value, UploadFile) and name not in ("video", "frames")]
    if others or len(videos) > 1 or (videos and images):
        raise Refused(422, "invalid_field", "send one file `video`, or the images of a clip as `frames`, and no other file")
    if videos:
        return await asyncio.to_thread(_write, videos[0], os.path.join(folder, "video"))
    if images:
        os.mkdir(os.path.join(folder, "frames"))
        for n, image in enumerate(images):
            head = image.file.read(8)
            image.file.seek(0)
            if not head.startswith(_IMAGES):
                raise Refused(415, "unsupported", f"frames: image {n} is neither jpg nor png")
            suffix = "jpg" if head.startswith(_IMAGES[0]) else "png"
            await asyncio.to_thread(_write, image, os.path.join(folder, "frames", f"{n:06d}.{suffix}"))
        return os.path.join(folder, "frames")
    if "video" in form or "frames" in form:
        raise Refused(422, "invalid_field", "video, frames: send a file, with a file name")
    return None


def _write(upload: UploadFile, path: str) -> str:
    with open(path, "wb") as sink:
        shutil.copyfileobj(upload.file, sink, 1 << 20)
    return path


def _from_uri(uri: str, folder: str, config: ServeConfig) -> str:
    target, most = str(Path(folder) / "fetched"), int(config.max_upload_mb * 1e6)
    if uri.lower().startswith(("http:", "https:")):
        sources.fetch_url(uri, config.fetch_hosts, target, most)
    elif uri.startswith(("s3://", "gs://")):
        sources.fetch_object(uri, config.roots, target, most)
    else:
        return sources.local_path(uri, config.roots)
    return target
