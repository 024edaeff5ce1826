"""Detector training: crops keep their boxes, each thing has its cells, and a step lowers the loss of one batch."""

import numpy as np
import pytest
import torch

from egoray.train import pictures
from egoray.train.detector import CropMaker, DetectorRecipe, DetectorTask, DetectorTraining, middles
from egoray.train.pictures import write_shard


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(pictures, "_WORLDS", 1)
    patch.setattr(pictures, "_CLIPS", 2)
    folder = tmp_path_factory.mktemp("pictures")
    write_shard(folder, "train", 0)
    patch.undo()
    return next(iter(CropMaker(folder, DetectorRecipe(crops=6, crop_hw=(160, 256), sentences=40), seed=1)))


def test_a_batch_holds_what_it_says(batch):
    num = len(batch.boxes)
    assert batch.pixels.shape == (6, 3, 160, 256)
    assert batch.pixels.dtype == torch.uint8
    assert num > 3
    assert batch.truth.shape == batch.known.shape == (num, 40)
    assert (batch.boxes[:, 2:] > batch.boxes[:, :2]).all()
    assert (batch.boxes >= 0).all()
    assert (batch.boxes <= torch.tensor([256, 160, 256, 160])).all()
    assert 0 < batch.truth.float().mean() < 0.3


def test_middles_give_each_thing_a_cell_and_the_smaller_one_the_cell_of_two():
    boxes = torch.tensor([[0.0, 0, 64, 64], [28, 28, 36, 36], [2, 2, 5, 5], [62, 62, 64, 64]])
    image = torch.tensor([0, 0, 1, 1])
    cells, things = middles(boxes, image, (2, 8, 8))
    owner = dict(zip(cells.tolist(), things.tolist(), strict=True))
    assert set(owner.values()) == {0, 1, 2, 3}
    assert owner[4 * 8 + 4] == 1  # the small one in the middle of the large
    assert [cell for cell, thing in owner.items() if thing == 2] == [64]
    assert [cell for cell, thing in owner.items() if thing == 3] == [127]
    rows = sorted({cell // 8 for cell, thing in owner.items() if thing == 0})
    assert rows == [2, 3, 4, 5]


def test_no_things_have_no_cells():
    cells, things = middles(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), (1, 4, 4))
    assert len(cells) == len(things) == 0


def test_steps_on_one_batch_lower_every_loss(batch):
    torch.manual_seed(0)
    task = DetectorTask(DetectorTraining(), None, None, "cpu")
    optimizer = torch.optim.AdamW(task.net.parameters(), 2e-3)
    seen = []
    for _ in range(25):
        loss, figures = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(figures)
    for name in ("placed", "named", "meant"):
        assert seen[-1][name] < 0.8 * seen[0][name], name
    assert seen[-1]["iou"] > seen[0]["iou"]


def test_every_weight_learns(batch):
    torch.manual_seed(0)
    task = DetectorTask(DetectorTraining(), None, None, "cpu")
    task.loss(batch)[0].backward()
    idle = [name for name, p in task.net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert idle == []


def test_two_seeds_draw_two_batches_and_one_seed_the_same(batch, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(pictures, "_WORLDS", 1)
    monkeypatch.setattr(pictures, "_CLIPS", 1)
    folder = tmp_path_factory.mktemp("again")
    write_shard(folder, "train", 0)
    recipe = DetectorRecipe(crops=1, crop_hw=(64, 96), sentences=4)
    drawn = [next(iter(CropMaker(folder, recipe, seed))).pixels.numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
