"""One question to an OpenAI-compatible server: paced, paid within the cap, retried by us alone, and answered at most once.

The SDK's own retries are off, so that one request is one request to the limits and to the purse.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import openai

from egoray.config import ExpressConfig
from egoray.errors import ConfigError
from egoray.express.answers import Answer, Answers
from egoray.express.limits import Gate, Stopped
from egoray.express.prices import Price, max_answer_tokens, prompt_tokens, usage_of, usd
from egoray.express.prompts import Question

OPENAI_URL = "https://api.openai.com/v1"
_BACKOFF_S, _MOST_BACKOFF_S = 0.5, 30.0
_LATER = 0.05  # of a Retry-After that jitter may add
_NO_SCHEMA = ("response_format", "json_schema", "structured output", "guided")


class Lost(Exception):
    """The question has no answer and this run will ask it no more; ``kind`` names the fault."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Purse(Protocol):
    """Where the money and the brakes are: `limits.Limiter`, here or in an actor. Calls do not wait."""

    def settle(self, reserved_usd: float, spent_usd: float) -> None: ...
    def pause(self, seconds: float) -> None: ...
    def stop(self, kind: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with one request and what to do: ``act`` is "retry", "lose" (this question) or "stop" (the run)."""

    kind: str
    act: str
    message: str
    after_s: float | None = None
    billed: bool = False
    """Whether the server may have worked, and charged, all the same."""


@dataclass(slots=True)
class Tally:
    """What a worker has sent and got."""

    requests: int = 0
    retries: int = 0
    answers: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    usd_unseen: float = 0.0
    """Reserved by requests that were sent and never answered: it may have been charged, and counts as spent."""


class Client:
    """Asks questions for one worker. Use on one event loop.

    Args:
        config: the stage's settings.
        answers: the cache.
        gate: paces the sends.
        purse: gets every cost and every brake.
        key: the API key; it goes into requests and nowhere else.
        base_url: the server's address, with /v1 where it has one.
        price: the model's price; None: costs are not known.
    """

    def __init__(
        self, config: ExpressConfig, answers: Answers, gate: Gate, purse: Purse, *, key: str, base_url: str, price: Price | None
    ) -> None:
        self._config, self._answers, self._gate, self._purse, self._price = config, answers, gate, purse, price
        self._key, self._base_url = key, base_url
        self._sdk = sdk(config, key, base_url)
        self._slots = asyncio.Semaphore(config.in_flight)
        self._schema = config.structured != "text"
        self._asking: dict[str, asyncio.Lock] = {}
        self._true_share: dict[str, float] = {}  # by kind: the most that real prompt tokens were of our upper estimate
        self._reached = False
        self.tally = Tally()

    async def ask(self, question: Question, *, anew: bool = False) -> Answer:
        """The answer: from the cache, else from the server, and then in the cache before it is returned.

        Args:
            question: what to ask.
            anew: ask the server even if there is an answer in the cache.

        Raises:
            Lost: if the server gives no answer within the tries and the deadline.
            Stopped: if the run must end: key or quota refused, no such model, cap reached.
        """
        key = question.key
        async with self._asking.setdefault(key, asyncio.Lock()):  # the same question is not paid twice at the same time either
            if not anew and (kept := await asyncio.to_thread(self._answers.get, key)):
                self.tally.cached += 1
                return kept
            answer = await self._ask(question)
            await asyncio.to_thread(self._answers.put, key, answer)
            return answer

    async def _ask(self, question: Question) -> Answer:
        prompt, most = prompt_tokens(question, self._price), max_answer_tokens(question)
        most_usd = usd(self._price, prompt, 0, most) if self._price else 0.0
        tries, waited = 0, 0.0
        while True:
            async with self._slots:
                await self._gate.enter((math.ceil(prompt * self._true_share.get(question.kind, 1.0)) + most, most_usd))
                started = time.monotonic()
                outcome = await self._send(question)
                waited += time.monotonic() - started
            tries += 1
            if isinstance(outcome, Answer):
                self._count(outcome, most_usd)
                if share := outcome.prompt_tokens / prompt:
                    self._true_share[question.kind] = max(share, self._true_share.get(question.kind, share))
                return outcome
            unseen = most_usd if outcome.billed else 0.0
            self.tally.usd_unseen += unseen
            self._purse.settle(most_usd, unseen)
            if outcome.kind == "no schema":
                self._schema = False
                tries -= 1
                continue
            wait_s = self._wait_s(outcome, tries)
            if outcome.kind == "unreachable" and tries >= self._config.max_tries and not self._reached:
                outcome = Fault("unreachable", "stop", f"no server answers at {self._base_url} ({outcome.message}); check --base-url")
            if outcome.act == "stop":
                self._purse.stop("fatal", outcome.message)
                self._gate.stop(Stopped("fatal", outcome.message))
                raise Stopped("fatal", outcome.message)
            if outcome.act == "lose":
                raise Lost(outcome.kind, outcome.message)
            if tries >= self._config.max_tries or waited + wait_s > self._config.deadline_s:
                raise Lost(outcome.kind, f"{outcome.message} (given up after {tries} tries in {waited:.0f} s)")
            if outcome.kind == "rate limit":
                self._purse.pause(wait_s)
            self.tally.retries += 1
            waited += wait_s
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    def _wait_s(self, fault: Fault, tries: int) -> float:
        if fault.after_s is not None:
            return fault.after_s * (1 + random.uniform(0, _LATER))
        return min(_MOST_BACKOFF_S, _BACKOFF_S * 2 ** (tries - 1)) * random.uniform(0.5, 1)

    def _count(self, answer: Answer, reserved_usd: float) -> None:
        self.tally.answers += 1
        self.tally.prompt_tokens += answer.prompt_tokens
        self.tally.cached_tokens += answer.cached_tokens
        self.tally.completion_tokens += answer.completion_tokens
        self.tally.usd += answer.usd or 0.0
        self._purse.settle(reserved_usd, answer.usd or 0.0)

    async def _send(self, question: Question) -> Answer | Fault:
        body = question.body | ({"response_format": question.schema} if self._schema else {})
        self.tally.requests += 1
        try:
            async with asyncio.timeout(self._config.timeout_s):  # the SDK's own would start anew at every byte
                # the SDK's typed method walks through every part of the body and costs 2 ms more
                response = await self._sdk.post("/chat/completions", cast_to=object, body=body)
                answer = read_answer(response, self._price, question, self._key)
        except TimeoutError:
            self._reached = True
            return Fault("time-out", "retry", f"no answer within {self._config.timeout_s:g} s", billed=True)
        except openai.APIError as error:
            fault = classify(error, self._config.structured == "auto" and self._schema)
            self._reached |= fault.kind != "unreachable"
            if fault.kind == "content filter":
                return Answer(text="", finish="content_filter", usd=0.0)
            return Fault(fault.kind, fault.act, redact(fault.message, self._key), fault.after_s, fault.billed)
        except ValueError:
            answer = None
        self._reached = True
        return answer or Fault("garbled", "retry", "the server's answer is cut off or no chat completion", billed=True)


def sdk(config: ExpressConfig, key: str, base_url: str) -> openai.AsyncOpenAI:
    """The SDK's client for the server, without retries of its own."""
    azure = {"default_query": {"api-version": config.api_version}, "default_headers": {"api-key": key}} if config.api_version else {}
    return openai.AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, timeout=2 * config.timeout_s, **azure)


def checked_url(url: str, key: str) -> str:
    """The server's address, fit to be written down and to send a key to.

    Raises:
        ConfigError: if it is no http(s) address, holds a password or a query, or would send a key over an open network.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("--base-url: expected http(s)://host[:port]/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"--base-url {parts.scheme}://{host}: no user, password or query in the address; keys go into the environment")
    try:
        on_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        on_loopback = False
    if parts.scheme == "http" and key and not on_loopback:
        raise ConfigError(f"--base-url {url}: would send the key unencrypted; use https, or set key_env to a variable that is not set")
    return url.rstrip("/")


def redact(text: str, key: str) -> str:
    """The text on one line, at most 300 characters, without the key."""
    line = " ".join(text.split())
    return (line.replace(key, "[key]") if key else line)[:300]


def classify(error: openai.APIError, schema_is_optional: bool) -> Fault:
    """What an error of the SDK means for the question and for the run."""
    if isinstance(error, openai.APITimeoutError):
        return Fault("time-out", "retry", "the server does not answer in time", billed=True)
    if isinstance(error, openai.APIConnectionError):
        cause = type(error.__cause__).__name__
        if cause in ("ConnectError", "ConnectTimeout"):
            return Fault("unreachable", "retry", f"cannot connect: {error.__cause__}")
        return Fault("connection lost", "retry", f"the connection broke ({cause})", billed=True)
    if not isinstance(error, openai.APIStatusError):
        return Fault("garbled", "retry", "the server's answer is no chat completion", billed=True)
    status, said = error.status_code, _said(error)
    after_s = retry_after(error.response.headers)
    lower = said.lower()
    if "insufficient_quota" in lower or status == 402:
        return Fault("quota", "stop", f"the account has no credit left ({said}); add credit, then run the same command again")
    if status in (401, 403):
        return Fault("key refused", "stop", f"the server refuses the key ({said}); check the key and its rights")
    if status == 429:
        return Fault("rate limit", "retry", f"too many requests ({said})", after_s)
    if status in (408, 409) or status >= 500:
        return Fault(f"status {status}", "retry", f"the server answers {status} ({said})", after_s)
    if "content_filter" in lower or "content management policy" in lower:
        return Fault("content filter", "lose", said)
    if schema_is_optional and any(word in lower for word in _NO_SCHEMA):
        return Fault("no schema", "retry", said)
    if status == 404:
        return Fault("not found", "stop", f"the server knows no such model or path ({said}); check --llm and --base-url")
    return Fault(f"status {status}", "lose", f"the server answers {status} ({said})")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the server asks in retry-after-ms or Retry-After (seconds or a date); None where it does not."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * scale)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def read_answer(body: Any, price: Price | None, question: Question | None, key: str) -> Answer | None:
    """A chat completion's JSON as an answer; None for anything else.

    Args:
        body: the response.
        price: the model's price; the cost is None without it.
        question: gives the most that the answer can have cost, where the server tells no usage.
        key: taken out of the texts, should a server repeat it.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content") or "", message.get("refusal") or ""
        finish = choice.get("finish_reason") or "stop"
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if not all(isinstance(value, str) for value in (text, refusal, finish)):
        return None
    usage = usage_of(body)
    prompt, cached, completion = usage or ((prompt_tokens(question, price), 0, max_answer_tokens(question)) if question else (0, 0, 0))
    return Answer(
        text=text.replace(key, "[key]") if key else text,
        finish=finish,
        refusal=redact(refusal, key),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        usd=usd(price, prompt, cached, completion) if price else None,
    )


def _said(error: openai.APIStatusError) -> str:
    """The server's own words and code, else the start of what it sent."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", body)
    inner = inner if isinstance(inner, dict) else {"message": str(inner)}
    words = [str(inner[name]) for name in ("message", "code", "type") if inner.get(name)]
    return ", ".join(words) or error.response.text or f"status {error.status_code}"
