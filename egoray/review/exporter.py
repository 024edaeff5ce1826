"""Keeps the tables that the dataset builder reads up to date while people review."""

from __future__ import annotations

import threading

from egoray.core.storage import Folder
from egoray.errors import EgorayError
from egoray.review.store import Store

_QUIET_S = 2.0
"""Decisions that come close together are written in one go."""


class Exporter:
    """Writes the tables when it starts, shortly after decisions, and when it finishes."""

    def __init__(self, store: Store, folder: Folder) -> None:
        self._store, self._folder = store, folder
        self.problem = ""
        """Why the tables could not be written last time; for the page to show."""
        self._wanted, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="review-export", daemon=True)

    def start(self) -> None:
        """Write what was decided before, and watch from now on."""
        self._wanted.set()
        self._thread.start()

    def wake(self) -> None:
        """A decision was made or taken back."""
        self._wanted.set()

    def finish(self) -> None:
        """Write what is not written yet, and stop."""
        self._closing.set()
        self._wanted.set()
        self._thread.join()
        self._write()

    def _work(self) -> None:
        while self._wanted.wait() and not self._closing.is_set():
            self._wanted.clear()
            self._write()
            self._closing.wait(_QUIET_S)

    def _write(self) -> None:
        try:
            self._store.export(self._folder)
            self.problem = ""
        except EgorayError as error:  # the verdicts are safe in the store; the next one tries again
            self.problem = str(error)
