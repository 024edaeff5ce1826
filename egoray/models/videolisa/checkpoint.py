"""A VideoLISA checkpoint from its folder or id to networks that run, for who asks it and for who trains it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from egoray.errors import ModelError
from egoray.models.published import check_memory, checkpoint_folder, num_bytes, read_config, read_weights
from egoray.models.videolisa.network import Network
from egoray.models.videolisa.pictures import ClipPictures
from egoray.models.videolisa.prompt import Template
from egoray.models.videolisa.weights import build, clip_weights, split

CLIP = "openai/clip-vit-large-patch14-336"
"""Which CLIP a checkpoint means whose config names none."""
TEXT_TOKENS = 128
"""Room that the pictures must leave for the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """What a folder with VideoLISA's published files holds, loaded.

    Attributes:
        folder: the files.
        clip_folder: those of CLIP, perhaps inside of it.
        net: in evaluation mode, without gradients; SAM in float32.
        template: sentences to tokens.
        clip_pictures: frames for CLIP.
    """

    folder: Path
    clip_folder: Path
    net: Network
    template: Template
    clip_pictures: ClipPictures

    @property
    def side_px(self) -> int:
        """Of SAM's input."""
        return self.net.sam.config.vision_config.image_size

    @property
    def num_positions(self) -> int:
        """Tokens that the language model reads at most, those of the pictures too."""
        return self.net.llm.config.max_position_embeddings

    def num_visual(self, num_sparse: int, num_dense: int) -> int:
        """Tokens that so many frames are.

        Raises:
            ModelError: if they leave no room for a prompt.
        """
        sizes = self.net.clip.config
        found = num_sparse + num_dense * (sizes.image_size // sizes.patch_size) ** 2
        if found + TEXT_TOKENS > self.num_positions:
            raise ModelError(
                f"videolisa: {num_sparse} sparse and {num_dense} dense frames are {found} tokens,"
                f" and the model reads {self.num_positions} with the prompt; take fewer dense frames"
            )
        return found


def load(name: str, clip: str, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Read and build a checkpoint.

    Args:
        name: a folder with VideoLISA's published files, or a Hugging Face id as ``owner/name`` or ``owner/name@revision``.
        clip: folder or id of CLIP; "" for the one that the checkpoint's config names, inside its folder or published. Only its
            configs are read where the checkpoint holds CLIP's weights itself.
        device: where the networks are to live.
        dtype: float32 or bfloat16, of all but SAM.

    Raises:
        ModelError: if anything of the checkpoint is missing, damaged or of another model, or the memory is too small.
    """
    folder = checkpoint_folder(name)
    config = read_config(folder)
    template = Template(folder)
    parts = split(read_weights(folder), str(folder))
    clip_folder = _clip_folder(folder, clip, config, weights=not parts["clip"])
    clip_config = read_config(clip_folder)
    if not parts["clip"]:
        parts["clip"] = clip_weights(read_weights(clip_folder))
    check_memory(sum(num_bytes(tensors, torch.float32 if part == "sam" else dtype) for part, tensors in parts.items()), device, str(folder))
    net = build(parts, config, clip_config, str(folder), device, dtype)
    return Checkpoint(
        folder=folder,
        clip_folder=clip_folder,
        net=net,
        template=template,
        clip_pictures=ClipPictures(clip_folder, net.clip.config.image_size),
    )


def _clip_folder(folder: Path, asked: str, config: dict[str, Any], weights: bool) -> Path:
    name = asked or str(config.get("mm_vision_tower") or CLIP)
    if not asked and (folder / name).is_dir():
        return folder / name
    try:
        return checkpoint_folder(name, weights)
    except ModelError as error:
        raise ModelError(f"{error}; VideoLISA needs a CLIP beside its own weights, name its folder with the option clip") from error
