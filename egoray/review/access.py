"""Who may ask the review's server what: names by token, this page's own requests only, and headers that keep text from running."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from egoray.review.store import Store

COOKIE = "egoray_review"
MAX_BODY = 4_000_000
"""Bytes of a request; the largest are masks of a frame."""
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to the host."""
    return host in _LOOPBACK


def new_token(store: Store, name: str) -> str:
    """A token for the reviewer, who then has no other; only its digest is kept."""
    token = secrets.token_urlsafe(32)
    with store.writing() as db:
        db.execute("INSERT OR REPLACE INTO reviewers VALUES (?, ?)", (name, _digest(token)))
    return token


def names(store: Store) -> list[str]:
    """The reviewers who have a token."""
    with store.reading() as db:
        return [row["name"] for row in db.execute("SELECT name FROM reviewers ORDER BY name")]


def owner(store: Store, token: str) -> str | None:
    """Whose token it is; None for nobody's."""
    given = _digest(token)
    with store.reading() as db:
        rows = db.execute("SELECT name, token_sha256 FROM reviewers").fetchall()
    return next((row["name"] for row in rows if hmac.compare_digest(row["token_sha256"], given)), None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Access:
    """Middleware that lets only the named through to ``/api`` and puts the name into ``scope["reviewer"]``.

    Args:
        app: what is protected.
        store: knows the tokens.
        alone: the name of whoever sits at this machine; None asks everybody for a token.
    """

    def __init__(self, app: ASGIApp, store: Store, alone: str | None) -> None:
        self.app, self.store, self.alone = app, store, alone
        self._secret = secrets.token_bytes(32)

    def csrf(self, reviewer: str) -> str:
        """What this reviewer's page must send along with every change; another site cannot read it."""
        return hmac.new(self._secret, reviewer.encode(), hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        scope["csrf"], scope["alone"] = self.csrf, self.alone is not None
        problem = self._problem(scope)
        if problem is None:
            return await self.app(scope, receive, sealed)
        status, code, words = problem
        body = json.dumps({"error": {"code": code, "message": words}}).encode()
        await sealed({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
        return await sealed({"type": "http.response.body", "body": body})

    def _problem(self, scope: Scope) -> tuple[int, str, str] | None:
        """Status, code and words of what forbids the request; None lets it pass."""
        headers, path, changes = Headers(scope=scope), scope["path"], scope["method"] not in ("GET", "HEAD")
        host = headers.get("host", "")
        if self.alone is not None and (urlsplit(f"//{host}").hostname or "") not in _LOOPBACK:
            return 421, "wrong_host", "this server answers to 127.0.0.1 and localhost alone"
        if not path.startswith("/api/"):
            return (405, "read_only", "only /api takes changes") if changes else None
        if changes:
            origin = headers.get("origin")
            if (origin is not None and urlsplit(origin).netloc != host) or headers.get("sec-fetch-site", "same-origin") != "same-origin":
                return 403, "cross_site", "a change must come from the review page itself"
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                return 415, "not_json", "send JSON"
            if not headers.get("content-length", "").isdigit() or int(headers["content-length"]) > MAX_BODY:
                return 413, "too_large", f"a request has a length, of at most {MAX_BODY} bytes"
        if path == "/api/login":
            return None
        reviewer = self.alone if self.alone is not None else self._named(headers)
        if reviewer is None:
            return 401, "no_token", "open the link with your token that the review's host has given you"
        if changes and not hmac.compare_digest(headers.get("x-csrf-token", "").encode(), self.csrf(reviewer).encode()):
            return 403, "csrf", "the page is older than the server; it asks again by itself"
        scope["reviewer"] = reviewer
        return None

    def _named(self, headers: Headers) -> str | None:
        try:
            cookies: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        return owner(self.store, cookies[COOKIE].value) if COOKIE in cookies else None


def login_cookie(token: str) -> dict[str, Any]:
    """How the token is kept: out of reach of scripts and of other sites."""
    return {"key": COOKIE, "value": token, "httponly": True, "samesite": "strict", "path": "/", "max_age": 60 * 60 * 24 * 30}
