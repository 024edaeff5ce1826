"""The express stage on a real Ray cluster, against a real HTTP server, with drivers that are killed."""

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from egoray.cli import main
from egoray.core.storage import Folder
from egoray.core.workfolder import read_expressions, read_failures
from egoray.dataset.build import build
from support.annotated import write_annotated
from support.openai_server import Server

pytestmark = pytest.mark.ray
TITLES = ("red cup", "green lid", "blue jar")
KEY = "sk-test-ABCDEFGHIJKLMNOP"
FAST = ["--set", "requests_per_min=60000", "--set", "tokens_per_min=1000000000", "--set", "cpus_per_worker=0.5"]


@pytest.fixture
def work(tmp_path):
    write_annotated(tmp_path / "run", clips=2, titles=TITLES)
    return tmp_path / "run"


def arguments(work: Path, *more: str) -> list[str]:
    return ["express", "--annotations", str(work / "work"), "--videos", str(work / "clips"), *FAST, *more]


def run(work: Path, *more: str, server: Server | None = None, key: str = KEY):
    given = ["--base-url", server.url] if server else []
    done = CliRunner().invoke(main, arguments(work, *given, "--json", *more), env={"OPENAI_API_KEY": key if server else None})
    summary = work / "work" / "expressions" / "summary.json"
    return done, json.loads(summary.read_text()) if summary.exists() else {}


def sentences(work: Path):
    return read_expressions(Folder(str(work / "work")))


def test_offline_needs_no_key_and_says_what_is_there(cluster, work):
    done, summary = run(work)
    assert done.exit_code == 0, done.stderr
    assert (summary["provider"], summary["expected"], summary["done"], summary["failed"], summary["left"]) == ("offline", 6, 6, 0, 0)
    found = sentences(work)
    assert len(found) == 6
    for (_, object_id), group in found.items():
        assert 2 <= len(group) <= 5
        title = TITLES[int(object_id) - 1]
        assert all(title in e.text for e in group)
        assert {e.source for e in group} == {"offline"}
    again, summary = run(work)
    assert (again.exit_code, summary["skipped"]) == (0, 6)
    assert sentences(work) == found


def test_both_strategies_and_the_ambiguity_check(cluster, work):
    with Server(confused=["blue jar"]) as server:
        done, summary = run(work, server=server)
        seen = server.report()
    assert done.exit_code == 0, done.stderr
    assert (summary["done"], summary["expressions"], summary["requests"]) == (6, 30, 18)
    assert collections.Counter(e["kind"] for e in server.log) == {"direct": 6, "metadata": 6, "choose": 6}
    assert summary["usd"] == pytest.approx(seen["usd"])
    for (_, object_id), group in sentences(work).items():
        assert [e.kind for e in sorted(group, key=lambda e: e.kind)] == ["attributes", "function", "long", "relation", "short"]
        assert all(e.prompt_version in ("direct-1", "metadata-1") and e.model == "gpt-4o-2024-11-20" for e in group)
        marked = {e.review for e in group}
        assert all("was taken to mean object" in m for m in marked) if object_id == "3" else marked == {""}
    assert summary["to_review"] == 10


def test_a_second_run_sends_nothing_and_a_lost_table_costs_nothing(cluster, work):
    with Server() as server:
        run(work, server=server)
        sent, before = len(server.log), sentences(work)
        run(work, server=server)
        for table in (work / "work" / "expressions").glob("*.parquet"):
            table.unlink()
        _, summary = run(work, server=server)
        assert len(server.log) == sent
    assert (summary["cached"], summary["requests"]) == (18, 0)
    assert sentences(work) == before


def test_a_poisoned_object_is_one_failure_row(cluster, tmp_path):
    write_annotated(tmp_path / "run", clips=1, titles=TITLES)
    work = tmp_path / "run"
    with Server(poison="green lid") as server:
        done, summary = run(work, server=server)
        assert done.exit_code == 1
        assert (summary["done"], summary["failed"], summary["left"]) == (2, 1, 0)
        (failure,) = read_failures(Folder(str(work / "work" / "expressions")))
        assert failure.unit == "clip-0/2"
        assert "refusal" in failure.message
        sent = len(server.log)
        run(work, server=server)
        assert len(server.log) == sent  # given up until --retry-failed
        server.options["poison"] = ""
        done, summary = run(work, "--retry-failed", server=server)
        assert done.exit_code == 0, done.stderr
    assert (summary["done"], summary["failed"]) == (3, 0)


def test_a_wrong_answer_is_asked_again_once(cluster, tmp_path):
    write_annotated(tmp_path / "run", clips=1, titles=TITLES[:1])
    with Server(script=["schema_invalid", "half_json"]) as server:
        done, summary = run(tmp_path / "run", server=server)
        assert done.exit_code == 0, done.stderr
        assert (summary["done"], summary["requests"]) == (1, 4)
        corrections = [e["texts"][-1] for e in server.log if len(e["texts"]) > 2]
        assert any("lacks the key 'object'" in c or "lacks the key 'caption'" in c for c in corrections)
        assert any("is not one JSON object" in c for c in corrections)


def test_a_clip_that_is_gone_fails_its_objects_alone(cluster, work):
    (work / "clips" / "clip-0.mp4").unlink()
    done, summary = run(work)
    assert done.exit_code == 1
    assert (summary["done"], summary["failed"]) == (3, 3)
    assert "clip-0.mp4" in next(read_failures(Folder(str(work / "work" / "expressions")))).message


def test_half_the_money_stops_at_the_cap_and_more_resumes(cluster, work):
    with Server(latency_s=0.05) as server:
        forecast = json.loads(CliRunner().invoke(main, arguments(work, "--base-url", server.url, "--dry-run", "--json")).stdout)
        assert not server.log
        assert forecast["requests"] == 18
        cap = 0.02
        done, summary = run(work, "--set", f"max_usd={cap}", server=server)
        spent = server.report()["usd"]
        assert done.exit_code == 1
        assert "the cap of $0.02 is reached" in done.stderr
        assert len(done.stderr.strip().splitlines()[-1].split(". ")) == 1
        assert 0 < spent <= cap
        assert summary["left"] > 0
        assert summary["usd_in_all"] == pytest.approx(spent, abs=1e-6)
        done, summary = run(work, "--set", "max_usd=1", server=server)
        assert (done.exit_code, summary["done"], summary["left"]) == (0, 6, 0)
        seen = server.report()
    assert seen["duplicates"] == 0
    assert summary["usd_in_all"] == pytest.approx(seen["usd"], abs=1e-6)
    assert seen["usd"] <= forecast["usd_at_most"]


def test_no_credit_and_a_refused_key_stop_with_one_line(cluster, work):
    for fault, words in (("insufficient_quota", "no credit left"), ("401", "refuses the key")):
        with Server(script=[fault] * 100) as server:
            done, _ = run(work, server=server)
            assert done.exit_code == 2
            last = done.stderr.strip().splitlines()[-1]
            assert words in last
            assert last.startswith("egoray: ")
            assert KEY not in done.stderr + done.stdout
            assert len(server.log) <= 12


def kill_after(work: Path, server: Server, answers: int) -> None:
    """SIGKILL a driver of its own once the server has given so many answers."""
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    command = [sys.executable, "-m", "egoray.cli", *arguments(work, "--base-url", server.url, "--set", "in_flight=2")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and sum(e["usd"] > 0 for e in server.log) < answers:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    settled = -1
    while settled != len(server.log):  # the workers die a moment after their driver
        settled = len(server.log)
        time.sleep(1.5)


@pytest.mark.parametrize("points", [(3,), pytest.param((2, 5, 8, 11, 14), marks=pytest.mark.slow)])
def test_a_killed_driver_pays_no_committed_answer_twice(tmp_path, points):
    write_annotated(tmp_path / "run", clips=2, titles=TITLES)
    work = tmp_path / "run"
    kept: set[str] = set()
    answers = work / "work" / "expressions" / "answers"
    with Server(latency_s=0.2) as server:
        for point in points:
            kill_after(work, server, point)
            committed = {p.stem for p in answers.rglob("*.json")}
            assert kept <= committed
            kept = committed
        assert kept
        paid, sent = len(kept), len(server.log)
        done, summary = run(work, server=server)
        assert done.exit_code == 0, done.stderr
        assert len(server.log) - sent == 18 - paid  # exactly the answers that were not on disk
        spent = server.report()["usd"]
    assert summary["usd_in_all"] >= spent - 1e-9  # what was on its way at a kill counts as spent


def test_the_key_is_nowhere(cluster, work):
    with Server() as server:
        done, _ = run(work, server=server)
    logs = Path("/tmp/ray/session_latest").resolve()
    places = [p for root in (work, logs) for p in root.rglob("*") if p.is_file() and p.stat().st_size < 50e6]
    assert any("answers" in str(p) for p in places)
    assert not [p for p in places if KEY.encode() in p.read_bytes()]
    assert KEY not in done.output


def test_batches_go_round_until_all_is_there(cluster, work):
    with Server(script=[None, "lost"]) as server:
        rounds = 0
        while rounds < 5:
            rounds += 1
            done, summary = run(work, "--batch-submit", server=server)
            assert done.exit_code == 0, done.stderr
            submitted = summary["requests_submitted"]
            if rounds == 1:
                again, summary = run(work, "--batch-submit", server=server)
                assert summary["requests_submitted"] == 0, again.stderr  # all are on their way
            done, summary = run(work, "--batch-collect", server=server)
            assert done.exit_code == 0, done.stderr
            if not summary["left"]:
                break
            assert submitted
        assert rounds == 3  # questions; the lost line; its check against look-alikes
        seen = server.report()
    assert (summary["done"], summary["failed"]) == (6, 0)
    assert summary["usd_in_all"] == pytest.approx(seen["usd"], abs=1e-6)
    assert (seen["requests"], seen["duplicates"]) == (19, 1)  # the lost one was sent twice
    assert all(len(group) == 5 for group in sentences(work).values())


def test_expressions_reach_the_dataset(cluster, work, tmp_path):
    run(work)
    build(str(work / "work"), str(work / "clips"), str(tmp_path / "dataset"))
    meta = json.loads((tmp_path / "dataset" / "meta_expressions.json").read_text())
    built = [e["exp"] for video in meta["videos"].values() for e in video["expressions"].values()]
    on_kept_frames = [e.text for (_, object_id), group in sentences(work).items() for e in group if object_id != "3"]
    assert sorted(built) == sorted(on_kept_frames)
