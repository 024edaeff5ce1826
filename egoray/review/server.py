"""`egoray review`: the store filled from an annotation folder, and the page served until somebody stops it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from egoray.errors import ConfigError
from egoray.models.base import VideoTracker
from egoray.review.access import is_loopback, names, new_token
from egoray.review.annotations import Annotations
from egoray.review.app import build_app
from egoray.review.frames import Frames
from egoray.review.retrack import Engine
from egoray.review.store import Store

_ANY = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A review that is ready to be served or exported."""

    store: Store
    annotations: Annotations


def prepare(annotations: str, videos: str | None, store: str | None, *, double: float = 0.1, plant: float = 0.05) -> Review:
    """Open the folder and its store, and take in what is annotated now.

    Raises:
        ConfigError: if the folder holds no videos, or the store has no local place.
        FormatError: if a table cannot be read.
    """
    if store is None and "://" in annotations:
        raise ConfigError(f"--annotations {annotations}: the review's store needs a local file; give --store, e.g. review.db")
    found = Annotations(annotations, videos)
    kept = Store(store or os.path.join(annotations, "review", "review.db"))
    kept.sync(found.queue(double=double, plant=plant))
    return Review(store=kept, annotations=found)


def serve(
    review: Review,
    tracker: VideoTracker,
    *,
    takes_clicks: bool,
    host: str,
    port: int,
    name: str,
    reviewers: Sequence[str],
    ready: Callable[[str, dict[str, str]], None],
) -> None:
    """Serve the page until interrupted; ``ready`` gets its address, and the link of each reviewer who has a new token.

    On loopback without ``reviewers`` whoever sits here reviews as ``name``; otherwise everybody needs a token.

    Raises:
        ConfigError: if a reviewer has no name, other machines could reach the page and nobody has a token, the port is taken, or
            at the end the tables that the dataset builder reads cannot be written.
    """
    if not all(who.strip() for who in reviewers):
        raise ConfigError("--reviewer: a name cannot be blank")
    known = names(review.store)
    if not is_loopback(host) and not reviewers and not known:
        raise ConfigError(f"--host {host}: other machines can reach it; name who may review, e.g. --reviewer alice --reviewer bob")
    frames = Frames()
    engine = Engine(tracker, frames, takes_clicks=takes_clicks)
    alone = name if is_loopback(host) and not reviewers and not known else None
    app = build_app(review.store, review.annotations, frames, engine, alone=alone)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    try:
        socket = config.bind_socket()
    except SystemExit as error:
        raise ConfigError(f"--port {port}: cannot be bound on {host}; choose another") from error
    socket.listen(128)  # the browser may come before the first accept
    shown = "127.0.0.1" if host in _ANY else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{socket.getsockname()[1]}/"
    ready(address, {who: f"{address}#token={new_token(review.store, who)}" for who in reviewers})
    with suppress(KeyboardInterrupt):  # raised again once all is closed
        uvicorn.Server(config).run(sockets=[socket])
    review.store.export(review.annotations.folder / "review")
