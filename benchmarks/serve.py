"""What serving costs: the endpoint on a Ray of this machine, asked by a real client over loopback. One JSON object a part.

python benchmarks/serve.py noop       added latency over a direct call of the replica, by Ray's own proxy and by HAProxy
python benchmarks/serve.py stub       a model of 100 ms, asked over HTTP and called bare
python benchmarks/serve.py nano       nano on a clip of 10 s: first mask and total, and the model called directly
python benchmarks/serve.py overload   four times what the model can, for 30 s
python benchmarks/serve.py kill       a replica killed under load
python benchmarks/serve.py rolling    an update of the model under load
python benchmarks/serve.py upload     100 MB sent to a service that takes 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from egoray import registry
from egoray.config import ServeConfig, ServedModel
from egoray.core.clip import VideoClip
from egoray.core.masks import encode
from egoray.core.video_writer import VideoWriter
from egoray.models.base import Clip, Grounded, Grounder
from egoray.serve.asking import Question
from egoray.serve.client import Client
from egoray.serve.refusals import Refused

RATE_S = 0.1
TEXT = "the red mug"


class Stub:
    """Takes so many seconds and finds the same square every time."""

    name = "stub"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`."""
        time.sleep(self.seconds)
        mask = np.zeros(clip.size_hw, bool)
        mask[8:16, 8:24] = True
        return [Grounded(masks={0: encode(mask)}, scores={0: 0.9}) for _ in texts]


def noop_model(name: str, device: str, **options: Any) -> Grounder:
    """Answers at once."""
    return Stub(0.0)


def slow_model(name: str, device: str, **options: Any) -> Grounder:
    """Answers after 100 ms."""
    return Stub(RATE_S)


def config(**settings: Any) -> ServeConfig:
    """Settings of a service with one model."""
    model = ServedModel(name="nano", alias="m", cpus=settings.pop("cpus", 0.5), max_queued_requests=settings.pop("queue", 4))
    return ServeConfig(models=(model,), tracker=None, samples=False, **settings)


@contextmanager
def serving(settings: ServeConfig, build: Any) -> Iterator[tuple[str, Any]]:
    """The service's URL, and the handle of its model."""
    import ray
    from ray import serve

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 600})
        deploy(settings, build)
        url = f"http://127.0.0.1:{port}"
        while httpx2.get(f"{url}/healthz").status_code != 200:
            time.sleep(0.1)
        yield url, serve.get_deployment_handle("model-m", "default")
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(settings: ServeConfig, build: Any) -> None:
    """Deploy, or update what is deployed."""
    from ray import serve

    from egoray.serve.ray_serve import application

    serve.run(application(settings, build), name="default", route_prefix="/")


def clip(folder: str, seconds: float = 0.2, size_hw: tuple[int, int] = (64, 96)) -> str:
    """A little clip of noise."""
    path, rng = os.path.join(folder, "v.mp4"), np.random.default_rng(0)
    with VideoWriter(path, 30, size_hw) as video:
        for _ in range(int(30 * seconds)):
            video.write(rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8))
    return path


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in ms."""
    return {f"p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 2) for p in (50, 99)}


def medians(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each stage of the answers, in ms."""
    return {name: round(1000 * statistics.median(stage[name] for stage in stages), 2) for name in stages[0]}


def in_both_modes(part: str) -> dict[str, Any]:
    """The part with Ray's own proxy and with HAProxy, each in a process of its own."""
    modes = {}
    for mode in ("proxy", "haproxy"):
        environment = os.environ | {"RAY_SERVE_ENABLE_HA_PROXY": str(int(mode == "haproxy"))}
        done = subprocess.run([sys.executable, __file__, part, "--one-mode"], env=environment, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        modes[mode] = json.loads(lines[-1]) if done.returncode == 0 and lines else {"failed": done.stderr[-300:]}
    return modes


def noop(rounds: int = 120) -> dict[str, Any]:
    """HTTP and the direct call in turn."""
    with tempfile.TemporaryDirectory() as folder, serving(config(roots=(folder,)), noop_model) as (url, handle), httpx2.Client() as http:
        path = clip(folder)
        data = Path(path).read_bytes()
        question = Question(path=path, texts=(TEXT,), natives=(0,), times_s=(0.0,), size_hw=(64, 96), fps=5.0)
        ask = handle.options(stream=True).ask

        def direct() -> None:
            assert list(ask.remote(question, path))[-1][-1]["event"] == "done"

        def upload() -> None:
            stages.append(http.post(f"{url}/v1/ground", files={"video": data}, data={"text": TEXT}).json()["timing_s"])

        def by_uri() -> None:
            assert http.post(f"{url}/v1/ground", json={"uri": "v.mp4", "text": TEXT}).status_code == 200

        def page() -> None:
            assert http.get(f"{url}/").status_code == 200

        stages: list[dict[str, float]] = []
        took: dict[str, list[float]] = {f.__name__: [] for f in (direct, upload, by_uri, page)}
        for n in range(rounds + 20):
            for call in (direct, upload, by_uri, page):
                started = time.perf_counter()
                call()
                if n >= 20:
                    took[call.__name__].append(time.perf_counter() - started)
    found = {name: percentiles(seconds) for name, seconds in took.items()}
    added = {key: round(found["upload"][key] - found["direct"][key], 2) for key in found["direct"]}
    return {"rounds": rounds, "added": added} | found | {"upload_stages_p50_ms": medians(stages)}


def stub(rounds: int = 40) -> dict[str, Any]:
    """HTTP and the bare model in turn."""
    with tempfile.TemporaryDirectory() as folder, serving(config(), slow_model) as (url, _), httpx2.Client() as http:
        path = clip(folder)
        data, bare, clip_, took = Path(path).read_bytes(), Stub(RATE_S), VideoClip(path), {"bare": [], "served": []}
        stages: list[dict[str, float]] = []
        for n in range(rounds + 5):
            started = time.perf_counter()
            bare.ground(clip_, [TEXT])
            middle = time.perf_counter()
            stages.append(http.post(f"{url}/v1/ground", files={"video": data}, data={"text": TEXT}).json()["timing_s"])
            if n >= 5:
                took["bare"].append(middle - started)
                took["served"].append(time.perf_counter() - middle)
    found = {name: percentiles(seconds) for name, seconds in took.items()}
    return (
        {"rounds": rounds, "ratio_p50": round(found["served"]["p50_ms"] / found["bare"]["p50_ms"], 3)}
        | found
        | {"stages_p50_ms": medians(stages)}
    )


def nano(rounds: int = 3) -> dict[str, Any]:
    """Both with as many threads as there are cores, in turn, after one round that is not counted."""
    from egoray.formats.egomask import read_items
    from egoray.synthetic.sample import write_sample

    with tempfile.TemporaryDirectory() as folder:
        write_sample(folder, videos=1, seed=11, seconds=10, size_hw=(360, 640), tier="short", workers=1)
        (path,) = map(str, Path(folder, "clips").glob("*.mp4"))
        text = read_items(f"{folder}/truth", "short")[0].text
        model, video = registry.build_grounder("nano"), VideoClip(path, 6)
        took: dict[str, list[float]] = {"direct": [], "served": [], "first_mask": []}
        with serving(config(cpus=os.cpu_count() or 1), registry.build_grounder) as (url, _), Client(url) as client:
            for n in range(rounds + 1):
                started = time.perf_counter()
                model.ground(video, [text])
                direct = time.perf_counter() - started
                started, first = time.perf_counter(), 0.0
                for event in client.stream(path, [text]):
                    if event["event"] == "frame" and not first:
                        first = time.perf_counter() - started
                if n:
                    for name, seconds in (("direct", direct), ("served", time.perf_counter() - started), ("first_mask", first)):
                        took[name].append(seconds)
                last = event
    middle = {f"{name}_s": round(statistics.median(seconds), 3) for name, seconds in took.items()}
    ratio = round(middle["served_s"] / middle["direct_s"], 3)
    return {"rounds": rounds, "frames": video.num_frames, "ratio_total": ratio} | middle | {"timing_s": last["timing_s"]}


def overload(seconds: float = 30.0) -> dict[str, Any]:
    """First what four patient clients get, the peak; then questions at four times that rate, whatever comes back."""
    with tempfile.TemporaryDirectory() as folder, serving(config(), slow_model) as (url, _):
        data = Path(clip(folder)).read_bytes()
        answers: list[tuple[int, float]] = []

        async def one(http: httpx2.AsyncClient) -> None:
            started = time.perf_counter()
            answer = await http.post(f"{url}/v1/ground", files={"video": data}, data={"text": TEXT})
            assert answer.status_code == 200 or answer.headers["retry-after"]
            answers.append((answer.status_code, time.perf_counter() - started))

        async def patient(http: httpx2.AsyncClient, until: float) -> None:
            while time.monotonic() < until:
                await one(http)

        async def measure() -> tuple[float, float]:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=50)
            async with httpx2.AsyncClient(timeout=60, limits=limits) as http:
                await asyncio.gather(*(patient(http, time.monotonic() + 8) for _ in range(4)))
                peak = sum(status == 200 for status, _ in answers) / 8
                answers.clear()
                started, waiting = time.monotonic(), []
                for n in range(int(4 * peak * seconds)):
                    await asyncio.sleep(max(0.0, started + n / (4 * peak) - time.monotonic()))
                    waiting.append(asyncio.ensure_future(one(http)))
                asked_for = time.monotonic() - started
                await asyncio.gather(*waiting)
                return peak, asked_for

        peak, asked_for = asyncio.run(measure())
    statuses = Counter(status for status, _ in answers)
    accepted = statuses[200] / asked_for
    return {
        "seconds": round(asked_for, 1),
        "peak_per_s": round(peak, 2),
        "asked_per_s": round(len(answers) / asked_for, 1),
        "statuses": dict(sorted(statuses.items())),
        "rejected": percentiles([took for status, took in answers if status != 200]),
        "accepted": percentiles([took for status, took in answers if status == 200]),
        "accepted_of_peak": round(accepted / peak, 3),
    }


class Counting(Client):
    """A client that counts how often it asks again."""

    retried = 0

    def _wait(self, attempt: int, error: Refused | httpx2.TransportError) -> float:
        self.retried += 1
        return super()._wait(attempt, error)


@contextmanager
def load(url: str, path: str, clients: int) -> Iterator[dict[str, Any]]:
    """Clients that ask one question after the other; what they got, when, and what failed."""
    over, told = threading.Event(), {"at": [], "answers": [], "failures": [], "retried": 0}

    def run() -> None:
        with Counting(url, retries=20) as client:
            while not over.is_set():
                try:
                    told["answers"].append(client.ground(path, [TEXT])["results"])
                    told["at"].append(time.monotonic())
                except Refused as error:
                    told["failures"].append(str(error))
            told["retried"] += client.retried

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


def processes(title: str) -> list[psutil.Process]:
    """Those of this benchmark's Ray whose title holds this."""
    return [p for p in psutil.Process().children(recursive=True) if title in " ".join(p.cmdline())]


def kill() -> dict[str, Any]:
    """The only replica, so that nobody is answered until there is another."""
    with tempfile.TemporaryDirectory() as folder, serving(config(), slow_model) as (url, _):
        path = clip(folder)
        with Client(url) as client:
            right = client.ground(path, [TEXT])["results"]
        with load(url, path, 3) as told:
            time.sleep(5)
            (victim,) = processes("ServeReplica:default:model-m")
            victim.kill()
            killed = time.monotonic()
            time.sleep(25)
    back = [at - killed for at in told["at"] if at > killed + RATE_S]
    return {
        "answers": len(told["answers"]),
        "wrong": sum(answer != right for answer in told["answers"]),
        "failed": len(told["failures"]),
        "retried": told["retried"],
        "back_after_s": round(min(back), 2) if back else None,
    }


def rolling() -> dict[str, Any]:
    """Ingress and model are both replaced."""
    with tempfile.TemporaryDirectory() as folder, serving(config(), slow_model) as (url, _):
        path = clip(folder)
        with load(url, path, 3) as told:
            time.sleep(4)
            started = time.monotonic()
            deploy(config(max_texts=3), slow_model)
            took = time.monotonic() - started
            time.sleep(4)
    return {
        "answers": len(told["answers"]),
        "failures": len(told["failures"]),
        "first_failures": told["failures"][:3],
        "retried": told["retried"],
        "update_s": round(took, 1),
    }


def upload(size_mb: int = 100, cap_mb: int = 10) -> dict[str, Any]:
    """Once with the size declared, once in chunks, and one within the cap for comparison."""
    found: dict[str, Any] = {}
    with serving(config(max_upload_mb=cap_mb), noop_model) as (url, _):
        parts = {"replica": processes("ServeReplica:default:Ingress"), "proxy": processes("ProxyActor")}
        for name, declared in (("declared", True), ("chunked", False)):
            before = {part: rss_mb(ps) for part, ps in parts.items()}
            peak, over = dict(before), threading.Event()

            def watch(peak: dict[str, float] = peak, over: threading.Event = over) -> None:
                while not over.wait(0.005):
                    for part, ps in parts.items():
                        peak[part] = max(peak[part], rss_mb(ps))

            watching = threading.Thread(target=watch)
            watching.start()
            started = time.perf_counter()
            status, sent = send(url, size_mb * 1_000_000, declared)
            took = time.perf_counter() - started
            time.sleep(0.5)
            over.set()
            watching.join()
            grown = {f"{part}_grew_mb": round(peak[part] - before[part], 1) for part in parts}
            found[name] = {"status": status, "sent_mb": round(sent / 1e6, 1), "seconds": round(took, 3)} | grown
        assert httpx2.get(f"{url}/healthz").status_code == 200
    return {"body_mb": size_mb, "cap_mb": cap_mb} | found


def rss_mb(ps: Sequence[psutil.Process]) -> float:
    """Resident memory of them all."""
    return sum(p.memory_info().rss for p in ps) / 1e6


def send(url: str, size: int, declared: bool) -> tuple[int, int]:
    """The status that a form of this size gets, and the bytes that went out before the answer came."""
    host, port = url.removeprefix("http://").split(":")
    how = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
    head = f"POST /v1/ground HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n{how}\r\n\r\n"
    first = b'--b\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
    block, sent = bytes(1 << 16), 0
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(head.encode())
        try:
            for data in [first, *[block] * (size // len(block))]:
                connection.sendall(data if declared else b"%x\r\n%s\r\n" % (len(data), data))
                sent += len(data)
                connection.setblocking(False)
                try:
                    if answer := connection.recv(4096):
                        return int(answer.split()[1]), sent
                except BlockingIOError:
                    pass
                finally:
                    connection.settimeout(20)
        except OSError:
            pass  # refused and hung up on
        answer = connection.recv(4096)
        return int(answer.split()[1]) if answer else 0, sent


def main() -> None:
    """Run one part."""
    parts = {f.__name__: f for f in (noop, stub, nano, overload, kill, rolling, upload)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--one-mode", action="store_true", help="noop, stub: only as RAY_SERVE_ENABLE_HA_PROXY says")
    args = parser.parse_args()
    started = time.monotonic()
    found = in_both_modes(args.part) if args.part in ("noop", "stub") and not args.one_mode else parts[args.part]()
    print(json.dumps({"part": args.part, **found, "took_s": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
