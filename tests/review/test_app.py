"""The review's server over a real socket: what it shows, what it changes, and what it refuses to strangers."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from egoray.core.masks import area, encode, iou
from egoray.core.reviewed import read_reviewed
from egoray.core.storage import Folder
from egoray.core.workfolder import write_expressions, write_videos
from egoray.errors import FormatError
from egoray.review.access import new_token
from egoray.review.annotations import Annotations
from egoray.schema import Expression, MaskRLE, VideoInfo
from support.annotated import appearances, masklet, write_annotated
from support.release import SIZE_HW, disc
from support.review_server import Client, serving

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'


def sentence(number, text, *, clip="clip-0", object_id="1", kind="short", review=""):
    ids = {"expression_id": f"{clip}-{object_id}-{number}", "video_id": clip, "object_id": object_id}
    return Expression(**ids, text=text, kind=kind, source="test", review=review)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    work = write_annotated(folder, titles=("red cup", "green cup"), keep=0.8)
    texts = [sentence(0, "the red cup"), sentence(1, HOSTILE, review="true of object 2 too")]
    write_expressions(Folder(work) / "expressions", "clip-0-1", texts)
    return work


@pytest.fixture
def work(annotated, tmp_path):
    shutil.copytree(annotated, tmp_path / "work")
    return str(tmp_path / "work")


@pytest.fixture
def served(work):
    with serving(work) as (review, port):
        yield review, Client(port)


@pytest.fixture(scope="module")
def shown(annotated, tmp_path_factory):
    """A server whose items no test changes."""
    copy = tmp_path_factory.mktemp("shown") / "work"
    shutil.copytree(annotated, copy)
    with serving(copy) as (review, port):
        yield review, Client(port)


def item_of(client, clip, object_id):
    return next(r["id"] for r in client.get("/api/items")[1]["rows"] if (r["video_id"], r["object_id"]) == (clip, object_id))


def test_an_item_is_all_that_the_page_needs(shown):
    _, client = shown
    status, item = client.get(f"/api/items/{item_of(client, 'clip-0', '1')}")
    truth = masklet("clip-0", 0, 0.8)
    assert status == 200
    assert item["size"] == list(SIZE_HW)
    assert {int(f): counts for f, counts in item["masks"].items()} == {f: rle.counts for f, rle in truth.masks.items()}
    assert item["appearances"] == [list(a) for a in appearances(0)]
    assert item["fps"] == 5
    assert [s["text"] for s in item["sentences"]] == ["the red cup", HOSTILE]
    assert item["lookalikes"] == [{"object_id": "2", "title": "green cup"}]
    assert item["draft"] == {"masks": {}, "locks": [], "texts": {}, "revision": 0, "undoable": False}
    assert "sentence in doubt" in item["reasons"]


def test_frames_are_those_of_the_annotation_grid(shown):
    _, client = shown
    item = item_of(client, "clip-0", "1")
    for frame in (0, 7, 22):
        status, headers, data = client.send("GET", f"/api/items/{item}/frames/{frame}.jpg")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        mask = disc(frame, 0)[0]
        red = (image[..., 0] > 160) & (image[..., 1] < 110)
        assert (red & mask).sum() / (red | mask).sum() > 0.85
    portrait = client.send("GET", f"/api/items/{item}/objects/2.jpg")[2]
    image = cv2.imdecode(np.frombuffer(portrait, np.uint8), cv2.IMREAD_COLOR_RGB)
    middle = image[image.shape[0] // 2, image.shape[1] // 2]
    assert middle[1] > 150 > middle[0]


@pytest.mark.parametrize("path", [
    "/api/items/nothing", "/api/items/{item}/frames/99.jpg", "/api/items/{item}/frames/-1.jpg",
    "/api/items/{item}/frames/..%2f..%2fetc.jpg",    "/api/items/..%2f..%2frun.json",
    "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/store.py", "/static//etc/passwd",
    "/api/items/{item}/objects/7.jpg", "/api/items/{item}/objects/..%2f1.jpg", "/docs", "/openapi.json", "/api/items?limit=0",
])  # fmt: skip
def test_what_is_not_there_is_refused(shown, path):
    _, client = shown
    status, _, data = client.send("GET", path.format(item=item_of(client, "clip-0", "1")))
    assert status in (404, 405, 409, 422)
    assert b"import" not in data
    assert b"root:" not in data


def test_text_from_outside_is_text_and_no_script_runs(shown):
    _, client = shown
    for path in ("/", "/static/main.js", "/api/items", "/api/session", "/nowhere"):
        _, headers, _ = client.send("GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, headers, data = client.send("GET", f"/api/items/{item_of(client, 'clip-0', '1')}")
    assert headers["Content-Type"] == "application/json"
    assert json.loads(data)["sentences"][1]["text"] == HOSTILE
    assert b"<script" not in client.send("GET", "/")[2].replace(b'<script type="module" src="/static/main.js"></script>', b"")


@pytest.mark.parametrize(("headers", "status"), [
    ({"Origin": "https://elsewhere.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"X-CSRF-Token": None}, 403),
    ({"X-CSRF-Token": "0" * 64}, 403),
    ({"X-CSRF-Token": "ä"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Length": "5000000"}, 413),
    ({"Host": "rebound.example"}, 421),
])  # fmt: skip
def test_another_site_changes_nothing(shown, headers, status):
    review, client = shown
    item = client.next()
    body = json.dumps({"tab": client.tab, "key": "k", "revision": 0, "verdict": "accepted"}).encode()
    assert client.send("POST", f"/api/items/{item}/decide", body, headers)[0] == status
    assert review.store.item(item)["status"] == "open"


def test_a_page_of_another_host_reads_nothing(shown):
    _, client = shown
    assert client.send("GET", "/api/items", headers={"Host": "rebound.example:80"})[0] == 421
    assert client.send("GET", "/", headers={"Host": ""})[0] in (400, 421)


def test_off_loopback_everybody_is_named_by_a_token(work):
    with serving(work, alone=None) as (review, port):
        token = {name: new_token(review.store, name) for name in ("ann", "ben")}
        stranger, guess = Client(port), Client(port, "x" * 43)
        for client in (stranger, guess):
            assert client.get("/api/items")[0] == 401
            assert client.post("/api/next", tab="t")[0] == 401
        assert stranger.post("/api/login", token="x" * 43)[0] == 401
        status, headers, _ = stranger.send("POST", "/api/login", {"token": token["ben"]})
        assert status == 200
        assert {"HttpOnly", "SameSite=strict"} <= set(headers["Set-Cookie"].split("; "))
        ann, ben = Client(port, token["ann"]), Client(port, token["ben"])
        assert [c.get("/api/session")[1]["reviewer"] for c in (ann, ben)] == ["ann", "ben"]
        item = ann.next()
        assert ben.next() != item
        status, body = ben.step(item, "decide", verdict="accepted")
        assert (status, body["error"]["code"]) == (409, "refused")
        assert ben.step(item, "edit", changes=[{"kind": "lock", "frame": 1, "on": True}])[0] == 409
        assert ben.step(item, "decide", headers={"X-CSRF-Token": ann.csrf}, verdict="accepted")[0] == 403
        ann.step(item, "edit", changes=[{"kind": "lock", "frame": 1, "on": True}])
        assert ben.get(f"/api/items/{item}")[1]["draft"]["locks"] == []  # what others drew is theirs
        assert ben.get("/api/export")[0] == 403  # it says who decided what, and what is planted
        new_token(review.store, "ann")
        assert ann.get("/api/items")[0] == 401
    stored = b"".join(p.read_bytes() for p in (Path(work) / "review").iterdir())
    assert not any(t.encode() in stored for t in token.values())


@pytest.mark.parametrize(("action", "body"), [
    ("decide", {"verdict": "undone"}), ("decide", {"verdict": "rejected"}), ("decide", {"verdict": "accepted", "seconds": -1}),
    ("decide", {"verdict": "accepted", "extra": 1}), ("decide", {"verdict": "accepted", "note": "a\x00b"}),
    ("edit", {"changes": []}), ("edit", {"changes": [{"kind": "mask", "frame": 99, "counts": None}]}),
    ("edit", {"changes": [{"kind": "mask", "frame": 1, "counts": "garbage"}]}),
    ("edit", {"changes": [{"kind": "mask", "frame": 1, "counts": "1"}]}),
    ("edit", {"changes": [{"kind": "lock", "frame": -1, "on": True}]}),
    ("edit", {"changes": [{"kind": "text", "expression_id": "of another", "text": "x"}]}),
    ("retrack", {"frame": 99}), ("retrack", {"frame": 1}), ("retrack", {"frame": 10}),
])  # fmt: skip
def test_a_bad_request_is_one_clear_error_and_changes_nothing(shown, action, body):
    review, client = shown
    item = item_of(client, "clip-0", "1")
    client.post(f"/api/items/{item}/open", tab=client.tab)
    status, answer = client.step(item, action, **body)
    assert status in (404, 422)
    assert answer["error"]["message"]
    assert review.store.draft(item, "ann").revision == 0
    assert review.store.item(item)["status"] == "open"


def test_clicks_mend_a_mask_and_the_tracker_takes_it_further(served):
    _, client = served
    item = item_of(client, "clip-0", "1")
    client.post(f"/api/items/{item}/open", tab=client.tab)
    frame, truth = 15, encode(disc(15, 0)[0])
    before = masklet("clip-0", 0, 0.8).masks[frame]
    rows = np.flatnonzero(disc(15, 0)[0].any(1))
    column = int(np.flatnonzero(disc(15, 0)[0].any(0)).mean())
    answer = client.post(f"/api/items/{item}/segment", frame=frame, inside=[[column, int(rows[-1]) - 1]], before=before.counts)[1]
    mended = MaskRLE(size=SIZE_HW, counts=answer["counts"])
    assert iou(before, truth) < 0.9 < iou(mended, truth)
    draft = client.step(item, "edit", changes=[{"kind": "mask", "frame": frame, "counts": mended.counts}])[1]["draft"]
    assert draft["locks"] == [frame]
    empty = encode(np.zeros(SIZE_HW, bool)).counts
    draft = client.step(item, "edit", draft["revision"], changes=[{"kind": "mask", "frame": 20, "counts": empty}])[1]["draft"]
    draft = client.step(item, "retrack", draft["revision"], frame=frame)[1]["draft"]
    assert sorted(map(int, draft["masks"])) == list(range(15, 23))  # to the end of the appearance, not beyond its start
    assert (draft["masks"]["15"], draft["masks"]["20"]) == (mended.counts, empty)  # what a person drew stays
    overlaps = [iou(MaskRLE(size=SIZE_HW, counts=draft["masks"][str(f)]), encode(disc(f, 0)[0])) for f in (16, 17, 18, 19)]
    assert min(overlaps) > 0.8
    draft = client.step(item, "retrack", draft["revision"], frame=frame, back=True)[1]["draft"]
    assert sorted(map(int, draft["masks"])) == list(range(13, 23))
    draft = client.step(item, "undo-edit", draft["revision"])[1]["draft"]
    assert sorted(map(int, draft["masks"])) == list(range(15, 23))
    assert client.step(item, "decide", draft["revision"], verdict="accepted")[1] == {"verdict": "fixed"}


def test_a_box_alone_makes_a_mask(shown):
    _, client = shown
    mask, (x, y, width, height) = disc(4, 1)
    answer = client.post(f"/api/items/{item_of(client, 'clip-0', '2')}/segment", frame=4, box=[x, y, x + width, y + height])[1]
    assert iou(MaskRLE(size=SIZE_HW, counts=answer["counts"]), encode(mask)) > 0.8


def test_a_sentence_is_checked_while_it_is_written(shown):
    _, client = shown
    item = item_of(client, "clip-0", "1")
    about = {"expression_id": "clip-0-1-1"}
    assert client.post(f"/api/items/{item}/check", **about, text="the crimson cup by the wall")[1] == {"problems": [], "also": []}
    assert "does not name the object" in client.post(f"/api/items/{item}/check", **about, text="it")[1]["problems"][0]
    assert "says the same" in client.post(f"/api/items/{item}/check", **about, text="the red cup")[1]["problems"][0]
    assert client.post(f"/api/items/{item}/check", **about, text="the green cup")[1]["also"] == [{"object_id": "2", "title": "green cup"}]
    assert client.post(f"/api/items/{item}/check", **about, text="the red cup beside the green cup")[1]["also"] == []


def test_what_was_decided_reaches_the_builder_when_the_server_stops(work):
    with serving(work) as (_, port):
        client = Client(port)
        item = item_of(client, "clip-0", "1")
        client.post(f"/api/items/{item}/open", tab=client.tab)
        changes = [{"kind": "text", "expression_id": "clip-0-1-1", "text": " the  cup by the\nwall "}]
        draft = client.step(item, "edit", changes=changes)[1]["draft"]
        client.step(item, "decide", draft["revision"], verdict="accepted")
        client.step(client.next(), "decide", verdict="rejected", reason="4", note=HOSTILE)
        lines = client.send("GET", "/api/export")[2].decode().splitlines()
    found = read_reviewed(Folder(work))
    assert found.items["clip-0", "1"]["status"] == "fixed"
    assert found.texts == {"clip-0-1-1": "the cup by the wall"}
    assert sorted(row["note"] for row in found.items.values()) == ["", f"flickers or jumps: {HOSTILE}"]
    assert Counter(json.loads(line)["type"] for line in lines) == {"item": 4, "edit": 1, "decision": 2}


def test_tables_that_cannot_be_written_are_said_and_lose_no_verdict(work):
    with serving(work) as (review, port):
        client = Client(port)
        until(lambda: (Path(work) / "review" / "items.parquet").is_file())
        (Path(work) / "review" / "items.parquet").unlink()
        (Path(work) / "review" / "items.parquet").mkdir()
        item = client.next()
        assert client.step(item, "decide", verdict="accepted")[0] == 200
        until(lambda: "cannot be written" in client.get("/api/items")[1]["problem"])
        assert review.store.item(item)["status"] == "accepted"


def until(true):
    stop = time.monotonic() + 15
    while not true():
        assert time.monotonic() < stop
        time.sleep(0.05)


def test_a_planted_item_looks_like_any_other_and_lies_beside_the_object(work):
    with serving(work, plant=1.0) as (review, port):
        client = Client(port)
        real = {row["id"] for row in client.get("/api/items")[1]["rows"]}
        seen, held = [], []
        while item := client.next(held):
            held = [item]
            seen.append(item)
            body = client.get(f"/api/items/{item}")[1]
            assert not {"planted", "kind"} & body.keys()
            truth = masklet(body["video_id"], int(body["object_id"]) - 1, 0.8)
            overlaps = [iou(MaskRLE(size=SIZE_HW, counts=counts), truth.masks[int(f)]) for f, counts in body["masks"].items()]
            assert (max(overlaps) < 0.5) if item not in real else (min(overlaps) == 1)
            client.step(item, "decide", verdict="rejected", reason="1") if item not in real else client.step(
                item, "decide", verdict="accepted"
            )
        assert len(real) == 4
        assert len(seen) == 8
        figures = client.get("/api/agreement")[1]["reviewers"][0]
        assert (figures["decided"], figures["planted"], figures["caught"]) == (4, 4, 4)
        assert review.store.export() == {"accepted": 4}


def test_agreement_between_two_people(work):
    with serving(work, alone=None, double=1.0) as (review, port):
        ann, ben = (Client(port, new_token(review.store, name)) for name in ("ann", "ben"))
        for client, verdicts in ((ann, "ARAF"), (ben, "ARRA")):
            for row, verdict in zip(
                sorted(client.get("/api/items")[1]["rows"], key=lambda r: (r["video_id"], r["object_id"])), verdicts, strict=True
            ):
                client.post(f"/api/items/{row['id']}/open", tab=client.tab)
                revision = 0
                if verdict == "F":
                    counts = encode(disc(5, 1)[0]).counts
                    revision = client.step(row["id"], "edit", changes=[{"kind": "mask", "frame": 5, "counts": counts}])[1]["draft"][
                        "revision"
                    ]
                more = {"verdict": "rejected", "reason": "1"} if verdict == "R" else {"verdict": "accepted"}
                assert client.step(row["id"], "decide", revision, seconds=3, **more)[0] == 200
        figures = ann.get("/api/agreement")[1]
        truth = masklet("clip-1", 1, 0.8).masks
        overlap = (len(truth) - 1 + iou(truth[5], encode(disc(5, 1)[0]))) / len(truth)
        # agreed on 2 of 4; by chance: accepted 2/4 * 2/4, rejected 1/4 * 2/4 = 3/8
        assert figures["pairs"] == [
            {"a": "ann", "b": "ben", "items": 4, "kappa": pytest.approx((1 / 2 - 3 / 8) / (5 / 8)), "mask_iou": pytest.approx(overlap)}
        ]
        assert [(r["reviewer"], r["seconds"]) for r in figures["reviewers"]] == [("ann", 3), ("ben", 3)]
        assert area(truth[5]) < area(encode(disc(5, 1)[0]))


def test_twenty_tabs_over_http_have_one_writer_an_item(tmp_path):
    work = write_annotated(tmp_path, clips=12, titles=("red cup", "green cup", "blue cup"))
    with serving(work, alone=None) as (review, port):
        clients = [Client(port, token) for token in [new_token(review.store, f"person{n}") for n in range(5)] for _ in range(4)]
        answers = []

        def decide(client):
            while item := client.next():
                answers.append((client.step(item, "decide", verdict="skipped" if client is clients[0] else "accepted")[0], item))

        threads = [threading.Thread(target=decide, args=(c,)) for c in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = [json.loads(line) for line in review.store.dump()]
    assert {status for status, _ in answers} == {200}
    decided = Counter(line["item_id"] for line in history if line["type"] == "decision" and line["verdict"] == "accepted")
    assert set(decided.values()) == {1}
    assert len([line for line in history if line["type"] == "decision"]) == len(answers)


def test_a_clip_that_is_gone_is_an_error_with_the_remedy(work):
    with serving(work) as (review, port):
        client = Client(port)
        video = review.annotations.videos["clip-0"]
        review.annotations.videos["clip-0"] = replace(video, uri="/nowhere.mp4")
        status, _, data = client.send("GET", f"/api/items/{item_of(client, 'clip-0', '1')}/frames/3.jpg")
        assert status == 422
        assert "not found" in json.loads(data)["error"]["message"]


def test_a_video_id_that_leads_out_of_the_folder_is_refused(work):
    videos = Folder(work)
    rows = list((videos / "videos").read_rows())
    write_videos(videos, [VideoInfo(**rows[0] | {"video_id": "../clip-0"})])
    with pytest.raises(FormatError, match="is no file name"):
        Annotations(work, str(Path(work).parent))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_confirmed_decision_is_lost_by_a_server_killed_twenty_times():
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, str(root / "benchmarks" / "review.py"), "--only", "kills"]
    figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)["kills"]
    assert figures.pop("confirmed") > 100
    assert figures == {"kills": 20, "confirmed but lost": 0, "made twice": 0, "store is whole": True}
