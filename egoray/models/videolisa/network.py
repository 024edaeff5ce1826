"""VideoLISA's networks put together: CLIP and a projector for the eyes, Phi-3 for the sentence, SAM for the masks.

The language model reads all sparse frames as one token each and the dense ones in full; its hidden state before [SEG] becomes the
only prompt of SAM's mask decoder, the same for every frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.models.videolisa.prompt import IMAGE
from egoray.models.videolisa.weights import sizes


class VideoLisaNetwork(nn.Module):
    """The parts by their native names; see the checkpoint's ``config`` in `sizes`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM, SamConfig, SamModel

        super().__init__()
        llm, clip, sam = sizes(config)
        self.llm = Phi3ForCausalLM(Phi3Config(**llm))
        self.clip = CLIPVisionModel(CLIPVisionConfig(**clip))
        self.sam = SamModel(SamConfig(**sam))
        width = llm["hidden_size"]
        self.projector = nn.Sequential(nn.Linear(clip["hidden_size"], width), nn.GELU(), nn.Linear(width, width))
        channels = sam["prompt_encoder_config"]["hidden_size"]
        self.seg_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))
        self.select_layer = config.get("mm_vision_select_layer", -2)

    def look(self, pixels: Tensor) -> Tensor:
        """(N, tokens, width) visual tokens of (N, 3, S, S) CLIP images."""
        dtype = self.clip.embeddings.patch_embedding.weight.dtype
        seen = self.clip(pixels.to(dtype), output_hidden_states=True).hidden_states[self.select_layer]
        return self.projector(seen[:, 1:].to(self.projector[0].weight.dtype))

    def read(self, ids: Tensor, sparse: Tensor, dense: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The (1, L, width) hidden states and (1, L, V) logits of the prompt.

        Args:
            ids: (L',) with `IMAGE` where the visual tokens go.
            sparse: (N, tokens, width) of the sparse frames.
            dense: which of them are shown in full.
        """
        visual = torch.cat([sparse.mean(1), sparse[list(dense)].flatten(0, 1)])
        (at,) = (ids == IMAGE).nonzero()[:, 0].tolist()
        words = self.llm.get_input_embeddings()(torch.cat([ids[:at], ids[at + 1 :]]))
        embedded = torch.cat([words[:at], visual.to(words.dtype), words[at:]])[None]
        out = self.llm(inputs_embeds=embedded, output_hidden_states=True, use_cache=False)
        return out.hidden_states[-1], out.logits

    def prompt(self, ids: Tensor, seg_id: int, hidden: Tensor) -> Tensor:
        """(channels,) what the mask decoder is prompted with: the state that predicts the one [SEG] of ``ids``."""
        from_end = len(ids) - int((ids == seg_id).nonzero()[-1, 0])
        state = hidden[0, hidden.shape[1] - from_end - 1]
        return self.seg_head(state.to(self.seg_head[0].weight.dtype)).float()

    def see(self, pixels: Tensor) -> Tensor:
        """(N, channels, h, w) image embeddings of (N, 3, S, S) SAM images."""
        return self.sam.get_image_embeddings(pixels.to(self.sam.vision_encoder.patch_embed.projection.weight.dtype)).float()

    def masks(self, images: Tensor, prompts: Tensor) -> Tensor:
        """(N, P, 4h, 4w) logits for each of (N, channels, h, w) images and (P, channels) prompts."""
        num = len(images)
        sparse = prompts[None, :, None].expand(num, -1, -1, -1)
        _, dense = self.sam.prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=None)
        places = self.sam.get_image_wide_positional_embeddings().expand(num, -1, -1, -1)
        low_res, _ = self.sam.mask_decoder(
            image_embeddings=images,
            image_positional_embeddings=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.expand(num, -1, -1, -1),
            multimask_output=False,
        )
        return low_res[:, :, 0]


def enlarge(low_res: Tensor, side: int, fed_hw: tuple[int, int], size_hw: tuple[int, int]) -> Tensor:
    """(N, P, H, W) logits at the frame's size: up to SAM's square, the padding cut off, then to the frame."""
    square = F.interpolate(low_res, (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(square[..., : fed_hw[0], : fed_hw[1]], size_hw, mode="bilinear", align_corners=False)
