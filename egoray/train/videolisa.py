"""VideoLISA for the training loop: a sentence, 32 glances at a clip, masks on 4 of them.

Source: "One Token to Seg Them All" (NeurIPS 2024), section 3, and EgoMask's fine-tuning of it (ICCV 2025).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.errors import FormatError, ModelError
from egoray.models.published import read_weights, write_checkpoint
from egoray.models.videolisa.checkpoint import TEXT_TOKENS, Checkpoint, load
from egoray.models.videolisa.network import Network
from egoray.models.videolisa.pictures import full_size, sam_pixels
from egoray.models.videolisa.prompt import QUESTION, Tokens
from egoray.models.videolisa.weights import place
from egoray.train.lora import add_lora, lora_deltas
from egoray.train.losses import mask_iou
from egoray.train.samples import EGOMASK, TrainingClip
from egoray.train.videolisa_frames import egomask_frames, spread_frames

QUESTIONS = (
    QUESTION,
    "Mark the pixels of the {query} in this video.",
    "Where is the {query} in these frames? Answer with a mask.",
    "Follow the {query} through the clip and give its mask.",
    "I am looking for the {query}; outline it for me.",
    "Find the {query} in the recording and segment it.",
)
"""How a sentence is asked; the first is how it is asked at inference."""
_TEXT_MARGIN = 255
"""How much shorter than the tokenizer's length a prompt must be."""

Part = Literal["lora", "embeddings", "head", "mask_decoder", "seg_head"]


class VideolisaTraining(BaseModel):
    """What is trained of VideoLISA, and on what; the defaults are EgoMask's."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    trained: Annotated[tuple[Part, ...], Field(min_length=1, description="the parts that learn; the others stay as they are")] = (
        "lora",
        "embeddings",
        "head",
        "mask_decoder",
        "seg_head",
    )
    lora_rank: Annotated[int, Field(ge=1, description="of the adapters on the language model")] = 8
    lora_alpha: Annotated[int, Field(ge=1, description="an adapter counts alpha / rank times")] = 16
    lora_dropout: Annotated[float, Field(ge=0, lt=1, description="share of an adapter's inputs that a step leaves out")] = 0.05
    lora_targets: Annotated[tuple[str, ...], Field(min_length=1, description="layers with an adapter, by the end of their names")] = (
        "qkv_proj",
    )
    ce_weight: Annotated[float, Field(ge=0, description="cross-entropy of the answer's words")] = 1.0
    bce_weight: Annotated[float, Field(ge=0, description="binary cross-entropy of the masks' pixels")] = 2.0
    dice_weight: Annotated[float, Field(ge=0, description="of the masks' overlap")] = 0.5
    num_sparse: Annotated[int, Field(ge=2, description="frames that are looked at")] = 32
    num_dense: Annotated[int, Field(ge=1, description="how many of them are seen in full and masked")] = 4

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.num_dense >= self.num_sparse:
            raise ValueError(f"num_dense must be less than num_sparse, not {self.num_dense} of {self.num_sparse}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideolisaSample:
    """One sentence about one clip, on the CPU.

    Attributes:
        tokens: what is asked and answered.
        frames: CLIP's pixels of each frame that is looked at, ``(F, 3, 336, 336)`` float32.
        sparse: rows of ``frames`` in the order in which they are shown.
        dense: places in ``sparse``, D of them.
        scenes: SAM's pixels of the dense frames, ``(D, 3, side, side)`` float32.
        masks: ``(D, H, W)`` bool in the frames' own size, all False where the object is absent; None for a sentence that means
            nothing in the clip.
    """

    tokens: Tokens
    frames: Tensor
    sparse: Sequence[int]
    dense: Sequence[int]
    scenes: Tensor
    masks: Tensor | None


class VideolisaTask:
    """Satisfies `Task`. Its ``module``, called with a sample's parts, is one training pass, see `Network.forward`.

    SAM's predictor of mask quality and the heads of its other candidates are never asked here, and stay frozen.

    Args:
        checkpoint: loaded, and from now on the task's own.
        options: what is trained and how much each loss counts.

    Raises:
        ModelError: if the frames leave no room for a prompt, or the language model has none of the layers to be adapted.
    """

    module: Network

    def __init__(self, checkpoint: Checkpoint, options: VideolisaTraining) -> None:
        self.module, self.options = checkpoint.net, options
        self._checkpoint = checkpoint
        visual = checkpoint.num_visual(options.num_sparse, options.num_dense)
        self._room = min(checkpoint.num_positions - visual, checkpoint.template.max_length - _TEXT_MARGIN)
        if self._room < TEXT_TOKENS:
            raise ModelError(f"{checkpoint.folder}: the tokenizer's model_max_length, {checkpoint.template.max_length}, leaves no prompt")
        if "lora" in options.trained:
            add_lora(
                self.module.llm,
                options.lora_targets,
                rank=options.lora_rank,
                alpha=options.lora_alpha,
                dropout=options.lora_dropout,
                where=str(checkpoint.folder),
            )
        for part in options.trained:
            if part != "lora":
                _part(self.module, part).requires_grad_(True)
        decoder = self.module.sam.mask_decoder
        for unused in (decoder.iou_prediction_head, *decoder.output_hypernetworks_mlps[1:]):
            unused.requires_grad_(False)
        self._master(checkpoint.folder)

    @classmethod
    def load(
        cls, checkpoint: str, *, clip: str | None = None, device: torch.device, dtype: torch.dtype, options: VideolisaTraining
    ) -> VideolisaTask:
        """Read the published layout; each load of a checkpoint gives the same weights, those of the fresh adapters too.

        Args:
            checkpoint: a folder, or a Hugging Face id as ``owner/name`` or ``owner/name@revision``.
            clip: folder or id of CLIP; None for the one that the checkpoint's config names.
            device: where it is trained.
            dtype: float32 or bfloat16, of what is frozen, but for SAM's float32.
            options: what is trained.

        Raises:
            ModelError: see `Checkpoint` and `VideolisaTask`.
        """
        return cls(load(checkpoint, clip or "", device, dtype), options)

    def prepare(self, clip: TrainingClip, rng: np.random.Generator) -> VideolisaSample:
        """See `Task.prepare`. A sentence that is too long for the model loses its end.

        Raises:
            FormatError: also if the sentence has no word, or the frames are not of one size.
        """
        asked = int(rng.integers(len(clip.sentences)))
        tokens = self._tokens(clip, clip.sentences[asked].text, QUESTIONS[rng.integers(len(QUESTIONS))])
        sizes = self.options.num_sparse, self.options.num_dense
        if clip.source == EGOMASK:
            sparse, dense = egomask_frames(clip.present(asked), *sizes, rng)
        else:
            sparse, dense = spread_frames(len(clip.images), *sizes, rng)
        images = {frame: clip.image(frame) for frame in dict.fromkeys(sparse)}
        if len({image.shape for image in images.values()}) > 1:
            raise FormatError(f"{clip.name}: its frames are not of one size")
        rows = {frame: row for row, frame in enumerate(images)}
        shown = [sparse[k] for k in dense]
        masks = [torch.from_numpy(clip.mask(asked, frame, images[frame].shape[:2])) for frame in shown]
        return VideolisaSample(
            tokens=tokens,
            frames=self._checkpoint.clip_pictures(list(images.values())),
            sparse=[rows[frame] for frame in sparse],
            dense=dense,
            scenes=torch.stack([sam_pixels(images[frame], self._checkpoint.side_px) for frame in shown]),
            masks=torch.stack(masks) if clip.sentences[asked].targets else None,
        )

    def loss(self, sample: VideolisaSample) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`: ``ce``, ``bce`` and ``dice`` as they are weighted, so that they sum to the loss, and the masks' mean ``iou``.

        A sentence that means nothing in the clip teaches its answer's words alone; the masks are drawn, count 0 times, and have no ``iou``.
        """
        device, weights = self.module.sam.device, self.options
        tokens = sample.tokens
        logits, low = self.module(tokens, sample.frames.to(device), sample.sparse, sample.dense, sample.scenes.to(device))
        ce = weights.ce_weight * F.cross_entropy(logits, torch.tensor(tokens.after[tokens.answer :], device=device))
        if sample.masks is None:
            return ce + 0 * low.sum(), {"ce": float(ce.detach()), "bce": 0.0, "dice": 0.0}
        truth = sample.masks.to(device)
        drawn = full_size(low, (truth.shape[1], truth.shape[2]), self._checkpoint.side_px)
        bce = weights.bce_weight * F.binary_cross_entropy_with_logits(drawn, truth.float(), reduction="none").flatten(1).mean(1).mean()
        overlap = weights.dice_weight * dice(drawn, truth.float()).mean()
        figures = {"ce": ce, "bce": bce, "dice": overlap, "iou": mask_iou(drawn > 0, truth).mean()}
        return ce + bce + overlap, {name: float(value.detach()) for name, value in figures.items()}

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of CLIP, of SAM's image encoder and of the language model."""
        net = self.module
        return [*net.clip.encoder.layers, *net.sam.vision_encoder.layers, *net.llm.model.layers]

    def export(self, folder: Path) -> None:
        """Write the model as `VideoLisa` reads it: the tensors of the checkpoint it came from in their float types, with what was learned.

        CLIP's weights are left out unless that checkpoint held them; a CLIP folder inside of it is copied.

        Raises:
            ModelError: if that checkpoint is no longer there, or is the folder to write.
        """
        source, clip = self._checkpoint.folder, self._checkpoint.clip_folder
        if folder.resolve() == source.resolve():
            raise ModelError(f"{folder}: holds the checkpoint that is fine-tuned; export to another folder")
        weights = read_weights(source)
        trained = {name: value.detach() for name, value in self.module.named_parameters() if value.requires_grad}
        added = lora_deltas(self.module)
        for name, old in weights.items():
            own = ".".join(place(name, str(source)))
            if own in trained:
                weights[name] = trained[own].to("cpu", old.dtype)
            elif own in added:
                weights[name] = (old.float() + added[own]).to(old.dtype)
        if clip.is_relative_to(source):
            shutil.copytree(clip, folder / clip.relative_to(source), dirs_exist_ok=True)
        write_checkpoint(folder, weights, source)

    def _master(self, folder: Path) -> None:
        """Float32 for what is trained, as exact as the files have it."""
        exact = {".".join(place(name, str(folder))): value for name, value in read_weights(folder).items()}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                parameter.data = exact.get(name, parameter.data).to(parameter.device, torch.float32, copy=True)

    def _tokens(self, clip: TrainingClip, text: str, question: str) -> Tokens:
        try:
            tokens = self._checkpoint.template(text, question)
            while (excess := len(tokens.before) + len(tokens.after) - self._room) > 0:
                text = text[: -(1 + excess // 8)]
                tokens = self._checkpoint.template(text, question)
        except ValueError as error:
            raise FormatError(f"{clip.name}: {error}") from error
        return tokens


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) 1 - Dice overlap of soft (N, H, W) masks; near 0 where both are empty.

    VideoLISA sums thousandths of pixels, so that its tiny constant means an overlap of a thousandth of a pixel, not less.
    """
    soft, truth = torch.sigmoid(logits).flatten(1) / 1000, target.flatten(1) / 1000
    return 1 - (2 * (soft * target.flatten(1)).sum(1) + 1e-6) / (soft.sum(1) + truth.sum(1) + 1e-6)


def _part(net: Network, name: Part) -> nn.Module:
    parts = {"embeddings": net.llm.model.embed_tokens, "head": net.llm.lm_head, "mask_decoder": net.sam.mask_decoder}
    return parts.get(name, net.seg_head)
