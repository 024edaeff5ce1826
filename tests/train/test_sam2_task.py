"""SAM 2 fine-tuned: samples with absences, prompts of every kind, gradients where they belong, a result that annotation can load."""

import numpy as np
import pytest
import torch

from egoray.core.masks import encode
from egoray.formats.rvos import Target
from egoray.models.base import Prompt, TrackRequest
from egoray.models.sam2_engine import Sam2Engine
from egoray.train.losses import focal
from egoray.train.sam2_task import Sam2Task, Sam2Training
from egoray.train.samples import Sentence, TrainingClip
from support.pictures import write_frames


@pytest.fixture
def clip(tmp_path):
    """A red square that moves, and is away in frames 2 and 3 of 6."""
    masks = {}
    images = write_frames(tmp_path / "frames", masks, absent=(2, 3))
    target = Target(object_id="1", masks={name: encode(mask) for name, mask in masks.items()})
    return TrainingClip(
        root=str(tmp_path),
        source="egomask-train",
        video_id="v",
        frame_names=tuple(f"{k:05d}" for k in range(6)),
        images=images,
        sentences=(Sentence(text="the red square", object_id="1", targets=(target,)),),
    )


def task(tmp_path, **options):
    torch.manual_seed(0)
    return Sam2Task.load("nano", "cpu", Sam2Training(side_px=128, num_frames=4, max_gap=1, **options), tmp_path)


def test_a_sample_begins_where_the_object_shows_and_holds_its_absences(clip, tmp_path):
    trained = task(tmp_path)
    seen = set()
    for seed in range(12):
        sample = trained.prepare(clip, np.random.default_rng(seed))
        assert sample.pixels.shape[0] == 1
        assert sample.pixels.shape[2:] == (3, 128, 128)
        assert sample.masks[0, 0].any()
        seen.add(tuple(sample.masks[0].flatten(1).any(1).tolist()))
    assert (True, False, False, True) in seen
    again = trained.prepare(clip, np.random.default_rng(11))
    assert torch.equal(again.pixels, sample.pixels)
    assert torch.equal(again.prompts, sample.prompts)


@pytest.mark.parametrize("kind", [{"click": 0.0, "mask": 0.0}, {"click": 1.0, "mask": 0.0}, {"mask": 1.0}])
def test_every_prompt_gives_a_loss_with_gradients_in_all_parts_that_are_trained(clip, tmp_path, kind):
    trained = task(tmp_path, **kind)
    sample = next(s for s in (trained.prepare(clip, np.random.default_rng(k)) for k in range(9)) if s.pixels.shape[1] > 2)
    loss, figures = trained.loss(sample)
    loss.backward()
    assert torch.isfinite(loss)
    assert {"mask", "score"} <= figures.keys()
    for part in ("image_encoder.trunk", "memory_attention", "memory_encoder", "sam_mask_decoder"):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in trained.module.named_parameters() if n.startswith(part)), part


def test_only_what_is_asked_for_is_trained(clip, tmp_path):
    trained = task(tmp_path, trained=("mask_decoder",))
    trained.loss(trained.prepare(clip, np.random.default_rng(0)))[0].backward()
    assert {n.split(".")[0] for n, p in trained.module.named_parameters() if p.grad is not None} == {"sam_mask_decoder"}


def test_the_result_is_a_checkpoint_that_tracks(clip, tmp_path):
    trained = task(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    trained.export(out)
    request = TrackRequest(key="a", start=0, stop=6, prompts={0: Prompt(box=(10, 10, 30, 30))}, boxes={})
    engine = Sam2Engine(str(out / "model.pt"))
    found = dict(engine.track([(k, clip.image(k)) for k in range(6)], [request]))
    assert len(found) == 6


def test_a_few_steps_lower_the_loss(clip, tmp_path):
    trained = task(tmp_path, mask=0.0, click=0.0)
    optimizer = torch.optim.AdamW(trained.module.parameters(), lr=1e-3)
    sample = trained.prepare(clip, np.random.default_rng(0))
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss, _ = trained.loss(sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_focal_is_what_its_formula_says():
    logits, target = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    t = target.numpy()
    each = np.where(t == 1, 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p))
    assert focal(logits, target).item() == pytest.approx(each.mean(), abs=1e-6)
