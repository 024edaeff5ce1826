"""The review's server: what the page shows and what it may change, as JSON under ``/api``."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from egoray.core.masks import from_json
from egoray.errors import EgorayError, FormatError, ModelError
from egoray.review import requests
from egoray.review.access import Access, login_cookie, owner
from egoray.review.agreement import agreement
from egoray.review.annotations import Annotations, Subject
from egoray.review.drafts import Change, Draft, mask_of, value_of
from egoray.review.exporter import Exporter
from egoray.review.frames import Frames
from egoray.review.listing import listing
from egoray.review.retrack import Engine, masks_of
from egoray.review.sentences import check
from egoray.review.store import Refused, Store
from egoray.review.verdicts import REASONS, STATUSES
from egoray.schema import MaskRLE

STATIC = os.path.join(os.path.dirname(__file__), "static")
_LOOKALIKES = 4
_WORST = 12


def build_app(store: Store, annotations: Annotations, frames: Frames, engine: Engine, *, alone: str | None) -> ASGIApp:
    """The server's application.

    Args:
        store: holds `Annotations.queue` by now.
        annotations: what is reviewed.
        frames: reads the clips.
        engine: mends and follows masks.
        alone: the one reviewer, who needs no token; None asks everybody for theirs.
    """
    exporter = Exporter(store, annotations.folder / "review")

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        exporter.start()
        yield
        exporter.finish()

    app = FastAPI(openapi_url=None, lifespan=running)
    _Routes(app, store, annotations, frames, engine, exporter)
    app.mount("/static", StaticFiles(directory=STATIC))
    return Access(app, store, alone)


def _reviewer(request: Request) -> str:
    return str(request.scope["reviewer"])


Who = Annotated[str, Depends(_reviewer)]


class _Routes:
    """The endpoints; each is one method, registered in `__init__`."""

    def __init__(self, app: FastAPI, store: Store, annotations: Annotations, frames: Frames, engine: Engine, exporter: Exporter) -> None:
        self.store, self.annotations, self.frames, self.engine, self.exporter = store, annotations, frames, engine, exporter
        for method, path, handler in (
            ("GET", "/", self.page),
            ("GET", "/favicon.ico", self.icon),
            ("POST", "/api/login", self.login),
            ("GET", "/api/session", self.session),
            ("GET", "/api/items", self.items),
            ("POST", "/api/next", self.next),
            ("POST", "/api/renew", self.renew),
            ("POST", "/api/release", self.release),
            ("POST", "/api/undo", self.undo),
            ("GET", "/api/agreement", self.agreement),
            ("GET", "/api/export", self.export),
            ("GET", "/api/items/{item_id}", self.item),
            ("POST", "/api/items/{item_id}/open", self.open),
            ("GET", "/api/items/{item_id}/frames/{frame}.jpg", self.frame),
            ("GET", "/api/items/{item_id}/objects/{object_id}.jpg", self.portrait),
            ("POST", "/api/items/{item_id}/edit", self.edit),
            ("POST", "/api/items/{item_id}/undo-edit", self.undo_edit),
            ("POST", "/api/items/{item_id}/segment", self.segment),
            ("POST", "/api/items/{item_id}/retrack", self.retrack),
            ("POST", "/api/items/{item_id}/check", self.check),
            ("POST", "/api/items/{item_id}/decide", self.decide),
        ):
            app.add_api_route(path, handler, methods=[method], response_model=None)
        for kind, status, code in (
            (Refused, 409, "refused"),
            (ModelError, 503, "model"),
            (EgorayError, 422, "input"),
            (ValueError, 422, "input"),
            (KeyError, 404, "not_found"),
        ):
            app.add_exception_handler(kind, _answer(status, code))
        app.add_exception_handler(RequestValidationError, _invalid)

    def page(self) -> Response:
        return FileResponse(os.path.join(STATIC, "index.html"))

    def icon(self) -> Response:
        return FileResponse(os.path.join(STATIC, "icon.svg"), media_type="image/svg+xml")

    def login(self, body: requests.Login) -> Response:
        reviewer = owner(self.store, body.token)
        if reviewer is None:
            return _problem(401, "no_token", "nobody has this token; ask for a new link")
        response = JSONResponse({"reviewer": reviewer})
        response.set_cookie(**login_cookie(body.token))
        return response

    def session(self, request: Request, reviewer: Who) -> dict[str, Any]:
        csrf = request.scope["csrf"](reviewer)
        return {"reviewer": reviewer, "csrf": csrf, "reasons": REASONS, "statuses": STATUSES, "lease_s": self.store.lease_s}

    def items(
        self,
        viewer: Who,
        clip: str = "",
        object_id: str = "",
        status: str = "",
        text: str = "",
        reviewer: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> dict[str, Any]:
        given = {"clip": clip, "object_id": object_id, "status": status, "text": text, "reviewer": reviewer}
        return listing(self.store, viewer, **given, offset=offset, limit=limit) | {"problem": self.exporter.problem}

    def next(self, body: requests.Next, reviewer: Who) -> dict[str, Any]:
        return {"item": self.store.next(reviewer, body.tab, keep=body.keep, **body.filters.model_dump())}

    def renew(self, body: requests.Tab, reviewer: Who) -> dict[str, Any]:
        return {"items": self.store.renew(reviewer, body.tab)}

    def release(self, body: requests.Tab, reviewer: Who) -> dict[str, Any]:
        self.store.release(reviewer, body.tab)
        return {}

    def open(self, item_id: str, body: requests.Tab, reviewer: Who) -> dict[str, Any]:
        self.store.open(item_id, reviewer, body.tab)
        return self.item(item_id, reviewer)

    def item(self, item_id: str, reviewer: Who) -> dict[str, Any]:
        row, subject = self.store.item(item_id), self._subject(item_id)
        worst = sorted(range(len(subject.doubts.frames)), key=lambda n: -subject.doubts.values[n])[:_WORST]
        mine = [d for d in self.store.history(item_id) if d.reviewer == reviewer]
        return {
            "id": item_id,
            "video_id": row["video_id"],
            "object_id": row["object_id"],
            "title": row["title"],
            "reasons": json.loads(row["reasons"]),
            "hardness": row["hardness"],
            "data_version": row["data_version"],
            "size": [subject.video.height_px, subject.video.width_px],
            "fps": subject.video.fps / subject.video.stride,
            "num_frames": subject.video.num_annotation_frames,
            "appearances": [[t.start, t.stop] for t in subject.trajectories],
            "boxes": {f: [round(v, 1) for v in box] for f, box in subject.track.boxes.items()},
            "masks": {f: rle.counts for f, rle in subject.masks.items()},
            "scores": subject.scores,
            "doubts": {int(f): round(float(v), 3) for f, v in zip(subject.doubts.frames, subject.doubts.values, strict=True)},
            "worst": [int(subject.doubts.frames[n]) for n in worst],
            "sentences": [
                {"id": e.expression_id, "text": e.text, "kind": e.kind, "source": e.source, "model": e.model, "doubt": e.review}
                for e in subject.expressions
            ],
            "lookalikes": [{"object_id": t.object_id, "title": t.title} for t in subject.others[:_LOOKALIKES] if t.boxes],
            "draft": _shown(self.store.draft(item_id, reviewer)),
            "mine": [{"verdict": d.verdict, "reason": d.reason, "note": d.note} for d in mine],
        }

    def frame(self, item_id: str, frame: int) -> Response:
        data = self.frames.jpeg(self._subject(item_id).video, frame)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def portrait(self, item_id: str, object_id: str) -> Response:
        subject = self._subject(item_id)
        track = next((t for t in (subject.track, *subject.others) if t.object_id == object_id and t.boxes), None)
        if track is None:
            raise KeyError(object_id)
        data = self.frames.portrait(subject.video, dict(track.boxes))
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def edit(self, item_id: str, body: requests.Edit, reviewer: Who) -> dict[str, Any]:
        subject = self._subject(item_id)
        changes = [_change(subject, change) for change in body.changes]
        self.store.edit(item_id, reviewer, body.tab, changes, key=body.key, revision=body.revision)
        return self._draft(item_id, reviewer)

    def undo_edit(self, item_id: str, body: requests.Step, reviewer: Who) -> dict[str, Any]:
        self.store.undo_edit(item_id, reviewer, body.tab, key=body.key, revision=body.revision)
        return self._draft(item_id, reviewer)

    def segment(self, item_id: str, body: requests.Segment) -> dict[str, Any]:
        subject = self._subject(item_id)
        _check_frame(subject, body.frame)
        before = _mask(subject, body.before) if body.before is not None else None
        rle = self.engine.segment(subject, body.frame, inside=body.inside, outside=body.outside, box=body.box, before=before)
        return {"counts": rle.counts}

    def retrack(self, item_id: str, body: requests.Retrack, reviewer: Who) -> dict[str, Any]:
        subject, draft = self._subject(item_id), self.store.draft(item_id, reviewer)
        _check_frame(subject, body.frame)
        verified = masks_of(subject, {f: mask_of(v) for f, v in draft.masks.items()}, draft.locks)
        found = self.engine.follow(subject, body.frame, verified, back=body.back)
        changes = [Change(kind="mask", name=str(frame), value=value_of(rle)) for frame, rle in sorted(found.items())]
        self.store.edit(item_id, reviewer, body.tab, changes, key=body.key, revision=body.revision, tracked=True)
        return self._draft(item_id, reviewer) | {"frames": len(changes)}

    def check(self, item_id: str, body: requests.Check, reviewer: Who) -> dict[str, Any]:
        return check(self._subject(item_id), body.expression_id, body.text, self.store.draft(item_id, reviewer).texts)

    def decide(self, item_id: str, body: requests.Decide, reviewer: Who) -> dict[str, Any]:
        if body.verdict == "rejected" and not body.reason:
            raise ValueError("a rejection needs a reason")
        reason = REASONS[body.reason] if body.reason else ""
        given = {"key": body.key, "revision": body.revision, "reason": reason, "note": body.note, "seconds": body.seconds}
        done = self.store.decide(item_id, reviewer, body.tab, body.verdict, **given)
        self.exporter.wake()
        return {"verdict": done.verdict}

    def undo(self, body: requests.Undo, reviewer: Who) -> dict[str, Any]:
        item_id = self.store.undo(reviewer, body.tab, key=body.key)
        self.exporter.wake()
        return {"item": item_id}

    def agreement(self) -> dict[str, Any]:
        return agreement(self.store, lambda item_id: self._subject(item_id).masks)

    def export(self, request: Request) -> Response:
        if not request.scope["alone"]:
            return _problem(403, "host_only", "the history says who decided what: the host exports it with egoray review --export")
        headers = {"Content-Disposition": 'attachment; filename="review.jsonl"'}
        return StreamingResponse((line + "\n" for line in self.store.dump()), media_type="application/x-ndjson", headers=headers)

    def _draft(self, item_id: str, reviewer: str) -> dict[str, Any]:
        return {"draft": _shown(self.store.draft(item_id, reviewer))}

    def _subject(self, item_id: str) -> Subject:
        return self.annotations.subject(item_id)


def _shown(draft: Draft) -> dict[str, Any]:
    masks = {frame: mask_of(value).counts for frame, value in draft.masks.items()}
    more = {"masks": masks, "locks": sorted(draft.locks), "texts": draft.texts}
    return more | {"revision": draft.revision, "undoable": bool(draft.undoable)}


def _check_frame(subject: Subject, frame: int) -> None:
    if frame >= subject.video.num_annotation_frames:
        raise ValueError(f"the clip has no frame {frame}")


def _mask(subject: Subject, counts: str) -> MaskRLE:
    """The mask of the clip's size.

    Raises:
        FormatError: if the runs do not cover it.
    """
    rle = from_json({"size": [subject.video.height_px, subject.video.width_px], "counts": counts}, "mask")
    if rle is None:
        raise FormatError("mask: missing")
    return rle


def _change(subject: Subject, change: requests.MaskChange | requests.LockChange | requests.TextChange) -> Change:
    if change.kind == "text":
        if change.expression_id not in {e.expression_id for e in subject.expressions}:
            raise KeyError(change.expression_id)
        return Change(kind="text", name=change.expression_id, value=None if change.text is None else " ".join(change.text.split()))
    _check_frame(subject, change.frame)
    if change.kind == "lock":
        return Change(kind="lock", name=str(change.frame), value="1" if change.on else None)
    return Change(kind="mask", name=str(change.frame), value=None if change.counts is None else value_of(_mask(subject, change.counts)))


def _problem(status: int, code: str, words: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": words}}, status)


def _answer(status: int, code: str) -> Any:
    async def answer(_: Request, error: Exception) -> Response:
        return _problem(status, code, "there is no such thing" if isinstance(error, KeyError) else " ".join(str(error).split()))

    return answer


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _problem(422, "invalid", f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
