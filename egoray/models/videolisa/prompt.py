"""What VideoLISA is asked and which frames it looks at, as in its published evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from egoray.errors import ModelError

SEG = "[SEG]"
BEFORE = "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n"
AFTER = "\nPlease segment the {query} in this image.<|end|>\n<|assistant|>\nSure, [SEG].<|end|>"


def uniform(total: int, wanted: int) -> list[int]:
    """The middles of ``wanted`` equal integer ranges over ``0 <= f < total``, rounded down; none for none."""
    edges = np.linspace(0, total, wanted + 1).astype(int)
    return [int(low + high - 1) // 2 for low, high in pairwise(edges)]


def sparse_frames(num_frames: int, wanted: int) -> list[int]:
    """``wanted`` ascending frames of a clip; a clip that is no longer gives each frame as often as fits, and some once more."""
    if num_frames > wanted:
        return uniform(num_frames, wanted)
    return sorted(list(range(num_frames)) * (wanted // num_frames) + uniform(num_frames, wanted % num_frames))


def dense_positions(num_sparse: int, wanted: int) -> list[int]:
    """Which of the sparse frames are also seen in full; ``[3, 10, 18, 26]`` for 4 of 32."""
    return uniform(num_sparse - 1, wanted)


def check_query(text: str) -> None:
    """Refuse a sentence without a word.

    Raises:
        ValueError: if there is none.
    """
    if not re.search(r"[^\W_]", text):
        raise ValueError(f"nothing to look for in {text!r}: a sentence needs a word")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt around the pictures: ids before them, ids after them, and the place of [SEG] among the latter."""

    before: list[int]
    after: list[int]
    seg: int


class Template:
    """Turns sentences into tokens with the checkpoint's own tokenizer (``tokenizer.json``, or ``tokenizer.model`` and its side files).

    Raises:
        ModelError: if the folder has no tokenizer, or one without [SEG].
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        seg = self._tokenizer.convert_tokens_to_ids(SEG)
        if seg is None or seg == self._tokenizer.unk_token_id or SEG not in self._tokenizer.get_vocab():
            raise ModelError(f"{folder}: the tokenizer has no {SEG}; this is the base model, not a trained VideoLISA")
        self.seg_id = int(seg)

    def __call__(self, text: str) -> Tokens:
        """The sentence as it is asked: lower case, one final dot removed; the answer ``Sure, [SEG].`` is given, not generated.

        Raises:
            ValueError: if the sentence has no word.
        """
        check_query(text)
        query = " ".join(text.lower().split()).removesuffix(".")
        before = self._tokenizer(BEFORE)["input_ids"]
        after = self._tokenizer(AFTER.format(query=query), add_special_tokens=False)["input_ids"]
        return Tokens(before, after, len(after) - 1 - after[::-1].index(self.seg_id))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{folder}: has neither tokenizer.json nor tokenizer.model; download the whole folder")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read ({type(error).__name__}); download it again") from error
