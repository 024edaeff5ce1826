"""Reading published checkpoints: every form of a folder gives the same tensors, and what is wrong is one clear line."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from egoray.errors import ModelError
from egoray.models import published
from egoray.models.published import (
    EmptyWeights,
    check_memory,
    checkpoint_folder,
    fill,
    num_bytes,
    read_config,
    read_weights,
    write_checkpoint,
)
from support import hub

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "steps": torch.tensor([3])}


def write(folder, form):
    """The tensors in one of the four forms; the last shard holds one of them."""
    folder.mkdir(exist_ok=True)
    suffix = "safetensors" if "safe" in form else "bin"
    stem = "model" if "safe" in form else "pytorch_model"
    save = (lambda tensors, path: save_file(tensors, path)) if "safe" in form else torch.save
    if "whole" in form:
        save(TENSORS, folder / f"{stem}.{suffix}")
        return folder
    names = [f"{stem}-0000{k}-of-00002.{suffix}" for k in (1, 2)]
    places = {"a.weight": names[0], "a.bias": names[0], "steps": names[1]}
    for name in names:
        save({key: TENSORS[key] for key, place in places.items() if place == name}, folder / name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": places}))
    return folder


def refused(message, action, *args):
    with pytest.raises(ModelError, match=message) as caught:
        action(*args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["safe whole", "safe shards", "bin whole", "bin shards"])
def test_each_form_of_a_folder_gives_the_same_tensors(tmp_path, form):
    read = read_weights(write(tmp_path / "model", form))
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize(("shard_bytes", "files"), [(1000, 1), (24, 2), (30, 2), (1, 3)])
def test_a_written_checkpoint_is_read_again_with_its_side_files(tmp_path, shard_bytes, files):
    source = write(tmp_path / "source", "safe shards")
    for name in ("config.json", "tokenizer.model", "notes.md"):
        (source / name).write_text("{}")
    out = tmp_path / "a" / "out"
    write_checkpoint(out, {"old": torch.ones(9)}, source, 1)
    write_checkpoint(out, TENSORS, source, shard_bytes)
    read = read_weights(out)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], value) for name, value in TENSORS.items())
    names = {path.name for path in out.iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) == files
    assert {name for name in names if not name.startswith("model")} == {"config.json", "tokenizer.model"}


def test_an_old_file_of_tensors_is_read_too(tmp_path):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path)["a.weight"], TENSORS["a.weight"])


def test_safetensors_come_before_plain_tensors(tmp_path):
    write(tmp_path, "safe whole")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never looked at")
    assert read_weights(tmp_path).keys() == TENSORS.keys()


@pytest.mark.parametrize("form", ["safe shards", "bin shards"])
def test_a_missing_or_truncated_shard_is_named(tmp_path, form):
    shard = next(write(tmp_path, form).glob("*-00001-of-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) * 2 // 3])
    refused(f"{shard.name}: truncated", read_weights, tmp_path)
    shard.unlink()
    refused(f"{shard.name}: missing shard, one of 2", read_weights, tmp_path)


def test_an_index_that_is_wrong_is_refused(tmp_path):
    index = write(tmp_path, "safe shards") / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**places, "gone": places["steps"]}}))
    refused("differ in 1 tensors, such as gone", read_weights, tmp_path)
    index.write_text(json.dumps({"weight_map": {**places, "steps": "../elsewhere.safetensors"}}))
    refused("outside the folder", read_weights, tmp_path)
    index.write_text("{}")
    refused("not an index", read_weights, tmp_path)
    index.write_text('{"weight_map": ')
    refused("truncated or not JSON", read_weights, tmp_path)


class Boom:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"a": Boom()}, tmp_path / "pytorch_model.bin")
    refused("refused", read_weights, tmp_path)
    torch.save({"a": 1}, tmp_path / "pytorch_model.bin")
    refused("not a file of named tensors", read_weights, tmp_path)
    assert "never" not in capsys.readouterr().out


def test_a_folder_without_what_is_needed_says_what(tmp_path):
    refused("holds no weights", read_weights, tmp_path)
    refused(r"config\.json is missing", read_config, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    refused("not a JSON object", read_config, tmp_path)
    refused("not a checkpoint folder", checkpoint_folder, str(tmp_path / "config.json"))
    refused("not a checkpoint folder", checkpoint_folder, "some/folder/that/is/missing")


@pytest.mark.parametrize("form", ["safe", "bin"])
def test_an_id_at_a_revision_is_fetched_once_without_what_is_not_needed(tmp_path, form):
    """In a process of its own, since the hub's address and cache are read when its client is loaded."""
    made = write(tmp_path / "made", f"{form} shards")
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    files |= {"config.json": b"{}", "training_args.bin": b"x", "code.py": b"x", "tf_model.h5": b"x"}
    if form == "safe":
        files["pytorch_model.bin"] = b"x"
    code = (
        "import sys; from egoray.models.published import *\n"
        "for _ in range(2): folder = checkpoint_folder('lab/model@v1')\n"
        "print(sorted(read_weights(folder)), read_config(folder))\n"
        "try: checkpoint_folder('lab/other')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    with hub.serving("lab/model", files, revision="v1") as (address, fetched):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    read, failed = done.stdout.splitlines()
    assert read == f"{sorted(TENSORS)} {{}}"
    assert failed.startswith("ModelError lab/other: neither a folder nor an id that can be downloaded")
    assert sorted(fetched) == sorted(path.name for path in [*made.iterdir(), tmp_path / "config.json"])


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor([0]))
        self.register_buffer("table", torch.arange(4.0) / 2, persistent=False)


def test_an_empty_network_is_filled_with_exactly_the_tensors():
    with EmptyWeights():
        net = Small()
    assert net.a.weight.is_meta
    assert not net.table.is_meta  # computed from sizes, and in no checkpoint
    fill(net, TENSORS, "here", torch.device("cpu"), torch.bfloat16)
    assert torch.equal(net.a.weight, TENSORS["a.weight"].bfloat16())
    assert torch.equal(net.steps, TENSORS["steps"])  # whole numbers stay so
    assert net.table.tolist() == [0, 0.5, 1, 1.5]
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.bias": None}, "here: 1 tensors are missing, such as a.bias"),
        ({"b.bias": torch.ones(1)}, r"here: 1 tensors have no place in this model, such as b\.bias"),
        ({"a.bias": torch.ones(3)}, r"a\.bias is \(3,\), but config\.json makes it \(2,\)"),
    ],
)
def test_a_tensor_too_many_too_few_or_of_another_shape_is_named(change, message):
    net = Small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = {name: value for name, value in (TENSORS | change).items() if value is not None}
    refused(message, fill, net, weights, "here", torch.device("cpu"), torch.float32)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_does_not_fit_is_refused_with_both_figures(monkeypatch):
    assert num_bytes(TENSORS, torch.bfloat16) == 18
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000_000))
    check_memory(1_900_000_000, torch.device("cpu"), "big")
    refused(
        r"big: too little memory on cpu: the weights take 9\.0 GB, 2\.0 GB of memory are free",
        check_memory,
        9e9,
        torch.device("cpu"),
        "big",
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4_000_000_000, 8_000_000_000))
    refused(r"on cuda:0: .* 4\.0 GB of GPU memory are free", check_memory, 9e9, torch.device("cuda:0"), "big")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("no CUDA device here", check_memory, 1, torch.device("cuda"), "big")


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000000\nfile 1900000000\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64_000_000_000))
    monkeypatch.setattr(published, "CGROUP", tmp_path)
    check_memory(1_999_999_999, torch.device("cpu"), "big")
    refused(r"2\.0 GB of memory are free", check_memory, 2_000_000_001, torch.device("cpu"), "big")
    (tmp_path / "memory.max").write_text("max\n")
    check_memory(60_000_000_000, torch.device("cpu"), "big")
