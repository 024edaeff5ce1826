"""Which sample comes when: a function of seed and position alone, so that any number of workers agrees and a resumed run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Order:
    """The clip at each position 0, 1, 2, ... of a run over some sources.

    Without ``rates`` a run goes through epochs: in each, every clip comes as often as its source's ``repeats`` says, shuffled anew.
    With ``rates`` each position draws its source by them, and each source is gone through in shuffled passes of its own.

    Args:
        sizes: clips of each source.
        repeats: how often each source's clips come in an epoch.
        rates: shares of the sources, or None for epochs.
        seed: of the shuffling.

    Raises:
        ValueError: if there is nothing to draw.
    """

    def __init__(self, sizes: Sequence[int], repeats: Sequence[int], rates: Sequence[float] | None, seed: int) -> None:
        if not any(size * (rate > 0) for size, rate in zip(sizes, rates or repeats, strict=True)):
            raise ValueError("no clip to train on")
        self._sizes, self._repeats, self._seed = tuple(sizes), tuple(repeats), seed
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        shares = None if rates is None else np.array([rate * bool(size) for rate, size in zip(rates, sizes, strict=True)], float)
        self._shares = None if shares is None else shares / shares.sum()
        self._epoch = lru_cache(maxsize=2)(self._shuffled)
        self._pass = lru_cache(maxsize=4 * len(self._sizes))(self._pass_of)
        self._drawn = lru_cache(maxsize=4)(self._draw_sources)

    @property
    def epoch(self) -> int:
        """Positions in an epoch; with rates, the number of clips."""
        return int(sum(s * r for s, r in zip(self._sizes, self._repeats, strict=True))) if self._shares is None else int(sum(self._sizes))

    def __getitem__(self, position: int) -> int:
        """The clip's number, counted through the sources in their order."""
        if self._shares is None:
            epoch, place = divmod(position, self.epoch)
            return int(self._epoch(epoch)[place])
        block, place = divmod(position, _BLOCK)
        sources, before = self._drawn(block)
        source = int(sources[place])
        turn, inside = divmod(int(before[place]), self._sizes[source])
        return int(self._starts[source] + self._pass(source, turn)[inside])

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        once = [
            np.tile(np.arange(size) + start, repeats) for size, start, repeats in zip(self._sizes, self._starts, self._repeats, strict=True)
        ]
        return np.random.default_rng([self._seed, epoch]).permutation(np.concatenate(once))

    def _pass_of(self, source: int, turn: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, 1, source, turn]).permutation(self._sizes[source])

    def _draw_sources(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sources of a block's positions, and how often each position's source came before it."""
        assert self._shares is not None
        counts = np.zeros(len(self._sizes), np.int64)
        for earlier in range(block):
            counts += np.bincount(self._sources(earlier), minlength=len(counts))
        sources = self._sources(block)
        before = np.empty(_BLOCK, np.int64)
        for source in range(len(counts)):
            mine = sources == source
            before[mine] = counts[source] + np.arange(mine.sum())
        return sources, before

    def _sources(self, block: int) -> NDArray[np.int64]:
        assert self._shares is not None
        return np.random.default_rng([self._seed, 2, block]).choice(len(self._shares), _BLOCK, p=self._shares)


_BLOCK = 4096
