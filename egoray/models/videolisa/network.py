"""VideoLISA's networks and how they hand on to each other: CLIP and a projector to Phi-3, its [SEG] to Segment Anything.

Source: "One Token to Seg Them All: Language Instructed Reasoning Segmentation in Videos" (NeurIPS 2024), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, DynamicCache, Phi3Config, Phi3ForCausalLM, SamConfig, SamModel

from egoray.models.videolisa.prompt import Tokens


class Network(nn.Module):
    """The parts, each under the name that `weights.split` gives its tensors.

    Args:
        llm: sizes of Phi-3.
        clip: of CLIP's image half.
        sam: of Segment Anything.
        select_layer: which of CLIP's layers is looked at, from the end (published: -2, the last but one).
    """

    def __init__(self, llm: Phi3Config, clip: CLIPVisionConfig, sam: SamConfig, select_layer: int = -2) -> None:
        super().__init__()
        width, out = llm.hidden_size, sam.vision_config.output_channels
        self.select_layer = select_layer
        self.llm = Phi3ForCausalLM(llm)
        self.clip = CLIPVisionModel(clip)
        self.projector = nn.Sequential(nn.Linear(clip.hidden_size, width), nn.GELU(), nn.Linear(width, width))
        self.seg_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
        self.sam = SamModel(sam)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """CLIP's patch tokens ``(B, P, width of CLIP)`` of its layer before the last, from ``(B, 3, 336, 336)`` normalised pixels."""
        states = self.clip(pixels.to(self.clip.dtype), output_hidden_states=True).hidden_states
        return states[self.select_layer][:, 1:]

    @property
    def dtype(self) -> torch.dtype:
        """Of all but SAM; trained parameters are float32 in any case."""
        return self.projector[0].weight.dtype

    def forward(
        self, asked: Tokens, frames: torch.Tensor, sparse: Sequence[int], dense: Sequence[int], scenes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is trained: the logits ``(A, vocabulary)`` of the answer's tokens, and those of a mask ``(D, 4 h, 4 w)`` a dense frame.

        Gradients reach the language model, the head of [SEG] and the mask decoder; CLIP, the projector and SAM's image pass have none.
        Both are float32; all but the mask decoder runs under bfloat16 where the frozen weights are in it.

        Args:
            asked: the prompt.
            frames: CLIP's pixels of each frame that is looked at, ``(F, 3, 336, 336)``.
            sparse: rows of ``frames`` that the language model is shown, in time order.
            dense: places in ``sparse``, D of them, that it is shown in full.
            scenes: SAM's pixels of these, ``(D, 3, side, side)``.
        """
        with torch.no_grad():
            seen = self.projector(self.look(frames))
            features = torch.cat([self.scene(pixels[None]) for pixels in scenes])
        pictures = visual_tokens([seen[row] for row in sparse], dense)
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            sequence = torch.cat([self.embed(asked.before, pictures), self.embed(asked.after)], dim=1)
            states = self.llm.model(inputs_embeds=sequence, use_cache=False).last_hidden_state[0]
            start = len(asked.before) + len(pictures)
            answer = self.llm.lm_head(states[start + asked.answer - 1 : -1]).float()
            told = self.seg_head(states[None, start + asked.seg - 1]).float()
        with torch.autocast(frames.device.type, enabled=False):
            return answer, self.masks(features, told)[:, 0].clone()  # FSDP hooks what is returned, and a view would lose the hook

    def embed(self, ids: Sequence[int], pictures: torch.Tensor | None = None) -> torch.Tensor:
        """``(1, T, width)`` of tokens, followed by those of the pictures ``(P, width)`` where given."""
        table = self.llm.model.embed_tokens
        words = table(torch.tensor(ids, dtype=torch.long, device=table.weight.device))
        return (words if pictures is None else torch.cat([words, pictures.to(words.dtype)]))[None]

    def seg_embeddings(self, asked: Sequence[Tokens], pictures: torch.Tensor) -> torch.Tensor:
        """``(Q, width of SAM)`` float32: for each prompt what the state before [SEG], which foretells it, says to the mask decoder.

        Args:
            asked: at least one prompt; all begin with the same tokens, which are read once, the pictures ``(P, width)`` with them.
            pictures: see `visual_tokens`.
        """
        cache = DynamicCache()
        start = self.embed(asked[0].before, pictures)
        self.llm.model(inputs_embeds=start, past_key_values=cache, use_cache=True)
        states = []
        for tokens in asked:
            output = self.llm.model(inputs_embeds=self.embed(tokens.after[: tokens.seg]), past_key_values=cache, use_cache=True)
            states.append(output.last_hidden_state[0, -1])
            cache.crop(-tokens.seg)
        return self.seg_head(torch.stack(states)).float()

    def scene(self, pixels: torch.Tensor) -> torch.Tensor:
        """SAM's ``(B, C, h, w)`` float32 features of ``(B, 3, side, side)`` pixels; under bfloat16 if the language model is in it."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            features = self.sam.vision_encoder(pixels).last_hidden_state
        return features.float()

    def masks(self, features: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """``(B, Q, 4 h, 4 w)`` float32 logits: in each picture's features each of the ``(Q, C)`` embeddings, alone."""
        batch, prompt = len(features), embeddings[None, :, None]
        _, nothing = self.sam.prompt_encoder(None, None, None, None)
        logits, _ = self.sam.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().expand(batch, -1, -1, -1),
            sparse_prompt_embeddings=prompt.expand(batch, -1, -1, -1),
            dense_prompt_embeddings=nothing.expand(batch, -1, -1, -1),
            multimask_output=False,
        )
        return logits[:, :, 0]


def visual_tokens(seen: Sequence[torch.Tensor], dense: Sequence[int]) -> torch.Tensor:
    """``(len(seen) + len(dense) * P, width)``: the mean of each frame's ``(P, width)`` tokens, then all of the frames at ``dense``."""
    return torch.cat([torch.stack([tokens.mean(0) for tokens in seen]), *(seen[place] for place in dense)])
