"""What VideoLISA is asked and which frames it looks at, as in its published evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from egoray.errors import ModelError
from egoray.models.base import check_texts
from egoray.models.published import read_config

SEG = "[SEG]"
_BLANK = "\u2581"
BEFORE = "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n"
QUESTION = "Please segment the {query} in this image."
ANSWER = "Sure, [SEG].<|end|>"


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


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt around the pictures: ids before them, ids after them, and where among the latter [SEG] is and the answer begins."""

    before: list[int]
    after: list[int]
    seg: int
    answer: int


class Template:
    """Turns sentences into tokens with the checkpoint's own tokenizer, ``tokenizer.model`` with its side files or ``tokenizer.json``.

    Raises:
        ModelError: if the folder has no tokenizer, or one without [SEG].
    """

    def __init__(self, folder: Path) -> None:
        tokenizer = _load(folder)
        if SEG not in tokenizer.get_vocab():
            raise ModelError(f"{folder}: the tokenizer has no {SEG}; this is the base model, not a trained VideoLISA")
        self.seg_id = tokenizer.convert_tokens_to_ids(SEG)
        self.max_length: int = tokenizer.model_max_length
        self._tokenizer, self._before = tokenizer, tokenizer(BEFORE)["input_ids"]
        if _keeps_blank(folder, tokenizer):
            self._before.insert(int(self._before[0] == tokenizer.bos_token_id), tokenizer.convert_tokens_to_ids(_BLANK))

    def __call__(self, text: str, question: str = QUESTION) -> Tokens:
        """The sentence as it is asked: lower case, one final dot removed; the answer ``Sure, [SEG].`` is given, not generated.

        Args:
            text: the sentence.
            question: where ``{query}`` stands for it.

        Raises:
            ValueError: if the sentence has no word.
        """
        check_texts([text])
        query = text.strip().lower().removesuffix(".")
        asked = f"\n{question.format(query=query)}<|end|>\n<|assistant|>\n"
        tokens = self._tokenizer(asked + ANSWER, add_special_tokens=False, return_offsets_mapping=True)
        after = tokens["input_ids"]
        answer = next(k for k, (start, _) in enumerate(tokens["offset_mapping"]) if start >= len(asked))
        return Tokens(self._before, after, len(after) - 1 - after[::-1].index(self.seg_id), answer)


def _load(folder: Path) -> Any:
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    slow = (folder / "tokenizer.model").exists()
    if not slow and not (folder / "tokenizer.json").exists():
        raise ModelError(f"{folder}: has neither tokenizer.model nor tokenizer.json; download the whole folder")
    try:
        if slow:
            return LlamaTokenizer.from_pretrained(folder, local_files_only=True, legacy=_legacy(folder))
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read ({type(error).__name__}); download it again") from error


def _legacy(folder: Path) -> bool:
    return read_config(folder, "tokenizer_config.json").get("legacy") is not False


def _keeps_blank(folder: Path, tokenizer: Any) -> bool:
    """Whether the tokenizer of VideoLISA's release puts a blank before the first marker, which that of today does not.

    It begins each prompt with one and drops it before a token that the special tokens list; Phi-3's markers are added, not listed.
    """
    return (folder / "tokenizer.model").exists() and not _legacy(folder) and BEFORE.split("\n")[0] not in tokenizer.all_special_tokens
