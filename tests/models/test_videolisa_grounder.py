"""VideoLISA as a grounder: what is shared and streamed changes no answer, and what cannot work says so before it starts."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from egoray.core.masks import decode
from egoray.errors import ModelError
from egoray.models.videolisa.grounder import VideoLisa
from egoray.models.videolisa.prompt import sparse_frames
from support.clips import ArrayClip
from support.videolisa import FOLDER, SIZES, copy

TEXTS = ["the red cup", "a very long knife left of the bowl?", "it"]


@pytest.fixture(scope="module")
def model():
    return VideoLisa(str(FOLDER), **SIZES)


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 255, (11, 6, 9, 3), dtype=np.uint8)
    return ArrayClip(np.kron(shades, np.ones((1, 8, 8, 1), np.uint8)))


@pytest.fixture(scope="module")
def found(model, clip):
    clip.read.clear()
    return model.ground(clip, TEXTS)


def test_the_clip_is_read_twice_whatever_is_asked(found, clip):
    assert clip.read == sparse_frames(11, 8) + list(range(11))


def test_each_sentence_has_an_answer_of_its_own(found):
    assert len(found) == 3
    assert len({tuple(one.scores.values()) for one in found}) == 3


def test_every_frame_is_judged_and_has_a_mask_exactly_where_the_score_is_high(found):
    for one in found:
        assert list(one.scores) == list(range(11))
        assert one.masks.keys() == {frame for frame, score in one.scores.items() if score > 0.5}
        assert all(mask.size == (48, 72) and decode(mask).any() for mask in one.masks.values())
    assert {len(one.masks) for one in found} != {0}


def agree(one, other):
    assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert one.masks.keys() == other.masks.keys()
    for frame, mask in one.masks.items():
        assert (decode(mask) != decode(other.masks[frame])).sum() <= 1  # a pixel may lie on the edge


@pytest.mark.parametrize("batch", [4, 64])
def test_batches_change_no_answer(found, clip, batch):
    for one, other in zip(VideoLisa(str(FOLDER), batch=batch, **SIZES).ground(clip, TEXTS), found, strict=True):
        agree(one, other)


def test_what_is_asked_together_is_answered_as_alone(model, found, clip):
    for text, other in zip(TEXTS, found, strict=True):
        agree(model.ground(clip, [text])[0], other)
    many = model.ground(clip, TEXTS * 4)  # more than pass through the mask decoder at once
    for k, one in enumerate(many):
        agree(one, found[k % 3])


def test_a_frame_without_the_thing_has_a_score_and_no_mask(tmp_path, clip):
    """A mask decoder whose last layer says nothing but "no"."""
    from safetensors.torch import load_file, save_file

    folder = copy(tmp_path / "no")
    weights = load_file(folder / "model.safetensors")
    prefix = "model.visual_model.mask_decoder."
    for name in ("output_upscaling.3.weight", "output_upscaling.3.bias", "output_hypernetworks_mlps.0.layers.2.weight"):
        weights[prefix + name] = torch.zeros_like(weights[prefix + name])
    weights[prefix + "output_upscaling.3.bias"] += 1.0
    weights[prefix + "output_hypernetworks_mlps.0.layers.2.bias"] = torch.full((4,), -0.5)
    save_file(weights, folder / "model.safetensors")
    (answer,) = VideoLisa(str(folder), **SIZES).ground(clip, ["the red cup"])
    bright = torch.nn.functional.gelu(torch.tensor(1.0)).item()
    assert answer.masks == {}
    assert list(answer.scores.values()) == pytest.approx([1 / (1 + np.exp(4 * 0.5 * bright))] * 11, abs=1e-5)


def test_bfloat16_is_near(found, clip):
    half = VideoLisa(str(FOLDER), dtype="bfloat16", **SIZES).ground(clip, TEXTS)
    for one, other in zip(half, found, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.05)


def test_nothing_asked_and_nothing_to_see(model, clip):
    assert model.ground(clip, []) == []
    (empty,) = model.ground(ArrayClip([]), ["the red cup"])
    assert (empty.masks, empty.scores, empty.detection) == ({}, {}, None)


def test_one_frame_is_enough(model, clip):
    assert list(model.ground(ArrayClip(clip.images[:1]), ["the red cup"])[0].scores) == [0]


def test_impossible_sentences_are_refused_before_a_frame_is_read(model, clip):
    clip.read.clear()
    with pytest.raises(ValueError, match="needs a word"):
        model.ground(clip, ["the red cup", " . "])
    with pytest.raises(ValueError, match="too long"):
        model.ground(clip, ["cup " * 1000])
    assert clip.read == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_dense": 0}, "1 <= num_dense < num_sparse"),
        ({"num_dense": 32}, "1 <= num_dense < num_sparse"),
        ({"num_dense": 7}, "4064 tokens, and the model reads 4096"),
        ({"batch": -1}, "batch >= 0"),
        ({"dtype": "float16"}, "float32 or bfloat16"),
        ({"device": "cuda"}, "no CUDA device here"),
        ({"clip": "a/missing/clip"}, "name its folder with the option clip"),
    ],
)
def test_impossible_options_are_refused(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match=message):
        VideoLisa(str(FOLDER), **options)


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path):
    def refused(message):
        with pytest.raises(ModelError, match=message) as caught:
            VideoLisa(str(folder))
        assert "\n" not in str(caught.value)

    folder = tmp_path / "nothing"
    refused("not a checkpoint folder")
    folder.mkdir()
    refused(r"config\.json is missing")
    folder = copy(tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(r"model\.safetensors: truncated")
    (folder / "model.safetensors").unlink()
    refused("holds no weights")
    places = {"lm_head.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    refused("missing shard")
    folder = copy(tmp_path / "other")
    (folder / "clip" / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor", "crop_size": 224}')
    refused("crops to 224 px, but the network takes 336")
    shutil.rmtree(folder / "clip")
    refused("option clip")


def test_too_little_memory_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    monkeypatch.setattr("egoray.models.videolisa.checkpoint.build", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ModelError, match=r"too little memory on cpu: the weights take 0\.0 GB"):
        VideoLisa(str(FOLDER))


def test_running_out_of_gpu_memory_says_what_to_change(model, clip, monkeypatch):
    def hungry(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "_segment", hungry)
    with pytest.raises(ModelError, match="use a smaller batch"):
        model.ground(clip, ["the red cup"])
