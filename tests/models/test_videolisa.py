"""VideoLISA against what the released code gives for the same tiny weights, and its published layout at full size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from egoray.core.masks import decode
from egoray.errors import ModelError
from egoray.models import published
from egoray.models.videolisa import prompt
from egoray.models.videolisa.grounder import VideoLisa
from egoray.models.videolisa.network import VideoLisaNetwork, enlarge
from egoray.models.videolisa.weights import convert
from support.clips import ArrayClip

GOLDEN = Path(__file__).parent / "data" / "videolisa"
EXACT = {"rtol": 0, "atol": 3e-6}


@pytest.fixture(scope="module")
def given():
    return np.load(GOLDEN / "inputs.npz")


@pytest.fixture(scope="module")
def expected():
    return np.load(GOLDEN / "outputs.npz")


@pytest.fixture(scope="module")
def model():
    return VideoLisa(str(GOLDEN))


def test_frames_and_words_are_prepared_as_released(model, given):
    assert prompt.encode(model._tokenizer, "Red cup.").tolist() == given["input_ids"][0].tolist()
    np.testing.assert_array_equal(prompt.for_clip(given["frames"][0], 336), given["clip_frame0"])
    fed, size = prompt.for_sam(given["frames"][0], 256)
    np.testing.assert_array_equal(fed, given["sam_frame0"])
    assert size == (192, 256)


def test_frames_are_sampled_as_released():
    config = json.loads((GOLDEN / "config.json").read_text())
    assert prompt.sparse_frames(6, 8) == config["sparse_indices"]
    assert prompt.dense_places(8, 2) == config["dense_indices"]
    assert prompt.dense_places(32, 4) == [3, 10, 18, 26]
    assert prompt.sparse_frames(100, 32)[:4] == [1, 4, 7, 10]
    assert prompt.sparse_frames(32, 32) == list(range(32))
    assert prompt.sparse_frames(1, 4) == [0, 0, 0, 0]


@torch.inference_mode()
def test_every_step_gives_the_released_codes_numbers(model, given, expected):
    net = model.network
    tokens = net.look(torch.stack([prompt.for_clip(frame, 336) for frame in given["frames"]]))
    np.testing.assert_allclose(tokens[0], expected["proj_frame0"], **EXACT)
    ids = torch.from_numpy(given["input_ids"][0])
    hidden, logits = net.read(ids, tokens[prompt.sparse_frames(6, 8)], prompt.dense_places(8, 2))
    np.testing.assert_allclose(logits[0, -1:], expected["logits_last"], **EXACT)
    np.testing.assert_allclose(logits[0, -12:], expected["logits_tail"], **EXACT)
    embedding = net.prompt(ids, model._seg_id, hidden)
    np.testing.assert_allclose(embedding[None], expected["seg_embedding"], **EXACT)
    seen = net.see(torch.stack([prompt.for_sam(frame, 256)[0] for frame in given["frames"]]))
    np.testing.assert_allclose(seen[0], expected["sam_image_embedding_frame0"], rtol=1e-6, atol=3e-6)
    low_res = net.masks(seen, embedding[None])
    np.testing.assert_allclose(low_res, expected["low_res_masks"], **EXACT)
    np.testing.assert_allclose(enlarge(low_res, 256, (192, 256), (60, 80))[:, 0], expected["mask_logits"], **EXACT)


@pytest.mark.parametrize("batch", [1, 4])
def test_masks_of_a_clip_are_the_released_codes(given, expected, batch):
    alone, together = (
        VideoLisa(str(GOLDEN), batch=batch).ground(ArrayClip(given["frames"]), texts) for texts in (["red cup"], ["blue", "red cup"])
    )
    for answer in (alone[0], together[1]):
        for frame, logits in enumerate(expected["mask_logits"]):
            mask = decode(answer.masks[frame]) if frame in answer.masks else np.zeros((60, 80), bool)
            assert (mask == (logits > 0)).all()
            assert answer.scores[frame] == pytest.approx(1 / (1 + np.exp(-logits.max())), abs=1e-5)
    assert together[0].masks != together[1].masks
    assert alone[0].detection is None


@pytest.mark.parametrize("window", [7, 40])
@torch.inference_mode()
def test_the_sliding_window_sees_as_many_tokens_before_as_the_config_says(given, window):
    config = json.loads((GOLDEN / "config.json").read_text())
    torch.manual_seed(0)
    whole = VideoLisaNetwork(config).eval()
    slid = VideoLisaNetwork({**config, "llm": {**config["llm"], "sliding_window": window}}).eval()
    slid.load_state_dict(whole.state_dict())
    ids = torch.from_numpy(given["input_ids"][0])
    looks = torch.randn(8, 9, 64)
    embedded = torch.randn(1, 120, 64)
    at, now = torch.arange(120)[None, :], torch.arange(120)[:, None]
    seen = (at <= now) & (now - at <= window)
    mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    explicit = whole.llm(inputs_embeds=embedded, attention_mask=mask).logits
    torch.testing.assert_close(slid.llm(inputs_embeds=embedded).logits, explicit, rtol=0, atol=1e-5)
    assert (slid.read(ids, looks, [1, 4])[1] - whole.read(ids, looks, [1, 4])[1]).abs().max() > 1e-3


def published_layout():
    """Name → shape of the published checkpoint, from the architectures' own descriptions."""
    layout = {"lm_head.weight": (32012, 3072), "model.embed_tokens.weight": (32012, 3072), "model.norm.weight": (3072,)}
    for n in range(32):
        block = f"model.layers.{n}."
        layout |= {block + "self_attn.qkv_proj.weight": (9216, 3072), block + "self_attn.o_proj.weight": (3072, 3072)}
        layout |= {block + "mlp.gate_up_proj.weight": (16384, 3072), block + "mlp.down_proj.weight": (3072, 8192)}
        layout |= dict.fromkeys((block + "input_layernorm.weight", block + "post_attention_layernorm.weight"), (3072,))
    layout |= {"model.mm_projector.0.weight": (3072, 1024), "model.mm_projector.2.weight": (3072, 3072)}
    layout |= {"model.text_hidden_fcs.0.0.weight": (3072, 3072), "model.text_hidden_fcs.0.2.weight": (256, 3072)}
    layout |= {name.replace("weight", "bias"): shape[:1] for name, shape in layout.items() if "projector" in name or "fcs" in name}
    sam = {"image_encoder.pos_embed": (1, 64, 64, 1280)} | pair("image_encoder.patch_embed.proj", (1280, 3, 16, 16))
    for n in range(32):
        block, window = f"image_encoder.blocks.{n}.", 127 if n in (7, 15, 23, 31) else 27
        sam |= {block + "attn.rel_pos_h": (window, 80), block + "attn.rel_pos_w": (window, 80)}
        sam |= pair(block + "attn.qkv", (3840, 1280)) | pair(block + "attn.proj", (1280, 1280))
        sam |= pair(block + "mlp.lin1", (5120, 1280)) | pair(block + "mlp.lin2", (1280, 5120))
        sam |= norm(block + "norm1", 1280) | norm(block + "norm2", 1280)
    sam |= {"image_encoder.neck.0.weight": (256, 1280, 1, 1), "image_encoder.neck.2.weight": (256, 256, 3, 3)}
    sam |= norm("image_encoder.neck.1", 256) | norm("image_encoder.neck.3", 256)
    sam |= {f"prompt_encoder.point_embeddings.{n}.weight": (1, 256) for n in range(4)}
    sam |= dict.fromkeys(("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.no_mask_embed.weight"), (1, 256))
    sam |= {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    down = "prompt_encoder.mask_downscaling."
    sam |= (
        pair(down + "0", (4, 1, 2, 2))
        | norm(down + "1", 4)
        | pair(down + "3", (16, 4, 2, 2))
        | norm(down + "4", 16)
        | pair(down + "6", (256, 16, 1, 1))
    )
    sam |= {"mask_decoder.iou_token.weight": (1, 256), "mask_decoder.mask_tokens.weight": (4, 256)}
    for block in ("layers.0.", "layers.1.", ""):
        for attention, inner in (
            ("self_attn", 256),
            ("cross_attn_token_to_image", 128),
            ("cross_attn_image_to_token", 128),
            ("final_attn_token_to_image", 128),
        ):
            if (attention.startswith("final")) == (block == ""):
                where = f"mask_decoder.transformer.{block}{attention}."
                for part in "qkv":
                    sam |= pair(f"{where}{part}_proj", (inner, 256))
                sam |= pair(f"{where}out_proj", (256, inner))
        if block:
            where = f"mask_decoder.transformer.{block}"
            sam |= pair(where + "mlp.lin1", (2048, 256)) | pair(where + "mlp.lin2", (256, 2048))
            for n in range(1, 5):
                sam |= norm(f"{where}norm{n}", 256)
    sam |= norm("mask_decoder.transformer.norm_final_attn", 256)
    sam |= {"mask_decoder.output_upscaling.0.weight": (256, 64, 2, 2), "mask_decoder.output_upscaling.0.bias": (64,)}
    sam |= norm("mask_decoder.output_upscaling.1", 64)
    sam |= {"mask_decoder.output_upscaling.3.weight": (64, 32, 2, 2), "mask_decoder.output_upscaling.3.bias": (32,)}
    for head, out in [(f"output_hypernetworks_mlps.{n}", 32) for n in range(4)] + [("iou_prediction_head", 4)]:
        for n, shape in enumerate([(256, 256), (256, 256), (out, 256)]):
            sam |= pair(f"mask_decoder.{head}.layers.{n}", shape)
    return layout | {f"model.visual_model.{name}": shape for name, shape in sam.items()}


def pair(name, shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def test_the_real_size_has_the_published_tensors():
    config = {
        "vocab_size": 32012,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "pad_token_id": 0,
    }
    layout = published_layout()
    assert len(layout) == 797
    with torch.device("meta"):
        native = {name: tuple(t.shape) for name, t in VideoLisaNetwork(config).state_dict().items() if not name.startswith("clip.")}
    reached = {}
    for name, shape in layout.items():
        for part, value in convert(name, torch.empty(shape, device="meta")).items():
            assert part not in reached
            reached[part] = tuple(value.shape)
    assert reached == native


def changed(tmp_path, change):
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return str(folder)


def test_loading_is_strict(tmp_path):
    with pytest.raises(ModelError, match=r"model.visual_model.extra.weight: has no place here"):
        VideoLisa(changed(tmp_path, lambda w: w.update({"model.visual_model.extra.weight": torch.zeros(1)})))
    shutil.rmtree(tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=r"llm.model.norm.weight: not among the weights"):
        VideoLisa(changed(tmp_path, lambda w: w.pop("model.norm.weight")))


def test_clip_comes_from_its_own_checkpoint_where_there_is_none(tmp_path, given):
    eyes = {}

    def take(weights):
        for name in [n for n in weights if "vision_tower" in n]:
            eyes[name.removeprefix("model.vision_tower.vision_tower.")] = weights.pop(name).clone()

    checkpoint = changed(tmp_path, take)
    (tmp_path / "clip").mkdir()
    save_file(eyes | {"text_model.x": torch.zeros(1), "logit_scale": torch.zeros(())}, tmp_path / "clip" / "model.safetensors")
    apart = VideoLisa(checkpoint, clip=str(tmp_path / "clip"))
    state, whole = apart.network.state_dict(), VideoLisa(str(GOLDEN)).network.state_dict()
    assert all(torch.equal(state[name], whole[name]) for name in whole)
    with pytest.raises(ModelError, match="no such folder"):
        VideoLisa(checkpoint, clip=str(tmp_path / "none"))


def test_too_little_memory_is_said_before_loading(monkeypatch):
    monkeypatch.setattr(published, "tensors", None)
    monkeypatch.setattr(published, "check_memory", lambda *_: (_ for _ in ()).throw(ModelError("too little")))
    with pytest.raises(ModelError, match="too little"):
        VideoLisa(str(GOLDEN))
