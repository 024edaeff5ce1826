"""The process that touches hostile bytes: each job is done by a fork of it, which decodes under limits and dies with the job.

Two forks are always there, waiting for the next jobs, so that no job waits for its fork. None holds a secret: the environment has
search paths alone. A job arrives on its own socket as one JSON message; frames go back as a number and raw pixels, an error as its
kind and a line without the path. A fork ends when the asker hangs up.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from egoray.core.video import decode_ahead, image_names, read_frames, read_frames_backward, survey
from egoray.errors import FormatError

SHOWN = "the video"
_AHEAD = 4
_SPARES, _PAUSE_S = 2, 0.1
_TAKEN, _OVER = b"t", b"o"
_WARM = os.path.join(os.path.dirname(__file__), "warm.m4v")


class TooMuch(Exception):
    """More pixels, frames or seconds than the service takes."""


def main(control_fd: int) -> None:
    """Keep a fork waiting for the next connection that comes over the control socket, until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Image.init()
    control = socket.socket(fileno=control_fd)
    waiting: set[int] = set()
    while True:
        while len(waiting) < _SPARES:
            waiting.add(_fork(control))
        for said in select.select(waiting, [], [])[0]:
            waiting.discard(said)
            last = os.read(said, 1)
            os.close(said)
            if last == _OVER:
                return
            if not last:  # killed while it waited
                time.sleep(_PAUSE_S)


def _fork(control: socket.socket) -> int:
    """A fork that waits for a job; what it says when it has one, or when there will be none, is to be read from here."""
    said, say = os.pipe()
    if os.fork() == 0:
        try:
            with suppress(FormatError):
                survey(_WARM, SHOWN)  # so that FFmpeg is in memory when a job comes
            message, fds, _, _ = socket.recv_fds(control, 1, 1)
            control.close()
            os.write(say, _TAKEN if message else _OVER)
            os.close(say)
            if message:
                _serve(Connection(fds[0]))
        finally:
            os._exit(0)
    os.close(say)
    return said


def _serve(connection: Connection) -> None:
    job = json.loads(connection.recv_bytes())
    _limit(job["memory_mb"] << 20, job["cpu_s"])
    path = job["path"]
    try:
        if job["do"] == "look":
            _send(connection, _look(path, job["caps"]))
            return
        threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
        read = read_frames_backward if job["backward"] else read_frames
        for frame, image in decode_ahead(read(path, job["wanted"], threads=2), _AHEAD):
            _send(connection, {"frame": frame, "hw": image.shape[:2]})
            connection.send_bytes(image.data.cast("B"))
        _send(connection, {"end": True})
    except TooMuch as error:
        _send(connection, {"error": "too_large", "message": str(error)})
    except FormatError as error:
        _send(connection, {"error": "damaged", "message": str(error).replace(path, SHOWN)})
    except MemoryError:
        _send(connection, {"error": "too_large", "message": f"{SHOWN}: needs more memory to decode than the service gives"})


def _look(path: str, caps: Mapping[str, float]) -> dict[str, Any]:
    """What the video holds; the container's own claims are checked before anything is decoded."""
    if os.path.isdir(path):
        for name in image_names(path):
            try:
                with Image.open(os.path.join(path, name), formats=("JPEG", "PNG")) as image:
                    _check_pixels(image.size, caps)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                kind = TooMuch if isinstance(error, Image.DecompressionBombError) else FormatError
                raise kind("a frame is not a jpg or png image of a size that the service takes; replace it") from error

    def check_claims(container: InputContainer, stream: VideoStream) -> None:
        _check_pixels((stream.width, stream.height), caps)
        seconds = (container.duration or 0) / av.time_base
        if stream.frames > caps["frames"] or seconds > caps["seconds"]:
            raise TooMuch(
                f"{SHOWN}: claims {stream.frames} frames and {seconds:.0f} s; at most {caps['frames']} frames "
                f"and {caps['seconds']:g} s are taken, cut it into parts"
            )

    try:
        info, times_s = survey(path, SHOWN, check_claims)
    except FormatError as error:
        if "cannot be opened" in str(error):
            raise FormatError(f"{SHOWN}: not a video file, or cut short; send an mp4, mov, webm, mkv or avi file") from error
        raise
    _check_pixels((info.width_px, info.height_px), caps)
    if info.num_frames > caps["frames"]:
        raise TooMuch(f"{SHOWN}: holds {info.num_frames} frames; at most {caps['frames']} are taken, cut it into parts")
    return {"fps": info.fps, "size_hw": [info.height_px, info.width_px], "times_s": times_s[: info.num_frames]}


def _check_pixels(size: tuple[int, int], caps: Mapping[str, float]) -> None:
    width, height = size
    if width * height > caps["pixels"]:
        raise TooMuch(f"{SHOWN}: frames of {width}x{height}; at most {caps['pixels']} pixels are taken, scale it down")


def _limit(memory_bytes: int, cpu_s: int) -> None:
    with open("/proc/self/statm") as stat:
        already = int(stat.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (already + memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _die_with(connection: Connection) -> None:
    """The asker sends nothing more, so whatever wakes this is the end of the connection."""
    connection.poll(None)
    os._exit(0)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
