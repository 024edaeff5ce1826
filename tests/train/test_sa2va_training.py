"""Sa2VA's training against the released code's numbers; samples, what learns, and the way back to the published layout."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from egoray.core.masks import encode
from egoray.formats.rvos import Target
from egoray.models.sa2va.grounder import Sa2va
from egoray.models.sa2va.prompt import for_tower
from egoray.models.sa2va.weights import converter, joined
from egoray.train.losses import at_points, sampled_mask_losses, uncertain_points
from egoray.train.sa2va import ANSWERS, LAYERS, QUESTIONS, Sa2vaTask, Sa2vaTraining, _square
from egoray.train.samples import Sentence, TrainingClip
from support.clips import ArrayClip
from support.pictures import write_frames
from support.sa2va_golden import GOLDEN, write_golden

EXACT = {"rtol": 0, "atol": 1e-5}
SMALL = {"num_points": 256, "lora_rank": 4, "lora_alpha": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_golden(tmp_path_factory.mktemp("sa2va") / "checkpoint")


def task(folder, **options):
    return Sa2vaTask.load(str(folder), device=torch.device("cpu"), dtype=torch.float32, options=Sa2vaTraining(**(SMALL | options)))


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path, absent=(2, 3))


def make_clip(tmp_path, absent=(), num=6, source="egomask-train", texts=("the red square", "what is red?"), targets=True):
    masks = {}
    images = write_frames(tmp_path / f"frames{num}{len(absent)}", masks, num=num, absent=absent)
    target = (Target(object_id="1", masks={name: encode(mask) for name, mask in masks.items()}),) if targets else ()
    return TrainingClip(
        root=str(tmp_path),
        source=source,
        video_id="v",
        frame_names=tuple(f"{k:05d}" for k in range(num)),
        images=images,
        sentences=tuple(Sentence(text=text, object_id="1", targets=target) for text in texts),
    )


def test_the_mask_losses_are_the_released_ones():
    golden = np.load(GOLDEN.parents[2] / "train" / "data" / "losses.npz")
    logits, target, points = (torch.from_numpy(golden[name]).float() for name in ("pred", "gt", "points"))
    bce, dice = sampled_mask_losses(logits, target, points)
    assert 2.0 * bce.item() == pytest.approx(float(golden["sa2va_mask_loss"]), abs=1e-5)
    assert 0.5 * dice.item() == pytest.approx(float(golden["sa2va_dice_loss"]), abs=1e-5)


def test_uncertain_points_lie_where_the_logits_are_near_zero():
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 64, 64)
    points = uncertain_points(logits, 400, 3, 0.75)
    assert points.shape == (3, 400, 2)
    sure = at_points(logits, points).abs()
    assert sure[:, :300].mean() < 0.5 * sure[:, 300:].mean()


def test_the_language_loss_and_the_prompt_are_the_released_ones(folder):
    given, expected = np.load(GOLDEN / "inputs.npz"), np.load(GOLDEN / "outputs.npz")
    trained = task(folder)
    ids = torch.from_numpy(np.concatenate([given["input_ids"], given["answer_ids"]], axis=1)[0])
    answers = torch.arange(len(ids)) >= given["input_ids"].shape[1]
    frames = given["frames"][:5]
    pixels = torch.stack([for_tower(frame, 448) for frame in frames])
    squares = torch.stack([_square(frame, 256) for frame in frames])
    seg_at = (ids == trained._seg_id).nonzero()[:, 0].tolist()
    trained.module.eval()
    with torch.no_grad():
        logits, masks = trained.module(ids, trained._image_id, pixels, squares, seg_at, answers)
        states = trained.module.vlm.model.language_model(
            inputs_embeds=trained.module.embed(ids, trained._image_id, trained.module.look(pixels)), use_cache=False
        ).last_hidden_state[0]
        prompt = trained.module.prompt(states[seg_at])
        last = trained.module.vlm.lm_head(states[-8:])
    loss = torch.nn.functional.cross_entropy(logits, ids[answers])
    assert loss.item() == pytest.approx(float(expected["train_lm_loss"]), abs=1e-5)
    torch.testing.assert_close(prompt.numpy(), expected["train_seg_embedding"], **EXACT)
    torch.testing.assert_close(last.numpy(), expected["train_logits_last8"], **EXACT)
    assert masks.shape == (1, 5, 64, 64)


def test_masks_of_a_training_pass_are_those_of_inference(folder):
    """The same prompt in the same frame; inference rounds its normalisation, so nearly."""
    frames = np.load(GOLDEN / "inputs.npz")["frames"][:2]
    trained, model = task(folder), Sa2va(str(folder))
    prompts = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masks = trained.module._masks(torch.stack([_square(frame, 256) for frame in frames]), prompts)
        for k, frame in enumerate(frames):
            wanted = model.masks.segment(model.masks.encode([frame])[0], prompts).logits[:, 0]
            assert (masks[:, k] - wanted).abs().mean() < 0.02 * wanted.abs().mean() + 0.02


def test_a_sample_is_a_conversation_with_the_answers_alone_to_learn(folder, clip):
    trained = task(folder)
    sample = trained.prepare(clip, np.random.default_rng(1))
    tokenizer = trained._checkpoint.tokenizer
    assert len(sample.seg_at) == 5
    assert int((sample.ids == trained._image_id).sum()) == 5 * trained._checkpoint.tokens_a_frame
    learned = tokenizer.decode(sample.ids[sample.answers])
    stop = trained._checkpoint.stops[0]
    assert learned.count("[SEG]") == learned.count(stop) == 5
    assert all(part in ANSWERS for part in learned.split(stop)[:-1])
    words = tokenizer.decode(sample.ids[~sample.answers & (sample.ids != trained._image_id)])
    assert "</img> " not in words
    assert words.count("\n<|user|>") == 4
    again = trained.prepare(clip, np.random.default_rng(1))
    assert torch.equal(again.ids, sample.ids)
    assert torch.equal(again.squares, sample.squares)
    assert len(set(QUESTIONS)) == 16


def test_egomask_draws_frames_with_the_object_and_without(folder, tmp_path):
    trained = task(folder)
    shown = [
        int(trained.prepare(make_clip(tmp_path / str(k), absent=(0, 1, 2)), np.random.default_rng(k)).masks[0].flatten(1).any(1).sum())
        for k in range(12)
    ]
    assert set(shown) == {1, 2, 3, 4}


@pytest.mark.parametrize(("num", "absent"), [(6, ()), (6, (0, 1, 2, 3, 5)), (1, ()), (3, (0,))], ids=["always", "once", "one frame", "few"])
def test_odd_clips_are_samples_too(folder, tmp_path, num, absent):
    sample = task(folder).prepare(make_clip(tmp_path, absent=absent, num=num), np.random.default_rng(0))
    assert sample.pixels.shape[0] == sample.masks.shape[1] == 5
    assert sample.masks[0].flatten(1).any(1).any()


def test_other_sets_draw_any_frames_in_order(folder, tmp_path):
    sample = task(folder, num_frames=3).prepare(make_clip(tmp_path, num=6, source="mevis"), np.random.default_rng(0))
    assert sample.masks.shape[1] == 3


def test_a_sentence_about_nothing_teaches_its_words_alone(folder, tmp_path):
    trained = task(folder)
    sample = trained.prepare(make_clip(tmp_path, targets=False, source="revos"), np.random.default_rng(0))
    loss, figures = trained.loss(sample)
    assert loss.item() == pytest.approx(figures["lm"])
    assert "iou" not in figures
    loss.backward()
    assert all(p.grad is not None for p in trained.module.parameters() if p.requires_grad)


def test_gradients_reach_what_is_trained_and_nothing_else(folder, clip):
    trained = task(folder)
    trained.module.train()
    torch.manual_seed(0)
    loss, figures = trained.loss(trained.prepare(clip, np.random.default_rng(0)))
    loss.backward()
    assert figures["lm"] + figures["bce"] + figures["dice"] == pytest.approx(loss.item(), abs=1e-5)
    reached = {name for name, p in trained.module.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in trained.module.named_parameters() if p.requires_grad}
    assert not any(part in name for name in reached for part in ("vision_tower", "image_encoder", "memory", "prompt_encoder", "base_layer"))
    for part in ("lora_A", "embed_tokens", "lm_head", "multi_modal_projector", "seg_head", "sam_mask_decoder"):
        assert any(part in name for name in reached), part
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[1] for name in reached if "lora_A" in name}
    assert adapted == set(LAYERS)
    only = task(folder, trained=("seg_head",))
    assert {name.split(".")[0] for name, p in only.module.named_parameters() if p.requires_grad} == {"seg_head"}


def test_dropout_and_points_follow_torchs_generator(folder, clip):
    trained = task(folder)
    trained.module.train()
    for name, p in trained.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
    sample = trained.prepare(clip, np.random.default_rng(0))
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(trained.loss(sample)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_untouched_weights_come_back_as_they_were(folder, tmp_path):
    trained = task(folder)
    trained.export(tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_what_was_learned_is_what_the_grounder_reads(folder, clip, tmp_path):
    trained = task(folder)
    optimizer = torch.optim.AdamW([p for p in trained.module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(5):
        torch.manual_seed(0)
        loss, _ = trained.loss(trained.prepare(clip, np.random.default_rng(0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained.export(tmp_path)
    model = Sa2va(str(tmp_path), max_new_tokens=4)
    frames = np.load(GOLDEN / "inputs.npz")["frames"]
    pixels = torch.stack([for_tower(frame, 448) for frame in frames[:2]])
    ids = torch.tensor([5, trained._seg_id, 9])
    trained.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.modules.look(pixels), trained.module.look(pixels), **EXACT)
        for modules in (model.modules, trained.module):
            modules.states = modules.vlm.model.language_model(inputs_embeds=modules.vlm.get_input_embeddings()(ids)[None]).last_hidden_state
        torch.testing.assert_close(model.modules.states, trained.module.states, **EXACT)
        torch.testing.assert_close(model.modules.prompt(model.modules.states[0]), trained.module.prompt(trained.module.states[0]), **EXACT)
    assert len(model.ground(ArrayClip(frames[:3]), ["the red square"])) == 1


def test_internlm2_comes_back_fused():
    config = {
        "llm_config": {"architectures": ["InternLM2ForCausalLM"], "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 24}
    }
    rng = torch.Generator().manual_seed(0)
    fused = torch.randn(2 * (3 + 2) * 4, 24, generator=rng)
    name = "language_model.model.layers.3.attention.wqkv.weight"
    parts = converter(config)(name, fused)
    assert len(parts) == 3
    assert torch.equal(joined(name, parts, config), fused)
    qkv = torch.randn(30, 10, generator=rng)
    vision = "vision_model.encoder.layers.0.attn.qkv.weight"
    assert torch.equal(joined(vision, converter(config)(vision, qkv), config), qkv)
