"""The endpoint on Ray Serve: an ingress that takes requests apart on a CPU, and a deployment for each model.

`build` is the import path of serve_configs/*.yaml. Videos go to a replica as a path where the cluster is one machine, else as the
file's own bytes through the object store; events come back some at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from egoray import registry
from egoray.config import PredictConfig, ServeConfig, ServedModel, load
from egoray.errors import ConfigError
from egoray.models.base import Grounder
from egoray.ray_metrics import Metrics
from egoray.serve.api import Service, create_app
from egoray.serve.asking import Event, LocalGrounding, Question
from egoray.serve.decoder import Decoder, Looked
from egoray.serve.limits import check_exposure
from egoray.serve.refusals import Refused, busy
from egoray.serve.samples import Samples
from egoray.serve.segmenting import LocalSegmenting

Builder = Callable[..., Grounder]
"""Called with the model's name, a torch device, and the model's own settings where given."""
Parcel = str | list[tuple[str, bytes]]
"""A video on its way to a replica: its path, or (name, bytes) pairs of what is there, as an object that Ray resolves."""
_log = logging.getLogger("ray.serve")
_DRAIN_S = 60.0
_STATUS_S = 1.0
_INGRESS_CPUS = 0.1  # it waits for the network and for replicas; decoding is bounded by the probes' own limits


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a config file's ``args``, which are `ServeConfig`; see `application`."""
    return application(load(ServeConfig, None, defaults=args))


def application(config: ServeConfig, grounder: Builder = registry.build_grounder) -> serve.Application:
    """The ingress, and a deployment for each model; ``grounder`` builds the models, in their replicas.

    Raises:
        ConfigError: for a wrong setting of a model, models of one name, or a service off loopback without a token.
        ModelError: for an unknown model.
    """
    token = os.environ.get(config.token_env, "")
    if (host := _http_host()) is not None:
        check_exposure(host, token)
    labels = [model.label for model in config.models]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ConfigError(f"models: two are called {min(twice)}; give one an alias")
    has_gpu = bool(ray.cluster_resources().get("GPU")) if ray.is_initialized() else False
    replicas = {}
    for model in config.models:
        registry.grounder_entry(model.name)
        load(PredictConfig, None, **model.options)
        gpus = model.gpus if has_gpu else 0
        placed = {"num_cpus": model.cpus, "num_gpus": gpus}
        replicas[model.label] = GrounderReplica.options(  # type: ignore[attr-defined]
            name=f"model-{model.label}",
            max_ongoing_requests=model.max_ongoing_requests,
            max_queued_requests=model.max_queued_requests,
            max_surge_percent=1 if model.surge else 0,  # of the replicas, rounded up
            graceful_shutdown_timeout_s=_DRAIN_S,
            ray_actor_options=placed,
            **_scaling(model),
        ).bind(model.model_dump(), config.model_dump(), grounder)
    segmenter = None
    if config.tracker:
        gpus = config.tracker_gpus if has_gpu else 0
        segmenter = SegmenterReplica.options(  # type: ignore[attr-defined]
            name="tracker", max_surge_percent=0 if gpus else 100, ray_actor_options={"num_cpus": _INGRESS_CPUS, "num_gpus": gpus}
        ).bind(config.model_dump())
    return Ingress.options(  # type: ignore[attr-defined,no-any-return]
        num_replicas=config.ingress_replicas,
        max_surge_percent=100,
        max_ongoing_requests=config.capacity() + 100,  # the app itself refuses questions above its capacity, before it reads them
        max_queued_requests=100,
        graceful_shutdown_timeout_s=_DRAIN_S,
    ).bind(config.model_dump(), replicas, segmenter)


@serve.deployment(ray_actor_options={"num_cpus": _INGRESS_CPUS})
@serve.ingress()
class Ingress:
    """Takes requests; see `create_app`."""

    def __init__(self, settings: dict[str, Any], replicas: dict[str, DeploymentHandle], segmenter: DeploymentHandle | None) -> None:
        self._config = ServeConfig(**settings)
        app_name = serve.get_replica_context().app_name
        models = {model.label: model for model in self._config.models}
        self._groundings = {label: HandleGrounding(handle, models[label], app_name) for label, handle in replicas.items()}
        self._segmenting = HandleSegmenting(segmenter) if segmenter else None
        threading.Thread(target=_announce, args=(app_name,), daemon=True).start()

    def __serve_build_asgi_app__(self) -> Any:
        """The app."""
        config = self._config
        samples = Samples() if config.samples else None
        service = Service(self._groundings, config, Decoder(config), self._segmenting, samples)
        return create_app(service, os.environ.get(config.token_env, ""), read_ahead=True)


@serve.deployment
class GrounderReplica:
    """Holds a model; it is up when the weights are loaded."""

    def __init__(self, model: dict[str, Any], settings: dict[str, Any], grounder: Builder) -> None:
        served, config = ServedModel(**model), ServeConfig(**settings)
        device = served.device or ("cuda" if ray.get_gpu_ids() else "cpu")
        _set_threads(max(1, int(served.cpus)))
        options = load(PredictConfig, None, **served.options).model_options()
        decoder = Decoder(config)
        decoder.warm()
        self._local = LocalGrounding(grounder(served.name, device, **options), decoder, served.label)

    async def ask(self, question: Question, parcel: Parcel) -> AsyncGenerator[list[Event], None]:
        """See `Grounding.ask`."""
        async with _unpacked(parcel) as path, aclosing(self._local.ask(replace(question, path=path))) as events:
            async for batch in events:
                yield batch


@serve.deployment(max_ongoing_requests=4, max_queued_requests=8)
class SegmenterReplica:
    """Holds the tracker and the sessions; one replica, so that a session is found again."""

    def __init__(self, settings: dict[str, Any]) -> None:
        config = ServeConfig(**settings)
        assert config.tracker is not None
        tracker = registry.build_tracker(config.tracker, "cuda" if ray.get_gpu_ids() else "cpu")
        self._local = LocalSegmenting(tracker, Decoder(config), config)

    async def open(self, parcel: Parcel, looked: Looked) -> str:
        """See `Segmenting.open`."""
        async with _unpacked(parcel) as path:
            return await self._local.open(path, looked)

    async def ask(self, session: str, cue: dict[str, Any]) -> AsyncGenerator[list[Event], None]:
        """See `Segmenting.ask`."""
        async with aclosing(self._local.ask(session, cue)) as events:
            async for batch in events:
                yield batch


class HandleGrounding:
    """Satisfies `Grounding` by the replicas of a deployment."""

    def __init__(self, handle: DeploymentHandle, model: ServedModel, app_name: str) -> None:
        self._handle, self._app_name = handle, app_name
        self.name, self.summary = model.label, registry.grounder_entry(model.name)[0].summary
        self.on_demand = model.min_replicas == 0
        self._status: asyncio.Task[bool] | None = None
        self._asked, self._was_up = 0.0, False
        self._told = Told(model.label)

    async def ready(self) -> bool:
        """Whether a replica is up; asking the controller does not wake one, nor wait behind questions."""
        if self._status is None or (self._status.done() and time.monotonic() - self._asked > _STATUS_S):
            self._asked = time.monotonic()
            self._status = asyncio.create_task(self._is_up())
        return await asyncio.shield(self._status)

    async def ask(self, question: Question) -> AsyncGenerator[list[Event], None]:
        """See `Grounding.ask`."""
        parcel = await asyncio.to_thread(_packed, question.path)
        async for batch in _relayed(self._handle.options(stream=True).ask.remote(question, parcel), self._told):
            yield batch

    async def _is_up(self) -> bool:
        try:
            status = await asyncio.to_thread(serve.status)
        except (ray.exceptions.RayError, RayServeException):
            return False
        app = status.applications.get(self._app_name)
        if app and app.deployments:  # else an update is being built, and tells of none
            deployment = app.deployments.get(self._handle.deployment_name)
            self._was_up = bool(deployment and deployment.replica_states.get(ReplicaState.RUNNING))
        return self._was_up


class HandleSegmenting:
    """Satisfies `Segmenting` by the replica of a deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle, self._told = handle, Told("tracker")

    async def open(self, path: str, looked: Looked) -> str:
        """See `Segmenting.open`."""
        try:
            session: str = await self._handle.open.remote(await asyncio.to_thread(_packed, path), looked)
        except BackPressureError:
            raise busy(503) from None
        except ray.exceptions.RayError:
            raise _lost() from None
        return session

    async def ask(self, session: str, cue: dict[str, Any]) -> AsyncGenerator[list[Event], None]:
        """See `Segmenting.ask`."""
        async for batch in _relayed(self._handle.options(stream=True).ask.remote(session, cue), self._told):
            yield batch


class Told:
    """What Prometheus hears of one model's questions: how long each took, how it ended, and how many wait for a replica.

    Only of those that are asked: whom the ingress turns away itself, Ray's own ``ray_serve_num_http_requests`` counts.
    """

    def __init__(self, model: str) -> None:
        self._metrics, self._waiting = Metrics(model=model), 0

    @contextmanager
    def question(self) -> Iterator[Callable[[int], None]]:
        """A question; call what is yielded with 0 when a replica has it, then with the status that it ends with."""
        asked, status = time.monotonic(), -1
        self._wait(1)

        def tell(now: int) -> None:
            nonlocal status
            if status < 0:
                self._wait(-1)
            status = now

        try:
            yield tell
        finally:
            if status < 0:
                self._wait(-1)
            self._metrics.observe("egoray_serve_latency_seconds", time.monotonic() - asked, status=str(status if status > 0 else 499))

    def _wait(self, more: int) -> None:
        self._waiting += more
        self._metrics.show("egoray_serve_queue", self._waiting)


async def _relayed(events: Any, told: Told) -> AsyncGenerator[list[Event], None]:
    """What a replica yields; it is told when nobody listens any more."""
    with told.question() as tell:
        ended = False
        try:
            async for batch in events:
                last = batch[-1]
                ended = last["event"] in ("done", "error")
                tell((last.get("status", 503) if last["event"] == "error" else 200) if ended else 0)
                yield batch
        except (BackPressureError, Refused, ray.exceptions.RayError, RayServeException) as error:
            ended, refused = True, _as_refused(error)
            tell(refused.status)
            raise refused from None
        finally:
            if not ended:
                events.cancel()


def _as_refused(error: Exception) -> Refused:
    if isinstance(error, BackPressureError):
        return busy(503)
    if isinstance(error, Refused):  # Ray put a trace before the line
        return Refused(error.status, error.code, str(error).splitlines()[-1], error.retry_after_s)
    return _lost()


def _lost() -> Refused:
    return Refused(503, "replica_lost", "the replica that worked on this died; ask again", 1)


def _packed(path: str) -> str | ray.ObjectRef:
    if _machines(int(time.monotonic() / _STATUS_S)) == 1:
        return path
    if os.path.isdir(path):
        return ray.put([(entry.name, entry.read_bytes()) for entry in sorted(Path(path).iterdir())])
    return ray.put([("", Path(path).read_bytes())])


@lru_cache(maxsize=1)
def _machines(moment: int) -> int:
    """How many the cluster has; asked once a moment."""
    return sum(node["Alive"] for node in ray.nodes())


@asynccontextmanager
async def _unpacked(parcel: Parcel) -> AsyncIterator[str]:
    if isinstance(parcel, str):
        yield parcel
        return
    folder = tempfile.mkdtemp(prefix="egoray-parcel-")
    try:
        path = Path(folder, "video")
        if parcel[0][0]:
            path.mkdir()
        for name, data in parcel:
            await asyncio.to_thread((path / name if name else path).write_bytes, data)
        yield str(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scaling(model: ServedModel) -> dict[str, Any]:
    """A fixed number of replicas, or as many as questions under way ask for."""
    if model.min_replicas == model.max_replicas:
        return {"num_replicas": model.min_replicas}
    scaling = {
        "min_replicas": model.min_replicas,
        "max_replicas": model.max_replicas,
        "target_ongoing_requests": max(1, model.max_ongoing_requests // 2),
        "upscale_delay_s": 5.0,
        "downscale_delay_s": 120.0,
    }
    return {"autoscaling_config": scaling}


def _set_threads(threads: int) -> None:
    import cv2
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)


def _announce(app_name: str) -> None:
    """Say, where `serve run` shows it, when everything is up and where: Ray itself does not."""
    from ray.serve._private.api import _get_global_client

    client = _get_global_client()
    while (app := client.get_serve_details()["applications"].get(app_name)) and app["status"] in ("NOT_STARTED", "DEPLOYING"):
        time.sleep(_STATUS_S)
    if app and app["status"] == "RUNNING":
        _log.info("egoray is ready at %s%s", client.root_url.rstrip("/"), app["route_prefix"])


def _http_host() -> str | None:
    """Where this cluster's Serve listens; None where none is started yet."""
    from ray.serve._private.api import _get_global_client

    try:
        client = _get_global_client(raise_if_no_controller_running=False)
    except RayServeException:
        return None
    return client.http_config.host if client else None
