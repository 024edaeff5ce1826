"""The endpoint on a real Ray Serve, deployed from config files: nano as people run it, and a model that is as slow as told."""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from egoray import __version__, registry
from egoray.cli import main
from egoray.core.clip import VideoClip
from egoray.core.masks import from_json
from egoray.errors import ConfigError
from egoray.serve.client import Client
from egoray.serve.samples import Samples
from egoray.synthetic.sample import write_sample
from support import serving_on_ray
from support.served import write_clip

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "a token of this test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
pytestmark = pytest.mark.ray


def small_sample(folder):
    write_sample(folder, videos=2, seed=11, seconds=3, size_hw=(180, 320), tier="medium", workers=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A user's cache in which the sample clips are there already, small ones."""
    cache = tmp_path_factory.mktemp("cache")
    Samples(str(cache / "egoray" / f"samples-{__version__}"), small_sample).listed()
    return cache


@pytest.fixture(scope="module")
def config(cache):
    """nano.yaml at /, and beside it a slow model at /slow behind a token."""
    config = serving_on_ray.config_of(ROOT / "serve_configs" / "nano.yaml", serving_on_ray.free_port())
    config["applications"][0]["runtime_env"] = {"env_vars": {"XDG_CACHE_HOME": str(cache)}}
    config["applications"].append(
        {
            "name": "slow",
            "route_prefix": "/slow",
            "import_path": "support.paced_service:build",
            "runtime_env": {"env_vars": {"EGORAY_SERVE_TOKEN": TOKEN}},
            "args": {
                "models": [{"name": "nano", "alias": "slow", "cpus": 0.1, "max_queued_requests": 2, "surge": True}],
                "tracker": None,
                "samples": False,
                "max_waiting": 6,
            },
        }
    )
    return config


@pytest.fixture(scope="module")
def url(cluster, config):
    with serving_on_ray.on_ray(config) as url:
        yield url


@pytest.fixture
def video(tmp_path):
    return write_clip(tmp_path / "v.mp4")


@pytest.fixture(scope="module")
def sample(url, cache):
    """The first sample clip: its name, its path, its sentences."""
    with Client(url) as client:
        (first, *_) = client.get("/v1/samples")["samples"]
    path = json.loads((cache / "egoray" / f"samples-{__version__}" / "samples.json").read_text())[0]["file"]
    return first["name"], str(cache / "egoray" / f"samples-{__version__}" / path), first["texts"]


def ask(url, video, text, **fields):
    with open(video, "rb") as file:
        return httpx2.post(f"{url}/slow/v1/ground", files={"video": file}, data={"text": text} | fields, headers=BEARER, timeout=60)


def test_it_is_ready_and_says_what_it_offers(url):
    assert httpx2.get(f"{url}/healthz").json() == {"status": "ready", "version": __version__}
    models = httpx2.get(f"{url}/v1/models").json()
    assert ([m["name"] for m in models["models"]], models["default"], models["models"][0]["ready"]) == (["nano"], "nano", True)
    assert {"/v1/ground", "/v1/segment", "/v1/models", "/healthz"} <= httpx2.get(f"{url}/openapi.json").json()["paths"].keys()


def test_the_page_and_every_file_that_it_names(url):
    page = httpx2.get(f"{url}/")
    assert page.headers["content-type"].startswith("text/html")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.text)[1]
    assert {"default-src 'none'", "img-src 'self' blob:", "media-src 'self' blob:", "connect-src 'self'"} <= set(policy.split("; "))
    assert page.headers.get("content-security-policy", policy) == policy
    files = set(re.findall(r'(?:src|href)="((?:\./)?static/[^"]+)"', page.text))
    assert len(files) >= 2
    names = {path.name for path in (ROOT / "egoray" / "serve" / "static").iterdir()} - {"index.html", "docs.html"}
    for file in files | {f"static/{name}" for name in names}:
        found = httpx2.get(f"{url}/{file}")
        assert (found.status_code, found.headers["x-content-type-options"]) == (200, "nosniff"), file
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[file.rsplit(".", 1)[1]]
        assert found.headers["content-type"].startswith(kind), file


def test_masks_are_those_of_the_model_itself(url, sample):
    name, path, texts = sample
    texts = [*texts[:2], "a unicorn"]
    with Client(url) as client:
        answer = client.ground(path, texts, fps=5)
        told = list(client.stream(path, texts, fps=5))
    clip = VideoClip(path, round(VideoClip(path).fps / 5))
    mine = registry.build_grounder("nano").ground(clip, texts)
    by_name = httpx2.post(f"{url}/v1/ground", json={"sample": name, "text": texts, "fps": 5}, timeout=60)
    assert by_name.json()["results"] == answer["results"]
    assert any(found.masks for found in mine)
    for found, result in zip(mine, answer["results"], strict=True):
        served = {frame["frame"] // clip.stride: from_json(frame["rle"], "answer") for frame in result["frames"]}
        assert served == found.masks
    kinds = [event["event"] for event in told]
    assert (kinds[0], kinds[-1], kinds.index("frame") < kinds.index("done")) == ("start", "done", True)
    streamed = {(e["text_index"], e["frame"]): e["rle"] for e in told if e["event"] == "frame"}
    assert streamed == {(n, f["frame"]): f["rle"] for n, r in enumerate(answer["results"]) for f in r["frames"]}


def test_a_box_is_followed_in_a_session(url, sample):
    with open(sample[1], "rb") as file:
        first = httpx2.post(f"{url}/v1/segment", files={"video": file}, data={"box": "60,40,160,120", "max_frames": "3"}, timeout=60)
    assert first.status_code == 200, first.text
    cue = {"session": first.json()["session"], "points": [[100, 80]], "box": [60, 40, 160, 120], "max_frames": 3}
    again = httpx2.post(f"{url}/v1/segment", json=cue, timeout=60)
    assert again.status_code == 200, again.text
    assert httpx2.post(f"{url}/v1/segment", json=cue | {"session": "none"}, timeout=60).status_code == 404


def test_strangers_see_the_page_and_nothing_else_wherever_the_app_is_mounted(url, video):
    assert httpx2.get(f"{url}/slow/").status_code == httpx2.get(f"{url}/slow/static/app.js").status_code == 200
    assert httpx2.get(f"{url}/slow/healthz").status_code == 200
    for path in ("/v1/models", "/v1/samples", "/v1/ground", "/slow/v1/models", "/anything", "//v1/models", "/static/../v1/models"):
        answer = httpx2.get(f"{url}/slow{path}")
        assert answer.status_code in (401, 404), path
        assert "paced" not in answer.text, path
    assert httpx2.post(f"{url}/slow/v1/ground", files={"video": video.read_bytes()}, data={"text": "a mug"}).status_code == 401
    assert httpx2.get(f"{url}/slow/v1/models", headers={"Authorization": "Bearer no"}).status_code == 401
    assert httpx2.get(f"{url}/slow/v1/models", headers=BEARER).status_code == 200
    assert httpx2.get(f"{url}/slow/v1/samples/kitchen.mp4").status_code == 404  # no token needed; none is offered here


def test_a_sample_plays_without_a_token_and_in_parts(url, sample):
    whole = httpx2.get(f"{url}/v1/samples/{sample[0]}.mp4")
    assert (whole.headers["content-type"], whole.content) == ("video/mp4", Path(sample[1]).read_bytes())
    part = httpx2.get(f"{url}/v1/samples/{sample[0]}.mp4", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])


def test_more_questions_than_it_takes_are_refused_at_once_and_the_others_answered(url, video):
    def timed(_):
        started = time.monotonic()
        answer = ask(url, video, "a mug 0.2")
        return answer, time.monotonic() - started

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(timed, range(12)))
    count = Counter(answer.status_code for answer, _ in answers)
    assert count.keys() <= {200, 429, 503}
    assert count[200] >= 2
    assert count[429] + count[503] >= 6
    for answer, seconds in answers:
        if answer.status_code != 200:
            assert (answer.headers["retry-after"], answer.json()["error"]["code"]) == ("1", "busy")
            assert seconds < 3.0
    assert ask(url, video, "a mug").status_code == 200


def test_a_body_of_unknown_size_is_refused_unread(url):
    (ingress,) = serving_on_ray.replicas("egoray:Ingress")
    before = ingress.memory_info().rss
    head = "POST /v1/ground HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(ConnectionError):  # it hangs up once it has answered
            for _ in range(25_000):  # 100 MB
                connection.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
                if select.select([connection], [], [], 0)[0]:
                    break
        answer = connection.recv(4096)
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert ingress.memory_info().rss - before < 20e6
    assert httpx2.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_goes_away_frees_the_replica(url, video, stream):
    files, data = {"video": video.read_bytes()}, {"text": "a mug 0.2", "fps": "30", "stream": stream}  # 6 s of work
    limit = httpx2.Timeout(10, read=10 if stream == "true" else 1.0)
    if stream == "true":
        with httpx2.stream("POST", f"{url}/slow/v1/ground", files=files, data=data, headers=BEARER, timeout=limit) as answer:
            next(line for line in answer.iter_lines() if '"frame"' in line)
    else:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/slow/v1/ground", files=files, data=data, headers=BEARER, timeout=limit)
    gone = time.monotonic()
    assert ask(url, video, "a mug", max_frames="1").status_code == 200
    assert time.monotonic() - gone < 2.0  # a second, and what the question itself takes


def test_prometheus_hears_of_it(cluster, url, video):
    from test_ray_metrics import count, scraped

    before = scraped(cluster)
    name = "ray_egoray_serve_latency_seconds_count"
    assert ask(url, video, "a mug").status_code == 200
    answered = count(before, name, model="slow", status="200")

    def heard(lines):  # each process tells its own in its own time; run alone, nobody was turned away before
        turned_away = any(f'status="{status}"' in line for status in (499, 503) for line in lines)
        return count(lines, name, model="slow", status="200") > answered and (turned_away or not before)

    deadline = time.monotonic() + 60
    while not heard(lines := scraped(cluster)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert count(lines, "ray_egoray_serve_queue", model="slow") == 0


def test_a_split_asked_through_the_service_scores_as_the_model_itself(url, cluster, tmp_path):
    write_sample(tmp_path / "sample", videos=2, seed=4, seconds=4, size_hw=(180, 320), tier="short", workers=1)
    scores = []
    for name, more in (("served", ["--endpoint", url]), ("here", ["--set", "workers=1"])):
        known = ["--dataset", str(tmp_path / "sample" / "truth"), "--split", "short"]
        predicted = ["predict", *known, "--out", str(tmp_path / name), *more, "--json"]
        first = CliRunner().invoke(main, predicted)
        assert first.exit_code == 0, first.output
        again = CliRunner().invoke(main, predicted)
        assert json.loads(again.stdout)["done"] == json.loads(first.stdout)["done"] == 2
        evaluated = ["evaluate", *known, "--predictions", str(tmp_path / name), "--out", str(tmp_path / f"{name}-scores"), "--json"]
        result = CliRunner().invoke(main, evaluated)
        assert result.exit_code == 0, result.output
        scores.append(json.loads(result.stdout))
    assert scores[0]["metrics"] == scores[1]["metrics"]
    assert scores[0]["num_expressions"] == scores[1]["num_expressions"] > 0
    assert scores[0]["metrics"]["IoU_all"] > 0


def test_off_loopback_it_wants_a_token(cluster, url, monkeypatch):
    from egoray.serve import ray_serve

    monkeypatch.delenv("EGORAY_SERVE_TOKEN", raising=False)
    assert ray_serve._http_host() == "127.0.0.1"
    monkeypatch.setattr(ray_serve, "_http_host", lambda: "0.0.0.0")
    with pytest.raises(ConfigError, match="set EGORAY_SERVE_TOKEN"):
        ray_serve.build({})
    monkeypatch.setenv("EGORAY_SERVE_TOKEN", TOKEN)
    ray_serve.build({})


def test_the_readmes_curl_line_works_as_pasted(url, tmp_path):
    (line,) = re.findall(r"^curl .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert "http://127.0.0.1:8000/" in line
    line = line.replace("http://127.0.0.1:8000", url)
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = [json.loads(row) for row in done.stdout.splitlines()]
    assert events[-1]["event"] == "done", events[-1]
    assert events[-1]["results"][0]["text"] in line


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_docs_need_no_network(url):
    from test_page import FLAGS

    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 390, "height": 844})
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(f"{url}/slow/docs")
        page.get_by_role("heading", name="POST /v1/ground").wait_for()
        text = page.locator("#routes").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert wrong == []
    assert all(name.startswith(f"{url}/slow/") for name in asked)
    assert all(word in text for word in ("max_frames", "GET /healthz", "429", "appearances"))


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_asks_the_service_and_shows_its_masks(url, sample, tmp_path):
    from test_page import FLAGS, until

    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(30_000)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.get_by_role("button", name=sample[0]).click()
        until(page, "document.getElementById('video').readyState >= 2", 30)
        page.get_by_role("button", name="Find it", exact=True).click()
        page.locator("#saves").wait_for(state="visible")
        page.locator("#cancel").wait_for(state="hidden")
        until(page, PAINTED)
        with page.expect_download() as download:
            page.get_by_role("button", name="JSON").click()
        answer = json.loads(Path(download.value.path()).read_text())
        page.screenshot(path=os.environ.get("EGORAY_SCREENSHOT", str(tmp_path / "page.png")))
        browser.close()
    assert wrong == []
    assert (answer["model"], answer["results"][0]["text"]) == ("nano", sample[2][0])
    assert answer["results"][0]["frames"]
    assert answer.get("complete", True)


PAINTED = """(() => {
  const canvas = document.getElementById('masks');
  return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v, i) => i % 4 == 3 && v);
})()"""


class Load:
    """Clients that ask one question after the other until the body ends; their answers, and what was not one."""

    def __init__(self, url, video, clients=3, retries=20):
        self.url, self.video, self.clients, self.retries = url, video, clients, retries
        self.answers, self.failures, self.over = [], [], threading.Event()

    def __enter__(self):
        self.threads = [threading.Thread(target=self.run) for _ in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def run(self):
        with Client(f"{self.url}/slow", TOKEN, retries=self.retries) as client:
            while not self.over.is_set():
                try:
                    answer = client.ground(str(self.video), ["a mug 0.02"])
                    self.answers.append((time.monotonic(), answer["results"][0]["frames"]))
                except Exception as error:
                    self.failures.append(error)


@pytest.mark.slow
def test_a_replica_that_dies_costs_no_answer(url, video):
    expected = ask(url, video, "a mug 0.02").json()["results"][0]["frames"]
    with Load(url, video) as load:
        time.sleep(2)
        (victim,) = serving_on_ray.replicas("slow:model-slow")
        victim.kill()
        killed = time.monotonic()
        time.sleep(20)
    assert load.failures == []
    assert all(frames == expected for _, frames in load.answers)
    first = min(at for at, _ in load.answers if at > killed + 0.5)
    assert first - killed < 15


@pytest.mark.slow
def test_a_rolling_update_fails_nobody(url, video, config):
    changed = json.loads(json.dumps(config))
    changed["applications"][1]["args"]["max_texts"] = 3
    health = []
    with Load(url, video, clients=2, retries=0) as load:
        time.sleep(2)
        serving_on_ray.deploy(changed, lambda: health.append(httpx2.get(f"{url}/slow/healthz", timeout=30)))
        time.sleep(2)
    assert load.failures == []
    assert [answer.text for answer in health if answer.status_code != 200] == []
    assert len(load.answers) > 10
    assert ask(url, video, ["a mug"] * 4).status_code == 422
