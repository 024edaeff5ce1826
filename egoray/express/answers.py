"""The answers that were paid for, by the key of their question: written before anything else is done with them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from egoray.core.storage import Folder
from egoray.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said to one question. ``finish`` is its finish_reason; ``usd`` is None where the price is not known."""

    text: str
    finish: str
    refusal: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None

    @property
    def fault(self) -> str:
        """Why the text cannot be an answer, as a phrase that a model can act upon; empty where it may be one."""
        if self.refusal or self.finish == "content_filter":
            return f"it is a refusal ({self.refusal[:200] or 'stopped by the content filter'})"
        if self.finish == "length":
            return "it is too long and was cut off"
        return ""


class Answers:
    """The cache: ``<folder>/answers/<two digits>/<key>.json``, one whole file an answer.

    Args:
        folder: the stage's work folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder / "answers"

    def get(self, key: str) -> Answer | None:
        """The answer kept under the key; None if there is none, or the file is damaged."""
        try:
            return Answer(**json.loads((self._folder / key[:2]).read_bytes(f"{key}.json")))
        except (FormatError, ValueError, TypeError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep the answer; an earlier one under the key is replaced."""
        (self._folder / key[:2]).write_bytes(f"{key}.json", json.dumps(asdict(answer)).encode())
