"""SAM 2 over a stream of frames: one encoder pass a frame for all objects, and no more memory than the model attends to.

The network is the `sam2` package's own (`SAM2Base`), with its released weights; what is ours is how frames and memories
are held. The package's predictor wants a folder of frames and keeps every frame and every memory to the end.

Source: the paper's annotation step (SAM 2 prompted by the box on a trajectory's first frame, then propagated).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from sam2.modeling.sam2_base import SAM2Base
from torch.nn import functional as F

from egoray.errors import ModelError
from egoray.models.base import Image, TrackedMask, TrackRequest
from egoray.models.sam2_weights import load_sam2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(slots=True)
class _Memory:
    """What one object's next frame may attend to: outputs on prompted frames, and on the last frames before now."""

    cond: dict[int, dict[str, Any]] = field(default_factory=dict)
    rest: dict[int, dict[str, Any]] = field(default_factory=dict)

    def prune(self, now: int, num_maskmem: int, max_pointers: int) -> None:
        """Drop what no later frame reads: pointers beyond the last ``max_pointers``, mask memories beyond ``num_maskmem``."""
        for frame in [f for f in self.rest if f <= now - max_pointers]:
            del self.rest[frame]
        for frame in (f for f in self.rest if f <= now - num_maskmem):
            self.rest[frame]["maskmem_features"] = self.rest[frame]["maskmem_pos_enc"] = None
        for frame in sorted(self.cond)[1:-num_maskmem]:
            del self.cond[frame]


class Sam2Engine:
    """Satisfies `VideoTracker`.

    Args:
        checkpoint: a file or a published id, see `load_sam2`.
        device: a torch device; on CUDA the network runs under bfloat16 autocast.

    Raises:
        ModelError: if the checkpoint cannot be used.
    """

    name = "sam2"

    def __init__(self, checkpoint: str, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model: SAM2Base = load_sam2(checkpoint, device)
        self._mean = torch.tensor(MEAN, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).view(3, 1, 1)

    @torch.inference_mode()
    def track(self, frames: Iterable[tuple[int, Image]], requests: Sequence[TrackRequest]) -> Iterator[tuple[int, dict[str, TrackedMask]]]:
        """See `VideoTracker.track`; a mask is empty where the model's object score says that the object is not visible."""
        memories: dict[str, _Memory] = {}
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            for frame, image in frames:
                active = [r for r in requests if r.start <= frame < r.stop]
                found = {}
                if active:
                    features = self._encode(image)
                    for request in active:
                        memory = memories.setdefault(request.key, _Memory())
                        found[request.key] = self._step(request, frame, features, memory, image.shape[:2])
                yield frame, found
                for request in active:
                    if frame == request.stop - 1:
                        memories.pop(request.key, None)

    def _encode(self, image: Image) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[int, int]]]:
        """Features, position codes and map sizes of one frame, level by level."""
        side = self.model.image_size
        resized = np.array(PILImage.fromarray(image).resize((side, side)))
        pixels = torch.from_numpy(resized).to(self.device).permute(2, 0, 1).float() / 255.0
        try:
            encoded = self.model.forward_image(((pixels - self._mean) / self._std)[None])
        except torch.OutOfMemoryError as error:
            raise ModelError(f"out of GPU memory at {side} x {side}; use a smaller checkpoint or fewer actors a GPU") from error
        return self.model._prepare_backbone_features(encoded)[1:]

    def _step(self, request: TrackRequest, frame: int, features: Any, memory: _Memory, size_hw: tuple[int, int]) -> TrackedMask:
        feats, positions, sizes = features
        now, length = frame - request.start, request.stop - request.start
        box = request.prompts.get(frame)
        out = self.model.track_step(
            frame_idx=now,
            is_init_cond_frame=box is not None,
            current_vision_feats=feats,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=None if box is None else self._box_prompt(box, size_hw),
            mask_inputs=None,
            output_dict={"cond_frame_outputs": memory.cond, "non_cond_frame_outputs": memory.rest},
            num_frames=length,
        )
        kept = {k: out[k] for k in ("obj_ptr", "maskmem_features", "maskmem_pos_enc")}
        (memory.rest if box is None else memory.cond)[now] = kept
        memory.prune(now, self.model.num_maskmem, self.model.max_obj_ptrs_in_encoder)
        logits = F.interpolate(out["pred_masks"].float(), size=size_hw, mode="bilinear", align_corners=False)[0, 0]
        score = torch.sigmoid(out["object_score_logits"].float()).item()
        return TrackedMask(mask=(logits > 0).cpu().numpy(), score=score)

    def _box_prompt(self, box: tuple[float, ...], size_hw: tuple[int, int]) -> dict[str, torch.Tensor]:
        """The box as SAM 2 takes it: its two corners as points of labels 2 and 3, in the network's pixels."""
        height, width = size_hw
        corners = torch.tensor(box, dtype=torch.float32, device=self.device).view(1, 2, 2)
        scaled = corners / torch.tensor([width, height], device=self.device) * self.model.image_size
        return {"point_coords": scaled, "point_labels": torch.tensor([[2, 3]], dtype=torch.int32, device=self.device)}
