"""What egoray tells Prometheus, through Ray's own exporter: every series by name, and where each stage counts.

Ray's agent on each machine serves them with `ray_` before the name and the actor's and the node's ids as labels. ``SERIES`` is all there
is; ``deploy/grafana.json`` shows each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

LATENCY_S = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]
"""From a cached answer to a long clip on a busy GPU."""


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: its kind, what it counts, and its labels."""

    kind: type[Counter] | type[Gauge] | type[Histogram]
    about: str
    labels: tuple[str, ...] = ("stage",)


SERIES = {
    "egoray_units_done_total": Series(Counter, "units that left as a result"),
    "egoray_units_failed_total": Series(Counter, "units that left as a failure row", ("stage", "error")),
    "egoray_units_waiting": Series(Gauge, "units that have not ended yet"),
    "egoray_frames_total": Series(Counter, "frames worked on"),
    "egoray_unit_seconds_total": Series(Counter, "seconds that actors worked on units, waiting for frames included"),
    "egoray_decode_wait_seconds_total": Series(Counter, "seconds of these that the model waited for decoded frames"),
    "egoray_busy_share": Series(Gauge, "share of the last unit's time that the model did not wait, by device", ("stage", "device")),
    "egoray_requests_total": Series(Counter, "requests sent to a language model"),
    "egoray_retries_total": Series(Counter, "requests sent again"),
    "egoray_tokens_total": Series(Counter, "tokens paid: prompt, cached, completion", ("stage", "kind")),
    "egoray_usd_total": Series(Counter, "US dollars spent, requests that were never answered included"),
    "egoray_cache_hits_total": Series(Counter, "answers that were there already"),
    "egoray_train_step": Series(Gauge, "steps made", ("recipe",)),
    "egoray_train_loss": Series(Gauge, "loss of the last step", ("recipe",)),
    "egoray_train_samples_per_s": Series(Gauge, "samples a second, over all workers", ("recipe",)),
    "egoray_train_workers": Series(Gauge, "workers of the group", ("recipe",)),
    "egoray_train_waiting": Series(Gauge, "share of the step that waited for data", ("recipe",)),
    "egoray_serve_latency_seconds": Series(Histogram, "seconds from a request to its answer", ("model", "status")),
    "egoray_serve_queue": Series(Gauge, "requests that wait for a replica", ("model",)),
}


class Metrics:
    """The series of one process, made when they are first used; the labels given here go with each.

    Args:
        labels: values of those labels that are the same for all that this process tells, e.g. stage="annotate".
    """

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._made: dict[str, Any] = {}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count up; an amount of 0 or below is left out, since a counter never falls."""
        if amount > 0:
            self._series(name).inc(amount, tags=self._tags(name, labels))

    def show(self, name: str, value: float | None, **labels: str) -> None:
        """Set a gauge; None is left out."""
        if value is not None:
            self._series(name).set(value, tags=self._tags(name, labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put one value into a histogram."""
        self._series(name).observe(max(value, 1e-9), tags=self._tags(name, labels))

    def _tags(self, name: str, labels: dict[str, str]) -> dict[str, str]:
        return {label: (self._labels | labels)[label] for label in SERIES[name].labels}

    def _series(self, name: str) -> Any:
        if name not in self._made:
            series = SERIES[name]
            more = {"boundaries": LATENCY_S} if series.kind is Histogram else {}
            self._made[name] = series.kind(name, description=series.about, tag_keys=series.labels, **more)
        return self._made[name]


def unit_ended(metrics: Metrics, status: dict[str, Any], device: str) -> None:
    """What a status row of `egoray.ray_units` says, told."""
    seconds, waited = status["seconds"], status.get("waited_s")
    if status["error"]:
        return metrics.add("egoray_units_failed_total", error=status["error"])
    metrics.add("egoray_units_done_total")
    metrics.add("egoray_frames_total", status["frames"])
    metrics.add("egoray_unit_seconds_total", seconds)
    if waited is not None:
        metrics.add("egoray_decode_wait_seconds_total", waited)
        metrics.show("egoray_busy_share", max(0.0, 1.0 - waited / seconds) if seconds else None, device=device)
    return None


def asked(metrics: Metrics, before: dict[str, Any], after: dict[str, Any]) -> None:
    """What a worker of express has sent and got since ``before``, told; both are its tallies."""
    more = {name: after[name] - before.get(name, 0) for name in after}
    metrics.add("egoray_requests_total", more["requests"])
    metrics.add("egoray_retries_total", more["retries"])
    metrics.add("egoray_cache_hits_total", more["cached"])
    metrics.add("egoray_usd_total", more["usd"] + more["usd_unseen"])
    for kind in ("prompt", "cached", "completion"):
        metrics.add("egoray_tokens_total", more[f"{kind}_tokens"], kind=kind)


def trained(metrics: Metrics, state: dict[str, Any]) -> None:
    """What a training run's ``progress.json`` says, told."""
    for name in ("step", "loss", "samples_per_s", "workers", "waiting"):
        metrics.show(f"egoray_train_{name}", state.get(name))
