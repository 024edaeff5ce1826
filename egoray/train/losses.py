"""Losses for small things in large frames: the rare class must weigh as much as the common one, or nothing is ever found."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def balanced_bce(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) binary cross-entropy of each (N, H, W) mask, with the weight of the rarer class raised halfway to the other's.

    The odds of the two classes' weights are the square root of those of their areas. Without it small things are never found; with equal
    weights the outline settles outside of the thing, where a missed pixel costs as much as many that are too many.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    inside = target.flatten(1)
    share = inside.mean(1, keepdim=True)
    weight = inside * share.clamp(min=1e-4).rsqrt() + (1 - inside) * (1 - share).clamp(min=1e-4).rsqrt()
    return (loss * weight).sum(1) / weight.sum(1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) 1 - Dice overlap of the soft (N, H, W) masks; near 0 where both are empty."""
    soft, truth = torch.sigmoid(logits).flatten(1), target.flatten(1)
    return 1 - (2 * (soft * truth).sum(1) + 1) / (soft.sum(1) + truth.sum(1) + 1)


def box_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) IoU and generalised IoU of xyxy boxes (N, 4) pair by pair."""
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) - inter
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    iou = inter / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Sum over cells of the cross-entropy to ``quality`` in [0, 1], each weighted by its squared error; same shape as the logits.

    Source: Li et al., Generalized Focal Loss (NeurIPS 2020), beta 2.
    """
    error = (torch.sigmoid(logits) - quality).abs().detach() ** 2
    return (F.binary_cross_entropy_with_logits(logits, quality, reduction="none") * error).sum()


def sentence_loss(log_p: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean over the true pairs of the cross-entropy of (N, Q) log probabilities; false pairs weigh as much as they are believed.

    ``truth`` and ``known`` are (N, Q) bool; a pair that is not known counts for nothing.
    """
    log_p = log_p.clamp(max=-1e-4)
    p = log_p.detach().exp()
    yes = -log_p * (truth & known)
    no = -torch.log1p(-log_p.exp()) * p * (~truth & known)
    return (yes.sum() + no.sum()) / (truth & known).sum().clamp(min=1)


def focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(N,) mean over pixels of the sigmoid focal loss of (N, H, W) masks.

    Source: Lin et al., Focal Loss for Dense Object Detection (ICCV 2017), with SAM 2's alpha and gamma.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = torch.sigmoid(logits)
    wrong = p * (1 - target) + (1 - p) * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * wrong**gamma * loss).flatten(1).mean(1)


def mask_iou(found: Tensor, truth: Tensor) -> Tensor:
    """(N,) IoU of (N, H, W) bool masks; 1 where both are empty."""
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int, oversample: int, important: float) -> Tensor:
    """(N, count, 2) xy in [0, 1]: of ``oversample`` times as many random points in (N, H, W) masks the least certain, and some others.

    ``important`` is the share of the former. Source: PointRend (Kirillov et al. 2020).
    """
    tried = torch.rand(len(logits), count * oversample, 2, device=logits.device)
    kept = int(important * count)
    best = at_points(logits, tried).abs().topk(kept, dim=1, largest=False).indices
    chosen = tried.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, torch.rand(len(logits), count - kept, 2, device=logits.device)], dim=1)


def at_points(masks: Tensor, points: Tensor) -> Tensor:
    """(N, P) values of (N, H, W) maps at (N, P, 2) points in [0, 1], bilinear; outside of the map is 0."""
    return F.grid_sample(masks[:, None].float(), 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]


def sampled_mask_losses(logits: Tensor, target: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and 1 - Dice overlap of (N, H, W) masks at (N, P, 2) points, each a mean over masks.

    Source: the losses of Sa2VA's release: both read the target between its pixels too, Dice has 1 added above and below.
    """
    at, truth = at_points(logits, points), at_points(target, points)
    bce = F.binary_cross_entropy_with_logits(at, truth, reduction="sum") / (at.numel() + 1e-4)
    soft = at.sigmoid()
    dice = 1 - (2 * (soft * truth).sum(1) + 1) / (soft.sum(1) + truth.sum(1) + 1)
    return bce, dice.sum() / (len(at) + 1e-4)
