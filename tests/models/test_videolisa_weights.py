"""VideoLISA's published key layout at its real sizes, and what does not fit it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from egoray.errors import ModelError
from egoray.models.published import read_config, read_weights
from egoray.models.videolisa.grounder import VideoLisa
from egoray.models.videolisa.prompt import Tokens
from egoray.models.videolisa.weights import build, llm_config, split
from support.clips import ArrayClip
from support.videolisa import FOLDER, SIZES, copy, recorded, without_tower

PHI3_MINI = {
    "model_type": "llava_phi",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": 2047,
    "vocab_size": 32012,
    "mm_vision_select_layer": -2,
}
CLIP_L_336 = {
    "model_type": "clip",
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    },
}


def pair(name, out, *inside):
    return {f"{name}.weight": (out, *inside), f"{name}.bias": (out,)}


def published():
    """Names and shapes of the 797 published tensors, written down from the published networks' definitions."""
    shapes = {"model.embed_tokens.weight": (32012, 3072), "model.norm.weight": (3072,), "lm_head.weight": (32012, 3072)}
    for n in range(32):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.qkv_proj.weight": (9216, 3072), f"{layer}.self_attn.o_proj.weight": (3072, 3072)}
        shapes |= {f"{layer}.mlp.gate_up_proj.weight": (16384, 3072), f"{layer}.mlp.down_proj.weight": (3072, 8192)}
        shapes |= {f"{layer}.input_layernorm.weight": (3072,), f"{layer}.post_attention_layernorm.weight": (3072,)}
    shapes |= pair("model.mm_projector.0", 3072, 1024) | pair("model.mm_projector.2", 3072, 3072)
    shapes |= pair("model.text_hidden_fcs.0.0", 3072, 3072) | pair("model.text_hidden_fcs.0.2", 256, 3072)
    sam = {"image_encoder.pos_embed": (1, 64, 64, 1280)} | pair("image_encoder.patch_embed.proj", 1280, 3, 16, 16)
    for n in range(32):
        block, offsets = f"image_encoder.blocks.{n}", 127 if n in (7, 15, 23, 31) else 27
        sam |= pair(f"{block}.norm1", 1280) | pair(f"{block}.norm2", 1280)
        sam |= pair(f"{block}.attn.qkv", 3840, 1280) | pair(f"{block}.attn.proj", 1280, 1280)
        sam |= {f"{block}.attn.rel_pos_h": (offsets, 80), f"{block}.attn.rel_pos_w": (offsets, 80)}
        sam |= pair(f"{block}.mlp.lin1", 5120, 1280) | pair(f"{block}.mlp.lin2", 1280, 5120)
    sam |= {"image_encoder.neck.0.weight": (256, 1280, 1, 1), "image_encoder.neck.2.weight": (256, 256, 3, 3)}
    sam |= pair("image_encoder.neck.1", 256) | pair("image_encoder.neck.3", 256)
    sam |= {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128)}
    sam |= {f"prompt_encoder.{name}.weight": (1, 256) for name in ("no_mask_embed", "not_a_point_embed")}
    sam |= {f"prompt_encoder.point_embeddings.{n}.weight": (1, 256) for n in range(4)}
    sam |= pair("prompt_encoder.mask_downscaling.0", 4, 1, 2, 2) | pair("prompt_encoder.mask_downscaling.1", 4)
    sam |= pair("prompt_encoder.mask_downscaling.3", 16, 4, 2, 2) | pair("prompt_encoder.mask_downscaling.4", 16)
    sam |= pair("prompt_encoder.mask_downscaling.6", 256, 16, 1, 1)
    decoder = {"iou_token.weight": (1, 256), "mask_tokens.weight": (4, 256)}
    for layer in ("layers.0", "layers.1"):
        for attention, width in (("self_attn", 256), ("cross_attn_token_to_image", 128), ("cross_attn_image_to_token", 128)):
            decoder |= attended(f"transformer.{layer}.{attention}", width)
        for n in (1, 2, 3, 4):
            decoder |= pair(f"transformer.{layer}.norm{n}", 256)
        decoder |= pair(f"transformer.{layer}.mlp.lin1", 2048, 256) | pair(f"transformer.{layer}.mlp.lin2", 256, 2048)
    decoder |= attended("transformer.final_attn_token_to_image", 128) | pair("transformer.norm_final_attn", 256)
    decoder |= {"output_upscaling.0.weight": (256, 64, 2, 2), "output_upscaling.0.bias": (64,)} | pair("output_upscaling.1", 64)
    decoder |= {"output_upscaling.3.weight": (64, 32, 2, 2), "output_upscaling.3.bias": (32,)}
    for head, out in (*((f"output_hypernetworks_mlps.{n}", 32) for n in range(4)), ("iou_prediction_head", 4)):
        for n, width in enumerate((256, 256, out)):
            decoder |= pair(f"{head}.layers.{n}", width, 256)
    sam |= {f"mask_decoder.{name}": shape for name, shape in decoder.items()}
    return shapes | {f"model.visual_model.{name}": shape for name, shape in sam.items()}


def attended(name, width):
    return {
        **{key: shape for k in "qkv" for key, shape in pair(f"{name}.{k}_proj", width, 256).items()},
        **pair(f"{name}.out_proj", 256, width),
    }


def clip_l():
    """The image half of CLIP-L/336 in the names of its own checkpoint."""
    shapes = {"embeddings.class_embedding": (1024,), "embeddings.patch_embedding.weight": (1024, 3, 14, 14)}
    shapes |= {"embeddings.position_embedding.weight": (577, 1024)} | pair("pre_layrnorm", 1024) | pair("post_layernorm", 1024)
    for n in range(24):
        layer = f"encoder.layers.{n}"
        for k in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= pair(f"{layer}.self_attn.{k}", 1024, 1024)
        shapes |= pair(f"{layer}.layer_norm1", 1024) | pair(f"{layer}.layer_norm2", 1024)
        shapes |= pair(f"{layer}.mlp.fc1", 4096, 1024) | pair(f"{layer}.mlp.fc2", 1024, 4096)
    return shapes


def on_meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_published_sizes_and_names_fit_the_network_to_the_last_tensor():
    weights = on_meta(published())
    assert len(weights) == 797
    parts = split(weights, "published")
    assert {part: len(tensors) for part, tensors in parts.items()} == {"clip": 0, "projector": 4, "seg_head": 4, "sam": 595, "llm": 195}
    parts["clip"] = on_meta(clip_l())
    net = build(parts, PHI3_MINI, CLIP_L_336, "published", torch.device("meta"), torch.bfloat16)
    millions = {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in net.named_children()}
    assert millions == pytest.approx({"llm": 3821, "clip": 303.5, "projector": 12.6, "seg_head": 10.2, "sam": 641.1}, abs=0.5)
    vision, decoder = net.sam.config.vision_config, net.sam.config.mask_decoder_config
    assert (vision.image_size, vision.window_size, vision.num_attention_heads, vision.global_attn_indexes) == (
        1024,
        14,
        16,
        [7, 15, 23, 31],
    )
    assert decoder.layer_norm_eps == 1e-5
    assert net.llm.config.sliding_window == 2048
    assert {p.dtype for p in net.llm.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in net.sam.parameters()} == {torch.float32}


def test_each_published_tensor_is_used_as_it_is():
    """Every number of the file is found again in the network, in the float type of the file."""
    weights = read_weights(FOLDER)
    net = build(split(weights, "x"), read_config(FOLDER), read_config(FOLDER / "clip"), "x", torch.device("cpu"), torch.float32)
    filed = sorted((tuple(value.shape), value.double().sum().item()) for value in weights.values())
    held = sorted((tuple(value.shape), value.double().sum().item()) for value in net.state_dict().values())
    twice = [entry for entry in held if entry[0] == (2, 16)]  # the one tensor with two places
    assert len(twice) == 2
    held.remove(twice[0])
    assert held == filed


@pytest.mark.parametrize("window", [100, 700])
def test_a_token_sees_itself_and_the_window_before_it(window):
    """The sliding window of the checkpoint against the same network without one, under an explicit mask of who sees whom."""
    parts, clip = split(read_weights(FOLDER), "x"), read_config(FOLDER / "clip")
    config = read_config(FOLDER)
    cpu = torch.device("cpu")
    windowed = build(parts, config | {"sliding_window": window}, clip, "x", cpu, torch.float32)
    free = build(parts, config | {"sliding_window": None}, clip, "x", cpu, torch.float32)
    assert free.llm.config.sliding_window is None
    pictures = torch.randn(1100, 64, generator=torch.Generator().manual_seed(0))
    asked = Tokens(list(range(20)), list(range(20, 60)), 30, 20)
    with torch.inference_mode():
        found = windowed.seg_embeddings([asked, asked], pictures)

        def by_mask(reach):
            sequence = torch.cat([free.embed(asked.before, pictures), free.embed(asked.after)], dim=1)
            place = torch.arange(sequence.shape[1])
            back = place[:, None] - place[None]
            mask = torch.where((back >= 0) & (back <= reach), 0.0, torch.finfo(torch.float32).min)[None, None]
            states = free.llm.model(inputs_embeds=sequence, attention_mask=mask).last_hidden_state[0]
            return free.seg_head(states[len(asked.before) + len(pictures) + asked.seg - 1])

        torch.testing.assert_close(found, torch.stack([by_mask(window)] * 2), rtol=0, atol=3e-6)
        assert (by_mask(window - 1) - found[0]).abs().max() > 1e-4  # one token less is another answer


def test_clip_comes_from_a_folder_of_its_own(tmp_path):
    folder = copy(tmp_path / "model")
    clip = without_tower(folder)
    images = recorded("inputs")["frames"][:2]
    same = [VideoLisa(str(f), clip=c, **SIZES).ground(ArrayClip(images), ["red cup"])[0] for f, c in ((FOLDER, ""), (folder, clip))]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model.visual_model.mask_decoder.iou_token.weight": None},
            r"\(sam\): 1 tensors are missing, such as mask_decoder\.iou_token\.weight",
        ),
        ({"lm_head.weight": None}, r"lm_head\.weight is missing"),
        ({"model.visual_model.image_encoder.pos_embed": None}, "the image model is incomplete"),
        ({"model.layers.0.self_attn.qkv_proj.lora_A.weight": (8, 64)}, r"\(llm\): 1 tensors have no place .*lora_A"),
        ({"base_model.something": (1,)}, r"base_model\.something is not a tensor of VideoLISA"),
        ({"model.visual_model.image_encoder.neck.7.weight": (1,)}, r"neck\.7\.weight is not a tensor of Segment Anything"),
        ({"model.norm.weight": (65,)}, r"model\.norm\.weight is \(65,\), but config\.json makes it \(64,\)"),
    ],
)
def test_a_tensor_that_is_missing_unknown_or_of_another_shape_is_named(tmp_path, change, message):
    folder = copy(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name, shape in change.items():
        weights.pop(name, None)
        if shape is not None:
            weights[name] = torch.zeros(shape)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        VideoLisa(str(folder), **SIZES)
    assert "\n" not in str(caught.value)


def test_a_config_of_another_model_is_refused():
    with pytest.raises(ModelError, match="lacks hidden_size"):
        llm_config({}, 10, "x")
    with pytest.raises(ModelError, match="rope_scaling"):
        llm_config(PHI3_MINI | {"rope_scaling": {"type": "su"}}, 32012, "x")
