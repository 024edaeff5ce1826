"""Clips to try the service with: rendered once, kept in the user's cache."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egoray import __version__
from egoray.formats.egomask import read_items
from egoray.synthetic.sample import write_sample

_TITLES = ("kitchen", "workshop")
_SENTENCES = 4
_INDEX = "samples.json"


class Samples:
    """A few rendered clips with sentences about them.

    Args:
        folder: where they are kept; default: the user's cache.
        render: makes them in a folder, as `write_sample` does.
    """

    def __init__(self, folder: str | None = None, render: Callable[[str], Any] | None = None) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        self._folder = Path(folder or os.path.join(cache, "egoray", f"samples-{__version__}"))
        self._render = render or _render
        self._lock = threading.Lock()

    def listed(self) -> list[dict[str, Any]]:
        """[{"name", "url", "texts"}], rendered now if they are not there yet."""
        return [{"name": s["name"], "url": f"v1/samples/{s['name']}.mp4", "texts": s["texts"]} for s in self._index()]

    def path(self, name: str) -> str | None:
        """The file of the clip of this name, rendered now if need be; None if there is none."""
        return next((str(self._folder / s["file"]) for s in self._index() if s["name"] == name), None)

    def rendered(self, name: str) -> str | None:
        """The same, but None where nothing has been rendered yet: who only looks starts no work."""
        return self.path(name) if (self._folder / _INDEX).is_file() else None

    def _index(self) -> list[dict[str, Any]]:
        index = self._folder / _INDEX
        with self._lock:
            if not index.is_file():
                self._make()
            found: list[dict[str, Any]] = json.loads(index.read_text())
            return found

    def _make(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder.parent) as made:
            self._render(made)
            texts: dict[str, dict[str, str]] = {}
            for item in read_items(f"{made}/truth", "medium"):
                texts.setdefault(item.video_id, {}).setdefault(item.object_id, item.text)
            clips = sorted(path.name for path in Path(made, "clips").glob("*.mp4"))
            rows = []
            for title, clip in zip(_TITLES, clips, strict=False):
                about = list(dict.fromkeys(texts.get(Path(clip).stem, {}).values()))
                rows.append({"name": title, "file": f"clips/{clip}", "texts": about[:_SENTENCES]})
            Path(made, _INDEX).write_text(json.dumps(rows))
            shutil.rmtree(self._folder, ignore_errors=True)
            shutil.copytree(made, self._folder, ignore=shutil.ignore_patterns("truth"))


def _render(folder: str) -> None:
    write_sample(folder, videos=len(_TITLES), seed=11, seconds=8, size_hw=(360, 640), tier="medium", workers=1)
