"""Reading published checkpoints: what is wrong is one line, and it is said before work starts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from egoray.errors import ModelError
from egoray.models import published


def network():
    with published.without_weights():
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def stored(**changes):
    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict()
    return {f"published.{k}": v for k, v in fresh.items()} | changes


def convert(name, tensor):
    head, _, native = name.partition(".")
    if head != "published":
        raise KeyError(name)
    return {native: tensor}


def load(net, weights):
    published.load(net, weights.items(), convert, lambda name: torch.float32, torch.device("cpu"))


def test_a_network_without_weights_takes_no_memory_and_is_filled():
    net = network()
    assert net[0].weight.is_meta
    assert not net[1].running_mean.is_meta
    weights = stored()
    load(net, weights)
    assert torch.equal(net[0].weight, weights["published.0.weight"])
    assert nn.Linear(1, 1).weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other.0.weight": torch.zeros(1)}, "other.0.weight: a tensor that this network has no place for"),
        ({"published.7.weight": torch.zeros(1)}, "published.7.weight: has no place here"),
        ({"published.0.weight": torch.zeros(5, 3)}, r"published.0.weight: is \(5, 3\), the config asks for \(2, 3\)"),
    ],
)
def test_a_tensor_without_a_place_is_named(change, message):
    with pytest.raises(ModelError, match=message):
        load(network(), stored(**change))


def test_a_missing_tensor_is_named():
    weights = stored()
    del weights["published.0.bias"]
    with pytest.raises(ModelError, match=r"0.bias: not among the weights \(1 of 7 are missing\)"):
        load(network(), weights)


def test_shards_are_those_of_the_index(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        published.shards(tmp_path)
    weights = stored()
    for n, part in enumerate((list(weights)[:3], list(weights)[3:])):
        save_file({name: weights[name] for name in part}, tmp_path / f"model-{n}.safetensors")
    index = {"weight_map": {name: f"model-{n // 3 if n < 6 else 1}.safetensors" for n, name in enumerate(weights)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    files = published.shards(tmp_path)
    assert published.names(files) == set(weights)
    files[1].rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"model-1.safetensors is missing \(1 of 2 files\)"):
        published.shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret"}}))
    with pytest.raises(ModelError, match="outside of its folder"):
        published.shards(tmp_path)


def test_torch_files_are_read_without_running_them(tmp_path, capsys):
    torch.save(stored(), tmp_path / "pytorch_model.bin")
    assert published.names(published.shards(tmp_path)) == set(stored())

    class Boom:
        def __reduce__(self):
            return (print, ("this must never be printed",))

    torch.save({"w": Boom()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="refused"):
        published.names(published.shards(tmp_path))
    assert "never" not in capsys.readouterr().out


def test_a_file_that_is_cut_short_says_so(tmp_path):
    save_file(stored(), tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:-20])
    with pytest.raises(ModelError, match=r"model.safetensors: cut short"):
        published.names(published.shards(tmp_path))


def test_too_little_memory_is_said_in_numbers(monkeypatch):
    large = nn.Linear(10_000_000, 1_000_000, device="meta")
    with pytest.raises(ModelError, match=r"big: the weights take 20000.0 GB, cpu has [\d.]+ GB free"):
        published.check_memory(large, lambda name: torch.bfloat16, torch.device("cpu"), "big")


def test_what_is_no_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        published.fetched(str(tmp_path / "none"))
    assert published.fetched(str(tmp_path)) == tmp_path
    with pytest.raises(ModelError, match=r"has no config.json"):
        published.read_json(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable as JSON"):
        published.read_json(tmp_path, "config.json")


def test_a_tokenizer_must_know_the_tokens(tmp_path):
    golden = __file__.replace("test_published.py", "data/videolisa")
    shutil.copytree(f"{golden}/tokenizer", tmp_path / "tokenizer")
    assert published.tokenizer(tmp_path, ["[SEG]"]).convert_tokens_to_ids("[SEG]") == 104
    with pytest.raises(ModelError, match=r"the tokenizer has no \[TRK\]"):
        published.tokenizer(tmp_path, ["[SEG]", "[TRK]"])
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ModelError, match="no usable tokenizer"):
        published.tokenizer(tmp_path, ["[SEG]"])
