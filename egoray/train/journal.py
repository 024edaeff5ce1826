"""What people see of a training run: ``curve.csv``, TensorBoard or MLflow, pictures of trials, and ``progress.json`` for whoever asks.

``curve.csv`` has a row a step; a run that goes on from a checkpoint cuts the rows that it will write again.
"""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

from egoray.core.storage import Folder
from egoray.errors import ConfigError

COLUMNS = ("step", "workers", "loss", "lr", "grad_norm", "seconds", "waiting", "memory_gb", "skipped")
_EVERY_S = 2.0


class Journal:
    """Written by one process of a run.

    Args:
        out: the run's folder.
        step: steps made before this start.
        steps, batch: see `Pace`.
        tensorboard: event files in ``OUT/tensorboard`` (a local folder only).
        mlflow: tracking address, or None.
        recipe: the settings, for MLflow.

    Raises:
        ConfigError: if a logger's package is missing.
    """

    def __init__(
        self, out: Folder, step: int, steps: int, batch: int, *, tensorboard: bool, mlflow: str | None, recipe: dict[str, Any]
    ) -> None:
        self._out, self._steps, self._batch = out, steps, batch
        self._rows = [row for row in _read(out) if int(row["step"]) <= step]
        self._began, self._first, self._shown = time.monotonic(), step, -math.inf
        self._latest: dict[str, float] = {}
        self._board = self._flow = None
        if tensorboard and "://" not in out.uri:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(Path(out.uri) / "tensorboard"), purge_step=step)
        if mlflow:
            self._flow = _mlflow(mlflow, recipe)

    def stepped(self, figures: dict[str, float]) -> None:
        """A step's figures."""
        self._rows.append({name: _shown(value) for name, value in figures.items()})
        step = int(figures["step"])
        named = {name: value for name, value in figures.items() if name != "step"}
        self._log(step, named)
        self._latest = figures
        if time.monotonic() - self._shown > _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write ``curve.csv`` and ``progress.json`` now, not in a while."""
        self._shown = time.monotonic()
        if self._latest:
            self._write(self._latest)

    def tried(self, step: int, figures: dict[str, float], picture: bytes | None) -> None:
        """A trial's figures, and a JPEG of what the model answered."""
        self._log(step, {f"trial/{name}": value for name, value in figures.items()})
        if picture is not None:
            self._out.write_bytes(f"pictures/step-{step:08d}.jpg", picture)
        name = "trials.csv"
        before = self._out.read_bytes(name).decode() if self._out.exists(name) else "step,figure,value\n"
        kept = [line for line in before.splitlines() if not line.startswith(f"{step},")]
        kept += [f"{step},{figure},{value:.6g}" for figure, value in figures.items()]
        self._out.write_bytes(name, ("\n".join(kept) + "\n").encode())

    def close(self) -> None:
        """Flush the loggers."""
        if self._board:
            self._board.close()
        if self._flow:
            self._flow.end_run()

    def _log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            if self._board:
                self._board.add_scalar(name, value, step)
        if self._flow:
            self._flow.log_metrics({name.replace("/", "."): value for name, value in figures.items()}, step=step)

    def _write(self, figures: dict[str, float]) -> None:
        columns = list(dict.fromkeys([*COLUMNS, *(name for row in self._rows[-1:] for name in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self._out.write_bytes("curve.csv", text.getvalue().encode())
        seconds = time.monotonic() - self._began
        rate = (figures["step"] - self._first) / seconds if seconds else 0.0
        left = (self._steps - figures["step"]) / rate if rate else math.inf
        speed = {"steps_per_s": rate, "samples_per_s": rate * self._batch, "left_s": None if math.isinf(left) else left}
        shown = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self._out.write_json("progress.json", shown | {"steps": self._steps, "at": time.time()} | speed)


def _read(out: Folder) -> list[dict[str, str]]:
    if not out.exists("curve.csv"):
        return []
    return list(csv.DictReader(io.StringIO(out.read_bytes("curve.csv").decode())))


def _shown(value: float) -> str:
    return f"{value:.8g}"


def _mlflow(address: str, recipe: dict[str, Any]) -> Any:
    try:
        import mlflow
    except ImportError as error:
        raise ConfigError("mlflow: the package is not installed; pip install mlflow, or leave the setting out") from error
    mlflow.set_tracking_uri(address)
    mlflow.set_experiment("egoray")
    mlflow.start_run(run_name=recipe["name"])
    mlflow.log_params({key: str(value)[:500] for key, value in recipe.items()})
    return mlflow
