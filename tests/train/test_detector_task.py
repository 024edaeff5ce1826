"""The nano-detector fine-tuned: samples with and without the object, losses that move it, a result that `ground` can load."""

import numpy as np
import pytest
import torch

from egoray.core.masks import encode
from egoray.formats.rvos import Target
from egoray.models.detector import NanoDetector
from egoray.train.detector_task import DetectorTuning, DetectorTuningTask
from egoray.train.samples import Sentence, TrainingClip
from support.pictures import write_frames


@pytest.fixture
def clip(tmp_path):
    masks = {}
    images = write_frames(tmp_path / "frames", masks, absent=(2, 3))
    target = (Target(object_id="1", masks={name: encode(mask) for name, mask in masks.items()}),)
    texts = ("the red square", "the red thing left of the blue mug")
    return TrainingClip(
        root=str(tmp_path),
        source="egomask-train",
        video_id="v",
        frame_names=tuple(f"{k:05d}" for k in range(6)),
        images=images,
        sentences=tuple(Sentence(text=text, object_id="1", targets=target) for text in texts),
    )


def test_samples_hold_the_box_at_the_networks_scale_or_none(clip):
    task = DetectorTuningTask.load("", "cpu", DetectorTuning(absent=0.5))
    samples = [task.prepare(clip, np.random.default_rng(seed)) for seed in range(20)]
    boxes = [sample.box for sample in samples]
    assert 3 < sum(box is None for box in boxes) < 17
    box = next(box for box in boxes if box is not None)
    assert (box[2] - box[0]).item() == pytest.approx(20 * 640 / 80)
    assert samples[0].pixels.shape == (1, 3, 480, 640)
    assert sorted(samples[0].unique.tolist()) == [False, True]


def test_tuning_makes_the_sentence_mean_the_thing_and_nothing_else(clip, tmp_path):
    task = DetectorTuningTask.load("", "cpu", DetectorTuning())
    task.module.train()
    assert not any(m.training for m in task.module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-3)
    first = last = 0.0
    for step in range(24):
        loss, _ = task.loss(task.prepare(clip, np.random.default_rng(step)))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in task.module.parameters())
        optimizer.step()
        first, last = first + float(loss.detach()) * (step < 6), last + float(loss.detach()) * (step >= 18)
    assert last < 0.6 * first
    task.export(tmp_path)
    tuned = NanoDetector(str(tmp_path / "model.safetensors"))
    with_it, without = (tuned.detect([clip.image(frame)], ["the red square"])[0][0] for frame in (1, 2))
    assert with_it[0].score > 2 * (without[0].score if without else 0.0)
    x1, y1, x2, y2 = with_it[0].box
    assert abs(x1 - 16) < 6
    assert abs(y2 - 33) < 6
    assert x2 > x1
    assert y2 > y1
