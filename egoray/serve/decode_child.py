"""The process that touches hostile bytes: forks of it decode under limits, each one file at a time.

A few forks always wait, so that no job waits for a fork. A fork that gives frames dies with that job, one that met anything odd in a
file, too. None holds a secret: the environment has search paths alone. A job arrives on its own socket as one JSON message; frames
go back as a number and raw pixels, an error as its kind and a line without the path. Who gives frames ends when the asker hangs up.
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
_FORKS, _LOOKS, _PAUSE_S = 4, 50, 0.1
_LEAVES, _OVER = b"l", b"o"
_WARM = os.path.join(os.path.dirname(__file__), "warm.m4v")


class TooMuch(Exception):
    """More pixels, frames or seconds than the service takes."""


def main(control_fd: int) -> None:
    """Keep forks waiting for connections that come over the control socket, until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Image.init()
    control = socket.socket(fileno=control_fd)
    forks: set[int] = set()
    while True:
        while len(forks) < _FORKS:
            forks.add(_fork(control))
        for said in select.select(forks, [], [])[0]:
            forks.discard(said)
            last = os.read(said, 1)
            os.close(said)
            if last == _OVER:
                return
            if not last:  # killed: by a limit, perhaps by what it was given
                time.sleep(_PAUSE_S)


def _fork(control: socket.socket) -> int:
    """A fork that waits for jobs; from what is returned it says when another has to take its place, or none."""
    said, say = os.pipe()
    if os.fork() == 0:
        try:
            with suppress(FormatError):
                survey(_WARM, SHOWN)  # so that FFmpeg is in memory when a job comes
            for _ in range(_LOOKS):
                if not _job(control, say):
                    break
            else:
                os.write(say, _LEAVES)
        finally:
            os._exit(0)
    os.close(say)
    return said


def _job(control: socket.socket, say: int) -> bool:
    """Wait for a job and do it; whether this process may do another: a look at a sound file leaves it as it was."""
    message, fds, _, _ = socket.recv_fds(control, 1, 1)
    if not message:
        os.write(say, _OVER)
        return False
    with Connection(fds[0]) as connection:
        job = json.loads(connection.recv_bytes())
        is_look = job["do"] == "look"
        if not is_look:
            os.write(say, _LEAVES)
            control.close()
        _limit(job["memory_mb"] << 20, job["cpu_s"], for_good=not is_look)
        is_sound = _done(connection, job)
    if is_look and not is_sound:
        os.write(say, _LEAVES)
    return is_look and is_sound


def _done(connection: Connection, job: Mapping[str, Any]) -> bool:
    """Do the job; whether there was nothing to refuse."""
    path = job["path"]
    try:
        if job["do"] == "look":
            _send(connection, _look(path, job["caps"]))
            return True
        threading.Thread(target=_die_with, args=(connection,), daemon=True).start()
        read = read_frames_backward if job["backward"] else read_frames
        for frame, image in decode_ahead(read(path, job["wanted"], threads=2), _AHEAD):
            _send(connection, {"frame": frame, "hw": image.shape[:2]})
            connection.send_bytes(image.data.cast("B"))
        _send(connection, {"end": True})
        return True
    except TooMuch as error:
        _send(connection, {"error": "too_large", "message": str(error)})
    except FormatError as error:
        _send(connection, {"error": "damaged", "message": str(error).replace(path, SHOWN)})
    except MemoryError:
        _send(connection, {"error": "too_large", "message": f"{SHOWN}: needs more memory to decode than the service gives"})
    return False


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


def _limit(memory_bytes: int, cpu_s: int, *, for_good: bool) -> None:
    """Memory beside what the parent has, and CPU seconds from now on; ``for_good``: also for what this process might want later."""
    with open(f"/proc/{os.getppid()}/statm") as stat:
        already = int(stat.read().split()[0]) * resource.getpagesize()
    used_s = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for what, most in ((resource.RLIMIT_AS, already + memory_bytes), (resource.RLIMIT_CPU, int(used_s) + cpu_s)):
        resource.setrlimit(what, (most, most + 1 if for_good else resource.getrlimit(what)[1]))
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
