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
def head(tmp_path):
    """A Ray head with its dashboard on loopback, in a temp folder of its own; yields the environment to reach it."""
    port, dashboard, agent, agent_http = free_ports(4)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    temp = Path("/tmp") / f"ray-{os.getpid()}-{port}"  # a short path: Ray's sockets live in it
    start = [RAY, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=4", f"--temp-dir={temp}"]
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
        yield environment | {"RAY_ADDRESS": address}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
        shutil.rmtree(temp, ignore_errors=True)


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


def test_what_a_job_uploads_is_under_20_mb(tmp_path):
    """Ray's own packaging: .gitignore keeps the virtual environment, clips and weights at home."""
    from ray._private.runtime_env.packaging import create_package

    create_package(str(ROOT), tmp_path / "upload.zip", include_gitignore=True)
    assert 10_000 < (tmp_path / "upload.zip").stat().st_size < 20e6
