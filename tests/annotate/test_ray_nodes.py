"""Annotate on three raylets, one of which is killed under way."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egoray.core.storage import Folder
from egoray.core.workfolder import read_masklets, read_objects
from support import release

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.ray


@pytest.fixture
def three_raylets(monkeypatch):
    from ray.cluster_utils import Cluster

    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{os.environ.get('PYTHONPATH', '')}")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, workers
    cluster.shutdown()


@pytest.mark.parametrize("kill", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["calm", "raylet killed"])
def test_three_raylets_finish_every_unit(three_raylets, tmp_path, kill):
    cluster, workers = three_raylets
    release.write_release(tmp_path, clips=12)
    command = [sys.executable, "-m", "support.annotate_slowly", str(tmp_path), str(tmp_path / "work"), "4"]
    process = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster.address}, stdout=subprocess.PIPE, text=True)
    if kill:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "work" / "masklets").glob("*.parquet"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(workers[0], allow_graceful=False)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "'expected': 24, 'done': 24, 'failed': 0" in output
    folder = Folder(str(tmp_path / "work"))
    assert set(read_masklets(folder)) == {(t.video_id, t.object_id) for t, _ in read_objects(folder)}
