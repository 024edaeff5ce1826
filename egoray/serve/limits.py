"""What stands before the endpoint: who may ask, from where, how much they may send, and how many at once."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egoray.config import ServeConfig
from egoray.errors import ConfigError
from egoray.serve.refusals import Refused, busy

_JSON_BYTES = 1 << 20
_PUBLIC = frozenset({"/", "/healthz", "/docs", "/openapi.json"})
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def check_exposure(host: str, token: str) -> None:
    """Refuse to listen off loopback without a token.

    Raises:
        ConfigError: with the remedy.
    """
    if not token and not is_loopback(host):
        raise ConfigError(
            f"http_options.host {host}: anybody who reaches this machine could ask; set EGORAY_SERVE_TOKEN to a long random string "
            "in the service's environment, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's loopback."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class Guard:
    """Wraps an app: refuses strangers before anything is read, and counts what a request sends.

    Without a token only this machine is answered, and only under a loopback name, so that no web page reaches the service by
    pointing a name of its own here. A page of another origin is refused either way.

    Args:
        app: the app.
        config: the settings.
        token: the bearer token; "" for none.
        read_ahead: whether the server reads a body on while the app does not. Then a body without a declared size is refused
            unread: when the app has seen too much of it, all of it is in memory.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, token: str, *, read_ahead: bool = False) -> None:
        self._app, self._config, self._token, self._read_ahead = app, config, token, read_ahead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or hand the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _Sender(send)
        try:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._admit(scope, headers)
            await self._app(scope, self._counted(receive, headers), sender)
        except Refused as error:
            if not sender.started:
                answer = JSONResponse(error.body(), error.status, error.headers() | {"Connection": "close"})
                await answer(scope, receive, sender)

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> None:
        name = _host_name(headers.get("host", ""))
        if (origin := headers.get("origin")) and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise Refused(403, "other_origin", "pages of another origin may not ask; open the service's own page")
        if not self._token:
            client = scope.get("client")
            if (client and not is_loopback(client[0])) or not is_loopback(name):
                raise Refused(403, "loopback_only", "the service has no token, so it answers on this machine alone, as localhost")
        elif not _is_public(_route(scope)):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given.strip():
                raise Refused(401, "no_token", "send the service's token as `Authorization: Bearer TOKEN`")
            if not hmac.compare_digest(given.strip().encode(), self._token.encode()):
                raise Refused(401, "wrong_token", "this is not the service's token; check it for a typing error")
        try:
            declared = int(headers.get("content-length", "0"))
        except ValueError:
            raise Refused(400, "bad_request", "Content-Length is not a number") from None
        if declared > self._cap(headers):
            raise self._too_large(headers)
        if self._read_ahead and "transfer-encoding" in headers:
            raise Refused(413, "size_unknown", "a body that does not say how large it is; send it with Content-Length")

    def _cap(self, headers: Mapping[str, str]) -> int:
        form = headers.get("content-type", "").startswith("multipart/form-data")
        return int(self._config.max_upload_mb * 1e6) if form else _JSON_BYTES

    def _too_large(self, headers: Mapping[str, str]) -> Refused:
        return Refused(413, "too_large", f"a body of more than {self._cap(headers) / 1e6:g} MB; cut the video, or lower its resolution")

    def _counted(self, receive: Receive, headers: Mapping[str, str]) -> Receive:
        seen, whole = 0, False

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._config.upload_stall_s)
            except TimeoutError:
                raise Refused(408, "too_slow", "the upload stopped; send it again") from None
            seen += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if seen > self._cap(headers):
                raise self._too_large(headers)
            return message

        return counted


class Admission:
    """Counts the questions under way; one more than ``most`` is refused at once, before its video is read."""

    def __init__(self, most: int) -> None:
        self._most, self.under_way = most, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one question.

        Raises:
            Refused: 429 if there is none.
        """
        if self.under_way >= self._most:
            raise busy()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1


class _Sender:
    """Adds the headers that every answer has, and knows whether one has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            given = {name.lower() for name, _ in message.get("headers", [])}
            more: list[Any] = [(n.lower().encode(), v.encode()) for n, v in _SAFE.items() if n.lower().encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await self._send(message)


def _route(scope: Scope) -> str:
    """The path below the one that the app is mounted at."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if path.startswith(root + "/") else path


def _is_public(route: str) -> bool:
    """Whether a stranger may see it: the page, which asks for the token itself, and what tags without headers fetch for it."""
    return route in _PUBLIC or route.startswith("/static/") or (route.startswith("/v1/samples/") and route.endswith(".mp4"))


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
