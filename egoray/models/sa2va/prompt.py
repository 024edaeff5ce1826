"""What Sa2VA is shown: the words around the frames and how the frames are resized.

Source: Sa2VA's hosted inference and EgoMask's evaluation of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor

from egoray.errors import ModelError
from egoray.models.base import Image

TOKENS = ("[SEG]", "<img>", "</img>", "<IMG_CONTEXT>")
QUESTION = "{images} Please segment the {query} in this image."
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHATML = ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", ("<|im_end|>", "<|endoftext|>"))
TEMPLATES = {
    "phi3_chat": ("<|user|>\n{}<|end|>\n<|assistant|>\n", ("<|end|>",)),  # ordinary words to the tokenizer of the 4B model
    "qwen_chat": _CHATML,
    "internlm2_chat": _CHATML,
}
"""Name of the checkpoint's ``template`` → the turn around a question, and the texts that end an answer."""


def template(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The checkpoint's own turn and ends.

    Raises:
        ModelError: if its template is unknown.
    """
    name = config.get("template", "")
    if name not in TEMPLATES:
        raise ModelError(f"config.json: unknown template {name!r}; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def read_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer, from its data alone; InternLM2's own class is remote code, its sentencepiece model is not.

    Raises:
        ModelError: if there is none, or it lacks a token.
    """
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

    readers: dict[str, Callable[..., Any]] = {
        "tokenizer.json": PreTrainedTokenizerFast.from_pretrained,
        "tokenizer.model": partial(LlamaTokenizer.from_pretrained, add_prefix_space=False, legacy=False),
        "vocab.json": Qwen2Tokenizer.from_pretrained,
    }
    read = next((reader for name, reader in readers.items() if (folder / name).exists()), None)
    if read is None:
        raise ModelError(f"{folder}: has none of {', '.join(readers)}; download the whole folder")
    try:
        found = read(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read ({type(error).__name__}); download it again") from error
    known = found.get_vocab()
    if lacks := [token for token in TOKENS if token not in known]:
        raise ModelError(f"{folder}: the tokenizer has no {lacks[0]}; take the one that comes with the fine-tuned checkpoint")
    return found


def ask(text: str, turn: str, num_frames: int, tokens_a_frame: int) -> str:
    """The whole prompt about ``text``; it is asked in lower case, without one full stop at its end."""
    frame = "<img>" + "<IMG_CONTEXT>" * tokens_a_frame + "</img>"
    query = text.lower().strip().removesuffix(".")
    return turn.format(QUESTION.format(images="\n".join([frame] * num_frames), query=query))


def encode(tokenizer: Any, prompt: str, internlm2: bool) -> Tensor:
    """(L,) int64 ids; InternLM2's begin with its start token."""
    ids = tokenizer(prompt, add_special_tokens=not internlm2).input_ids
    return torch.tensor([tokenizer.bos_token_id, *ids] if internlm2 else ids)


def for_tower(image: Image, side: int) -> Tensor:
    """(3, side, side) float32: squeezed to a square, bicubic, normalised."""
    resized = np.asarray(Picture.fromarray(image).resize((side, side), Picture.Resampling.BICUBIC))
    scaled = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
