"""Low-rank adapters on a language model, through peft: put in before training, taken up into the weights after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as Adapted
from torch import Tensor, nn

from egoray.errors import ModelError


def add_lora(module: nn.Module, targets: Sequence[str], *, rank: int, alpha: int, dropout: float, where: str) -> None:
    """Put adapters beside the layers whose names end in ``targets``, in place; they begin the same each time, and change nothing yet.

    Raises:
        ModelError: if there is no such layer.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            inject_adapter_in_model(config, module)
        except ValueError as error:
            raise ModelError(f"{where}: the language model has no layer named {', '.join(targets)}") from error


def lora_deltas(module: nn.Module) -> dict[str, Tensor]:
    """What the adapters add to each weight, float32 on the CPU, by the name that the weight has without them."""
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, Adapted):
            found[f"{name}.weight"] = layer.get_delta_weight("default").detach().float().cpu()
    return found
