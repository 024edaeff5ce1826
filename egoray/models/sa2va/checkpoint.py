"""A Sa2VA checkpoint from its folder or id to networks that run, for who asks it and for who trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egoray.models.published import EmptyWeights, check_memory, checkpoint_folder, fill, num_bytes, read_config, read_weights
from egoray.models.sa2va.network import Sa2vaModules
from egoray.models.sa2va.prompt import read_tokenizer, template
from egoray.models.sa2va.weights import chat_config, converted, converter, internvl_config, is_internlm2, sam2_config


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a folder with Sa2VA's published files holds, loaded.

    Attributes:
        folder: the files.
        config: see `chat_config`.
        modules: in evaluation mode, without gradients; seg head and SAM 2 in float32.
        tokenizer: the checkpoint's own.
        turn, stops: see `template`.
        side_px: of the vision tower's input.
        tokens_a_frame: tokens that a frame is to the language model.
    """

    folder: Path
    config: Mapping[str, Any]
    modules: Sa2vaModules
    tokenizer: Any
    turn: str
    stops: Sequence[str]
    side_px: int
    tokens_a_frame: int

    @property
    def internlm2(self) -> bool:
        """Whether the language model is InternLM2."""
        return is_internlm2(self.config)

    def token(self, text: str) -> int:
        """The id of a special token."""
        return int(self.tokenizer.convert_tokens_to_ids(text))


def load(name: str, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Read and build a checkpoint.

    Args:
        name: a folder in the published layout, or a Hugging Face id as ``owner/name`` or ``owner/name@revision``.
        device: where the networks are to live.
        dtype: float32 or bfloat16, of the vision tower and the language model.

    Raises:
        ModelError: if anything is missing, damaged or of another model, or the memory is too small.
    """
    folder = checkpoint_folder(name)
    config = chat_config(read_config(folder))
    turn, stops = template(config)
    tokenizer = read_tokenizer(folder)
    internvl = internvl_config(config, tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
    dtypes = {"vlm": dtype, "seg_head": torch.float32, "sam2": torch.float32}
    parts = converted(read_weights(folder), converter(config), str(folder))
    check_memory(sum(num_bytes(tensors, dtypes[part]) for part, tensors in parts.items()), device, str(folder))
    with EmptyWeights():
        modules = Sa2vaModules(internvl, sam2_config(folder))
    for part, kind in dtypes.items():
        fill(getattr(modules, part), parts.get(part, {}), f"{folder} ({part})", device, kind)
    return Checkpoint(
        folder=folder,
        config=config,
        modules=modules.eval(),
        tokenizer=tokenizer,
        turn=turn,
        stops=stops,
        side_px=internvl.vision_config.image_size[0],
        tokens_a_frame=internvl.image_seq_length,
    )
