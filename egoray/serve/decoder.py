"""Videos from outside, decoded in another process: what they hold, and their frames as a clip that models read.

A decoder keeps one small process warm, of which a fork does each pass over a video; see `decode_child`. What goes wrong there, a
crash and a limit included, is a `Refused` here.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from egoray.config import ServeConfig
from egoray.core.video import Image
from egoray.serve.refusals import Refused

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG")
_STATUS = {"too_large": 413, "damaged": 422}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a video holds: frames a second, (height, width) as displayed, and the time of each native frame."""

    fps: float
    size_hw: tuple[int, int]
    times_s: tuple[float, ...]


class Decoder:
    """Runs jobs in forks of one warm process, which is started with the first job, and again if it died."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def warm(self) -> None:
        """Start the process, so that no question waits for it."""
        with self._lock:
            self._start()

    def look(self, path: str) -> Looked:
        """What the file, or the folder of images, holds.

        Raises:
            Refused: 413 if it is more than the service takes, 422 if it is no video or damaged.
        """
        config = self._config
        caps = {"pixels": config.max_pixels, "frames": config.max_native_frames, "seconds": config.max_duration_s}
        with self._ask({"do": "look", "path": path, "caps": caps, "cpu_s": config.look_cpu_s}) as connection:
            found = _answer(connection, 2 * config.look_cpu_s)
        return Looked(fps=found["fps"], size_hw=tuple(found["size_hw"]), times_s=tuple(found["times_s"]))

    def frames(self, path: str, wanted: Sequence[int], *, backward: bool = False) -> Iterator[tuple[int, Image]]:
        """The native frames of these ascending numbers, last one first if ``backward``; closing the iterator ends the work.

        Raises:
            Refused: 422 if a frame cannot be decoded, 413 if that takes more than the limits give.
        """
        stall_s = self._config.decode_cpu_s
        job = {"do": "frames", "path": path, "wanted": list(wanted), "backward": backward, "cpu_s": self._config.decode_cpu_s}
        with self._ask(job) as connection:
            while "end" not in (head := _answer(connection, stall_s)):
                height, width = head["hw"]
                image = np.empty((height, width, 3), np.uint8)
                _received(connection, stall_s, partial(connection.recv_bytes_into, image.data.cast("B")))
                yield head["frame"], image

    def close(self) -> None:
        """End the process; jobs under way go on."""
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.wait()
                self._control = self._process = None

    def _ask(self, job: dict[str, Any]) -> Connection:
        ours, theirs = socket.socketpair()
        with self._lock:
            control = self._start()
            try:
                socket.send_fds(control, [b"j"], [theirs.fileno()])
            except OSError:
                self._process = None
                socket.send_fds(self._start(), [b"j"], [theirs.fileno()])
        theirs.close()
        connection = Connection(ours.detach())
        connection.send_bytes(json.dumps(job | {"memory_mb": self._config.decode_memory_mb}).encode())
        return connection

    def _start(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        if self._control is not None:
            self._control.close()
        self._control, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "egoray.serve.decode_child", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        return self._control


class DecodedClip:
    """Some native frames of a video as a `Clip`: frame f of the clip is native frame ``natives[f]``.

    Args:
        decoder: who decodes.
        path: a video file, or a folder of images.
        natives: ascending native frames.
        size_hw: (height, width) of a frame.
        on_frame: called before each frame is handed out; may raise to end the work.
    """

    def __init__(self, decoder: Decoder, path: str, natives: Sequence[int], size_hw: tuple[int, int], on_frame: Callable[[], None]) -> None:
        self._decoder, self._path, self._natives, self._on_frame = decoder, path, natives, on_frame
        self._number = {native: f for f, native in enumerate(natives)}
        self.num_frames, self.size_hw = len(natives), size_hw

    def frames(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, Image]]:
        """See `Clip.frames`."""
        return self._read(range(self.num_frames) if wanted is None else wanted)

    def backward(self, start: int, stop: int) -> Iterator[tuple[int, Image]]:
        """See `Clip.backward`."""
        return self._read(range(start, stop), backward=True)

    def _read(self, wanted: Sequence[int], backward: bool = False) -> Iterator[tuple[int, Image]]:
        if not wanted:
            return
        for native, image in self._decoder.frames(self._path, [self._natives[f] for f in wanted], backward=backward):
            if image.shape[:2] != self.size_hw:
                raise Refused(422, "damaged", "the frames are not of one size; send frames of one video")
            self._on_frame()
            yield self._number[native], image


def _answer(connection: Connection, within_s: float) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(_received(connection, within_s, connection.recv_bytes))
    if kind := message.get("error"):
        raise Refused(_STATUS[kind], kind, message["message"])
    return message


def _received(connection: Connection, within_s: float, receive: Callable[[], Any]) -> Any:
    try:
        if connection.poll(within_s):
            return receive()
    except (EOFError, OSError):
        raise Refused(422, "damaged", "the video cannot be decoded within the service's limits of time and memory; re-encode it") from None
    raise Refused(413, "too_large", "the video takes too long to decode; send a shorter or smaller one")
