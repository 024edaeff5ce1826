"""What a network must tell so that the training loop can train it; the loop knows no model, a model knows no loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from egoray.train.samples import TrainingClip


class Task(Protocol):
    """One model's training: samples from clips, a loss of each, and the weights that people take away.

    Attributes:
        module: everything, frozen parts too; parameters with ``requires_grad`` are trained, in float32, and a checkpoint holds no other.
    """

    module: nn.Module

    def prepare(self, clip: TrainingClip, rng: np.random.Generator) -> Any:
        """A training sample, on the CPU: frames and sentences drawn, decoded, tokenised. Thread-safe; a function of its arguments alone.

        Raises:
            FormatError: if a frame or mask cannot be read.
        """
        ...

    def loss(self, sample: Any) -> tuple[Tensor, dict[str, float]]:
        """The sample's scalar loss, and its parts as figures for the log.

        Every draw (dropout, points) comes from torch's global generator, which the loop seeds for each sample and step. Every trained
        parameter is used, with weight 0 where the sample has nothing for it: FSDP's workers wait for each other's part of it.
        """
        ...

    def blocks(self) -> Sequence[nn.Module]:
        """The large repeated parts, inner first: what FSDP shards and activation checkpointing recomputes."""
        ...

    def export(self, folder: Path) -> None:
        """Write the model as its own loader reads it, adapters merged, in the published key layout."""
        ...
