"""A service on the Ray that is running, from config files, as `serve run` deploys them; and the processes of its replicas."""

import copy
import socket
import time
from contextlib import contextmanager

import psutil
import yaml


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def config_of(path, port, **args):
    """The file's content, on another port, with other ``args``."""
    config = yaml.safe_load(path.read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] |= args
    return config


def deploy(config, meanwhile=lambda: None, within_s=240):
    """Deploy as `serve run` does, and wait until all of it is up; a second call is a rolling update."""
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(copy.deepcopy(config))
    before = {name: app.last_deployed_time_s for name, app in (serve.status().applications if running() else {}).items()}
    client = serve_start(proxy_location=schema.proxy_location, http_options=schema.http_options.model_dump())
    client.deploy_apps(schema)
    deadline = time.monotonic() + within_s
    while True:
        found = serve.status().applications
        apps = {app.name: found.get(app.name) for app in schema.applications}
        if all(app and app.status == "RUNNING" and app.last_deployed_time_s != before.get(name) for name, app in apps.items()):
            return
        failed = [app.message for app in apps.values() if app and app.status == "DEPLOY_FAILED"]
        assert not failed, failed
        assert time.monotonic() < deadline, apps
        meanwhile()
        time.sleep(0.1)


def running():
    """Whether this Ray has a Serve."""
    from ray.serve._private.api import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        return _get_global_client(raise_if_no_controller_running=False) is not None
    except RayServeException:
        return False


@contextmanager
def on_ray(config):
    """The base URL of what the config deploys."""
    from ray import serve

    try:
        deploy(config)
        yield f"http://127.0.0.1:{config['http_options']['port']}"
    finally:
        serve.shutdown()


def replicas(deployment):
    """The processes that hold the deployment's replicas, e.g. of "egoray:model-nano"."""
    return processes(f"ray::ServeReplica:{deployment}")


def processes(title):
    """Those of this process's Ray whose title begins so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if line.startswith(title):
            found.append(process)
    return found
