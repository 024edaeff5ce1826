"""The Batch API: questions as files at half price, answers into the same cache, an object's conversation over several rounds.

Submitting walks through all conversations with the cache alone and writes down each question that has no answer yet; the files of
questions are uploaded within the caps and each batch is tracked in ``batches/<name>.json``. Collecting puts the answers into the
cache and walks again: conversations that are complete leave their sentences, the rest wait for the next round (corrections and
ambiguity checks depend on the answers before).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai

from egoray.config import ExpressConfig
from egoray.core.storage import Folder
from egoray.core.workfolder import fingerprint
from egoray.errors import ModelError
from egoray.express.answers import Answer, Answers
from egoray.express.client import Lost, classify, read_answer, redact, sdk
from egoray.express.prices import BATCH_DISCOUNT, Price, max_answer_tokens, prompt_tokens, usd
from egoray.express.prompts import Question
from egoray.express.purse import read_batches, spent

_ERRORS = "errors.json"
_MOST_ERRORS = 2  # of the same question, before it is lost
_OPEN = ("validating", "in_progress", "finalizing", "cancelling")


class Waiting(Exception):
    """The question has no answer yet: it is in a batch, or will be."""


class CachedAsk:
    """Answers from the cache alone; the questions that have none are kept for the next batch.

    Args:
        out: the stage's work folder.
        schema: send the JSON schema along.
        price: the model's price, if known.
    """

    def __init__(self, out: Folder, *, schema: bool, price: Price | None) -> None:
        self._answers, self._schema, self._price = Answers(out), schema, price
        self._errors = read_errors(out)
        self.lines: dict[str, str] = {}

    async def __call__(self, question: Question, *, anew: bool = False) -> Answer:
        if not anew and (kept := self._answers.get(question.key)):
            return kept
        error = self._errors.get(question.key, {"count": 0, "message": ""})
        if error["count"] >= _MOST_ERRORS:
            raise Lost("batch error", f"{error['message']} (in each of {error['count']} batches)")
        body = question.body | ({"response_format": question.schema} if self._schema else {})
        line = {"custom_id": question.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        most = max_answer_tokens(question)
        cost = BATCH_DISCOUNT * usd(self._price, prompt_tokens(question, self._price), 0, most) if self._price else 0.0
        self.lines[question.key] = f"{cost:.9f}\t{json.dumps(line)}\n"
        raise Waiting(question.key)

    def flush(self, outbox: Folder, name: str) -> None:
        """Write the questions kept so far as one file of the outbox."""
        if self.lines:
            outbox.write_bytes(f"{name}.txt", "".join(self.lines.values()).encode())
            self.lines = {}


def read_errors(out: Folder) -> dict[str, dict[str, Any]]:
    """How often each question came back with an error, and the last one."""
    folder = out / "batches" / "errors"
    return dict(folder.read_json(_ERRORS)) if folder.exists(_ERRORS) else {}


def forget_errors(out: Folder) -> None:
    """Let questions that were given up be asked again."""
    (out / "batches" / "errors").delete(_ERRORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """A file for the Batch API: JSON lines, the questions' keys, and the most that they may cost."""

    data: bytes
    keys: list[str]
    usd: float


def packs(outbox: Folder, pending: set[str], *, max_requests: int, max_bytes: int) -> Iterator[Pack]:
    """The outbox's questions that are in no open batch, in files under both caps; a question too large for any file is a pack of its own.

    The same outbox gives the same files.
    """
    lines: list[str] = []
    keys: list[str] = []
    size, cost, seen = 0, 0.0, set(pending)
    for name in outbox.names(".txt"):
        for text in outbox.read_bytes(name).decode().splitlines(keepends=True):
            price, _, line = text.partition("\t")
            key = json.loads(line)["custom_id"]
            if key in seen:
                continue
            seen.add(key)
            if lines and (len(lines) >= max_requests or size + len(line.encode()) > max_bytes):
                yield Pack(data="".join(lines).encode(), keys=keys, usd=cost)
                lines, keys, size, cost = [], [], 0, 0.0
            lines.append(line)
            keys.append(key)
            size += len(line.encode())
            cost += float(price)
    if lines:
        yield Pack(data="".join(lines).encode(), keys=keys, usd=cost)


class BatchApi:
    """Submits and collects the batches of one work folder.

    Args:
        out: the stage's work folder.
        config: the stage's settings.
        key: the API key; see `client.Client`.
        base_url: the server's address.
        price: the model's price, if known.
    """

    def __init__(self, out: Folder, config: ExpressConfig, *, key: str, base_url: str, price: Price | None) -> None:
        self._out, self._config, self._key, self._price = out, config, key, price
        self._records = out / "batches"
        self._sdk = sdk(config, key, base_url)

    async def submit(self, outbox: Folder) -> dict[str, Any]:
        """Upload the outbox's questions and start their batches; counts of what was submitted and what the cap kept back.

        A batch is noted before its file is sent. If the driver dies in between, the server's own list tells whether it started.

        Raises:
            ModelError: if the server refuses.
        """
        await self._find_unconfirmed()
        pending = {key for record in read_batches(self._out).values() if record["state"] == "submitted" for key in record["keys"]}
        told = {"batches_submitted": 0, "requests_submitted": 0, "requests_kept_back": 0, "usd_reserved": 0.0}
        limit = self._config.batch_max_requests, int(self._config.batch_max_mb * 1e6)
        for pack in packs(outbox, pending, max_requests=limit[0], max_bytes=limit[1]):
            if self._config.max_usd is not None and spent(self._out) + pack.usd > self._config.max_usd:
                told["requests_kept_back"] += len(pack.keys)
                continue
            await self._submit(pack)
            told["batches_submitted"] += 1
            told["requests_submitted"] += len(pack.keys)
            told["usd_reserved"] += pack.usd
        return told

    async def _submit(self, pack: Pack) -> None:
        name = fingerprint([pack.keys, sorted(read_batches(self._out))])  # questions that come back with errors make a new batch
        record = {"state": "uploading", "keys": pack.keys, "reserved_usd": pack.usd, "spent_usd": 0.0, "batch_id": "", "errors": 0}
        self._records.write_json(f"{name}.json", record)
        try:
            file = await self._sdk.files.create(file=(f"{name}.jsonl", pack.data), purpose="batch")
            batch = await self._sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"egoray": name}
            )
        except openai.APIError as error:
            if isinstance(error, openai.APIStatusError):  # it did not start; after any other error it may have
                self._records.delete(f"{name}.json")
            raise self._refused(error) from None
        self._records.write_json(f"{name}.json", record | {"state": "submitted", "batch_id": batch.id})

    async def _find_unconfirmed(self) -> None:
        """Batches whose start was never confirmed: adopt those that the server knows, forget the others."""
        unconfirmed = {name: record for name, record in read_batches(self._out).items() if record["state"] == "uploading"}
        if not unconfirmed:
            return
        known: dict[str, str] = {}
        try:
            async for batch in self._sdk.batches.list(limit=100):
                known[(batch.metadata or {}).get("egoray", "")] = batch.id
        except openai.APIError as error:
            raise self._refused(error) from None
        for name, record in unconfirmed.items():
            if name in known:
                self._records.write_json(f"{name}.json", record | {"state": "submitted", "batch_id": known[name]})
            else:
                self._records.delete(f"{name}.json")

    async def collect(self) -> dict[str, Any]:
        """Fetch what the submitted batches have answered into the cache; counts by state, answers and errors.

        Raises:
            ModelError: if the server refuses.
        """
        await self._find_unconfirmed()
        told = {"batches_open": 0, "batches_collected": 0, "answers": 0, "errors": 0}
        for name, record in read_batches(self._out).items():
            if record["state"] != "submitted":
                continue
            try:
                batch = await self._sdk.batches.retrieve(record["batch_id"])
                if batch.status in _OPEN:
                    told["batches_open"] += 1
                    continue
                files = [await self._read(file_id) for file_id in (batch.output_file_id, batch.error_file_id) if file_id]
            except openai.APIError as error:
                raise self._refused(error) from None
            answers, errors = self._ingest(record["keys"], "\n".join(files), batch.status)
            cost = sum(answer.usd or 0.0 for answer in answers.values())
            self._note_errors(name, errors)
            ended = {"state": "collected", "spent_usd": cost, "errors": len(errors)}
            self._records.write_json(f"{name}.json", record | ended)
            told["batches_collected"] += 1
            told["answers"] += len(answers)
            told["errors"] += len(errors)
        return told

    async def _read(self, file_id: str) -> str:
        return (await self._sdk.files.content(file_id)).text

    def _ingest(self, keys: list[str], text: str, status: str) -> tuple[dict[str, Answer], dict[str, str]]:
        """Put each line's answer into the cache; the answers and, for every other question of the batch, the error."""
        answers: dict[str, Answer] = {}
        errors = dict.fromkeys(keys, f"the batch is {status} and does not answer it")
        discounted = self._price and Price(*(BATCH_DISCOUNT * v for v in (self._price.input, self._price.cached, self._price.output)))
        for line in text.splitlines():
            try:
                row = json.loads(line)
                key, response = row["custom_id"], row.get("response") or {}
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # its question keeps the error that it is not answered
            if key not in errors:
                continue
            answer = read_answer(response.get("body"), discounted, None, self._key) if response.get("status_code") == 200 else None
            if answer:
                Answers(self._out).put(key, answer)
                answers[key] = answer
                del errors[key]
            else:
                said = row.get("error") or (response.get("body") or {}).get("error") or {"message": "no chat completion"}
                errors[key] = redact(str(said.get("message") if isinstance(said, dict) else said), self._key)
        return answers, errors

    def _note_errors(self, name: str, errors: dict[str, str]) -> None:
        """Count the errors of a batch, once even if it is collected twice."""
        kept = read_errors(self._out)
        for key, message in errors.items():
            earlier = kept.get(key, {"count": 0, "batches": []})
            batches = sorted({*earlier["batches"], name})
            kept[key] = {"count": len(batches), "batches": batches, "message": message}
        (self._out / "batches" / "errors").write_json(_ERRORS, kept)

    def _refused(self, error: openai.APIError) -> ModelError:
        return ModelError(redact(classify(error, schema_is_optional=False).message, self._key))
