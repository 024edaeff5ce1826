"""The losses against sums written out by hand."""

import math

import pytest
import torch

from egoray.train.losses import balanced_bce, box_iou, dice, quality_focal, sentence_loss


def test_balanced_bce_weighs_the_classes_by_the_roots_of_their_areas():
    target = torch.zeros(1, 2, 8)
    target[0, 0, 0] = 1
    logits = torch.full((1, 2, 8), -1.0)
    inside, outside = math.log(1 + math.e), math.log(1 + math.exp(-1))
    a, b = (1 / 16) ** -0.5, 15 * (15 / 16) ** -0.5
    assert balanced_bce(logits, target).item() == pytest.approx((a * inside + b * outside) / (a + b), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balanced_bce_of_one_class_alone_is_the_plain_mean(value):
    target, logits = torch.full((1, 4, 4), value), torch.randn(1, 4, 4)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert balanced_bce(logits, target).item() == pytest.approx(plain.item(), rel=1e-5)


def test_dice_is_zero_for_the_truth_and_near_one_for_its_opposite():
    target = (torch.arange(64).view(1, 8, 8) % 2).float()
    assert dice(40 * target - 20, target).item() == pytest.approx(0, abs=1e-6)
    assert dice(20 - 40 * target, target).item() > 0.95
    assert dice(torch.full((1, 4, 4), -20.0), torch.zeros(1, 4, 4)).item() == pytest.approx(0, abs=1e-6)


def test_box_iou_counts_pixels():
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 2, 2]])
    b = torch.tensor([[2.0, 0, 6, 4], [0, 0, 2, 2], [4, 0, 6, 2]])
    iou, generalised = box_iou(a, b)
    assert iou.tolist() == pytest.approx([8 / 24, 1, 0])
    assert generalised.tolist() == pytest.approx([8 / 24, 1, -4 / 12])


def test_quality_focal_is_least_at_the_quality():
    quality = torch.tensor([0.7])
    at = [quality_focal(torch.tensor([x]).logit(), quality).item() for x in (0.5, 0.7, 0.9)]
    assert at[1] == pytest.approx(0, abs=1e-9)
    assert min(at[0], at[2]) > 0.01


def test_sentence_loss_counts_true_pairs_and_believed_false_ones():
    log_p = torch.tensor([[0.5, 0.25], [0.2, 0.9]]).log().requires_grad_()
    truth = torch.tensor([[True, False], [False, True]])
    known = torch.tensor([[True, True], [False, True]])
    by_hand = (-math.log(0.5) - math.log(0.9) - 0.25 * math.log(0.75)) / 2
    loss = sentence_loss(log_p, truth, known)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert log_p.grad[1, 0] == 0
    assert log_p.grad[0, 0] < 0 < log_p.grad[0, 1]


def test_certainty_gives_no_infinity():
    assert torch.isfinite(sentence_loss(torch.tensor([[0.0]]), torch.tensor([[False]]), torch.tensor([[True]])))
