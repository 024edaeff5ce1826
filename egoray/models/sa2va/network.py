"""Sa2VA's networks put together: InternVL reads and answers, the state at its [SEG] token prompts SAM 2.0's mask decoder.

SAM 2 runs as Sa2VA runs it, not as its own predictor does: masks of objects that score below 0 stay, what is remembered is not
binarised, and pixels are normalised by constants rounded to bfloat16.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from egoray.models.sam2_network import Decoded, Features, Network
from egoray.models.sam2_weights import build_network

MAX_NEW_TOKENS = 2048


class Sa2vaModules(nn.Module):
    """The parts by their native names: ``vlm``, ``seg_head``, ``sam2``.

    Args:
        internvl: see `internvl_config`.
        sam2: see `sam2_config`.
    """

    def __init__(self, internvl: Any, sam2: DictConfig) -> None:
        from transformers import InternVLForConditionalGeneration

        super().__init__()
        self.vlm = InternVLForConditionalGeneration(internvl)
        width = internvl.text_config.hidden_size
        self.sam2 = build_network(sam2, Path("sam2.yaml"))
        self.seg_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, self.sam2.hidden_dim))

    def forward(
        self, ids: Tensor, image_token_id: int, pixels: Tensor, squares: Tensor, seg_at: Sequence[int], answers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A training pass: what the answers' tokens are expected to be, and the masks that each [SEG] gives in the key frames.

        Args:
            ids: (L,) int64, a whole conversation.
            image_token_id: of the frames' places in it.
            pixels: (F, 3, S, S) float32 of the key frames, for the vision tower.
            squares: (F, 3, side, side) float32 of the same frames, for SAM 2.
            seg_at: places of the E [SEG] tokens.
            answers: (L,) bool, the tokens to be learned.

        Returns:
            (A, V) logits, one row a token to be learned, and (E, F, 4h, 4w) float32 mask logits, of each candidate of three the one that
            the network trusts most.
        """
        embedded = self.embed(ids, image_token_id, self.look(pixels))
        states = self.vlm.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        logits = self.vlm.lm_head(states[:-1][answers[1:]])
        return logits, self._masks(squares, self.prompt(states[list(seg_at)]))

    def _masks(self, squares: Tensor, prompts: Tensor) -> Tensor:
        """(E, F, 4h, 4w) from (F, 3, side, side) frames and (E, C) prompts, every frame on its own."""
        sam2, count = self.sam2, len(prompts)
        with torch.no_grad():  # the encoder learns nothing here
            maps = sam2.image_encoder(squares)["backbone_fpn"]
            empty = (torch.zeros(1, 1, 2, device=squares.device), -torch.ones(1, 1, dtype=torch.int32, device=squares.device))
            sparse, dense = sam2.sam_prompt_encoder(points=empty, boxes=None, masks=None)
            place = sam2.sam_prompt_encoder.get_dense_pe()
        decoder = sam2.sam_mask_decoder
        fine = [decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])]
        asked = torch.cat([sparse.expand(count, -1, -1), prompts[:, None]], dim=1)
        frames = []
        for k in range(len(squares)):
            top = maps[2][k : k + 1] + sam2.no_mem_embed.view(1, -1, 1, 1)
            logits, ious, _, _ = decoder(
                image_embeddings=top.expand(count, -1, -1, -1),
                image_pe=place,
                sparse_prompt_embeddings=asked,
                dense_prompt_embeddings=dense.expand(count, -1, -1, -1),
                multimask_output=True,
                repeat_image=False,
                high_res_features=[level[k : k + 1] for level in fine],
            )
            frames.append(logits[torch.arange(count), ious.argmax(-1)].float())
        return torch.stack(frames, dim=1)

    def look(self, pixels: Tensor) -> Tensor:
        """(N, tokens, width) of (N, 3, S, S) frames."""
        return self.vlm.model.get_image_features(pixels.to(self.vlm.dtype), vision_feature_layer=-1, return_dict=True).pooler_output

    def embed(self, ids: Tensor, image_token_id: int, looks: Tensor) -> Tensor:
        """(1, L, width): the words of (L,) ids, with the frames' tokens in place of ``image_token_id``."""
        words = self.vlm.get_input_embeddings()(ids)
        words[ids == image_token_id] = looks.flatten(0, 1).to(words.dtype)
        return words[None]

    def read(self, embedded: Tensor, cache: Any = None) -> tuple[Tensor, Tensor, Any]:
        """The last layer's (1, L, width) states after the norm, the last position's (V,) logits, and the cache to go on from."""
        out = self.vlm.model.language_model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        return out.last_hidden_state, self.vlm.lm_head(out.last_hidden_state[0, -1]), out.past_key_values

    def answer(
        self, embedded: Tensor, cache: Any, seg_id: int, stops: Sequence[str], tokenizer: Any, max_new_tokens: int
    ) -> tuple[list[int], list[Tensor]]:
        """Greedy generation: the ids, and the (width,) state at each [SEG] that was read back; one that is the last id is not.

        Args:
            embedded: (1, L, width), what comes after the cache.
            cache: of what was read before; used up.
            seg_id: of [SEG].
            stops: texts that end the answer.
            tokenizer: for those, and for its own end token.
            max_new_tokens: ids at most.
        """
        ids: list[int] = []
        states: list[Tensor] = []
        _, logits, cache = self.read(embedded, cache)
        while True:
            ids.append(int(logits.argmax()))
            text = tokenizer.decode(ids[-16:])
            if len(ids) >= max_new_tokens or ids[-1] == tokenizer.eos_token_id or any(stop in text for stop in stops):
                return ids, states
            state, logits, cache = self.read(self.vlm.get_input_embeddings()(torch.tensor([[ids[-1]]], device=embedded.device)), cache)
            if ids[-1] == seg_id:
                states.append(state[0, -1])

    def prompt(self, states: Tensor) -> Tensor:
        """(P, C) prompts for the mask decoder from (P, width) states."""
        return self.seg_head(states.to(self.seg_head[0].weight.dtype)).float()


class SegNetwork(Network):
    """SAM 2 as Sa2VA runs it."""

    def __init__(self, modules: Sa2vaModules) -> None:
        super().__init__(modules.sam2)
        self.hide_absent = False
        self._mean, self._std = self._mean.bfloat16().float(), self._std.bfloat16().float()

    def segment(self, features: Features, prompts: Tensor) -> Decoded:
        """The masks of (P, C) prompts in a key frame, without memory."""
        fused = self.unprompted(features).expand(len(prompts), -1, -1)
        return self.decode(features, fused, None, None, first=True, language=prompts[:, None])


def copied(cache: Any) -> Any:
    """A cache to go on from, while the given one stays as it is."""
    return copy.deepcopy(cache)
