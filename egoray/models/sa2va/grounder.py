"""Sa2VA as a grounding model: key frames and the sentence into the language model, masks on the key frames, then propagation.

Source: Sa2VA (Yuan et al. 2025) as EgoMask evaluates it: the first five frames are the key frames. ``key_frames`` and ``tracker``
depart from it; spread key frames and an untouched SAM 2 for the rest are the inference of "Sa2VA-i".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from egoray.core.masks import encode as encode_mask
from egoray.errors import ModelError
from egoray.models.base import (
    Clip,
    Grounded,
    Judged,
    Judging,
    Prompt,
    TextDetector,
    TrackRequest,
    VideoTracker,
    check_texts,
    gathered,
)
from egoray.models.sa2va.checkpoint import load
from egoray.models.sa2va.network import MAX_NEW_TOKENS, SegNetwork, copied
from egoray.models.sa2va.prompt import ask, encode, for_tower
from egoray.models.sam2_memory import Recall, Remembered, StockMemory
from egoray.models.sam2_network import Features
from egoray.models.sam2_session import Session, Settings, running
from egoray.schema import MaskRLE

KEY_FRAMES = ("first", "uniform", "query_aware")


@dataclass(frozen=True, slots=True)
class KeyFrameMemory(StockMemory):
    """SAM 2's memory with every key frame in it for good; of the key frames' pointers those of the past alone."""

    max_prompted: int = 2**31

    def recall(self, past: list[Remembered], now: int, num_masks: int, num_pointers: int) -> Recall:
        """See `MemoryPolicy.recall`."""
        found = StockMemory.recall(self, past, now, num_masks, num_pointers)
        return Recall(found.masks, [(age, entry) for age, entry in found.pointers if entry.frame <= now])


class Sa2va:
    """Satisfies `Grounder`. A frame's score is the sigmoid of its highest mask logit, or what ``tracker`` says.

    Args:
        checkpoint: a folder in the published layout, or a Hugging Face id.
        device: a torch device; on a GPU the language model runs in bfloat16, SAM 2 under autocast.
        key_frames: first (as published), uniform (spread over the clip), or query_aware: in each of as many equal parts of the clip the
            frame where ``detector`` is most certain.
        num_key_frames: how many.
        tracker: propagates the key frames' masks, instead of the fine-tuned SAM 2 with its own memory.
        detector: for query_aware.
        max_new_tokens: of an answer.

    Raises:
        ModelError: if the checkpoint cannot be used, or does not fit; for query_aware without a detector.
    """

    name = "sa2va"

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        *,
        key_frames: str = "first",
        num_key_frames: int = 5,
        tracker: VideoTracker | None = None,
        detector: TextDetector | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        if key_frames not in KEY_FRAMES or (key_frames == "query_aware" and detector is None):
            raise ModelError(f"key_frames {key_frames}: known are {', '.join(KEY_FRAMES)}; query_aware needs a detector")
        self._device = torch.device(device)
        self._choice, self._num_keys, self._detector, self._tracker = key_frames, num_key_frames, detector, tracker
        self._max_new_tokens = max_new_tokens
        half = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        found = load(checkpoint, self._device, half)
        self.modules, self.tokenizer = found.modules, found.tokenizer
        self._turn, self._stops, self._internlm2 = found.turn, found.stops, found.internlm2
        self._seg_id, self._image_id = found.token("[SEG]"), found.token("<IMG_CONTEXT>")
        self._side, self._tokens_a_frame = found.side_px, found.tokens_a_frame
        self.masks = SegNetwork(self.modules)

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`; sentences with the same key frames share their tokens, and all share SAM 2's encoder."""
        return gathered(self.stream(clip, texts))

    def stream(self, clip: Clip, texts: Sequence[str]) -> Judging:
        """See `StreamingGrounder.stream`."""
        check_texts(texts)
        if not texts:
            return []
        with running(self.masks):
            keys = self._key_frames(clip, texts)
            images = dict(clip.frames(sorted({f for of_text in keys for f in of_text})))
            prompts = self._prompts(texts, keys, images)
            encoded = {frame: self.masks.encode([image])[0] for frame, image in images.items()}
        found = self._tracked(clip, keys, prompts, encoded) if self._tracker else self._propagated(clip, keys, prompts, encoded)
        masks: list[dict[int, MaskRLE]] = [{} for _ in texts]
        scores: list[dict[int, float]] = [{} for _ in texts]
        for n, frame, mask, score in found:
            scores[n][frame] = score
            if mask.any():
                masks[n][frame] = encode_mask(mask)
            yield Judged(text_index=n, frame=frame, mask=masks[n].get(frame), score=score)
        return [Grounded(masks=m, scores=s) for m, s in zip(masks, scores, strict=True)]

    def _key_frames(self, clip: Clip, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The key frames of each sentence."""
        num = min(self._num_keys, clip.num_frames)
        if self._choice == "first":
            return [tuple(range(num))] * len(texts)
        edges = np.linspace(0, clip.num_frames, num + 1).astype(int)
        if self._choice == "uniform":
            return [tuple(int(a + b - 1) // 2 for a, b in pairwise(edges))] * len(texts)
        assert self._detector is not None
        certain = np.zeros((len(texts), clip.num_frames))
        for frame, image in clip.frames():
            for n, found in enumerate(self._detector.detect([image], texts)[0]):
                certain[n, frame] = found[0].score if found else 0.0
        return [tuple(int(a + row[a:b].argmax()) for a, b in pairwise(edges)) for row in certain]

    def _prompts(self, texts: Sequence[str], keys: Sequence[tuple[int, ...]], images: Mapping[int, np.ndarray]) -> dict[int, Tensor]:
        """What the mask decoder is prompted with, for each sentence whose answer has a [SEG]; the first one counts."""
        modules, prompts = self.modules, {}
        order = sorted(range(len(texts)), key=lambda n: keys[n])
        for frames, group in groupby(order, key=lambda n: keys[n]):
            looks = torch.cat([modules.look(for_tower(images[f], self._side)[None].to(self._device)) for f in frames])
            asked = {n: self._ids(texts[n], len(frames)) for n in group}
            first = next(iter(asked.values()))
            shown = int((first == self._image_id).nonzero()[-1, 0]) + 1
            _, _, cache = modules.read(modules.embed(first[:shown], self._image_id, looks))
            for n, ids in asked.items():
                words = modules.embed(ids[shown:], self._image_id, looks[:0])
                _, states = modules.answer(words, copied(cache), self._seg_id, self._stops, self.tokenizer, self._max_new_tokens)
                if states:
                    prompts[n] = modules.prompt(states[0][None])[0]
        return prompts

    def _ids(self, text: str, num_frames: int) -> Tensor:
        prompt = ask(text, self._turn, num_frames, self._tokens_a_frame)
        return encode(self.tokenizer, prompt, self._internlm2).to(self._device)

    def _propagated(
        self, clip: Clip, keys: Sequence[tuple[int, ...]], prompts: Mapping[int, Tensor], encoded: Mapping[int, Features]
    ) -> Iterator[tuple[int, int, np.ndarray, float]]:
        """(sentence, frame, mask, score): the key frames, then every other frame from what is remembered of them."""
        session = Session(self.masks, clip.size_hw, Settings(policy=KeyFrameMemory()), clip.num_frames)
        for n, prompt in prompts.items():
            with running(self.masks):
                past = []
                for frame in keys[n]:
                    decoded = self.masks.segment(encoded[frame], prompt[None])
                    past += session.entries(frame, encoded[frame], decoded, prompted=True, stays=True)
                    yield n, frame, *self._mask(decoded.logits[:, 0], clip.size_hw)
            session.adopt(str(n), past)
        done = [frame for frame in encoded if all(frame in keys[n] for n in prompts)]
        for frame, image in clip.frames([f for f in range(clip.num_frames) if prompts and f not in done]):
            waiting = {str(n): session.objects[str(n)] for n in prompts if frame in keys[n]}
            for key in waiting:
                session.drop(key)
            with running(self.masks):
                features = encoded[frame] if frame in encoded else self.masks.encode([image])[0]
            for key, tracked in session.advance(frame, features, {}).masks().items():
                yield int(key), frame, *self._mask(torch.from_numpy(tracked.logits)[None], clip.size_hw)
            for key, past in waiting.items():
                session.adopt(key, past)

    def _tracked(
        self, clip: Clip, keys: Sequence[tuple[int, ...]], prompts: Mapping[int, Tensor], encoded: Mapping[int, Features]
    ) -> Iterator[tuple[int, int, np.ndarray, float]]:
        """(sentence, frame, mask, score) by the tracker, told the key frames' masks."""
        requests = []
        for n, prompt in prompts.items():
            with running(self.masks):
                masks = {f: self._mask(self.masks.segment(encoded[f], prompt[None]).logits[:, 0], clip.size_hw)[0] for f in keys[n]}
            told = {f: Prompt(mask=mask) for f, mask in masks.items()}
            requests.append(TrackRequest(key=str(n), start=0, stop=clip.num_frames, prompts=told, boxes={}))
        if requests:
            assert self._tracker is not None
            first = min(f for r in requests for f in r.prompts)
            for frame, found in self._tracker.track(clip.frames(range(first, clip.num_frames)), requests, clip.backward):
                for key, tracked in found.items():
                    yield int(key), frame, tracked.mask, tracked.score

    def _mask(self, logits: Tensor, size_hw: tuple[int, int]) -> tuple[np.ndarray, float]:
        """The (H, W) bool mask of (1, h, w) logits, up to the network's square and from there to the frame; and its score."""
        square = F.interpolate(logits[None].float(), (self.masks.side, self.masks.side), mode="bilinear", align_corners=False)
        large = F.interpolate(square, size_hw, mode="bilinear", align_corners=False)[0, 0]
        return (large > 0).cpu().numpy(), float(torch.sigmoid(large.max()))
