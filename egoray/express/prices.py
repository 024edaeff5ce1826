"""What a request may cost before it is sent, and what an answer did cost: tokens and USD."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from egoray.config import ExpressConfig
from egoray.errors import ConfigError
from egoray.express.pictures import num_tiles
from egoray.express.prompts import Question

BATCH_DISCOUNT = 0.5
_BYTES_A_TOKEN = 3  # of our English instructions; real tokenizers need more than 4
_MESSAGE_TOKENS = 16  # roles and separators of a conversation, generously


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens, and the tokens that a picture takes: a base and so many a 512 px tile."""

    input: float
    cached: float
    output: float
    picture_tokens: int = 85
    tile_tokens: int = 170


PRICES = {  # the provider's list of 2025; a dated version has its model's price
    "gpt-4o": Price(2.5, 1.25, 10.0),
    "gpt-4o-2024-05-13": Price(5.0, 5.0, 15.0),
    "gpt-4o-mini": Price(0.15, 0.075, 0.6, 2833, 5667),
    "gpt-4.1": Price(2.0, 0.5, 8.0),
}


def price_of(config: ExpressConfig) -> Price | None:
    """The model's price: as configured, else from the table, else None.

    Raises:
        ConfigError: if ``max_usd`` is set and the price is not known, or only part of a price is given.
    """
    given = (config.usd_per_m_input, config.usd_per_m_cached, config.usd_per_m_output)
    listed = PRICES.get(config.llm) or PRICES.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", config.llm))
    if config.usd_per_m_input is not None and config.usd_per_m_output is not None:
        cached = config.usd_per_m_input if config.usd_per_m_cached is None else config.usd_per_m_cached
        tiles = (listed.picture_tokens, listed.tile_tokens) if listed else ()
        return Price(config.usd_per_m_input, cached, config.usd_per_m_output, *tiles)
    if any(value is not None for value in given):
        raise ConfigError("usd_per_m_input: set it together with usd_per_m_output (and usd_per_m_cached where that differs)")
    if listed is None and config.max_usd is not None:
        raise ConfigError(f"max_usd: the price of {config.llm} is not known; set usd_per_m_input and usd_per_m_output")
    return listed


def prompt_tokens(question: Question, price: Price | None) -> int:
    """An upper estimate of the question's tokens: its texts and schema by their length, its pictures by their tiles.

    What does not come from us (names, sentences) counts one token a byte where it is not ASCII, so that no script is underrated.
    """
    price = price or PRICES["gpt-4o"]
    total = _MESSAGE_TOKENS + _text_tokens(json.dumps(question.schema))
    for message in question.body["messages"]:
        parts = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
        for part in parts:
            if part["type"] == "text":
                total += _text_tokens(part["text"])
            else:
                size_hw = jpeg_size(b64decode(part["image_url"]["url"].partition(",")[2]))
                total += price.picture_tokens + price.tile_tokens * num_tiles(size_hw)
    return total


def max_answer_tokens(question: Question) -> int:
    """The most tokens that the answer may have."""
    return int(question.body.get("max_tokens") or question.body["max_completion_tokens"])


def usd(price: Price, prompt: int, cached: int, completion: int) -> float:
    """The cost of ``prompt`` tokens, ``cached`` of them from the server's cache, and ``completion`` tokens."""
    return ((prompt - cached) * price.input + cached * price.cached + completion * price.output) / 1e6


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the JPEG's header.

    Raises:
        ValueError: if it is no JPEG.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        if 0xC0 <= marker <= 0xC3:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height, width
        at += 2 + length
    raise ValueError("not a JPEG picture")


def usage_of(body: Any) -> tuple[int, int, int] | None:
    """(prompt, cached, completion) tokens from a response's JSON; None where the server tells none."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    details = usage.get("prompt_tokens_details") or {}
    return usage["prompt_tokens"], int(details.get("cached_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _text_tokens(text: str) -> int:
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return -(-ascii_bytes // _BYTES_A_TOKEN) + len(text.encode()) - ascii_bytes
