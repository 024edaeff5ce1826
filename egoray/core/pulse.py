"""A run's sign of life: ``progress.json`` in its work folder, for whoever asks from outside how far it is."""

from __future__ import annotations

import heapq
import threading
import time
from contextlib import suppress
from typing import Any, Self

from egoray.core.storage import Folder
from egoray.errors import ConfigError

EVERY_S = 2.0
"""Seconds between two writes while things happen."""
STILL_S = 10.0
"""Seconds between two writes while nothing does; a folder that is silent for several of these has lost its run."""
SLOWEST = 5


class Pulse:
    """Writes ``progress.json`` while its body runs and says at its end how it ended.

    The file holds the latest state that was told, and beside it {"stage", "began", "at" (seconds since 1970), "ended" (None,
    "finished" or "failed"), "message", "slowest": [{"unit", "seconds", "frames"}]}. A write that fails is left out: the run's
    own writes will say what is wrong with the folder.

    Args:
        out: the work folder.
        stage: whose.
    """

    def __init__(self, out: Folder, stage: str) -> None:
        self._out, self._lock, self._over = out, threading.Lock(), threading.Event()
        self._state: dict[str, Any] = {"stage": stage, "began": time.time(), "ended": None, "message": ""}
        self._slowest: list[tuple[float, str, int]] = []
        self._told = 0

    def __enter__(self) -> Self:
        self._out.sweep()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._thread.join()
        message = " ".join(str(error).split()) or kind.__name__ if kind else ""
        self._state |= {"ended": "failed" if kind else "finished", "message": message}
        self._write()

    def tell(self, state: dict[str, Any]) -> None:
        """The run's counts; its "unit", if any, is a finished unit's {"unit", "seconds", "frames"}, of which the slowest are kept."""
        with self._lock:
            self._state |= {name: value for name, value in state.items() if name != "unit"}
            if (unit := state.get("unit")) and "seconds" in unit:
                heapq.heappush(self._slowest, (unit["seconds"], unit["unit"], unit["frames"]))
                if len(self._slowest) > SLOWEST:
                    heapq.heappop(self._slowest)
            self._told += 1

    def _beat(self) -> None:
        told, wrote = 0, time.monotonic()
        while not self._over.wait(EVERY_S):
            if self._told != told or time.monotonic() - wrote > STILL_S:
                told, wrote = self._told, time.monotonic()
                self._write()

    def _write(self) -> None:
        with self._lock:
            slowest = [{"unit": u, "seconds": round(s, 3), "frames": f} for s, u, f in sorted(self._slowest, reverse=True)]
            state = self._state | {"at": time.time(), "slowest": slowest}
        with suppress(ConfigError, OSError):
            self._out.write_json("progress.json", state)
