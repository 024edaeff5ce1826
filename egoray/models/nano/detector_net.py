"""The nano-detector's network: one pass over a frame finds things and describes each, a sentence is matched with the descriptions.

The frame's pass knows nothing of any sentence. It gives, for each cell of 8 x 8 pixels, how likely a thing's middle lies there, its
box, and a vector of what it looks like. A sentence becomes one vector a word, and a thing answers to the sentence as far as
it answers to every word that matters: log p(sentence) is the sum over words of weight times log p(word). What was learned of
"red" from mugs so holds for books.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL_PX = 8
"""Pixels of the network's input to one cell of its output."""

MAX_WORDS = 24
_BUCKETS, _GRAMS = 4096, 6


def tokenize(texts: Sequence[str]) -> Tensor:
    """(Q, L, 1 + G) int64 buckets of each word and of its letter triples, 0 for none; L is the longest sentence, at most `MAX_WORDS`.

    There is no list of words: a word falls into a bucket by its checksum, and one never seen in training into a bucket never trained.
    """
    rows = [[_word(word) for word in re.findall(r"[^\W_]+", text.lower())[:MAX_WORDS]] for text in texts]
    longest = max([1, *map(len, rows)])
    blank = [0] * (1 + _GRAMS)
    return torch.tensor([row + [blank] * (longest - len(row)) for row in rows], dtype=torch.int64).view(len(rows), longest, 1 + _GRAMS)


def _word(word: str) -> list[int]:
    marked = f"<{word}>"
    grams = [marked[i : i + 3] for i in range(len(marked) - 2)][:_GRAMS]
    found = [1 + zlib.crc32(piece.encode()) % (_BUCKETS - 1) for piece in (word, *grams)]
    return found + [0] * (1 + _GRAMS - len(found))


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class TextEncoder(nn.Module):
    """Words to (Q, L, dim) vectors, their (Q, L) weights (0 for none) and offsets."""

    def __init__(self, dim: int, width: int = 96) -> None:
        super().__init__()
        self.buckets = nn.Embedding(_BUCKETS, 64, padding_idx=0)
        self.lift = nn.Linear(64, width)
        self.place = nn.Parameter(0.02 * torch.randn(MAX_WORDS, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, dim + 2)
        nn.init.normal_(self.buckets.weight, std=0.5)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        blank = tokens[..., 0] == 0
        words = self.buckets(tokens)
        words = words[..., 0, :] + words[..., 1:, :].mean(dim=-2)
        x = self.lift(words) + self.place[: tokens.shape[1]]
        # A sentence without a word would leave nothing to attend to; its first place stays open and weighs nothing below.
        hidden = blank.clone()
        hidden[:, 0] = False
        x = self.out(self.mix(x, src_key_padding_mask=hidden))
        vectors, weights, offsets = x[..., :-2], F.softplus(x[..., -2]), x[..., -1] + 2.0
        return vectors, weights.masked_fill(blank, 0.0), offsets


class DetectorNet(nn.Module):
    """See the module; about 1.8 M parameters.

    Input (B, 3, H, W) float32 in [0, 1], H and W multiples of 32.
    """

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.dim = dim
        self.stem = nn.Sequential(_conv(3, 24, 2), _conv(24, 40, 2), _Block(40))
        self.eighth = nn.Sequential(_conv(40, 64, 2), _Block(64), _Block(64))
        self.sixteenth = nn.Sequential(_conv(64, 112, 2), _Block(112), _Block(112), _Block(112))
        self.last = nn.Sequential(_conv(112, 128, 2), _conv(128, 128))
        self.across = nn.ModuleList([_conv(n, 80, kernel=1) for n in (64, 112, 128)])
        self.merge = nn.Sequential(_conv(80, 80), _conv(80, 80))
        self.place = nn.Sequential(_conv(80, 64), nn.Conv2d(64, 5, 1))
        self.look = nn.Sequential(_conv(80, 96), nn.Conv2d(96, dim, 1))
        self.text = TextEncoder(dim)
        nn.init.constant_(self.place[-1].bias, 0.0)
        nn.init.constant_(self.place[-1].bias[:1], -4.0)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, h, w) logits that a thing's middle is in the cell, (B, h, w, 4) its xyxy box in input pixels, (B, h, w, dim) its looks."""
        eighth = self.eighth(self.stem(pixels - 0.5))
        sixteenth = self.sixteenth(eighth)
        last = self.last(sixteenth)
        mixed = self.across[2](last)
        for lateral, finer in ((self.across[1], sixteenth), (self.across[0], eighth)):
            mixed = F.interpolate(mixed, size=finer.shape[-2:], mode="nearest") + lateral(finer)
        mixed = self.merge(mixed)
        place = self.place(mixed).float().permute(0, 2, 3, 1)
        return place[..., 0], _boxes(place[..., 1:]), self.look(mixed).float().permute(0, 2, 3, 1)

    def match(self, looks: Tensor, sentences: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """(N, Q) log probability that what looks like ``looks`` (N, dim) is meant by each of the encoder's Q sentences."""
        vectors, weights, offsets = sentences
        fits = 0.5 * torch.einsum("nd,qld->nql", looks, vectors) + offsets
        return (F.logsigmoid(fits) * weights).sum(dim=-1)


def _boxes(raw: Tensor) -> Tensor:
    """Distances of the four sides from the cell's centre, as exponents, to xyxy pixels."""
    height, width = raw.shape[1:3]
    y = (torch.arange(height, device=raw.device) + 0.5)[:, None].expand(height, width)
    x = (torch.arange(width, device=raw.device) + 0.5)[None, :].expand(height, width)
    reach = raw.clamp(-4, 4).exp() * 1.5
    return CELL_PX * torch.stack([x - reach[..., 0], y - reach[..., 1], x + reach[..., 2], y + reach[..., 3]], dim=-1)
