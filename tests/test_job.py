"""`ray job submit` for real: a head is started, the job annotates, the cluster goes away, the results stay."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egoray.core.storage import Folder
from egoray.core.workfolder import read_masklets, read_objects
from support import release

ROOT = Path(__file__).parents[1]
RAY = str(Path(sys.executable).parent / "ray")
PYTHON = sys.executable


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextlib.contextmanager
def head(tmp_path, cpus=4, auth=None):
    """A Ray head with its dashboard on loopback, in a temp folder of its own; yields the environment to reach it."""
    port, dashboard, agent, agent_http = free_ports(4)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **(auth or {"RAY_AUTH_MODE": "disabled"}),
    }
    temp = Path("/tmp") / f"ray-{os.getpid()}-{port}"  # a short path: Ray's sockets live in it
    start = [RAY, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"]
    start += [f"--temp-dir={temp}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--disable-usage-stats", "--include-dashboard=true"]
    start += [f"--dashboard-agent-grpc-port={agent}", f"--dashboard-agent-listen-port={agent_http}"]
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(start, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run([RAY, "job", "list", "--address", address], env=environment, capture_output=True)
        if listed.returncode == 0:
            break
        time.sleep(0.5)
    else:
        pytest.fail((tmp_path / "head.log").read_text())
    try:
        yield environment | {"RAY_ADDRESS": address, "GCS": f"127.0.0.1:{port}"}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(temp, ignore_errors=True)


@contextlib.contextmanager
def worker(tmp_path, environment, labels):
    """A second raylet of that head, with two CPUs and labels."""
    start = [RAY, "start", "--block", f"--address={environment['GCS']}", "--num-cpus=2", f"--labels={labels}", "--disable-usage-stats"]
    start += [f"--object-spilling-directory={tmp_path / 'spill'}"]
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def submit(environment, *arguments):
    command = [RAY, "job", "submit", "--working-dir", ".", "--", PYTHON, "jobs/annotate.py", *map(str, arguments)]
    for _ in range(20):  # the head's job agent comes up a little after its dashboard
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        if "No available agent" not in done.stderr:
            break
        time.sleep(1)
    return done


@pytest.mark.ray
def test_a_submitted_job_annotates_and_its_results_outlive_the_cluster(tmp_path):
    release.write_release(tmp_path, clips=3)
    inputs = ["--tracks", tmp_path / "egotracks.json", "--videos", tmp_path / "clips", "--out", tmp_path / "work"]
    with head(tmp_path) as environment:
        done = submit(environment, *inputs, "--set", "workers=2", "--set", "cpus_per_worker=0.5")
        refused = submit(environment, *inputs[:-1], "work")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "annotate: 3/3 units, 0 failed" in done.stdout + done.stderr
    assert refused.returncode != 0
    assert "--out work: a submitted job runs in a temporary folder" in refused.stdout + refused.stderr
    folder = Folder(str(tmp_path / "work"))
    assert set(read_masklets(folder)) == {(t.video_id, t.object_id) for t, _ in read_objects(folder)}


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_as_in_cluster_yaml_wants_a_token_works_on_labelled_machines_and_says_what_it_lacks(tmp_path):
    """A head without work, a worker with a label, a token: what `cluster.yaml` sets up, with the second raylet on this machine."""
    release.write_release(tmp_path, clips=1)
    inputs = ["--tracks", tmp_path / "egotracks.json", "--videos", tmp_path / "clips", "--out", tmp_path / "work"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with head(tmp_path, cpus=0, auth=token) as environment:
        alone = submit(environment, *inputs)
        with worker(tmp_path, environment, "egoray.io/kind=cpu"):
            stranger = submit(environment | {"RAY_AUTH_TOKEN": "b" * 64}, *inputs)
            deadline = time.monotonic() + 60
            while (lost := submit(environment, *inputs, "--set", "node_labels={egoray.io/kind: gpu}")) and time.monotonic() < deadline:
                if "2 CPU" in lost.stdout + lost.stderr:
                    break
            done = submit(environment, *inputs, "--set", "node_labels={egoray.io/kind: cpu}", "--set", "cpus_per_worker=0.5")
    assert alone.returncode != 0
    assert "the machine that comes nearest lacks 1 CPU; the cluster has 1 × (no CPU)" in alone.stdout + alone.stderr
    assert stranger.returncode != 0
    assert "403" in stranger.stdout + stranger.stderr or "Invalid authentication token" in stranger.stdout + stranger.stderr
    assert lost.returncode != 0
    assert "1 CPU and the label egoray.io/kind=gpu: no machine has that label" in lost.stdout + lost.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "work" / "summary.json").exists()


def test_what_a_job_uploads_is_under_20_mb(tmp_path):
    """Ray's own packaging: .gitignore keeps the virtual environment, clips and weights at home."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(ROOT), tmp_path / "upload.zip", include_gitignore=True)
    assert 10_000 < (tmp_path / "upload.zip").stat().st_size < 20e6
