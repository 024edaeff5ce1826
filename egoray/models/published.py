"""Read published checkpoints: a folder or a Hugging Face id, sharded or whole, safetensors or plain tensors; nothing is run from them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from egoray.errors import ModelError

Weights = dict[str, torch.Tensor]

SAFE, PLAIN = "model.safetensors", "pytorch_model.bin"
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits."""
_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SMALL = ["*.json", "*.model", "*.txt"]


def checkpoint_folder(name: str, weights: bool = True) -> Path:
    """The local folder that ``name`` means, fetched first where it is an id.

    Args:
        name: a folder, or a Hugging Face id: ``owner/name``, or ``owner/name@revision``.
        weights: fetch the weights too (safetensors where there are any), not only the configs and the tokenizer.

    Raises:
        ModelError: if it is neither, or cannot be fetched.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    match = _ID.fullmatch(name)
    if folder.exists() or match is None:
        raise ModelError(f"{name}: not a checkpoint folder; give the folder that holds config.json, or a Hugging Face id as owner/name")
    from huggingface_hub import snapshot_download

    try:
        wanted = [*_SMALL, "*.safetensors"] if weights else _SMALL
        folder = Path(snapshot_download(match["id"], revision=match["revision"], allow_patterns=wanted))
        if weights and not any(folder.glob("*.safetensors")):
            snapshot_download(match["id"], revision=match["revision"], allow_patterns=["pytorch_model*.bin"])
    except Exception as error:
        raise ModelError(
            f"{name}: neither a folder nor an id that can be downloaded ({type(error).__name__}); fetch it by hand and give its folder"
        ) from error
    return folder


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The JSON object in ``folder/name``.

    Raises:
        ModelError: if there is no such file, or it is no JSON object.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder}: not a checkpoint folder, {name} is missing; download the whole folder") from error
    except ValueError as error:
        raise ModelError(f"{path}: truncated or not JSON; download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object; download it again")
    return content


def read_weights(folder: Path) -> Weights:
    """All tensors of a checkpoint folder by their published names; they are mapped from disk and read when they are used.

    Looked for in this order: ``model.safetensors.index.json`` and its shards, ``model.safetensors``,
    ``pytorch_model.bin.index.json`` and its shards, ``pytorch_model.bin``.

    Raises:
        ModelError: if there are none, a shard is missing or truncated, the index and the shards disagree, or a ``.bin``
            holds more than tensors (it is refused, not run).
    """
    for whole in (SAFE, PLAIN):
        if (folder / f"{whole}.index.json").exists():
            return _read_shards(folder, f"{whole}.index.json")
        if (folder / whole).exists():
            return read_file(folder / whole)
    raise ModelError(f"{folder}: holds no weights; expected {SAFE} or {PLAIN}, whole or in shards with an index")


def _read_shards(folder: Path, index: str) -> Weights:
    places = read_config(folder, index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{folder / index}: not an index of shards (no weight_map); download it again")
    names = sorted({str(name) for name in places.values()})
    for name in names:
        if Path(name).name != name:
            raise ModelError(f"{folder / index}: names a shard outside the folder, {name}; refused")
        if not (folder / name).exists():
            raise ModelError(f"{folder / name}: missing shard, one of {len(names)} that {index} names; download it again")
    weights: Weights = {}
    for name in names:
        weights |= read_file(folder / name)
    if odd := places.keys() ^ weights.keys():
        raise ModelError(f"{folder / index}: and its shards differ in {len(odd)} tensors, such as {min(odd)}; download them again")
    return weights


def read_file(path: Path) -> Weights:
    """The tensors of one ``.safetensors`` file, or of one file that torch saved, by name.

    Raises:
        ModelError: if it is missing, truncated, or holds anything else.
    """
    if path.suffix != ".safetensors":
        content = read_plain(path)
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise ModelError(f"{path}: not a file of named tensors; use a published checkpoint")
        return content
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: truncated or not a safetensors file; download it again") from error


def write_checkpoint(folder: Path, weights: Mapping[str, torch.Tensor], source: Path, shard_bytes: int = 5_000_000_000) -> None:
    """Write tensors as `read_weights` reads them, and beside them the configs and the tokenizer of ``source``, config.json last.

    Args:
        folder: made if it is missing; a checkpoint that it holds is replaced.
        weights: on the CPU, by published names.
        source: the folder of the checkpoint that they come from.
        shard_bytes: a file holds no more, unless one tensor does; several have an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / "config.json", folder / f"{SAFE}.index.json", *folder.glob("model*.safetensors")]:
        old.unlink(missing_ok=True)
    shards: list[Weights] = [{}]
    room = shard_bytes
    for name, value in weights.items():
        if value.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = value.contiguous()
        room -= value.nbytes
    names = [SAFE] if len(shards) == 1 else [f"model-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(value.nbytes for value in weights.values())},
            "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
        }
        (folder / f"{SAFE}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
    side = {path for pattern in _SMALL for path in source.glob(pattern) if not path.name.endswith(".index.json")}
    for path in sorted(side, key=lambda path: path.name == "config.json"):
        shutil.copyfile(path, folder / path.name)


def read_plain(path: Path) -> Any:
    """What torch saved in a file, if it is tensors in plain containers.

    Raises:
        ModelError: if it is missing or truncated, or holds anything else (it is refused, not run).
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, since it is not a file of plain tensors (weights_only); use a published checkpoint") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"{path}: truncated or not a torch checkpoint; download it again") from error


class EmptyWeights(TorchFunctionMode):
    """``with EmptyWeights(): net = Net()`` leaves the parameters without storage, for `fill`; what is computed from sizes is real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Allocations without values go to the meta device; everything else is done as asked."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def fill(network: nn.Module, weights: Mapping[str, torch.Tensor], where: str, device: torch.device, dtype: torch.dtype) -> None:
    """Give ``network`` exactly these tensors, on ``device`` and, the floating ones, in ``dtype``; eval mode, no gradients.

    Args:
        network: as built, its parameters perhaps without storage.
        weights: by the network's own names; as `read_weights` maps them, moving them makes the only copy in memory.
        where: the file or folder they came from, for the error.
        device: where the network is to live, its buffers too.
        dtype: of the parameters; buffers that are no part of the checkpoint keep theirs.

    Raises:
        ModelError: if a tensor is missing, has no place, or is of another shape; the network is left as it was.
    """
    own = network.state_dict()
    if missing := own.keys() - weights.keys():
        raise ModelError(f"{where}: {len(missing)} tensors are missing, such as {min(missing)}; download the checkpoint again")
    if unknown := weights.keys() - own.keys():
        raise ModelError(f"{where}: {len(unknown)} tensors have no place in this model, such as {min(unknown)}; it is another architecture")
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise ModelError(f"{where}: {name} is {tuple(value.shape)}, but config.json makes it {tuple(own[name].shape)}")
    placed = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in weights.items()}
    network.load_state_dict(placed, assign=True)
    network.to(device).eval().requires_grad_(False)


def num_bytes(weights: Mapping[str, torch.Tensor], dtype: torch.dtype) -> int:
    """What the tensors take once they are ``dtype``."""
    return sum(value.numel() for value in weights.values()) * dtype.itemsize


def check_memory(needed: int, device: torch.device, model: str) -> None:
    """Refuse before any work what cannot fit: ``needed`` bytes of weights against the free memory of the device.

    Raises:
        ModelError: naming both figures and the remedy; or if there is no such device.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ModelError(f"{model}: no CUDA device here; use the device cpu")
        free, kind = torch.cuda.mem_get_info(device)[0], "GPU memory"
    else:
        free, kind = free_memory(), "memory"
    if needed > free:
        raise ModelError(
            f"{model}: too little memory on {device}: the weights take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of {kind} are free;"
            " close other programs, use a larger machine, or a smaller model"
        )


def free_memory() -> int:
    """Bytes: of the machine, or of the container's limit where that is less."""
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        held = re.search(r"^anon (\d+)", (CGROUP / "memory.stat").read_text(), re.M)
    except (OSError, ValueError):  # no container, or "max"
        return free
    return min(free, limit - int(held[1])) if held else free
