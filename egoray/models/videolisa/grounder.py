"""VideoLISA as a grounding model: one look at sampled frames, then a mask in every frame on its own.

Source: VideoLISA (Bai et al., NeurIPS 2024) as EgoMask evaluates it: 32 sparse and 4 dense frames, no generated text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import torch
from torch import Tensor

from egoray.core.masks import encode as encode_mask
from egoray.errors import ModelError
from egoray.models import published
from egoray.models.base import Clip, Frames, Grounded, Image, check_texts
from egoray.models.videolisa.network import VideoLisaNetwork, enlarge
from egoray.models.videolisa.prompt import dense_places, encode, for_clip, for_sam, sparse_frames
from egoray.models.videolisa.weights import CLIP_CHECKPOINT, convert
from egoray.schema import MaskRLE


class VideoLisa:
    """Satisfies `Grounder`. A frame's score is the sigmoid of its highest mask logit: above 0.5 where there is a mask.

    Args:
        checkpoint: a folder in the published layout, or a Hugging Face id.
        device: a torch device; on a GPU the language model and CLIP run in bfloat16, SAM's encoder under autocast.
        clip: where CLIP comes from if the checkpoint has none.
        batch: frames that SAM takes at once; None lets the device decide.

    Raises:
        ModelError: if the checkpoint cannot be used, or does not fit.
    """

    name = "videolisa"

    def __init__(self, checkpoint: str, device: str = "cpu", *, clip: str = CLIP_CHECKPOINT, batch: int | None = None) -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._batch = batch or (8 if on_gpu else 1)
        folder = published.fetched(checkpoint)
        config = published.read_json(folder, "config.json")
        files = published.shards(folder)
        self._tokenizer = published.tokenizer(folder, ["[SEG]"])
        self._seg_id = self._tokenizer.convert_tokens_to_ids("[SEG]")
        self._num_sparse = config.get("num_frames_sparse", 32)
        self._num_dense = config.get("num_frames_dense", 4)
        with published.without_weights():
            self.network = VideoLisaNetwork(config)
        published.check_memory(self.network, self._dtype, self._device, checkpoint)
        stored: Iterator[tuple[str, Tensor]] = published.tensors(files)
        if not any("vision_tower" in name for name in published.names(files)):
            stored = chain(stored, published.tensors(published.shards(published.fetched(clip))))
        published.load(self.network, stored, convert, self._dtype, self._device)

    def _dtype(self, name: str) -> torch.dtype:
        half = self._device.type == "cuda" and name.startswith(("llm.", "clip.", "projector."))
        return torch.bfloat16 if half else torch.float32

    @torch.inference_mode()
    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`; the frames go through CLIP and SAM's encoder once for all sentences."""
        check_texts(texts)
        if not texts:
            return []
        try:
            return self._ground(clip, texts)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{self.name}: out of GPU memory at {self._batch} frames at once; lower it or use a larger GPU") from error

    def _ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        prompts = self._prompts(clip, texts)
        masks: list[dict[int, MaskRLE]] = [{} for _ in texts]
        scores: list[dict[int, float]] = [{} for _ in texts]
        side = self.network.sam.config.vision_config.image_size
        for frames, logits, fed in self._segmented(clip.frames(), prompts, side):
            for frame, of_frame in zip(frames, logits, strict=True):
                large = enlarge(of_frame[None], side, fed, clip.size_hw)[0]
                for n, one in enumerate(large):
                    mask = (one > 0).cpu().numpy()
                    scores[n][frame] = float(torch.sigmoid(one.max()))
                    if mask.any():
                        masks[n][frame] = encode_mask(mask)
        return [Grounded(masks=m, scores=s) for m, s in zip(masks, scores, strict=True)]

    def _prompts(self, clip: Clip, texts: Sequence[str]) -> Tensor:
        """(P, channels) what SAM is prompted with, one a sentence."""
        side = self.network.clip.config.image_size
        sparse = sparse_frames(clip.num_frames, self._num_sparse)
        distinct = sorted(set(sparse))
        looks = {f: self.network.look(for_clip(image, side)[None].to(self._device))[0] for f, image in clip.frames(distinct)}
        tokens = torch.stack([looks[f] for f in sparse])
        dense = dense_places(self._num_sparse, self._num_dense)
        prompts = []
        for text in texts:
            ids = encode(self._tokenizer, text).to(self._device)
            hidden, _ = self.network.read(ids, tokens, dense)
            prompts.append(self.network.prompt(ids, self._seg_id, hidden))
        return torch.stack(prompts)

    def _segmented(self, frames: Frames, prompts: Tensor, side: int) -> Iterator[tuple[list[int], Tensor, tuple[int, int]]]:
        """Batches of frame numbers, their (N, P, h, w) logits, and the part of SAM's square that a frame fills."""
        source = iter(frames)
        while chunk := list(islice(source, self._batch)):
            images: list[Image] = [image for _, image in chunk]
            fed = [for_sam(image, side) for image in images]
            pixels = torch.stack([one for one, _ in fed]).to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
                seen = self.network.see(pixels)
            yield [frame for frame, _ in chunk], self.network.masks(seen, prompts), fed[0][1]
