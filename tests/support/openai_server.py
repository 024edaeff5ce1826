"""A stand-in for an OpenAI-compatible server on real sockets: it sees prompts and pictures, answers, counts, and goes wrong on request.

It speaks HTTP/1.1 by hand and imports nothing from egoray, so that it can contradict it. Run alone it prints its port:
`python -m support.openai_server '{"latency_s": 0.2, "requests_per_min": 600}'`.
"""

import asyncio
import base64
import collections
import hashlib
import json
import random
import re
import struct
import sys
import threading
import time
import uuid

PRICES = {"input": 2.5e-6, "cached": 1.25e-6, "output": 10e-6}  # gpt-4o, USD a token


class Server:
    """Options: latency_s, requests_per_min, tokens_per_min (hard limits over any 60 s), fault_share with faults (a list of names),
    script (fault names for the first requests, None for a good answer), poison (a name that is refused whatever is asked),
    confused (names whose sentences are taken for another candidate), schema (False: response_format is refused), retry_after_s."""

    def __init__(self, **options):
        self.options = {"latency_s": 0.0, "fault_share": 0.0, "faults": [], "retry_after_s": 0.2, "schema": True} | options
        self.script = list(self.options.get("script", []))
        self.random = random.Random(1)
        self.log = []  # a dict a chat request: t, status, name, kind, tokens, usd, body digest
        self.arrivals, self.violations = collections.deque(), {"requests": 0, "tokens": 0}
        self.names_of = {}  # picture digest → the name under which it was shown
        self.files, self.batches = {}, {}
        self.headers_seen = []
        self.open = self.most_open = 0

    # sockets ----------------------------------------------------------------------------------------------------------------
    def __enter__(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._done.set)
        self.thread.join()

    def _serve(self, ready):
        async def main():
            self.loop, self._done = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=2**26)
            self.port = server.sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}/v1"
            ready.set()
            await self._done.wait()
            server.close()

        asyncio.run(main())

    async def _connection(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await self._body(reader, headers)
                self.headers_seen.append(headers)
                if await self._route(method, path.partition("?")[0], body, writer) == "close":
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, reader, headers):
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int((await reader.readline()).strip() or b"0", 16):
                parts.append(await reader.readexactly(size))
                await reader.readline()
            await reader.readline()
            return b"".join(parts)
        return await reader.readexactly(int(headers.get("content-length", 0)))

    def _reply(self, writer, status, value, headers=(), cut=0):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + (body[:-cut] if cut else body))

    async def _route(self, method, path, body, writer):
        if path.endswith("/chat/completions"):
            return await self._chat(json.loads(body), writer)
        if path.endswith("/files") and method == "POST":
            data = re.search(rb'name="file".*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)[1]
            self.files[name := f"file-{len(self.files)}"] = data
            return self._reply(
                writer,
                200,
                {
                    "id": name,
                    "object": "file",
                    "bytes": len(data),
                    "created_at": 1,
                    "filename": "f",
                    "purpose": "batch",
                    "status": "processed",
                },
            )
        if "/files/" in path and path.endswith("/content"):
            return self._reply(writer, 200, self.files[path.split("/")[-2]])
        if path.endswith("/batches") and method == "POST":
            return self._reply(writer, 200, self._new_batch(json.loads(body)))
        if path.endswith("/batches"):
            return self._reply(writer, 200, {"object": "list", "data": list(self.batches.values()), "has_more": False})
        if "/batches/" in path:
            return self._reply(writer, 200, self.batches[path.split("/")[-1]])
        return self._reply(writer, 404, {"error": {"message": f"no such path {path}", "code": "not_found"}})

    # chat -------------------------------------------------------------------------------------------------------------------
    async def _chat(self, body, writer):
        now = time.monotonic()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._answer(body, writer, self._enter(body, now))
        finally:
            self.open -= 1

    def _enter(self, body, now):
        """Count the request against the hard limits, as servers do on arrival: prompt plus the most tokens of the answer."""
        entry = {"t": now, "status": 200, "usd": 0.0, **self._read(body)}
        charged = entry["prompt"] + body.get("max_tokens", 0)
        while self.arrivals and self.arrivals[0][0] <= now - 60:
            self.arrivals.popleft()
        self.arrivals.append((now, charged))
        if len(self.arrivals) > self.options.get("requests_per_min", float("inf")):
            self.violations["requests"] += 1
        if "tokens_per_min" in self.options and sum(c for _, c in self.arrivals) > self.options["tokens_per_min"]:
            self.violations["tokens"] += 1
        self.log.append(entry)
        return entry

    async def _answer(self, body, writer, entry):
        fault = self.script.pop(0) if self.script else None
        if self.options["faults"] and self.random.random() < self.options["fault_share"]:
            fault = self.random.choice(self.options["faults"])
        if body.get("response_format") and not self.options["schema"]:
            fault = "no_schema"
        if entry["name"] == self.options.get("poison"):
            fault = "refusal"
        entry["fault"] = fault
        await asyncio.sleep(2.0 if fault == "slow" else self.options["latency_s"])
        errors = {
            "429": (429, "slow down", "rate_limit_exceeded"),
            "insufficient_quota": (429, "you exceeded your current quota", "insufficient_quota"),
            "401": (401, f"wrong key {self.headers_seen[-1].get('authorization', '')}", "invalid_api_key"),
            "408": (408, "timed out", ""),
            "409": (409, "conflict", ""),
            "500": (500, "oops", ""),
            "503": (503, "overloaded", ""),
            "400": (400, "bad picture", "invalid_image"),
            "404": (404, "no such model", "model_not_found"),
            "no_schema": (400, "response_format json_schema is not supported", "unsupported"),
        }
        if fault in errors:
            entry["status"], message, code = errors[fault]
            after = [f"retry-after: {self.options['retry_after_s']:g}"] if fault == "429" else []
            return self._reply(writer, entry["status"], {"error": {"message": message, "code": code, "type": code}}, after)
        if fault == "hang":
            entry["status"] = 0
            await asyncio.sleep(30)
            return "close"
        if fault == "reset":
            entry["status"] = 0
            writer.transport.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: a hard reset
            writer.transport.abort()
            return "close"
        value = self.completion(body, entry, fault)
        if fault == "drip":
            entry["status"] = 0
            data = json.dumps(value).encode()
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode())
            for byte in data:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)
            return None
        if fault == "truncated":
            entry["status"] = 0
            self._reply(writer, 200, value, cut=40)
            return "close"
        entry["usd"] = value["usage"]["prompt_tokens"] * PRICES["input"] + value["usage"]["completion_tokens"] * PRICES["output"]
        return self._reply(writer, 200, value)

    def completion(self, body, entry, fault=None):
        message, finish = {"role": "assistant", "content": self._write(body, entry)}, "stop"
        if fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I'm sorry, I can't help with that."}
        elif fault == "content_filter":
            message["content"], finish = None, "content_filter"
        elif fault == "length":
            message["content"], finish = message["content"][:20], "length"
        elif fault == "schema_invalid":
            message["content"] = '{"wrong": 1}'
        elif fault == "half_json":
            message["content"] = message["content"][:-9]
        usage = {"prompt_tokens": entry["prompt"], "completion_tokens": 60, "total_tokens": entry["prompt"] + 60}
        return {
            "id": f"c-{uuid.uuid4().hex[:8]}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }

    def _read(self, body):
        """Name, kind and tokens of a conversation; pictures are counted by their size in the JPEG header."""
        texts, pictures = [], []
        for message in body["messages"]:
            parts = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    pictures.append((texts[-1], base64.b64decode(part["image_url"]["url"].split(",")[1])))
        joined = "\n".join(texts)
        kind = "choose" if '"choices"' in joined else "metadata" if '"caption"' in joined else "direct"
        shown = re.search(r"^Name: (.*)$", "\n".join(texts[1:]), re.MULTILINE)
        name = shown[1] if shown else ""
        for _, data in pictures if kind != "choose" else ():
            self.names_of[hashlib.sha256(data).hexdigest()] = name
        tokens = sum(len(text) // 4 for text in texts) + len(json.dumps(body.get("response_format", ""))) // 4
        tokens += sum(85 + 170 * _tiles(data) for _, data in pictures)
        key = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
        return {"kind": kind, "name": name, "prompt": tokens, "pictures": pictures, "texts": texts, "key": key}

    def _write(self, body, entry):
        """What a good model would say."""
        name = entry["name"] or "thing"
        if entry["kind"] == "direct":
            return json.dumps(
                {"object": name, "short": f"the {name} nearby", "long": f"the {name} with a worn dark edge lying next to a wall"}
            )
        if entry["kind"] == "metadata":
            return json.dumps(
                {
                    "caption": f"{name}",
                    "attributes": "made of dented steel",
                    "relations": "beside the sink",
                    "text": "ACME",
                    "knowledge": "",
                    "function": "pour out soup",
                }
            )
        candidates = [self.names_of.get(hashlib.sha256(data).hexdigest(), "?") for _, data in entry["pictures"]]
        choices = []
        for line in entry["texts"][-1].splitlines()[1:]:
            number, _, sentence = line.partition(". ")
            fits = [i for i, candidate in enumerate(candidates) if candidate in sentence]
            if any(candidates[i] in self.options.get("confused", ()) for i in fits):
                fits = [(fits[0] + 1) % len(candidates)]
            choices.append({"sentence": int(number), "candidate": "ABCDEFGH"[fits[0]] if len(fits) == 1 else "unsure"})
        return json.dumps({"choices": choices})

    # batches ----------------------------------------------------------------------------------------------------------------
    def _new_batch(self, request):
        """Done at once: good lines into the output file, others into the error file."""
        good, bad = [], []
        for line in self.files[request["input_file_id"]].decode().splitlines():
            row = json.loads(line)
            entry = {"t": time.monotonic(), "status": 200, "usd": 0.0, "batch": True, **self._read(row["body"])}
            self.log.append(entry)
            if self.script and self.script.pop(0):
                bad.append(
                    {"id": "r", "custom_id": row["custom_id"], "response": None, "error": {"code": "server", "message": "batch line lost"}}
                )
                continue
            value = self.completion(row["body"], entry)
            entry["usd"] = (entry["prompt"] * PRICES["input"] + 60 * PRICES["output"]) / 2
            good.append({"id": "r", "custom_id": row["custom_id"], "response": {"status_code": 200, "body": value}, "error": None})
        batch = {
            "id": f"batch-{len(self.batches)}",
            "object": "batch",
            "status": self.options.get("batch_status", "completed"),
            "endpoint": request["endpoint"],
            "input_file_id": request["input_file_id"],
            "completion_window": "24h",
            "created_at": 1,
            "metadata": request.get("metadata"),
            "output_file_id": None,
            "error_file_id": None,
        }
        for field, rows in (("output_file_id", good), ("error_file_id", bad)):
            if rows:
                batch[field] = f"{batch['id']}-{field}"
                self.files[batch[field]] = "\n".join(map(json.dumps, rows)).encode()
        self.batches[batch["id"]] = batch
        return batch

    def report(self):
        """Totals: what the server saw."""
        good = [e for e in self.log if e["status"] == 200]
        times = [e["t"] for e in self.log]
        paid = collections.Counter(e["key"] for e in good)
        return {
            "requests": len(self.log),
            "answered": len(good),
            "usd": sum(e["usd"] for e in self.log),
            "violations": self.violations,
            "seconds": max(times) - min(times) if times else 0.0,
            "duplicates": sum(n - 1 for n in paid.values()),
            "prompt_tokens": sum(e["prompt"] for e in good),
            "most_open": self.most_open,
        }


def _tiles(jpeg):
    at = 2
    while not 0xC0 <= jpeg[at + 1] <= 0xC3:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    height, width = int.from_bytes(jpeg[at + 5 : at + 7], "big"), int.from_bytes(jpeg[at + 7 : at + 9], "big")
    return -(-height // 512) * -(-width // 512)


if __name__ == "__main__":
    with Server(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}")) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:  # each line asks for the report
            print(json.dumps(server.report()), flush=True)
