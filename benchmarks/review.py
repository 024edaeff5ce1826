"""How quick the review's server is, and what it keeps. Prints one JSON line.

    PYTHONPATH=.:tests python benchmarks/review.py [--items 1000] [--kills 20] [--only speed|page|clients|kills]

The server is `egoray review` in a process of its own; the client speaks to its socket as the page does.

- speed: the list of all items and of filtered ones (limit 200 ms), and a verdict, the next item and its first frame without the
  page's prefetching (limit 150 ms); medians and 95th percentiles in ms, and their ratio to the limit.
- page: from the key that accepts to the next item painted in Chromium, with the page's prefetching (limit 150 ms), where there is one.
- clients: 20 tabs of 5 people decide everything at once: items with other than one decision, decisions lost.
- kills: the server is killed with SIGKILL in the middle of a session and started again: confirmed decisions lost, decisions made twice.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from egoray.core.masks import encode
from egoray.core.storage import Folder
from egoray.core.workfolder import MASKLETS, masklet_rows, write_expressions, write_objects, write_videos
from egoray.review.access import new_token
from egoray.review.store import Store
from egoray.schema import Expression, Masklet, ObjectTrack, Trajectory, VideoInfo
from support.release import disc, write_clip
from support.review_server import Client

SIZE_HW = (360, 640)
NUM_FRAMES, PER_CLIP = 60, 20
LIST_MS, NEXT_MS = 200.0, 150.0
ACCEPTS, PAUSE_MS = 30, 400
"""Of a person who looks at an item for a moment."""


def write_folder(folder: Path, items: int) -> str:
    """An annotation folder with ``items`` objects of 60 masks each in clips of twenty; the clips are links to one."""
    work, source = Folder(str(folder / "work")), folder / "clip.mp4"
    write_clip(source, NUM_FRAMES, 3, SIZE_HW)
    masks, boxes = {}, {}
    for frame in range(NUM_FRAMES):
        mask, (x, y, width, height) = disc(frame, 0, SIZE_HW)
        masks[frame], boxes[frame] = encode(mask), (x, y, x + width, y + height)
    videos, objects, rng = [], [], random.Random(0)
    about = {"num_frames": 6 * NUM_FRAMES, "fps": 30.0, "height_px": SIZE_HW[0], "width_px": SIZE_HW[1], "source": "", "stride": 6}
    for clip in range(-(-items // PER_CLIP)):
        video_id, rows = f"clip-{clip:03d}", []
        (folder / f"{video_id}.mp4").symlink_to(source)
        videos.append(VideoInfo(video_id=video_id, uri=str(folder / f"{video_id}.mp4"), **about))
        for number in range(1, min(PER_CLIP, items - clip * PER_CLIP) + 1):
            ids = {"video_id": video_id, "object_id": str(number)}
            level = rng.random()
            masklet = Masklet(**ids, masks=masks, scores=dict.fromkeys(masks, level))
            rows += masklet_rows(masklet, boxes)
            whole = Trajectory(**ids, start=0, stop=NUM_FRAMES, prompt_frame=0, prompt_box=boxes[0])
            objects.append((ObjectTrack(**ids, title=f"thing {number}", boxes=boxes, size_hw=SIZE_HW), [whole]))
            texts = [
                Expression(**ids, expression_id=f"{clip}-{number}-{n}", text=f"the thing {n}", kind="short", source="") for n in range(5)
            ]
            write_expressions(work / "expressions", f"{video_id}-{number}", texts)
        (work / "masklets").write_rows(f"{video_id}.parquet", rows, MASKLETS)
    write_videos(work, videos)
    write_objects(work, objects)
    return work.uri


def start(work: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """The server, and its port once it listens."""
    command = [sys.executable, "-m", "egoray.cli", "review", "--annotations", work, "--no-browser", "--port", str(port)]
    command += ["--double", "0", "--plant", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = server.stderr.readline() if server.stderr else ""
    if "http://" not in line:
        raise SystemExit(line or "the server did not start")
    return server, int(line.partition("127.0.0.1:")[2].partition("/")[0])


@contextmanager
def running(work: str) -> Iterator[int]:
    """The port of a server that ends with the block."""
    server, port = start(work)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


def timed(action: Callable[[], Any], times: int) -> dict[str, float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - began))
    return {"p50_ms": round(float(np.median(taken)), 1), "p95_ms": round(float(np.quantile(taken, 0.95)), 1)}


def speed(work: str, items: int) -> dict[str, Any]:
    with running(work) as port:
        client = Client(port)
        held = [client.next()]

        def advance() -> None:
            item = held[0]
            assert client.step(item, "decide", verdict="accepted")[0] == 200
            held[0] = client.next()
            found = client.get(f"/api/items/{held[0]}")[1]
            assert client.send("GET", f"/api/items/{held[0]}/frames/{found['worst'][0]}.jpg")[0] == 200

        figures = {"next": timed(advance, min(100, items // 2))}
        for name, query in {"list": "", "by status": "&status=accepted", "by text": "&text=thing+7", "by reviewer": "&reviewer=me"}.items():
            figures[name] = timed(lambda query=query: client.get(f"/api/items?limit=1000{query}"), 25)
    for name, found in figures.items():
        found["p95_over_limit"] = round(found["p95_ms"] / (NEXT_MS if name == "next" else LIST_MS), 2)
    return figures


def page(work: str) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with running(work) as port, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("#stage:not([hidden])")
        for _ in range(ACCEPTS):
            tab.wait_for_timeout(PAUSE_MS)
            tab.keyboard.press("a")
        tab.wait_for_timeout(PAUSE_MS)
        taken = tab.evaluate("performance.getEntriesByName('next item').map(entry => entry.duration)")
        tab.close(run_before_unload=False)
        browser.close()
    p95 = float(np.quantile(taken, 0.95))
    figures = {"accepts": len(taken), "p50_ms": round(float(np.median(taken)), 1), "p95_ms": round(p95, 1)}
    return figures | {"p95_over_limit": round(p95 / NEXT_MS, 2)}


def clients(work: str, items: int) -> dict[str, Any]:
    store = Store(os.path.join(work, "review", "review.db"))
    tokens = [new_token(store, f"person{n}") for n in range(5)]
    before = {line["key"] for line in map(json.loads, store.dump()) if line["type"] == "decision"}
    with store.writing() as db:
        db.execute("DELETE FROM leases")  # of the parts before
    confirmed, lock = [], threading.Lock()
    with running(work) as port:
        left = [row["id"] for row in _rows(store) if row["status"] == "open"]

        def decide(client: Client) -> None:
            while item := client.next():
                if client.step(item, "decide", verdict="accepted")[0] == 200:
                    with lock:
                        confirmed.append(item)

        began = time.monotonic()
        threads = [threading.Thread(target=decide, args=(Client(port, tokens[n % 5]),)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
    made = [line for line in map(json.loads, store.dump()) if line["type"] == "decision" and line["key"] not in before]
    each = Counter(line["item_id"] for line in made)
    with store.writing() as db:
        db.execute("DELETE FROM reviewers")
    store.close()
    return {
        "items": len(left),
        "not decided exactly once": sum(each[item] != 1 for item in left),
        "confirmed but lost": len(confirmed) - len(made),
        "decisions/s": round(len(made) / seconds, 1),
    }


def _rows(store: Store) -> list[dict[str, Any]]:
    with store.reading() as db:
        return [dict(row) for row in db.execute("SELECT * FROM items")]


def kills(work: str, times: int) -> dict[str, Any]:
    rng = random.Random(0)
    server, port = start(work)
    confirmed: dict[str, str] = {}
    stopping = threading.Event()

    def session() -> None:
        """What the page's outbox does: the same keys again until the server has said yes."""
        while not stopping.is_set():
            try:
                client = Client(port)
                item = client.next()
                while item and not stopping.is_set():
                    key, body = os.urandom(8).hex(), None
                    while body is None and not stopping.is_set():
                        try:
                            status, body = client.post(f"/api/items/{item}/decide", tab=client.tab, key=key, revision=0, verdict="accepted")
                            if status == 403:  # the server is a new one
                                client.csrf, body = client.get("/api/session")[1]["csrf"], None
                            elif status == 200:
                                confirmed[key] = item
                        except (OSError, http.client.HTTPException, ValueError):
                            time.sleep(0.05)
                    item = client.next()
                if not item:
                    client.post("/api/undo", tab=client.tab, key=os.urandom(8).hex())
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                time.sleep(0.05)

    person = threading.Thread(target=session)
    person.start()
    for _ in range(times):
        time.sleep(rng.uniform(0.05, 0.4))
        server.kill()
        server.wait()
        server, _ = start(work, port)
    stopping.set()
    person.join()
    server.terminate()
    server.wait()
    store = Store(os.path.join(work, "review", "review.db"))
    made = [line for line in map(json.loads, store.dump()) if line["type"] == "decision"]
    kept = {line["key"]: line["item_id"] for line in made}
    with store.reading() as db:
        whole = db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    store.close()
    return {
        "kills": times,
        "confirmed": len(confirmed),
        "confirmed but lost": sum(kept.get(key) != item for key, item in confirmed.items()),
        "made twice": len(made) - len(kept),
        "store is whole": whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=["speed", "page", "clients", "kills"])
    given = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "review", "items": given.items}
    with tempfile.TemporaryDirectory() as scratch:
        if given.only != "kills":
            os.mkdir(Path(scratch) / "large")
            work = write_folder(Path(scratch) / "large", given.items)
        if given.only in (None, "speed"):
            result["speed"] = speed(work, given.items)
        if given.only in (None, "page") and shutil.which("chromium"):
            result["page"] = page(work)
        if given.only in (None, "clients"):
            result["clients"] = clients(work, given.items)
        if given.only in (None, "kills"):
            os.mkdir(Path(scratch) / "small")
            result["kills"] = kills(write_folder(Path(scratch) / "small", 400), given.kills)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
