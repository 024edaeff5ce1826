"""Checkpoints as they are published: a folder of shards, local or fetched, streamed into a network tensor by tensor.

Only safetensors, or torch files read with ``weights_only``. Loading is strict both ways, and what is wrong is said before work starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egoray.errors import ModelError

Convert = Callable[[str, Tensor], Mapping[str, Tensor]]
"""From a published name and tensor to native names and tensors; raises KeyError for a name that it does not know."""


def fetched(checkpoint: str) -> Path:
    """The checkpoint's folder: a local one, or that of a Hugging Face id (``id@revision`` for a fixed one), downloaded if need be.

    Raises:
        ModelError: if there is no such folder and it cannot be fetched.
    """
    if os.path.isdir(checkpoint):
        return Path(checkpoint)
    name, _, revision = checkpoint.partition("@")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"{checkpoint}: no such folder; give a local folder or a Hugging Face id, ORG/NAME or ORG/NAME@REVISION")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, revision=revision or None, ignore_patterns=["*.py", "*.msgpack", "*.h5", "*.onnx"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{checkpoint}: cannot be fetched ({reason}); check the name and the network, or give a local folder") from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder.

    Raises:
        ModelError: if it is missing or malformed.
    """
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: has no {name}; give the folder of a published checkpoint") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON; fetch it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected an object")
    return value


def shards(folder: Path) -> list[Path]:
    """The weight files: those that the index names, else the one file there is, safetensors first.

    Raises:
        ModelError: if there is none, or one that the index names is missing.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).exists():
            names = sorted(set(read_json(folder, index).get("weight_map", {}).values()))
            if any(Path(name).name != name for name in names):
                raise ModelError(f"{folder / index}: names a file outside of its folder; refused")
            if gone := [name for name in names if not (folder / name).exists()]:
                raise ModelError(f"{folder}: {gone[0]} is missing ({len(gone)} of {len(names)} files); fetch it again")
            return [folder / name for name in names]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.pt"):
        if found := sorted(folder.glob(pattern)):
            return found
    raise ModelError(f"{folder}: holds no weights (*.safetensors or pytorch_model.bin); fetch them")


def tensors(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of the files, one at a time.

    Raises:
        ModelError: if a file is cut short or is no weight file.
    """
    for name, read in _entries(files):
        yield name, read()


def names(files: Iterable[Path]) -> set[str]:
    """The names of all tensors of the files.

    Raises:
        ModelError: as `tensors`.
    """
    return {name for name, _ in _entries(files)}


def _entries(files: Iterable[Path]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    from safetensors import SafetensorError, safe_open

    for path in files:
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as stored:
                    for name in stored.keys():  # noqa: SIM118
                        yield name, partial(stored.get_tensor, name)
            else:
                for name, tensor in torch.load(path, map_location="cpu", mmap=True, weights_only=True).items():
                    yield name, partial(Tensor.detach, tensor)
        except (SafetensorError, RuntimeError, EOFError, OSError, AttributeError) as error:
            raise ModelError(f"{path}: cut short or not a weight file; fetch it again") from error
        except Exception as error:  # the unpickler's refusals have no common base
            raise ModelError(f"{path}: refused, it holds more than tensors ({type(error).__name__})") from error


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks without memory for their parameters (buffers are real): `load` brings them."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def check_memory(network: nn.Module, dtype_of: Callable[[str], torch.dtype], device: torch.device, name: str) -> None:
    """Whether the network's tensors fit on the device.

    Raises:
        ModelError: if they do not; says how much is needed and how much there is.
    """
    need = sum(t.numel() * dtype_of(key).itemsize for key, t in network.state_dict().items())
    if device.type == "cuda":
        have = torch.cuda.mem_get_info(device)[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines() if os.path.exists("/proc/meminfo") else []
        free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        have = free[0] if free else need
    if need > have:
        raise ModelError(
            f"{name}: the weights take {need / 1e9:.1f} GB, {device} has {have / 1e9:.1f} GB free; use a larger machine or a smaller model"
        )


def load(
    network: nn.Module, stored: Iterable[tuple[str, Tensor]], convert: Convert, dtype_of: Callable[[str], torch.dtype], device: torch.device
) -> None:
    """Fill the network, on its way to ``device`` in evaluation mode.

    Args:
        network: see `without_weights`.
        stored: see `tensors`.
        convert: see `Convert`.
        dtype_of: the type of each native tensor.
        device: where it goes.

    Raises:
        ModelError: for a tensor that has no place or another shape, and for one that is missing; it is named.
    """
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    seen: set[str] = set()
    for name, tensor in stored:
        try:
            parts = convert(name, tensor)
        except KeyError as error:
            raise ModelError(f"{name}: a tensor that this network has no place for; is it another model's checkpoint?") from error
        for native, value in parts.items():
            if wanted.get(native) != tuple(value.shape):
                shape = wanted.get(native)
                raise ModelError(
                    f"{name}: {'has no place here' if shape is None else f'is {tuple(value.shape)}, the config asks for {shape}'}; "
                    "config and weights are not of one checkpoint"
                )
        ready = {native: value.to(device, dtype_of(native)).contiguous() for native, value in parts.items()}
        network.load_state_dict(ready, strict=False, assign=True)
        seen |= ready.keys()
    if gone := sorted(wanted.keys() - seen):
        raise ModelError(f"{gone[0]}: not among the weights ({len(gone)} of {len(wanted)} are missing); fetch the checkpoint again")
    network.to(device).eval().requires_grad_(False)


def tokenizer(folder: Path, needed: Iterable[str]) -> Any:
    """The checkpoint's tokenizer, from ``tokenizer/`` in its folder or the folder itself.

    Raises:
        ModelError: if there is none, or it lacks one of the ``needed`` tokens.
    """
    from transformers import AutoTokenizer

    where = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    try:
        found = AutoTokenizer.from_pretrained(where, local_files_only=True)
    except Exception as error:  # a tokenizer's readers raise whatever their parsers do
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{where}: no usable tokenizer ({reason}); fetch the checkpoint's tokenizer files") from error
    known = found.get_vocab()
    if lacks := [token for token in needed if token not in known]:
        raise ModelError(f"{where}: the tokenizer has no {lacks[0]}; take the one that comes with the fine-tuned checkpoint")
    return found
