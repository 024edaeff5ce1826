"""The client against a real HTTP server: each fault classified, retried or recorded as designed; money and key kept."""

import asyncio
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from egoray.config import ExpressConfig
from egoray.core.storage import Folder
from egoray.errors import ConfigError
from egoray.express.answers import Answer, Answers
from egoray.express.client import Client, Lost, checked_url, redact, retry_after
from egoray.express.limits import Gate, Limiter, Pace, Stopped
from egoray.express.prices import price_of
from egoray.express.prompts import ask_for
from support.openai_server import Server

KEY = "sk-test-0123456789abcdefghij"


def question(config: ExpressConfig, name: str = "red cup"):
    picture = cv2.imencode(".jpg", np.full((60, 90, 3), 120, np.uint8))[1].tobytes()
    return ask_for("direct", config, name, [picture])


def asking(server: Server, folder: Path, names=("red cup",), anew=False, **settings):
    """Ask one question a name; (what came of each: an Answer or an error, the client, the limiter)."""
    config = ExpressConfig(**{"timeout_s": 5, "requests_per_min": 60_000, "tokens_per_min": 1e9, **settings})

    async def run():
        limiter = Limiter(requests_per_min=config.requests_per_min, tokens_per_min=config.tokens_per_min, max_usd=config.max_usd)
        answers = Answers(Folder(str(folder)))
        client = Client(config, answers, Gate(limiter.lease), limiter, key=KEY, base_url=server.url, price=price_of(config))
        asked = [client.ask(question(config, name), anew=anew) for name in names]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await client.close()
        return outcomes, client, limiter

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "sends"),
    [
        (None, 1), ("slow", 1), ("429", 2), ("408", 2), ("409", 2), ("500", 2), ("503", 2), ("reset", 2), ("truncated", 2),
        ("hang", 2), ("drip", 2),
    ],
)  # fmt: skip
def test_what_passes_is_sent_again_until_it_is_answered(tmp_path, fault, sends):
    with Server(script=[fault]) as server:
        (answer,), client, limiter = asking(server, tmp_path, timeout_s=2.5 if fault == "slow" else 1.0)
        assert isinstance(answer, Answer), answer
        assert answer.text.startswith('{"object": "red cup"')
        assert [entry["fault"] for entry in server.log] == [fault, None][:sends]
        assert (client.tally.requests, client.tally.retries) == (sends, sends - 1)
    perhaps_charged = fault in ("reset", "truncated", "hang", "drip")
    assert (client.tally.usd_unseen > 0) == perhaps_charged
    assert limiter.spent_usd == pytest.approx(client.tally.usd + client.tally.usd_unseen)
    assert (limiter.open, limiter.reserved_usd) == (0, 0.0)


@pytest.mark.parametrize(
    ("fault", "is_answer"), [("refusal", True), ("content_filter", True), ("length", True), ("schema_invalid", False), ("half_json", False)]
)
def test_what_the_model_says_is_paid_once_and_judged_by_the_writer(tmp_path, fault, is_answer):
    with Server(script=[fault]) as server:
        (answer,), client, _ = asking(server, tmp_path)
        assert bool(answer.fault) == is_answer
        assert client.tally.requests == 1
        asking(server, tmp_path)
        assert len(server.log) == 1  # kept, however useless


@pytest.mark.parametrize(
    ("fault", "words"), [("insufficient_quota", "no credit left"), ("401", "refuses the key"), ("404", "no such model")]
)
def test_what_cannot_pass_stops_everything_at_once(tmp_path, fault, words):
    with Server(script=[fault], latency_s=0.05) as server:
        outcomes, _, _ = asking(server, tmp_path, [f"cup {i}" for i in range(50)], in_flight=2)
        assert len(server.log) <= 3
    assert all(isinstance(o, Stopped | Answer) for o in outcomes)
    reason = next(str(o) for o in outcomes if isinstance(o, Stopped))
    assert words in reason
    assert KEY not in reason  # the server's 401 repeats it
    assert "\n" not in reason


def test_a_bad_question_is_lost_alone(tmp_path):
    with Server(script=["400"]) as server:
        outcomes, _, _ = asking(server, tmp_path, ["red cup", "lid"], in_flight=1)
        (lost,) = (outcome for outcome in outcomes if isinstance(outcome, Lost))  # whichever came first
        assert lost.kind == "status 400"
        assert [type(outcome) for outcome in outcomes if outcome is not lost] == [Answer]


def test_a_server_without_schemas_is_asked_without_from_then_on(tmp_path):
    with Server(schema=False) as server:
        outcomes, client, _ = asking(server, tmp_path, ["red cup", "lid"], in_flight=1)
        assert all(isinstance(o, Answer) for o in outcomes)
        assert [e["status"] for e in server.log] == [400, 200, 200]
        assert client.tally.retries == 0


def test_tries_and_deadline_end_it(tmp_path):
    with Server(script=["500"] * 9) as server:
        (lost,), _, _ = asking(server, tmp_path, max_tries=2)
        assert isinstance(lost, Lost)
        assert "after 2 tries" in str(lost)
        assert len(server.log) == 2
    with Server(script=["429"], retry_after_s=3600) as server:
        (lost,), _, _ = asking(server, tmp_path)
        assert isinstance(lost, Lost)  # an hour is past the deadline: no use in waiting
        assert len(server.log) == 1


def test_nobody_at_the_address_stops_with_the_remedy(tmp_path):
    with Server() as server:
        server.url = "http://127.0.0.1:9/v1"
        (stopped,), _, _ = asking(server, tmp_path, max_tries=2)
    assert isinstance(stopped, Stopped)
    assert "no server answers at http://127.0.0.1:9/v1" in str(stopped)
    assert "--base-url" in str(stopped)


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_retry_after_is_honoured_within_10_percent(tmp_path, seconds):
    with Server(script=["429"], retry_after_s=seconds) as server:
        asking(server, tmp_path)
        waited = server.log[1]["t"] - server.log[0]["t"]
    assert seconds <= waited <= 1.1 * seconds + 0.05  # 50 ms for a busy machine


def test_retry_after_reads_seconds_milliseconds_and_dates():
    assert retry_after({"retry-after": "2"}) == 2
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))
    assert 8 < retry_after({"retry-after": soon}) <= 10
    assert retry_after({"retry-after": "later"}) is None
    assert retry_after({}) is None


def test_the_cost_is_the_servers_own(tmp_path):
    """The server prices its usage by a table of its own."""
    with Server() as server:
        _, client, limiter = asking(server, tmp_path, [f"cup {i}" for i in range(5)])
        assert client.tally.usd == pytest.approx(server.report()["usd"])
        assert limiter.spent_usd == pytest.approx(server.report()["usd"])


def test_a_cap_is_never_exceeded_and_ends_the_run(tmp_path):
    with Server(latency_s=0.02) as server:
        asking(server, tmp_path / "free", [f"cup {i}" for i in range(40)])
        whole = server.report()["usd"]
    with Server(latency_s=0.02) as server:
        outcomes, _, _ = asking(server, tmp_path / "capped", [f"cup {i}" for i in range(40)], max_usd=whole / 2)
        spent = server.report()["usd"]
    assert 0 < spent <= whole / 2
    assert {type(o) for o in outcomes} == {Answer, Stopped}
    assert next(o for o in outcomes if isinstance(o, Stopped)).kind == "budget"


def test_no_more_are_open_than_allowed(tmp_path):
    with Server(latency_s=0.2) as server:
        asking(server, tmp_path, [f"cup {i}" for i in range(30)], in_flight=7)
        assert server.most_open == 7


def test_azure_style_gateways_get_their_headers(tmp_path):
    with Server() as server:
        asking(server, tmp_path, api_version="2024-10-21")
        assert server.headers_seen[0]["api-key"] == KEY


def test_the_key_is_in_no_file(tmp_path):
    with Server(script=["401"]) as server:
        asking(server, tmp_path)
        asking(server, tmp_path)
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert written
    assert not [w for w in written if KEY.encode() in w]
    assert KEY not in redact(f"a\nb {KEY} c", KEY)


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("ftp://host/v1", "", "expected http"),
        ("http://[::1", "", "expected http"),
        ("https://me:secret@host/v1", "", "no user, password"),
        ("https://host/v1?api_key=secret", "", "no user, password"),
        ("http://10.0.0.5:8000/v1", KEY, "unencrypted"),
    ],
)
def test_an_unsafe_address_is_refused_without_repeating_a_secret(url, key, words):
    with pytest.raises(ConfigError, match=words) as caught:
        checked_url(url, key)
    assert "secret" not in str(caught.value)


def test_safe_addresses_pass():
    for url, key in (
        ("http://127.0.0.1:8000/v1", KEY),
        ("http://localhost:8000/v1/", KEY),
        ("http://10.0.0.5/v1", ""),
        ("https://host/v1", KEY),
    ):
        assert checked_url(url, key) == url.rstrip("/")


def test_the_server_catches_a_limiter_that_does_not_wait(tmp_path, monkeypatch):
    """The judge itself: one planted bug, and it counts violations where there are none without the bug."""
    names = [f"cup {i}" for i in range(12)]
    limit = {"requests_per_min": 6}
    with Server(**limit) as server:
        asking(server, tmp_path / "good", names[:3], requests_per_min=600)
        assert server.violations == {"requests": 0, "tokens": 0}
    monkeypatch.setattr(Pace, "earliest", lambda self, now, amount: now)
    with Server(**limit) as server:
        asking(server, tmp_path / "bad", names, **limit)
        assert server.violations["requests"] == 6


def test_the_server_catches_a_purse_that_reserves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("egoray.express.client.usd", lambda *_: 0.0)
    with Server(latency_s=0.02) as server:
        asking(server, tmp_path, [f"cup {i}" for i in range(10)], max_usd=0.001)
        assert server.report()["usd"] > 0.001
