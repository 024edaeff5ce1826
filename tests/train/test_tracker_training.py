"""Tracker training: the rollout is what the engine does at inference, truth is forced where asked, and a step lowers the loss."""

from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from egoray.models.base import Prompt, TrackRequest
from egoray.models.sam2_engine import Sam2Engine
from egoray.models.sam2_weights import write_random_checkpoint
from egoray.train import pictures
from egoray.train.pictures import write_shard
from egoray.train.tracker import CURRICULUM, ClipMaker, Clips, Stage, TrackerNet, TrackerTask, roll

STAGE = Stage(until=1.0, size=128, clips=2, frames=3, things=3, zoom=(0.5, 0.9), forced=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(pictures, "_WORLDS", 1)
    patch.setattr(pictures, "_CLIPS", 2)
    folder = tmp_path_factory.mktemp("pictures")
    write_shard(folder, "train", 0)
    patch.undo()
    return folder


@pytest.fixture(scope="module")
def batch(folder):
    return next(iter(ClipMaker(folder, (STAGE,), lambda: 0.0, seed=0)))


def test_a_batch_holds_what_it_says(batch):
    num = len(batch.clip)
    assert batch.pixels.shape == (2, 3, 3, 128, 128)
    assert batch.masks.shape == (num, 3, 128, 128)
    assert batch.nouns.shape == batch.colours.shape == (2, 3, 32, 32)
    assert (batch.masks[:, 0].flatten(1).sum(1) >= 12).all()
    for mask, points, labels in zip(batch.masks[:, 0], batch.prompts, batch.labels, strict=True):
        rows, cols = mask.nonzero(as_tuple=True)
        if labels.tolist() == [2, 3]:
            box = torch.tensor([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]).float()
            assert (points.flatten() - box).abs().max() < 0.25 * 128
        else:
            assert labels.tolist() == [1, -1]
            assert mask[int(points[0, 1]), int(points[0, 0])] == 1
    where = batch.masks[:, 0, 2::4, 2::4].bool()
    assert (batch.nouns[batch.clip][:, 0][where] > 0).all()


def test_the_curriculum_follows_the_progress(folder):
    done = 0.0
    maker = iter(ClipMaker(folder, CURRICULUM, lambda: done, seed=0))
    assert next(maker).pixels.shape[1] == 1
    done = CURRICULUM[0].until
    assert next(maker).pixels.shape[1] == CURRICULUM[1].frames
    done = 1.0
    last = CURRICULUM[-1]
    assert next(maker).pixels.shape[1:] == (last.frames, 3, last.size, last.size)


def test_without_forced_truth_the_rollout_is_the_engines(tmp_path):
    checkpoint = write_random_checkpoint(str(tmp_path / "narrow.pt"), seed=3)
    (tmp_path / "narrow.yaml").write_text((resources.files("egoray.models.nano") / "tracker.yaml").read_text())
    net = TrackerNet()
    net.sam2.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    rng = np.random.default_rng(0)
    frames = [np.roll(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8), 3 * i, 0) for i in range(5)]
    batch = Clips(
        pixels=torch.from_numpy(np.stack(frames))[None].permute(0, 1, 4, 2, 3),
        clip=torch.tensor([0]),
        masks=torch.zeros(1, 5, 256, 256, dtype=torch.uint8),
        nouns=torch.zeros(1, 5, 64, 64, dtype=torch.int64),
        colours=torch.zeros(1, 5, 64, 64, dtype=torch.int64),
        prompts=torch.tensor([[[60.0, 40.0], [140.0, 120.0]]]),
        labels=torch.tensor([[2, 3]], dtype=torch.int32),
        by_mask=False,
        forced=0.0,
    )
    with torch.inference_mode():
        seen, _ = roll(net.eval(), batch, "cpu")
    request = TrackRequest(key="a", start=0, stop=len(frames), prompts={0: Prompt(box=(60, 40, 140, 120))}, boxes={})
    engine = dict(Sam2Engine(checkpoint).track(enumerate(frames), [request]))
    for t, one in enumerate(seen):
        logits = F.interpolate(one.logits[:, :1], size=(256, 256), mode="bilinear", align_corners=False)[0, 0]
        assert ((logits > 0).numpy() != engine[t]["a"].mask).mean() < 1e-3, t
        assert torch.sigmoid(one.score).item() == pytest.approx(engine[t]["a"].score, abs=1e-3)


def test_forced_truth_changes_what_follows(batch):
    torch.manual_seed(0)
    net = TrackerNet().eval()
    told = torch.zeros_like(batch.masks)
    told[:, 0] = 1
    with torch.inference_mode():
        one, other = (roll(net, replace(batch, masks=masks, by_mask=False, forced=1.0), "cpu")[0] for masks in (batch.masks, told))
    torch.testing.assert_close(one[0].logits, other[0].logits)
    assert (one[1].logits - other[1].logits).abs().max() > 1e-4


def test_masks_are_the_same_in_training_and_after(batch):
    """The decoder's other masks are not trained: no rule may choose them at inference."""
    torch.manual_seed(0)
    net = TrackerNet()
    with torch.no_grad():
        during, after = (roll(net.train(mode), first_frame(batch), "cpu")[0][0].logits for mode in (True, False))
    torch.testing.assert_close(during, after)


def first_frame(batch):
    parts = {name: getattr(batch, name)[:, :1] for name in ("pixels", "masks", "nouns", "colours")}
    return replace(batch, **parts, by_mask=False, forced=1.0)


@pytest.mark.parametrize("by_mask", [False, True])
def test_every_weight_of_the_path_learns(batch, by_mask):
    torch.manual_seed(0)
    task = TrackerTask(TrackerNet(), None, None, "cpu")
    loss, figures = task.loss(replace(batch, by_mask=by_mask, forced=1.0))
    loss.backward()
    assert ("iou_first" in figures) is not by_mask
    learned = {name.split(".")[1] for name, p in task.net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "obj_ptr_proj", "maskmem_tpos_enc"} <= learned


def test_steps_on_one_batch_lower_the_loss(folder):
    batch = next(iter(ClipMaker(folder, (Stage(**{**fields(STAGE), "frames": 1}),), lambda: 0.0, seed=0)))
    torch.manual_seed(0)
    task = TrackerTask(TrackerNet(), None, None, "cpu")
    optimizer = torch.optim.AdamW(task.net.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss, _ = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def fields(stage):
    return {name: getattr(stage, name) for name in ("until", "size", "clips", "frames", "things", "zoom", "forced")}
