"""What an actor did, a JSON object a line, into the log that Ray keeps of its process; `grep` a unit's id to see its whole life."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any, TextIO


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        about = {"at": at, "level": record.levelname.lower(), "pid": os.getpid(), "event": record.getMessage()}
        return json.dumps(about | getattr(record, "about", {}), ensure_ascii=False, default=str)


class UnitLog:
    """Writes events of units to stderr as JSON lines: {"at", "level", "pid", "event", "stage", ...what the event is about}.

    Args:
        stage: goes into each line.
        stream: instead of stderr.
    """

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self._stage, self._log = stage, logging.Logger(f"egoray.{stage}")  # of its own: nothing else's level or handlers touch it
        handler = logging.StreamHandler(stream or sys.stderr)
        handler.setFormatter(_Line())
        self._log.addHandler(handler)

    def __call__(self, event: str, *, level: int = logging.INFO, **about: Any) -> None:
        """One line; ``about`` is JSON-able."""
        self._log.log(level, event, extra={"about": {"stage": self._stage, **about}})
