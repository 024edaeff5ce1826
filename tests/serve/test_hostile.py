"""Hostile inputs: each is a row with the status it gets, fast and cheap, by a server that answers afterwards."""

import io
import pickle
import socket
import struct
import subprocess
import threading
import time
import zipfile
import zlib

import httpx2
import numpy as np
import psutil
import pytest

from egoray.config import ServeConfig
from egoray.serve import sources
from egoray.serve.refusals import Refused
from support.served import Paced, listening, serving, write_clip

TOKEN = "correct horse battery staple"
SECONDS, RSS_MB, CAP_MB = 2.0, 200, 2


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "v.mp4").read_bytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory, video):
    top = tmp_path_factory.mktemp("served")
    root = top / "root"
    (root / "sub").mkdir(parents=True)
    (root / "v.mp4").write_bytes(video)
    (top / "secret.mp4").write_bytes(video)
    (top / "root2").mkdir()
    (top / "root2" / "v.mp4").write_bytes(video)
    (root / "link.mp4").symlink_to(top / "secret.mp4")
    (root / "linked").symlink_to(top)
    return root


@pytest.fixture(scope="module")
def url(root):
    config = ServeConfig(samples=False, max_upload_mb=CAP_MB, roots=(str(root),), decode_memory_mb=256, upload_stall_s=1.0)
    with serving(Paced(), config) as url:
        assert httpx2.get(f"{url}/healthz").status_code == 200
        yield url


class Watch:
    """Peak memory of this process and its children above what they had, and seconds, of the body."""

    def __enter__(self):
        self.before, self.peak, self.over = self.rss(), 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        self.started = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.started
        self.over.set()
        self.thread.join()

    def look(self):
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self.rss() - self.before)

    @staticmethod
    def rss():
        total = 0
        for process in (me := psutil.Process(), *me.children(recursive=True)):
            try:
                total += process.memory_full_info().uss
            except psutil.Error:
                continue
        return total / 1e6


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side=20_000):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def claiming(video, frames):
    """The mp4 with a table of one size that says there are so many frames, each one byte."""
    data = bytearray(video)
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, frames)
    at = data.index(b"stts") + 8
    data[at : at + 4] = struct.pack(">I", 1)
    data[at + 4 : at + 8] = struct.pack(">I", frames)
    return bytes(data)


def polyglot():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.html", "<script>alert(1)</script>")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 1, 0, 0, 0, 0)) + packed.getvalue()


def objects():
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return stream.getvalue()


class Bomb:
    def __reduce__(self):
        return (subprocess.call, (["touch", "/tmp/egoray-was-here"],))


HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\nfile subfile,,start,0,end,9,,:/etc/passwd\n"
FILES = {
    "a 20k x 20k png": ("frames", lambda v: huge_png(), 413),
    "an mp4 that claims 10^9 frames": ("video", lambda v: claiming(v, 10**9), (413, 422)),
    "an mp4 that claims 2^32 - 1 frames": ("video", lambda v: claiming(v, 2**32 - 1), (413, 422)),
    "a truncated mp4": ("video", lambda v: v[: len(v) // 2], 422),
    "an mp4 without its first half": ("video", lambda v: v[len(v) // 2 :], 422),
    "an empty file": ("video", lambda v: b"", 422),
    "noise": ("video", lambda v: np.random.default_rng(0).bytes(100_000), 422),
    "an HLS playlist named mp4": ("video", lambda v: HLS, 422),
    "a concat list named mp4": ("video", lambda v: CONCAT, 422),
    "a DASH manifest named mp4": (
        "video",
        lambda v: b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
        422,
    ),
    "a png and zip at once": ("video", lambda v: polyglot(), 422),
    "a damaged png and zip at once": ("frames", lambda v: polyglot(), 422),
    "an npy of objects": ("video", lambda v: objects(), 422),
    "an npy of objects as a frame": ("frames", lambda v: objects(), 415),
    "a pickle": ("video", lambda v: pickle.dumps(Bomb()), 422),
    "a pickle as a frame": ("frames", lambda v: pickle.dumps(Bomb()), 415),
    "another file": ("weights", lambda v: pickle.dumps(Bomb()), 422),
    "a body above the cap": ("video", lambda v: bytes(CAP_MB * 1_000_000 + 1), 413),
}
FIELDS = {
    "a text of 10^5 characters": ({"text": "mug " * 25_000}, 422),
    "a text above a form field's size": ({"text": "m" * 1_100_000}, 400),
    "no text": ({}, 422),
    "an empty text": ({"text": ""}, 422),
    "a text of signs": ({"text": "?! \u202e"}, 422),
    "too many texts": ({"text": ["a mug"] * 17}, 422),
    "fps NaN": ({"text": "a", "fps": "NaN"}, 422),
    "fps inf": ({"text": "a", "fps": "inf"}, 422),
    "fps 0": ({"text": "a", "fps": "0"}, 422),
    "fps below 0": ({"text": "a", "fps": "-5"}, 422),
    "fps a word": ({"text": "a", "fps": "many"}, 422),
    "start after the end": ({"text": "a", "start_s": "99"}, 422),
    "start NaN": ({"text": "a", "start_s": "nan"}, 422),
    "max_frames 0": ({"text": "a", "max_frames": "0"}, 422),
    "another output": ({"text": "a", "output": "../x"}, 422),
    "a model that is not there": ({"text": "a", "model": "../../etc/passwd"}, 404),
    "a sample that is not there": ({"text": "a", "sample": "../../etc/passwd"}, 422),
    "an unknown field": ({"text": "a", "checkpoint": "/tmp/evil.pt"}, 422),
}
TRAVERSALS = [
    "../secret.mp4",
    "sub/../../secret.mp4",
    "..\\secret.mp4",
    "%2e%2e/secret.mp4",
    "%2E%2E%2fsecret.mp4",
    "..%2fsecret.mp4",
    "/etc/passwd",
    "{top}/secret.mp4",
    "{top}/root2/v.mp4",
    "{root}/../secret.mp4",
    "link.mp4",
    "linked/secret.mp4",
    "v.mp4\x00.txt",
    "file:///etc/passwd",
    "s3://bucket/v.mp4",
    "concat:/etc/passwd|/etc/passwd",
    "subfile,,start,0,end,9,,:/etc/passwd",
]
SSRF = [
    "http://127.0.0.1/v.mp4",
    "https://127.0.0.1/v.mp4",
    "https://localhost/v.mp4",
    "https://2130706433/v.mp4",
    "https://0x7f000001/v.mp4",
    "https://0177.0.0.1/v.mp4",
    "https://127.1/v.mp4",
    "https://0.0.0.0/v.mp4",
    "https://[::1]/v.mp4",
    "https://[::ffff:127.0.0.1]/v.mp4",
    "https://[::ffff:7f00:1]/v.mp4",
    "https://[64:ff9b::7f00:1]/v.mp4",
    "https://[2002:7f00:1::]/v.mp4",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/latest/meta-data/",
    "https://10.0.0.1/v.mp4",
    "https://192.168.1.1/v.mp4",
    "https://100.64.0.1/v.mp4",
    "https://[fe80::1%25eth0]/v.mp4",
]
MORE_URLS = [
    "https://example.org@127.0.0.1/v.mp4",
    "https://example.org:22/v.mp4",
    "https://example.org.evil.test/v.mp4",
    "https://example.org\\@evil.test/v.mp4",
    "https://exa\u24dcple.org/v.mp4",
    "ftp://example.org/v.mp4",
    "gopher://example.org/v.mp4",
]


def check(url, answer, status, watch):
    assert answer.status_code in ((status,) if isinstance(status, int) else status), answer.text[:300]
    error = answer.json()["error"]
    assert error["code"]
    assert "/tmp" not in error["message"]
    assert "Traceback" not in answer.text
    assert len(answer.text) < 2000
    assert watch.seconds < SECONDS, watch.seconds
    assert watch.peak < RSS_MB, watch.peak
    assert httpx2.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_files(url, video, name, recwarn):
    field, make, status = FILES[name]
    data = make(video)
    with Watch() as watch:
        answer = httpx2.post(f"{url}/v1/ground", files={field: ("kitchen.mp4", data)}, data={"text": "a mug"}, timeout=20)
    check(url, answer, status, watch)


@pytest.mark.parametrize("name", FIELDS)
def test_fields(url, video, name):
    data, status = FIELDS[name]
    with Watch() as watch:
        answer = httpx2.post(f"{url}/v1/ground", files={"video": ("v.mp4", video)}, data=data, timeout=20)
    check(url, answer, status, watch)


@pytest.mark.parametrize("uri", TRAVERSALS)
def test_traversals(url, root, uri):
    uri = uri.replace("{root}", str(root)).replace("{top}", str(root.parent))
    with Watch() as watch:
        answer = httpx2.post(f"{url}/v1/ground", json={"uri": uri, "text": "a mug"}, timeout=20)
    check(url, answer, (403, 404) if uri.startswith(("concat", "subfile", "file")) else 403, watch)


def test_what_lies_under_a_root_is_read(url, root):
    for uri in ("v.mp4", str(root / "v.mp4")):
        assert httpx2.post(f"{url}/v1/ground", json={"uri": uri, "text": "a mug"}, timeout=20).status_code == 200
    missing = httpx2.post(f"{url}/v1/ground", json={"uri": "none.mp4", "text": "a mug"}, timeout=20)
    assert missing.status_code == 404


@pytest.mark.parametrize("uri", SSRF + MORE_URLS)
def test_urls_are_not_fetched_unless_that_is_switched_on(url, uri):
    with Watch() as watch:
        answer = httpx2.post(f"{url}/v1/ground", json={"uri": uri, "text": "a mug"}, timeout=20)
    check(url, answer, 403 if uri.startswith("http") else (403, 404), watch)


@pytest.mark.parametrize("uri", SSRF)
def test_a_listed_host_with_an_inner_address_is_refused_all_the_same(uri, tmp_path):
    host = sources.urlsplit(uri).hostname
    with pytest.raises(Refused) as refused:
        sources.fetch_url(uri, (host,), str(tmp_path / "v"), 10**6)
    assert refused.value.status in (403, 422)  # 422: no such name, where the system's resolver does not take the spelling


@pytest.mark.parametrize("uri", MORE_URLS)
def test_a_url_of_no_listed_host_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "public_addresses", lambda host, port: pytest.fail("resolved"))
    with pytest.raises(Refused):
        sources.fetch_url(uri, ("example.org",), str(tmp_path / "v"), 10**6)


BODIES = {
    "not JSON": ("application/json", b"{", 400),
    "JSON as deep as it is long": ("application/json", b"[" * 100_000, 400),
    "JSON that is a list": ("application/json", b"[1]", 422),
    "JSON with NaN": ("application/json", b'{"text": "a", "uri": "v.mp4", "fps": NaN}', 422),
    "JSON above its cap": ("application/json", b'{"text": "' + b"a" * 2_000_000 + b'"}', 413),
    "a form without a boundary": ("multipart/form-data", b"--b\r\n", 400),
    "a form that breaks off": ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\na', 422),
    "another type": ("application/x-pickle", pickle.dumps(Bomb()), 415),
    "no type": ("", b"text=a", 415),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(url, name):
    kind, body, status = BODIES[name]
    with Watch() as watch:
        answer = httpx2.post(f"{url}/v1/ground", content=body, headers={"Content-Type": kind} if kind else {}, timeout=20)
    check(url, answer, status, watch)


def raw(url, *parts):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass  # refused before all of it was sent
        return connection.recv(65536).partition(b"\r\n")[0]


HEAD = b"POST /v1/ground HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
CHUNK = b"%x\r\n%s\r\n" % (len(PART), PART)
RAW = {
    "a body declared above the cap is refused unread": ((HEAD + b"Content-Length: 100000000000\r\n\r\n",), b"413"),
    "a chunked body above the cap": (
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 60),
        b"413",
    ),
    "a Content-Length below the body": ((HEAD + b"Content-Length: 10\r\n\r\n" + b"--b\r\n" + bytes(1000),), b"400"),
    "a Content-Length above the body": ((HEAD + b"Content-Length: 1000\r\n\r\n--b\r\n",), b"408"),
    "a Content-Length that is no number": ((HEAD + b"Content-Length: many\r\n\r\n",), b"400"),
    "a Content-Length below 0": ((HEAD + b"Content-Length: -1\r\n\r\n",), b"400"),
    "another host's name": ((HEAD.replace(b"localhost", b"evil.test") + b"Content-Length: 2\r\n\r\n{}",), b"403"),
    "a page of another origin": ((HEAD + b"Origin: https://evil.test\r\nContent-Length: 2\r\n\r\n{}",), b"403"),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_requests(url, name):
    parts, status = RAW[name]
    with Watch() as watch:
        line = raw(url, *parts)
    assert b" " + status in line, line
    assert watch.seconds < SECONDS
    assert httpx2.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/static/../api.py", "/static/%2e%2e/api.py", "/static/..%2fapi.py", "/static//etc/passwd", "/v1/samples/..%2f..%2fetc%2fpasswd.mp4"],
)
def test_paths_of_the_page_and_the_samples(url, path):
    assert b" 404 " in raw(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def test_no_request_ran_what_it_brought():
    import os

    assert not os.path.exists("/tmp/egoray-was-here")


def test_the_token_is_asked_for_and_compared(video):
    with serving(Paced(), token=TOKEN) as url:
        assert httpx2.get(url).status_code == httpx2.get(f"{url}/healthz").status_code == 200
        for headers, code in (
            ({}, "no_token"),
            ({"Authorization": TOKEN}, "no_token"),
            ({"Authorization": f"Basic {TOKEN}"}, "no_token"),
            ({"Authorization": f"Bearer {TOKEN[:-1]}"}, "wrong_token"),
            ({"Authorization": f"Bearer {TOKEN}x"}, "wrong_token"),
            ({"Authorization": b"Bearer \xff\xfe"}, "wrong_token"),
        ):
            answer = httpx2.get(f"{url}/v1/models", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code), headers
            assert TOKEN[:-1] not in answer.text
        assert httpx2.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_prefix_before_the_app_is_no_way_around_the_token(video, tmp_path):
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from egoray.serve.api import Service, create_app
    from egoray.serve.asking import LocalGrounding
    from egoray.serve.decoder import Decoder
    from egoray.serve.samples import Samples

    def render(folder):
        raise AssertionError("a stranger makes the service work")

    config = ServeConfig()
    service = Service(
        {"paced": LocalGrounding(Paced(), Decoder(config), "paced")}, config, Decoder(config), None, Samples(str(tmp_path / "s"), render)
    )
    with listening(Starlette(routes=[Mount("/a/b", create_app(service, TOKEN))])) as url:
        for path in ("", "/", "/static/app.js", "/docs", "/openapi.json", "/healthz"):
            assert httpx2.get(f"{url}/a/b{path}", follow_redirects=True).status_code == 200, path
        for path in ("/v1/models", "/v1/samples", "//v1/models", "/v1/anything", "/redoc"):
            assert httpx2.get(f"{url}/a/b{path}").status_code == 401, path
        assert httpx2.post(f"{url}/a/b/v1/ground", files={"video": video}, data={"text": "a"}).status_code == 401
        assert httpx2.get(f"{url}/a/b/v1/samples/kitchen.mp4").status_code == 404
        assert httpx2.get(f"{url}/a/b/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
