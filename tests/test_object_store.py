"""The road from boxes to scores with everything in an object store, its driver killed on the way: a real S3 server on loopback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egoray.synthetic.sample import write_sample
from support.store import s3

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_annotate_express_build_predict_and_evaluate_in_a_bucket(tmp_path):
    write_sample(tmp_path, videos=3, seed=12, seconds=14, size_hw=(180, 320), fps=10, tier="short")
    with s3() as (environment, door):
        env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | environment
        upload(tmp_path, door.behind)
        base = "s3://clips/run"

        def egoray(*args):
            done = subprocess.run(
                [sys.executable, "-m", "egoray.cli", *args, "--json"], env=env, capture_output=True, text=True, timeout=400
            )
            assert done.returncode == 0, done.stderr[-2000:]
            return json.loads(done.stdout.splitlines()[-1])

        annotate = ["annotate", "--tracks", f"{base}/egotracks.json", "--videos", f"{base}/clips", "--out", f"{base}/work"]
        annotate += ["--set", "max_shard_frames=8"]
        doomed = subprocess.Popen(
            [sys.executable, "-m", "egoray.cli", *annotate],
            env=env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends = time.monotonic() + 120
        while len(done_units(door.behind)) < 3 and time.monotonic() < ends and doomed.poll() is None:
            time.sleep(0.1)
        os.killpg(doomed.pid, signal.SIGKILL)
        doomed.wait()
        before = len(done_units(door.behind))
        door.refusals = 5
        found = egoray(*annotate)
        assert found["failed"] == 0
        assert found["done"] == found["expected"]
        assert found["skipped"] >= before > 0
        assert door.ranges > 0
        videos = ["--annotations", f"{base}/work", "--videos", f"{base}/clips"]
        assert egoray("express", *videos, "--provider", "offline")["failed"] == 0
        egoray("build", *videos, "--out", f"{base}/dataset", "--set", "tier=short", "--set", "short=3")
        asked = ["--dataset", f"{base}/dataset", "--split", "short"]
        assert egoray("predict", "--model", "nano", *asked, "--out", f"{base}/answers")["failed"] == 0
        scores = egoray("evaluate", *asked, "--predictions", f"{base}/answers", "--out", f"{base}/scores")
        assert scores["num_expressions"] == scores["done"] > 0
        assert 0 <= scores["metrics"]["IoU_gold_pred"] <= 1


def client(address):
    import boto3

    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


def upload(folder, address):
    store = client(address)
    for path in [folder / "egotracks.json", *sorted((folder / "clips").glob("*.mp4"))]:
        store.upload_file(str(path), "clips", f"run/{path.relative_to(folder)}")


def done_units(address):
    found = client(address).list_objects_v2(Bucket="clips", Prefix="run/work/masklets/")
    return [Path(entry["Key"]).stem for entry in found.get("Contents", ()) if entry["Key"].endswith(".parquet")]
