"""VideoLISA as a grounder: it looks at some frames of a clip once, reads each sentence, and masks every frame by itself.

Source: "One Token to Seg Them All: Language Instructed Reasoning Segmentation in Videos" (NeurIPS 2024); weights as its authors
publish them, 32 sparse and 4 dense frames as EgoMask evaluates it. Its optional tracking afterwards (XMem2) is no part of that protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

from egoray.core.masks import encode
from egoray.errors import ModelError
from egoray.models.base import Clip, Grounded, Image, Judged, Judging, gathered
from egoray.models.videolisa.checkpoint import load
from egoray.models.videolisa.network import visual_tokens
from egoray.models.videolisa.pictures import full_size, sam_pixels
from egoray.models.videolisa.prompt import Tokens, dense_positions, sparse_frames

_SENTENCES_AT_ONCE = 8
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_T = TypeVar("_T")


@contextmanager
def _running() -> Iterator[None]:
    """No gradients; running out of GPU memory is a `ModelError`."""
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise ModelError("videolisa: out of GPU memory; use a smaller batch, or fewer workers a GPU") from error


class VideoLisa:
    """Satisfies `StreamingGrounder`; a frame's score is read from its mask, since SAM's own estimate of quality is not trained here.

    The score is the mean probability of the mask's pixels or, where there is no mask, the highest of any pixel: above 0.5
    exactly where there is one.

    Args:
        checkpoint: a folder with VideoLISA's published files, or a Hugging Face id as ``owner/name`` or ``owner/name@revision``.
        device: a torch device.
        clip: folder or id of CLIP; "" for the one that the checkpoint's config names, inside its folder or published. Only its
            configs are read where the checkpoint holds CLIP's weights itself.
        num_sparse: frames that are looked at, spread over the clip; each gives the language model its mean.
        num_dense: how many of them it sees in full.
        batch: frames that pass through the image models at once, 2.3 GB each in float32; 0 for 4 on CUDA and 1 elsewhere.
        dtype: "float32" or "bfloat16", of all but SAM's weights; "" for bfloat16 on CUDA and float32 elsewhere.

    Raises:
        ModelError: if an option is impossible, anything of the checkpoint is missing, damaged or of another model, or the memory is
            too small.
    """

    name = "videolisa"

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        *,
        clip: str = "",
        num_sparse: int = 32,
        num_dense: int = 4,
        batch: int = 0,
        dtype: str = "",
    ) -> None:
        if not 1 <= num_dense < num_sparse or batch < 0:
            raise ModelError(f"videolisa: needs 1 <= num_dense < num_sparse and batch >= 0, not {num_dense}, {num_sparse}, {batch}")
        if dtype and dtype not in _DTYPES:
            raise ModelError(f"videolisa: dtype {dtype} is unknown; use {' or '.join(_DTYPES)}")
        self._device = torch.device(device)
        self._batch = batch or (4 if self._device.type == "cuda" else 1)
        self._num_sparse, self._num_dense = num_sparse, num_dense
        kind = _DTYPES[dtype] if dtype else torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._checkpoint = load(checkpoint, clip, self._device, kind)
        self._net = self._checkpoint.net
        self._num_visual = self._checkpoint.num_visual(num_sparse, num_dense)

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`; the clip is read twice, the sampled frames and then all of them.

        Raises:
            ValueError: also if a sentence is too long for the model.
        """
        return gathered(self.stream(clip, texts))

    def stream(self, clip: Clip, texts: Sequence[str]) -> Judging:
        """See `StreamingGrounder.stream`."""
        asked = [self._checkpoint.template(text) for text in texts]
        limit = self._checkpoint.num_positions
        for text, tokens in zip(texts, asked, strict=True):
            if (length := self._num_visual + len(tokens.before) + len(tokens.after)) > limit:
                raise ValueError(f"{text[:40]!r}...: too long; with the pictures {length} tokens, and the model reads {limit}")
        results = [Grounded(masks={}, scores={}) for _ in texts]
        if not texts or not clip.num_frames:
            return results
        with _running():
            embeddings = self._understand(clip, asked)
        for numbered in _batches(clip.frames(), self._batch):
            with _running():
                batch = self._segment(numbered, embeddings)
            for judged in batch:
                found = results[judged.text_index]
                found.scores[judged.frame] = judged.score
                if judged.mask is not None:
                    found.masks[judged.frame] = judged.mask
                yield judged
        return results

    def _understand(self, clip: Clip, asked: Sequence[Tokens]) -> torch.Tensor:
        """``(Q, C)``: what the mask decoder is told of each sentence."""
        chosen = sparse_frames(clip.num_frames, self._num_sparse)
        dense = dense_positions(self._num_sparse, self._num_dense)
        seen: dict[int, torch.Tensor] = {}
        for numbered in _batches(clip.frames(sorted(set(chosen))), self._batch):
            pixels = self._checkpoint.clip_pictures([image for _, image in numbered]).to(self._device)
            tokens = self._net.projector(self._net.look(pixels))
            seen |= zip((frame for frame, _ in numbered), tokens, strict=True)
        return self._net.seg_embeddings(asked, visual_tokens([seen[frame] for frame in chosen], dense))

    def _segment(self, numbered: Sequence[tuple[int, Image]], embeddings: torch.Tensor) -> list[Judged]:
        judged, side = [], self._checkpoint.side_px
        features = self._net.scene(torch.stack([sam_pixels(image, side) for _, image in numbered]).to(self._device))
        for first in range(0, len(embeddings), _SENTENCES_AT_ONCE):
            logits = self._net.masks(features, embeddings[first : first + _SENTENCES_AT_ONCE])
            for (frame, image), small in zip(numbered, logits, strict=True):
                for k, full in enumerate(full_size(small, image.shape[:2], side), start=first):
                    found = full > 0
                    score = float(full[found].sigmoid().mean() if found.any() else full.max().sigmoid())
                    mask = encode(found.cpu().numpy()) if found.any() else None
                    judged.append(Judged(text_index=k, frame=frame, mask=mask, score=score))
        return judged


def _batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
