"""SAM 2 checkpoints: which are recognised, and which must be refused."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf

from egoray.errors import ModelError
from egoray.models.sam2_weights import load_sam2, write_random_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random_checkpoint(str(tmp_path_factory.mktemp("sam2") / "narrow.pt"))


class Boom:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"model": Boom()}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="refused"):
        load_sam2(str(tmp_path / "evil.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Boom(), protocol=2))
    with pytest.raises(ModelError):
        load_sam2(str(tmp_path / "plain.pt"))
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such checkpoint"),
        (lambda p: p.write_bytes(b""), "truncated"),
        (lambda p: torch.save([1], p), "expected the key 'model'"),
        (lambda p: torch.save({"model": {"w": torch.zeros(1)}}, p), "not a published SAM 2 network"),
    ],
)
def test_what_is_no_checkpoint_says_so_in_one_line(tmp_path, make, message):
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_sam2(str(path))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_recognised(checkpoint, tmp_path):
    whole = Path(checkpoint).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated"):
        load_sam2(str(tmp_path / "cut.pt"))


def test_safetensors_hold_the_same_network(checkpoint, tmp_path):
    weights = torch.load(checkpoint, weights_only=True)["model"]
    safetensors.torch.save_file({k: v.half().contiguous() for k, v in weights.items()}, tmp_path / "half.safetensors")
    (tmp_path / "half.yaml").write_text(Path(checkpoint.replace(".pt", ".yaml")).read_text())
    model = load_sam2(str(tmp_path / "half.safetensors"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.state_dict(), weights, rtol=1e-3, atol=1e-6)
    whole = (tmp_path / "half.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ModelError, match="truncated"):
        load_sam2(str(tmp_path / "half.safetensors"))
    with pytest.raises(ModelError, match="no such checkpoint"):
        load_sam2(str(tmp_path / "gone.safetensors"))


def test_weights_of_another_shape_are_named(checkpoint, tmp_path):
    config = OmegaConf.load(checkpoint.replace(".pt", ".yaml"))
    config.model.memory_attention.num_layers = 3
    OmegaConf.save(config, tmp_path / "other.yaml")
    torch.save(torch.load(checkpoint, weights_only=True), tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"do not fit .*memory_attention\.layers\.2"):
        load_sam2(str(tmp_path / "other.pt"))


def test_a_config_that_names_foreign_code_is_refused(checkpoint, tmp_path):
    config = OmegaConf.load(checkpoint.replace(".pt", ".yaml"))
    config.model.memory_encoder._target_ = "os.system"
    OmegaConf.save(config, tmp_path / "evil.yaml")
    torch.save(torch.load(checkpoint, weights_only=True), tmp_path / "evil.pt")
    with pytest.raises(ModelError, match=r"names os\.system"):
        load_sam2(str(tmp_path / "evil.pt"))


@pytest.mark.parametrize(("family", "size"), [(family, size) for family in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")])
def test_published_networks_are_recognised_from_their_weights(family, size, monkeypatch):
    from importlib import resources

    from hydra.utils import instantiate

    from egoray.models.sam2_weights import _published_config

    path = resources.files("sam2") / "configs" / family / f"{family}_hiera_{size}.yaml"
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *args: linspace(*args, device="cpu"))  # the trunk reads its values
    with torch.device("meta"):
        weights = instantiate(OmegaConf.load(str(path)).model, _recursive_=True).state_dict()
    assert str(_published_config(weights, path)) == str(path)


def test_an_unknown_id_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"facebook/sam2\.1-hiera-tiny"):
        load_sam2("facebook/sam9")


def test_frames_can_be_fed_at_another_size(checkpoint):
    assert load_sam2(checkpoint).image_size == 256
    larger = load_sam2(checkpoint, side=320)
    assert (larger.image_size, larger.sam_prompt_encoder.image_embedding_size) == (320, (20, 20))
