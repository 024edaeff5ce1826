"""Checkpoints of a training run: the trained weights, the optimizer and how far it was, whole or not at all.

``OUT/checkpoints/step-00000120/`` holds ``state.pt`` (tensors alone, read without pickled code) and, written last, ``checkpoint.json``: a
folder without it does not count. The order of the samples and every random draw follow from the seed and the step, so the step is
the data's position too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from egoray.core.storage import Folder
from egoray.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far a run was: ``step`` optimizer steps made; ``figures`` of its last trial; the fingerprint of the recipe it follows."""

    step: int
    recipe: str
    figures: dict[str, float] = field(default_factory=dict)
    skipped: int = 0

    @property
    def name(self) -> str:
        """Its folder."""
        return f"step-{self.step:08d}"


class Checkpoints:
    """Those of a run's folder.

    Args:
        out: the run's folder, local or s3://, gs://.
        keep: how many of the latest stay; the best one stays too.
        score: the figure that says which is best, higher being better.
    """

    def __init__(self, out: Folder, keep: int, score: str) -> None:
        self._folder, self._keep, self._score = out / "checkpoints", keep, score

    def marks(self) -> list[Mark]:
        """The whole ones, oldest first."""
        names = [name for name in self._folder.folders() if self._folder.exists(f"{name}/checkpoint.json")]
        return [Mark(**self._folder.read_json(f"{name}/checkpoint.json")) for name in names]

    def best(self) -> Mark | None:
        """That with the highest score, the latest of equals; None if none was scored."""
        scored = [mark for mark in self.marks() if not math.isnan(mark.figures.get(self._score, math.nan))]
        return max(scored, key=lambda mark: (mark.figures[self._score], mark.step), default=None)

    def save(self, mark: Mark, state: dict[str, Any]) -> None:
        """Write one, then remove those that are no longer kept.

        Raises:
            ConfigError: if it cannot be written; the earlier ones stay as they are.
        """
        with self._folder.writing(f"{mark.name}/state.pt") as stream:
            try:
                torch.save(state, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # the stream failed, and then torch could not end its file
                    raise error.__context__ from None
                raise
        row = {"step": mark.step, "recipe": mark.recipe, "figures": mark.figures, "skipped": mark.skipped}
        self._folder.write_bytes(f"{mark.name}/checkpoint.json", json.dumps(row).encode())
        best, marks = self.best(), self.marks()
        kept = {m.name for m in marks[-self._keep :]} | ({best.name} if best else set())
        for name in self._folder.folders():
            if name not in kept:
                self._folder.delete(f"{name}/checkpoint.json")  # from here on it does not count
                self._folder.delete_folder(name)

    def load(self, mark: Mark, recipe: str) -> dict[str, Any]:
        """The state of one, on the CPU.

        Raises:
            ModelError: if it is damaged, or of a run with another recipe.
        """
        where = f"{self._folder.uri}/{mark.name}"
        if mark.recipe != recipe:
            raise ModelError(f"{where}: is of another recipe or other data; give a new --out, or the settings it was begun with (run.json)")
        try:
            with self._folder.reading(f"{mark.name}/state.pt") as stream:
                state: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
                return state
        except Exception as error:
            raise ModelError(
                f"{where}/state.pt: cannot be read ({type(error).__name__}); delete that folder to go on from the one before"
            ) from error
