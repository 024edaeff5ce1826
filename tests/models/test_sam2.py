"""The SAM 2 engine against the package's own predictor, and the checkpoints that it must refuse."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from egoray.errors import ModelError
from egoray.models.base import TrackRequest
from egoray.models.sam2_engine import Sam2Engine
from egoray.models.sam2_weights import load_sam2, write_random_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random_checkpoint(str(tmp_path_factory.mktemp("sam2") / "narrow.pt"))


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 200, (90, 120, 3), dtype=np.uint8)
    frames = []
    for i in range(20):
        frame = np.roll(ground, (i, 2 * i), (0, 1)).copy()
        frame[20 + i : 50 + i, 30 + 2 * i : 60 + 2 * i] = (220, 30, 40)
        frames.append(frame)
    return frames


def stock_masks(checkpoint, clip, box, folder):
    """The package's `SAM2VideoPredictor` on the same frames: (frame → bool mask), from the frame of the box on."""
    from hydra.utils import instantiate

    for i, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=100, subsampling=0)
    decoded = [np.array(Image.open(folder / f"{i:05d}.jpg")) for i in range(len(clip))]
    config = OmegaConf.load(checkpoint.replace(".pt", ".yaml")).model
    config.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    config.binarize_mask_from_pts_for_mem_enc = True
    predictor = instantiate(config, _recursive_=True)
    predictor.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    state = predictor.eval().init_state(str(folder), offload_video_to_cpu=True)
    predictor.add_new_points_or_box(state, 0, 1, box=np.array(box, np.float32))
    return decoded, {f: (m[0, 0] > 0).numpy() for f, _, m in predictor.propagate_in_video(state)}


def test_masks_equal_the_packages_predictor(checkpoint, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *a, **k: self)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    box = (30.0, 20.0, 60.0, 50.0)
    import sam2.sam2_video_predictor as module

    monkeypatch.setattr(module.SAM2VideoPredictor, "device", property(lambda self: torch.device("cpu")))
    decoded, stock = stock_masks(checkpoint, clip, box, tmp_path)
    request = TrackRequest(key="a", start=0, stop=len(clip), prompts={0: box}, boxes={})
    ours = {f: found["a"].mask for f, found in Sam2Engine(checkpoint).track(enumerate(decoded), [request])}
    assert set(ours) == set(stock)
    assert any(mask.any() for mask in stock.values())
    for frame, mask in ours.items():
        assert (mask != stock[frame]).mean() < 1e-3, frame


def test_memory_holds_only_what_the_next_frame_reads(checkpoint, clip):
    from egoray.models import sam2_engine

    held = []
    prune = sam2_engine._Memory.prune

    def counted(self, *args):
        prune(self, *args)
        held.append((len(self.rest), sum(o["maskmem_features"] is not None for o in self.rest.values())))

    patch = pytest.MonkeyPatch()
    patch.setattr(sam2_engine._Memory, "prune", counted)
    request = TrackRequest(key="a", start=0, stop=60, prompts={0: (30, 20, 60, 50)}, boxes={})
    list(Sam2Engine(checkpoint).track(enumerate(clip * 3), [request]))
    patch.undo()
    assert max(held) <= (6, 5)


def test_an_object_that_enters_later_gets_the_masks_it_would_get_alone(checkpoint, clip):
    engine = Sam2Engine(checkpoint)
    early = TrackRequest(key="early", start=0, stop=20, prompts={0: (30, 20, 60, 50)}, boxes={})
    late = TrackRequest(key="late", start=8, stop=15, prompts={8: (46, 28, 76, 58)}, boxes={})
    together = dict(engine.track(enumerate(clip), [early, late]))
    alone = dict(engine.track(((i, f) for i, f in enumerate(clip) if 8 <= i < 15), [late]))
    assert [f for f, found in together.items() if "late" in found] == list(range(8, 15))
    for frame, found in alone.items():
        np.testing.assert_array_equal(found["late"].mask, together[frame]["late"].mask)


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
