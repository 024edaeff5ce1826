"""Where a `uri` may point: under configured roots, or, where that is switched on, at https hosts on a list; nowhere else.

An address is judged after its name is resolved, and the connection goes to the very address that was judged, so that a second
answer of the name server changes nothing; so it is after each redirect.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urljoin, urlsplit

from pyarrow import fs

from egoray.serve.refusals import Refused

_BLOCK = 1 << 20
_REDIRECTS = 3
_CONNECT_S, _FETCH_S = 10.0, 120.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def local_path(uri: str, roots: Sequence[str]) -> str:
    """The real path of a file or folder under one of the local roots; a relative ``uri`` is looked for under each.

    Raises:
        Refused: 403 if it lies under none or has a suspicious spelling, 404 if it is not there.
    """
    lowered = uri.lower()
    parts = uri.replace("\\", "/").split("/")
    if "\0" in uri or ".." in parts or "\\" in uri or "%2e" in lowered or "%2f" in lowered or "%5c" in lowered or "%00" in lowered:
        raise _outside()
    locals_ = [os.path.realpath(root) for root in roots if "://" not in root]
    if os.path.isabs(uri) and not any(_under(os.path.normpath(uri), root) for root in (*locals_, *map(os.path.abspath, roots))):
        raise _outside()
    for root in locals_:
        try:
            path = os.path.realpath(os.path.join(root, uri))
            there = os.path.exists(path)
        except (OSError, ValueError):
            raise _outside() from None
        if there and _under(path, root):
            return path
        if there:
            raise _outside()
    if not locals_:
        raise _outside()
    raise Refused(404, "no_such_video", "no such file under the service's folders")


def fetch_object(uri: str, roots: Sequence[str], target: str, max_bytes: int) -> None:
    """Copy an object under one of the s3:// or gs:// roots to the local file ``target``.

    Raises:
        Refused: 403, 404, or 413 if it is larger than ``max_bytes``.
    """
    if (
        ".." in uri.split("/")
        or "%" in uri
        or "\0" in uri
        or not any(uri.startswith(root.rstrip("/") + "/") for root in roots if "://" in root)
    ):
        raise _outside()
    try:
        files, path = fs.FileSystem.from_uri(uri)
        with files.open_input_stream(path) as source, open(target, "wb") as sink:
            written = 0
            while block := source.read(_BLOCK):
                written += len(block)
                _check_size(written, max_bytes)
                sink.write(block)
    except (OSError, ValueError):
        raise Refused(404, "no_such_video", "no such object, or the service may not read it") from None


def fetch_url(url: str, hosts: Sequence[str], target: str, max_bytes: int) -> None:
    """Copy what an https URL of a listed host gives to the local file ``target``.

    Raises:
        Refused: 403 if the URL, a redirect of it or an address of its host is not allowed; 413 if it is larger than
            ``max_bytes``; 422 if the host does not give it.
    """
    deadline = time.monotonic() + _FETCH_S
    for _ in range(_REDIRECTS + 1):
        host, port, path = checked_url(url, hosts)
        connection = _PinnedConnection(host, port)
        try:
            connection.request("GET", path, headers={"Host": host if port == 443 else f"{host}:{port}", "User-Agent": "egoray"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status != 200:
                raise Refused(422, "not_fetched", f"the host answered {answer.status}; check the address")
            _check_size(int(answer.headers.get("Content-Length") or 0), max_bytes)
            written = 0
            with open(target, "wb") as sink:
                while block := answer.read(_BLOCK):
                    written += len(block)
                    _check_size(written, max_bytes)
                    if time.monotonic() > deadline:
                        raise Refused(422, "not_fetched", "the host is too slow; upload the video instead")
                    sink.write(block)
            return
        except (OSError, ValueError, http.client.HTTPException):
            raise Refused(422, "not_fetched", "the video cannot be fetched from that host; upload it instead") from None
        finally:
            connection.close()
    raise Refused(422, "not_fetched", "too many redirects; give the address that they lead to")


def checked_url(url: str, hosts: Sequence[str]) -> tuple[str, int, str]:
    """(host, port, path with query) of a URL that may be fetched; ``hosts`` are names, or name:port for another port than 443.

    Raises:
        Refused: 403.
    """
    try:
        split = urlsplit(url)
        host, port = (split.hostname or "").rstrip("."), split.port or 443
    except ValueError:
        raise _not_allowed() from None
    bad = split.scheme != "https" or split.username is not None or split.password is not None or not host.isascii()
    if bad or any(c.isspace() or ord(c) < 33 or c == "\\" for c in url):
        raise _not_allowed()
    if (host if port == 443 else f"{host}:{port}") not in hosts:
        raise _not_allowed()
    return host, port, (split.path or "/") + (f"?{split.query}" if split.query else "")


def public_addresses(host: str, port: int) -> list[str]:
    """Every address of the host, none of which is private, loopback, link-local, reserved or a cloud's metadata service.

    Raises:
        Refused: 403 if one is; 422 if there is none.
    """
    try:
        found = sorted({str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        raise Refused(422, "not_fetched", "the host has no address; check its name") from None
    if not all(is_public(address) for address in found):
        raise _not_allowed()
    return found


def is_public(address: str) -> bool:
    """Whether it is an address of the open internet, also inside IPv4-mapped, 6to4, Teredo and NAT64 spellings."""
    ip = ipaddress.ip_address(address)
    inner = []
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [i for i in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if i is not None]
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if int(ip) >> 32 == 0:
            return False
    return ip.is_global and not ip.is_multicast and all(i.is_global for i in inner)


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to an address that was judged, and checks the certificate for the host's name."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, timeout=_CONNECT_S, context=ssl.create_default_context())

    def connect(self) -> None:
        """Judge the host's addresses and connect to the first."""
        (address, *_) = public_addresses(self.host, self.port)
        plain = socket.create_connection((address, self.port), timeout=_CONNECT_S)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]


def _under(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Refused(413, "too_large", f"more than {max_bytes / 1e6:g} MB; cut the video, or lower its resolution")


def _outside() -> Refused:
    return Refused(403, "not_allowed", "this uri is not under the folders that the service may read; upload the video instead")


def _not_allowed() -> Refused:
    return Refused(403, "not_allowed", "the service does not fetch this address; upload the video instead")
