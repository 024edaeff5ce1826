"""The client against the endpoint on a real socket, and against one that fails in every way that is worth another try."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.clip import ImageClip, VideoClip
from egoray.core.video import read_frames
from egoray.models.base import gathered
from egoray.serve import client as client_module
from egoray.serve.client import AsyncClient, Client, RemoteGrounder
from egoray.serve.refusals import Refused
from support.served import Paced, serving, write_clip

TOKEN = "a token of this test"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "v.mp4"))


@pytest.fixture(scope="module")
def url():
    with serving(Paced(), token=TOKEN) as url:
        yield url


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client_module, "_BACKOFF_S", 0.01)


class Failing:
    """A server that answers in turn as told: a status, "drop" (hang up), or "half" (a stream that breaks off)."""

    def __init__(self, *script):
        self.left, self.asked = list(script), 0
        failing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                failing.asked += 1
                step = failing.left.pop(0)
                if step == "drop":
                    self.connection.close()
                    return
                if step == "half":
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(json.dumps({"event": "start"}).encode() + b"\n")
                    return
                self.send_response(step)
                self.send_header("Retry-After", "0")
                self.end_headers()
                body = {"results": [], "n": failing.asked} if step == 200 else {"error": {"code": "c", "message": "m"}}
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_plain_and_async_say_the_same(url, video):
    with Client(url, TOKEN) as client:
        whole = client.ground(video, ["a mug", "nothing"], fps=10)
        told = list(client.stream(video, ["a mug"], fps=10))
        assert client.get("/v1/models")["default"] == "paced"

    async def both():
        async with AsyncClient(url, TOKEN) as client:
            return await client.ground(video, ["a mug", "nothing"], fps=10), [
                event async for event in client.stream(video, ["a mug"], fps=10)
            ]

    again, retold = asyncio.run(both())
    assert whole["results"] == again["results"]
    assert [f["frame"] for f in whole["results"][0]["frames"]] == [0, 6, 12, 18, 24]
    pick = [event for event in told if event["event"] == "frame"]
    assert pick == [event for event in retold if event["event"] == "frame"]
    assert (len(pick), told[-1]["event"]) == (5, "done")


@pytest.mark.parametrize("script", [(503, 200), (429, 429, 200), ("drop", 200), (408, "drop", 503, 200)])
def test_what_may_succeed_later_is_asked_again(video, script):
    with Failing(*script) as server, Client(server.url) as client:
        assert client.ground(video, ["a mug"])["n"] == len(script)
    with Failing(*script) as server:

        async def ask():
            async with AsyncClient(server.url) as client:
                return await client.ground(video, ["a mug"])

        assert asyncio.run(ask())["n"] == len(script)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 500])
def test_what_will_not_is_asked_once(video, status):
    with Failing(status) as server, Client(server.url) as client:
        with pytest.raises(Refused) as refused:
            client.ground(video, ["a mug"])
        assert (refused.value.status, str(refused.value), server.asked) == (status, "m", 1)


def test_retries_end(video):
    with Failing(503, 503, 503) as server, Client(server.url, retries=2) as client:
        with pytest.raises(Refused):
            client.ground(video, ["a mug"])
        assert server.asked == 3
    with pytest.raises(Refused, match="is `serve run` up there"), Client(server.url, retries=1) as client:
        client.ground(video, ["a mug"])


def test_a_stream_is_asked_again_only_before_it_begins(video):
    with Failing("drop", "half") as server, Client(server.url) as client:
        told = []
        with pytest.raises(Refused, match="broke off"):
            told.extend(client.stream(video, ["a mug"]))
        assert server.asked == 2


def test_a_service_passes_for_a_model(url, video, tmp_path):
    import cv2

    remote, here = RemoteGrounder(url, "paced", TOKEN), Paced()
    paths = []
    for n, image in read_frames(video, range(5)):
        paths.append(str(tmp_path / f"{n}.jpg"))
        cv2.imwrite(paths[-1], image)
    for clip in (VideoClip(video, 3), ImageClip(paths)):
        for mine, its in zip(gathered(here.stream(clip, ["a mug", "nothing"])), remote.ground(clip, ["a mug", "nothing"]), strict=True):
            assert its.masks == mine.masks
            assert its.detection == mine.detection
            assert its.scores == {frame: mine.scores[frame] for frame in mine.masks}


def test_more_sentences_than_the_service_takes_go_in_turns(url, video):
    texts = [f"mug {n}" if n % 3 else "nothing" for n in range(35)]
    remote, here = RemoteGrounder(url, "paced", TOKEN), Paced()
    mine = gathered(here.stream(VideoClip(video, 3), texts))
    assert [found.masks for found in remote.ground(VideoClip(video, 3), texts)] == [found.masks for found in mine]


def test_the_command_asks_the_endpoint(url, video, tmp_path, monkeypatch):
    ask = ["ground", video, "a mug", "--endpoint", url, "--fps", "10", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, ask)
    assert (refused.exit_code, "send the service's token" in refused.output) == (2, True), refused.output
    monkeypatch.setenv("EGORAY_SERVE_TOKEN", TOKEN)
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "out" / "grounding.json").read_text())
    assert [f["frame"] for f in content["results"][0]["frames"]] == [0, 6, 12, 18, 24]
    assert (tmp_path / "out" / "overlay.mp4").exists()
