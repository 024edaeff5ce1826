"""`egoray review` as a command: it serves, ends in peace, moves histories, and says what is wrong in one line."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.reviewed import read_reviewed
from egoray.core.storage import Folder
from egoray.review.server import prepare
from support.annotated import write_annotated
from support.review_server import Client


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return write_annotated(tmp_path_factory.mktemp("annotated"))


def run(*options):
    return CliRunner().invoke(main, ["review", "--no-browser", *options])


def test_it_serves_until_it_is_interrupted_and_leaves_the_tables(tmp_path):
    work = write_annotated(tmp_path)
    command = [sys.executable, "-m", "egoray.cli", "review", "--annotations", work, "--port", "0", "--no-browser", "--name", "ann"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    client = Client(int(server.stderr.readline().partition("127.0.0.1:")[2].partition("/")[0]))
    assert client.get("/api/session")[1]["reviewer"] == "ann"
    assert client.step(client.next(), "decide", verdict="accepted")[0] == 200
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0
    assert "Traceback" not in server.stderr.read()
    assert [row["status"] for row in read_reviewed(Folder(work)).items.values()] == ["accepted"]


def test_links_for_named_reviewers_are_shown_once(tmp_path):
    work = write_annotated(tmp_path)
    command = [sys.executable, "-m", "egoray.cli", "review", "--annotations", work, "--port", "0", "--reviewer", "ann", "--reviewer", "ben"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = [server.stderr.readline() for _ in range(3)]
    port = int(lines[0].partition("127.0.0.1:")[2].partition("/")[0])
    tokens = [line.partition("#token=")[2].strip() for line in lines[1:]]
    assert [Client(port, token).get("/api/session")[1]["reviewer"] for token in tokens] == ["ann", "ben"]
    assert Client(port).get("/api/session")[0] == 401
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0


def test_a_history_goes_out_and_comes_in(work, tmp_path):
    review = prepare(work, None, str(tmp_path / "a.db"))
    review.store.decide(review.store.next("ann", "t"), "ann", "t", "rejected", key="k", reason="mask spills over")
    review.store.close()
    done = run("--annotations", work, "--store", str(tmp_path / "a.db"), "--export", str(tmp_path / "out.jsonl"))
    assert (done.exit_code, json.loads(done.stderr)) == (0, {"rejected": 1})
    done = run("--annotations", work, "--store", str(tmp_path / "b.db"), "--import", str(tmp_path / "out.jsonl"))
    assert (done.exit_code, json.loads(done.stdout)["decisions"]) == (0, 1)
    assert [row["reviewer"] for row in read_reviewed(Folder(work)).items.values()] == ["ann"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: other machines can reach it; name who may review"),
        (["--reviewer", " "], "--reviewer: a name cannot be blank"),
        (["--import", "/nowhere.jsonl"], "--import /nowhere.jsonl: cannot be read"),
        (["--model", "magic"], "--model magic: unknown"),
        (["--store", "/dev/null/review.db"], "/dev/null/review.db: cannot be used as the review's store"),
        (["--annotations", "s3://bucket/work"], "--annotations s3://bucket/work: the review's store needs a local file; give --store"),
        (["--annotations", "/nowhere"], "/nowhere: holds no videos/*.parquet"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(work, tmp_path, options, message):
    if options[0] != "--annotations":
        options = ["--annotations", work, "--store", str(tmp_path / "review.db"), *options]
    done = run(*options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"egoray: {message}"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(work, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "egoray.cli", "review", "--annotations", work, "--port", str(port), "--no-browser"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PWD": str(Path.cwd())})
    assert done.returncode == 2
    assert f"egoray: --port {port}: cannot be bound" in done.stderr
