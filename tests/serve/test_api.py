"""The endpoint over a real socket: answers, streams, refusals, and a client that hangs up."""

import json
import socket
import threading
import time

import httpx2
import pytest

from egoray.config import ServeConfig
from egoray.core.masks import from_json
from egoray.serve.segmenting import LocalSegmenting
from support.served import Paced, serving, write_clip


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "v.mp4").read_bytes()


@pytest.fixture(scope="module")
def url():
    with serving(Paced()) as url:
        yield url


def ask(url, video, data=None, **options):
    return httpx2.post(f"{url}/v1/ground", files={"video": ("v.mp4", video)}, data=data or {"text": "a mug"}, timeout=30, **options)


def events(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_masks_of_each_sentence_with_native_frames_and_times(url, video):
    answer = ask(url, video, {"text": ["a mug", "nothing"], "fps": "10"})
    assert answer.status_code == 200
    found, absent = answer.json()["results"]
    assert (found["text"], absent["frames"], absent["appearances"]) == ("a mug", [], [])
    assert [frame["frame"] for frame in found["frames"]] == [0, 6, 12, 18, 24]
    assert found["frames"][1]["time_s"] == pytest.approx(0.2, abs=0.001)
    assert from_json(found["frames"][0]["rle"], "answer").size == (64, 96)
    assert found["frames"][0]["box_xyxy"] == [10, 5, 30, 15]
    assert found["appearances"][0] == {"start_s": 0.0, "stop_s": pytest.approx(0.1, abs=0.001)}
    assert found["detection"] == {"frame": 0, "box_xyxy": [10, 5, 30, 15], "score": 0.8}
    assert set(answer.json()["timing_s"]) == {"upload", "look", "wait", "decode", "model", "total"}


def test_a_stretch_keeps_the_grid_and_few_frames_lie_further_apart(url, video):
    part = ask(url, video, {"text": "a mug", "fps": "10", "start_s": "0.35", "stop_s": "0.75"}).json()
    assert [frame["frame"] for frame in part["results"][0]["frames"]] == [12, 18]
    few = ask(url, video, {"text": "a mug", "max_frames": "4", "fps": "30", "stream": "true"})
    assert events(few)[0]["num_frames"] <= 4


@pytest.mark.parametrize(("output", "has"), [("rle", {"rle"}), ("boxes", set()), ("png", {"png"})])
def test_masks_come_as_asked_for(url, video, output, has):
    (frame, *_) = ask(url, video, {"text": "a mug", "output": output}).json()["results"][0]["frames"]
    assert set(frame) == {"frame", "time_s", "box_xyxy", "score"} | has


def test_a_stream_says_the_same_as_the_whole_answer(url, video):
    whole = ask(url, video, {"text": ["a mug", "nothing"]}).json()
    start, *middle, done = events(ask(url, video, {"text": ["a mug", "nothing"], "stream": "true"}))
    assert (start["event"], done["event"]) == ("start", "done")
    assert (start["texts"], start["size_hw"], start["fps"]) == (["a mug", "nothing"], [64, 96], 5.0)
    frames = [{k: v for k, v in e.items() if k not in ("event", "text_index")} for e in middle if e["event"] == "frame"]
    assert frames == whole["results"][0]["frames"]
    assert [r["appearances"] for r in done["results"]] == [r["appearances"] for r in whole["results"]]
    assert next(e for e in reversed(middle) if e["event"] == "progress") == {"event": "progress", "done": 10, "total": 10}


def test_masks_arrive_while_the_model_works_and_a_client_that_goes_away_frees_it(video):
    slow = Paced(0.15)
    with serving(slow) as url:
        with httpx2.stream(
            "POST", f"{url}/v1/ground", files={"video": ("v.mp4", video)}, data={"text": "a mug", "fps": "30", "stream": "true"}
        ) as answer:
            lines = (json.loads(line) for line in answer.iter_lines())
            assert next(event for event in lines if event["event"] == "frame")["frame"] == 0
            assert slow.looked < 15
        time.sleep(1)
        looked = slow.looked
        time.sleep(0.5)
        assert slow.looked == looked < 25
        assert ask(url, video, {"text": "a mug", "max_frames": "1"}).status_code == 200


def test_a_client_that_hangs_up_on_a_whole_answer_frees_the_model(video):
    slow = Paced(0.15)
    with serving(slow) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{url}/v1/ground",
                files={"video": ("v.mp4", video)},
                data={"text": "a mug", "fps": "30"},
                timeout=httpx2.Timeout(10, read=0.8),
            )
        time.sleep(1)
        looked = slow.looked
        time.sleep(0.5)
        assert slow.looked == looked < 25


def test_images_are_a_clip_a_second_apart(url):
    import cv2
    import numpy as np

    images = [cv2.imencode(".png", np.full((64, 96, 3), shade, np.uint8))[1].tobytes() for shade in (10, 120, 240)]
    answer = httpx2.post(f"{url}/v1/ground", files=[("frames", ("i.png", image)) for image in images], data={"text": "a mug"}, timeout=30)
    assert [(f["frame"], f["time_s"]) for f in answer.json()["results"][0]["frames"]] == [(0, 0.0), (2, 2.0)]


def test_one_question_too_many_is_refused_at_once(video):
    with serving(Paced(0.1), ServeConfig(samples=False, max_waiting=2)) as url:
        first = [threading.Thread(target=ask, args=(url, video)) for _ in range(2)]
        for thread in first:
            thread.start()
        time.sleep(0.4)
        started = time.monotonic()
        refused = ask(url, video)
        assert time.monotonic() - started < 0.2
        assert (refused.status_code, refused.headers["Retry-After"], refused.json()["error"]["code"]) == (429, "1", "busy")
        for thread in first:
            thread.join()
        assert ask(url, video, {"text": "a mug", "max_frames": "1"}).status_code == 200


def test_what_is_offered(url):
    assert httpx2.get(f"{url}/healthz").json()["status"] == "ready"
    assert httpx2.get(f"{url}/v1/models").json() == {
        "models": [{"name": "paced", "summary": "by rule", "ready": True}],
        "default": "paced",
        "max_texts": 16,
    }
    assert httpx2.get(f"{url}/v1/samples").json() == {"samples": []}
    page = httpx2.get(url)
    assert (page.status_code, page.headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert "/v1/ground" in httpx2.get(f"{url}/openapi.json").json()["paths"]


def test_health_waits_for_the_weights(video):
    class Loading(Paced):
        pass

    from egoray.serve.asking import LocalGrounding

    async def not_yet(self):
        return False

    ready, LocalGrounding.ready = LocalGrounding.ready, not_yet
    try:
        with serving(Loading()) as url:
            answer = httpx2.get(f"{url}/healthz")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    finally:
        LocalGrounding.ready = ready


def test_a_model_that_fails_is_an_error_without_its_insides(video):
    class Broken(Paced):
        def stream(self, clip, texts):
            next(iter(clip.frames()))
            raise RuntimeError("/secret/path key=abc")
            yield

    with serving(Broken()) as url:
        whole = ask(url, video)
        streamed = events(ask(url, video, {"text": "a mug", "stream": "true"}))
        assert (whole.status_code, whole.json()["error"]["code"]) == (500, "internal")
        assert streamed[-1] == {"event": "error", **whole.json()}
        assert "secret" not in whole.text


def test_a_box_is_followed_and_a_session_asks_again_without_the_video(video):
    from egoray.models.grabcut import GrabCut

    with serving(Paced(), segmenting=lambda decoder, config: LocalSegmenting(GrabCut(), decoder, config)) as url:
        files = {"video": ("v.mp4", video)}
        first = httpx2.post(f"{url}/v1/segment", files=files, data={"box": "10,10,60,50", "frame": "6"}, timeout=30)
        assert first.status_code == 200, first.text
        (frame,) = first.json()["frames"]
        assert (frame["frame"], from_json(frame["rle"], "answer").size) == (6, (64, 96))
        again = httpx2.post(f"{url}/v1/segment", json={"session": first.json()["session"], "frame": 6, "box": [10, 10, 60, 50]}, timeout=30)
        assert again.json()["frames"] == first.json()["frames"]
        for wrong, status in (
            ({"session": "no", "box": [1, 1, 2, 2]}, 404),
            ({"session": first.json()["session"]}, 422),
            ({"session": first.json()["session"], "frame": 99, "box": [1, 1, 2, 2]}, 422),
            ({"session": first.json()["session"], "points": [[1, 1]], "labels": [1, 0]}, 422),
        ):
            assert httpx2.post(f"{url}/v1/segment", json=wrong, timeout=30).status_code == status, wrong


def test_half_a_request_does_not_hold_a_place_for_ever():
    with serving(Paced(), ServeConfig(samples=False, upload_stall_s=0.3)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as half:
            half.sendall(
                f"POST /v1/ground HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                "Content-Length: 1000\r\n\r\n--b\r\n".encode()
            )
            assert b" 408 " in half.recv(4096).split(b"\r\n")[0]
