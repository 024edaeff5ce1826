"""VideoLISA's training: the released code's losses, gradients where they belong, and an export that the grounder reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from egoray.core.masks import decode
from egoray.errors import FormatError, ModelError
from egoray.formats.rvos import MEVIS
from egoray.models.published import read_weights
from egoray.models.videolisa.grounder import VideoLisa
from egoray.models.videolisa.pictures import ClipPictures, sam_pixels
from egoray.models.videolisa.prompt import Template
from egoray.train.videolisa import VideolisaSample, VideolisaTask, VideolisaTraining, dice, mask_iou
from support.clips import ArrayClip
from support.rectangles import rectangle_clip
from support.videolisa import FOLDER, QUESTION, SIZES, copy, recorded, without_tower

DATA = Path(__file__).parent / "data"
TRAINED = {
    "lora": "lora_",
    "embeddings": "llm.model.embed_tokens.",
    "head": "llm.lm_head.",
    "mask_decoder": "sam.mask_decoder.",
    "seg_head": "seg_head.",
}
UNASKED = ("sam.mask_decoder.iou_prediction_head.", *(f"sam.mask_decoder.output_hypernetworks_mlps.{k}." for k in (1, 2, 3)))


def task_of(folder=FOLDER, dtype=torch.float32, clip=None, **options):
    options = VideolisaTraining(**SIZES | options)
    return VideolisaTask.load(str(folder), clip=clip, device=torch.device("cpu"), dtype=dtype, options=options)


def shake(task, seed=0, by=0.05):
    """Move everything that is trained, the adapters too, which begin as zero."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in task.module.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=source)
    return task


def loss_of(task, sample, seed=0):
    torch.manual_seed(seed)
    return task.loss(sample)


@pytest.fixture(scope="module")
def golden():
    """The sample whose losses the released code has told."""
    given, told = recorded("inputs"), np.load(DATA / "videolisa_train.npz")
    shown = [int(frame) for frame in told["dense_frame_ids"]]
    frames = given["frames"]
    return VideolisaSample(
        tokens=Template(FOLDER)(QUESTION),
        frames=ClipPictures(FOLDER / "clip", 336)(list(frames)),
        sparse=[0, 1, 1, 2, 3, 4, 4, 5],
        dense=[1, 4],
        scenes=torch.stack([sam_pixels(frames[frame], 256) for frame in shown]),
        masks=torch.from_numpy(told["gt"]) > 0,
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return rectangle_clip(tmp_path_factory.mktemp("videolisa") / "clip", [k not in (2, 5) for k in range(10)])


@pytest.fixture(scope="module")
def task():
    return task_of()


@pytest.fixture(scope="module")
def sample(task, clip):
    return task.prepare(clip, np.random.default_rng(0))


def test_mask_losses_are_those_of_the_released_code():
    told = np.load(DATA / "losses.npz")
    logits, truth = torch.from_numpy(told["pred"]), torch.from_numpy(told["gt"]).float()
    assert dice(logits, truth).mean().item() == pytest.approx(float(told["videolisa_dice"]), abs=1e-5)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    assert bce.item() == pytest.approx(float(told["videolisa_bce"]), abs=1e-5)


def test_a_training_pass_has_the_losses_of_the_released_code(task, golden):
    told = np.load(DATA / "videolisa_train.npz")
    labels = told["labels"][0]
    assert golden.tokens.after[golden.tokens.answer :] == labels[labels != -100].tolist()
    assert np.array_equal(golden.masks.numpy(), told["gt"])
    loss, figures = loss_of(task, golden)
    assert loss.item() == pytest.approx(float(told["loss"]), abs=1e-5)
    for ours, theirs in (("ce", "ce_loss"), ("bce", "mask_bce_loss"), ("dice", "mask_dice_loss")):
        assert figures[ours] == pytest.approx(float(told[theirs]), abs=1e-5)
    assert figures["bce"] + figures["dice"] == pytest.approx(float(told["mask_loss"]), abs=1e-5)


def test_each_weight_scales_its_loss_alone(golden):
    _, plain = loss_of(task_of(), golden)
    loss, figures = loss_of(task_of(ce_weight=3, bce_weight=0, dice_weight=1), golden)
    assert figures == pytest.approx(plain | {"ce": 3 * plain["ce"], "bce": 0, "dice": 2 * plain["dice"]})
    assert loss.item() == pytest.approx(figures["ce"] + figures["dice"])


def test_iou_counts_pixels():
    found, truth = torch.zeros(3, 2, 4, dtype=torch.bool), torch.zeros(3, 2, 4, dtype=torch.bool)
    found[0, 0, :3], truth[0, 0, 1:] = True, True
    found[1, 0, 0] = True
    assert mask_iou(found, truth).tolist() == [0.5, 0, 1]


@pytest.mark.parametrize("trained", [tuple(TRAINED), ("lora",), ("embeddings",), ("head",), ("mask_decoder", "seg_head")], ids="-".join)
def test_gradients_reach_exactly_the_trained_parts(golden, trained):
    task = shake(task_of(trained=trained))
    names = {
        name
        for name, _ in task.module.named_parameters()
        if any(TRAINED[part] in name for part in trained) and not name.startswith(UNASKED)
    }
    assert {name for name, p in task.module.named_parameters() if p.requires_grad} == names
    assert sum("lora_" in name for name in names) == (6 if "lora" in trained else 0)  # two to each of three layers
    loss_of(task, golden)[0].backward()
    assert {name for name, p in task.module.named_parameters() if p.grad is not None and p.grad.any()} == names


def test_fresh_adapters_change_nothing_and_are_the_same_in_each_worker(golden):
    torch.manual_seed(1)
    one = task_of(trained=("lora",))
    torch.manual_seed(2)
    other = task_of(trained=("lora",))
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True))
    assert loss_of(one, golden)[0] == loss_of(task_of(trained=("head",)), golden)[0]


def test_bfloat16_is_near_and_keeps_float32_of_what_is_trained(golden):
    whole, half = shake(task_of()), shake(task_of(dtype=torch.bfloat16))
    kinds = {p.dtype for name, p in half.module.named_parameters() if not p.requires_grad and not name.startswith("sam.")}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in half.module.parameters() if p.requires_grad} == {torch.float32}
    loss, figures = loss_of(half, golden)
    loss.backward()
    exact = loss_of(whole, golden)[1]
    assert figures == pytest.approx(exact, abs=0.05)
    assert all(p.grad.isfinite().all() for p in half.module.parameters() if p.requires_grad)


def test_a_sample_is_a_function_of_clip_and_generator(task, clip):
    one, other, third = (task.prepare(clip, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in ("frames", "scenes", "masks"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.tokens, one.sparse, one.dense) == (other.tokens, other.sparse, other.dense)
    assert (one.tokens, one.dense) != (third.tokens, third.dense)


def test_a_sample_is_what_is_in_the_clip(task, clip, sample):
    assert sample.frames.shape == (8, 3, 336, 336)
    assert sample.scenes.shape == (2, 3, 256, 256)
    assert len(sample.sparse) == 8
    frames = sorted({k for k in range(10) for row in sample.frames if torch.equal(pixels(clip, k), row)})
    assert len(frames) == 8
    for place, scene, mask in zip(sample.dense, sample.scenes, sample.masks, strict=True):
        frame = next(k for k in range(10) if torch.equal(pixels(clip, k), sample.frames[sample.sparse[place]]))
        assert torch.equal(scene, sam_pixels(clip.image(frame), 256))
        assert np.array_equal(mask.numpy(), clip.image(frame)[..., 0] == 220)


def pixels(clip, frame):
    return ClipPictures(FOLDER / "clip", 336)([clip.image(frame)])[0]


def test_dropout_follows_the_seed(sample):
    task = shake(task_of(lora_dropout=0.5, trained=("lora",)))
    task.module.train()
    losses = [loss_of(task, sample, seed)[0].item() for seed in (7, 7, 8)]
    assert losses[0] == losses[1] != losses[2]
    task.module.eval()
    assert loss_of(task, sample, 7)[0] == loss_of(task, sample, 8)[0]


def test_a_few_steps_reduce_the_loss(sample):
    task = task_of()
    task.module.train()
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0, betas=(0.9, 0.95))
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        loss, _ = loss_of(task, sample, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("present", [[1], [0, 1], [1] * 12, [0] * 11 + [1], [0] * 20 + [1, 1] + [0] * 20], ids=str)
@pytest.mark.parametrize("source", ["egomask-train", MEVIS])
def test_odd_clips_give_a_loss(task, tmp_path, present, source):
    sample = task.prepare(rectangle_clip(tmp_path / "clip", present, source=source), np.random.default_rng(0))
    assert sample.masks.shape == (2, 48, 64)
    assert sample.masks.any() or source == MEVIS
    loss, figures = loss_of(task, sample)
    assert loss.isfinite()
    assert figures.keys() == {"ce", "bce", "dice", "iou"}


def test_a_sentence_about_nothing_teaches_its_words_alone(tmp_path):
    task = shake(task_of())
    sample = task.prepare(rectangle_clip(tmp_path / "clip", [1] * 9, source=MEVIS, meant=False), np.random.default_rng(0))
    assert sample.masks is None
    loss, figures = loss_of(task, sample)
    assert figures == {"ce": pytest.approx(loss.item()), "bce": 0, "dice": 0}
    loss.backward()
    trained = {name: p.grad for name, p in task.module.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in trained.values())  # so that all workers have the same ones to sum
    assert {name.split(".")[0] for name, gradient in trained.items() if gradient.any()} == {"llm"}


def test_sentences_are_asked_in_several_ways_and_answered_in_one(task, clip):
    asked = [task.prepare(clip, np.random.default_rng(seed)).tokens for seed in range(20)]
    assert len({tuple(tokens.after[: tokens.answer]) for tokens in asked}) > 3
    assert len({tuple(tokens.after[tokens.answer :]) for tokens in asked}) == 1
    assert all(tokens.after[tokens.seg] == Template(FOLDER).seg_id for tokens in asked)


def test_a_long_sentence_loses_its_end_and_never_the_answer(task, tmp_path):
    clip = rectangle_clip(tmp_path / "clip", [1, 1], texts=("the red box " + "near the wall " * 500,))
    tokens = task.prepare(clip, np.random.default_rng(0)).tokens
    room = 4096 - (8 + 2 * 576)
    assert room - 40 < len(tokens.before) + len(tokens.after) <= room
    assert len(tokens.after) - tokens.answer == 9
    short = copy(tmp_path / "short")
    config = json.loads((short / "tokenizer_config.json").read_text()) | {"model_max_length": 512}
    (short / "tokenizer_config.json").write_text(json.dumps(config))
    tokens = task_of(short).prepare(clip, np.random.default_rng(0)).tokens
    assert 512 - 255 - 40 < len(tokens.before) + len(tokens.after) <= 512 - 255
    (short / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 300}))
    with pytest.raises(ModelError, match="model_max_length, 300"):
        task_of(short)


def test_what_cannot_be_read_is_named(task, tmp_path):
    def refused(clip, message):
        with pytest.raises(FormatError, match=message):
            task.prepare(clip, np.random.default_rng(0))

    clip = rectangle_clip(tmp_path / "clip", [1] * 4)
    refused(replace(clip, sentences=(replace(clip.sentences[0], text=" ?"),)), "egomask-train/clip/1: .*needs a word")
    Image.new("RGB", (64, 64)).save(clip.images[2])
    refused(clip, "not of one size|the mask is 48x64, the image 64x64")
    Path(clip.images[2]).write_bytes(b"no picture")
    refused(clip, "00010.png")


@pytest.mark.parametrize(
    "options",
    [{"trained": ()}, {"trained": ("llm",)}, {"lora_rank": 0}, {"num_dense": 8}, {"lora_dropout": 1.0}, {"bce_weight": -1}, {"lr": 1}],
    ids=str,
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValidationError):
        VideolisaTraining(**SIZES | options)


def test_what_does_not_fit_the_model_is_refused():
    with pytest.raises(ModelError, match="no layer named q_proj, v_proj"):
        task_of(lora_targets=("q_proj", "v_proj"))
    with pytest.raises(ModelError, match="take fewer dense frames"):
        task_of(num_dense=7)


def test_the_published_defaults():
    options = VideolisaTraining()
    assert options.trained == tuple(TRAINED)
    assert (options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_targets) == (8, 16, 0.05, ("qkv_proj",))
    assert (options.ce_weight, options.bce_weight, options.dice_weight) == (1, 2, 0.5)
    assert (options.num_sparse, options.num_dense) == (32, 4)


def test_blocks_are_the_layers_of_the_three_large_networks(task):
    assert [type(block).__name__ for block in task.blocks()] == ["CLIPEncoderLayer"] * 3 + ["SamVisionLayer"] * 3 + ["Phi3DecoderLayer"] * 3


def test_recomputing_the_blocks_changes_no_gradient(golden):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    whole, thrifty = shake(task_of()), shake(task_of())
    blocks = set(thrifty.blocks())
    apply_activation_checkpointing(thrifty.module, check_fn=blocks.__contains__)
    for task in (whole, thrifty):
        task.module.train()
        loss_of(task, golden)[0].backward()
    gradients = [[p.grad for p in task.module.parameters() if p.grad is not None] for task in (whole, thrifty)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_clip_is_learned_and_found_again_by_the_grounder_that_reads_the_export(tmp_path, clip):
    task = task_of()
    task.module.train()
    optimizer = torch.optim.AdamW([p for p in task.module.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0, betas=(0.9, 0.95))
    for step in range(150):
        optimizer.zero_grad()
        loss_of(task, task.prepare(clip, np.random.default_rng(step)), step)[0].backward()
        torch.nn.utils.clip_grad_norm_(task.module.parameters(), 1.0)
        optimizer.step()
    task.export(tmp_path / "out")
    images = np.stack([clip.image(frame) for frame in range(10)])
    (found,) = VideoLisa(str(tmp_path / "out"), **SIZES).ground(ArrayClip(images), ["the red box"])
    nothing = np.zeros((48, 64), bool)
    drawn = np.stack([decode(found.masks[frame]) if frame in found.masks else nothing for frame in range(10)])
    assert mask_iou(torch.from_numpy(drawn), torch.from_numpy(images[..., 0] == 220)).mean() >= 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_untouched_export_is_the_checkpoint(tmp_path, dtype):
    folder = copy(tmp_path / "model")
    clip = without_tower(folder)
    task_of(folder, clip=clip, dtype=dtype).export(tmp_path / "out")
    old, new = read_weights(folder), read_weights(tmp_path / "out")
    assert old.keys() == new.keys()
    assert not any("vision_tower" in name for name in new)
    assert all(torch.equal(old[name], value) and old[name].dtype == value.dtype for name, value in new.items())
    for path in folder.glob("*.json"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_the_grounder_draws_with_an_export_what_the_trained_network_draws(tmp_path, golden):
    task = shake(task_of(lora_alpha=64))
    task.export(tmp_path / "out")
    task.module.eval()
    untrained, trained = VideoLisa(str(FOLDER), **SIZES), VideoLisa(str(tmp_path / "out"), **SIZES)
    images, texts = ArrayClip(recorded("inputs")["frames"]), ["the red cup", "it"]
    before, found = untrained.ground(images, texts), trained.ground(images, texts)
    untrained._net = task.module
    for one, other, old in zip(found, untrained.ground(images, texts), before, strict=True):
        assert one.masks.keys() == other.masks.keys()
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert one.scores != pytest.approx(old.scores, abs=1e-3)
    again = task_of(tmp_path / "out")
    assert loss_of(again, golden)[1] == pytest.approx(loss_of(task, golden)[1], abs=1e-5)
    old, new = read_weights(FOLDER), read_weights(tmp_path / "out")
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    parts = ("model.embed_tokens.", "lm_head.", "model.text_hidden_fcs.", "model.visual_model.mask_decoder.")
    assert changed == {
        name
        for name in old
        if (name.startswith(parts) or name.endswith("qkv_proj.weight"))
        and "iou_prediction_head" not in name
        and not any(f"output_hypernetworks_mlps.{k}." in name for k in (1, 2, 3))
    }


def test_an_export_keeps_the_float_type_of_the_checkpoint(tmp_path):
    folder = copy(tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.bfloat16() for name, value in weights.items()}, folder / "model.safetensors")
    task = shake(task_of(folder))
    task.export(tmp_path / "out")
    new = read_weights(tmp_path / "out")
    assert {value.dtype for value in new.values()} == {torch.bfloat16}
    assert torch.equal(new["lm_head.weight"], task.module.llm.lm_head.weight.detach().bfloat16())


def test_an_export_does_not_overwrite_what_it_is_made_of(tmp_path):
    folder = copy(tmp_path / "model")
    with pytest.raises(ModelError, match="export to another folder"):
        task_of(folder).export(folder)
    assert read_weights(folder)
