"""Shared by all tests: one small Ray cluster a run, on loopback, whose workers find the tests' own modules.

Where tests run in two processes (`make test`), all that start a Ray are in one of them, and a file is never divided.
"""

import logging
import os
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parent)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    heavy = {item.path for item in items if item.get_closest_marker("ray") or "cluster" in item.fixturenames}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in heavy else item.path.name))


@pytest.fixture(scope="session")
def cluster():
    """A local Ray of 4 logical CPUs; egoray joins it, since it is initialised already."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    os.environ.pop("RAY_ADDRESS", None)
    labels = {"egoray.io/kind": "cpu"}
    ray.init(address="local", num_cpus=4, labels=labels, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()
