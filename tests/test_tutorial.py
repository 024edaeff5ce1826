"""docs/tutorial.md as printed: a head and two raylets, a submitted job, elastic training, a served model, scores."""

import contextlib
import csv
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PORTS = (6379, 8265, 8000)


def commands():
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_as_printed(tmp_path):
    for port in PORTS:
        with socket.socket() as tried:
            if not tried.connect_ex(("127.0.0.1", port)):
                pytest.skip(f"port {port} is taken; the tutorial names it")
    (tmp_path / "token").write_text(secrets.token_hex(32))
    script = commands()
    assert 'TOUR="$PWD/tour"' in script
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    script = "set -e\n" + script.replace('TOUR="$PWD/tour"', f'TOUR="{tmp_path}"')
    log = (tmp_path / "log").open("w+")
    shell = subprocess.Popen(["bash", "-c", script], cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        ended = shell.wait(timeout=840)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        log.seek(0)
        told = log.read()
        log.close()
    assert ended == 0, told[-4000:]
    assert "annotate: " in told
    with (tmp_path / "tuned" / "curve.csv").open() as rows:
        curve = list(csv.DictReader(rows))
    assert [int(float(row["step"])) for row in curve] == list(range(1, 201))
    sizes = [size for size, _ in groupby(int(float(row["workers"])) for row in curve)]
    assert sizes[-3:] == [2, 1, 2], sizes
    assert json.loads((tmp_path / "answer.json").read_text())["results"][0]["text"] == "the red mug"
    assert (tmp_path / "found" / "overlay.mp4").stat().st_size > 1000
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["num_expressions"] == summary["done"] > 0
    assert (tmp_path / "evaluation.html").exists()
