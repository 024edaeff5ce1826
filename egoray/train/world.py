"""The processes that train together: who we are, what all of us know, and gradients summed over all of us."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 32 * 2**20


class World:
    """This process among those of the default process group; alone where there is none.

    Attributes:
        rank, size: of this process, and how many there are.
        device: what it computes on.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        together = dist.is_available() and dist.is_initialized()
        self.device = torch.device(device)
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        # Small talk goes over the CPU: on the GPU's own group it would wait for the kernels that are queued there.
        self._talk = dist.new_group(backend="gloo") if self.size > 1 else None

    def gather(self, mine: Any) -> list[Any]:
        """What every process says, in the order of their ranks; all must call it."""
        if self.size == 1:
            return [mine]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, mine, group=self._talk)
        return said

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes, in flat buckets; one that a process lacks counts as zeros.

        It runs once a step, after the last sample of each process. DistributedDataParallel would reduce during the last sample's
        backward pass alone, and leave out what only earlier samples have used.
        """
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.size == 1:
            return
        pending = []
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([grad.reshape(-1) for grad in bucket])
            pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in pending:
            work.wait()
            for grad, summed in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
                grad.copy_(summed.view_as(grad))


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Runs of gradients of one dtype, each of about `_BUCKET_BYTES`."""
    buckets: list[list[Tensor]] = []
    room = 0
    for grad in gradients:
        if room <= 0 or buckets[-1][0].dtype != grad.dtype:
            buckets.append([])
            room = _BUCKET_BYTES
        buckets[-1].append(grad)
        room -= grad.numel() * grad.element_size()
    return buckets
