"""The endpoint on a real socket in a thread of the test, and grounding models that answer by rule."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import uvicorn

from egoray.config import ServeConfig
from egoray.core.masks import encode
from egoray.core.video_writer import VideoWriter
from egoray.models.base import Detection, Grounded, Judged
from egoray.serve.api import Service, create_app
from egoray.serve.asking import LocalGrounding
from egoray.serve.decoder import Decoder


class Paced:
    """Finds a square in every other frame, one frame at a time and as slowly as told; counts the frames that it looked at."""

    name = "paced"

    def __init__(self, seconds_a_frame=0.0):
        self.seconds_a_frame, self.looked = seconds_a_frame, 0

    def stream(self, clip, texts):
        height, width = clip.size_hw
        mask = np.zeros((height, width), bool)
        mask[5:15, 10:30] = True
        rle = encode(mask)
        answers = [Grounded(masks={}, scores={}, detection=(0, Detection(box=(10.0, 5.0, 30.0, 15.0), score=0.8))) for _ in texts]
        for frame, _ in clip.frames():
            self.looked += 1
            time.sleep(self.seconds_a_frame)
            for n, text in enumerate(texts):
                there = frame % 2 == 0 and "nothing" not in text
                answers[n].scores[frame] = 0.9 if there else 0.1
                if there:
                    answers[n].masks[frame] = rle
                yield Judged(text_index=n, frame=frame, mask=rle if there else None, score=answers[n].scores[frame])
        return answers

    def ground(self, clip, texts):
        raise AssertionError("it streams")


def write_clip(path, frames=30, size_hw=(64, 96), fps=30):
    rng = np.random.default_rng(0)
    with VideoWriter(str(path), fps, size_hw) as video:
        for _ in range(frames):
            video.write(rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8))
    return path


@contextmanager
def serving(grounder, config=None, token="", **parts):
    """The base URL of the endpoint, answering until the body ends."""
    config = config or ServeConfig(samples=False)
    decoder = Decoder(config)
    models = {"paced": LocalGrounding(grounder, decoder, "paced", "by rule")}
    make = {name: build(decoder, config) for name, build in parts.items()}
    with listening(create_app(Service(models, config, decoder, **make), token)) as url:
        yield url


@contextmanager
def listening(app):
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
