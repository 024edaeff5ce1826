"""Sa2VA for the training loop: a conversation about five frames of a clip, a mask in each for every [SEG] of the answers.

Source: Sa2VA (Yuan et al. 2025) and EgoMask's fine-tuning of it (ICCV 2025). As released, masks are decoded in each key frame on its own:
memory and propagation are not trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from egoray.errors import FormatError, ModelError
from egoray.models.base import Image
from egoray.models.published import read_weights, write_checkpoint
from egoray.models.sa2va.checkpoint import Checkpoint, load
from egoray.models.sa2va.network import Sa2vaModules
from egoray.models.sa2va.prompt import MEAN, STD, encode, for_tower
from egoray.models.sa2va.weights import converter, joined
from egoray.train.lora import add_lora, lora_deltas
from egoray.train.losses import mask_iou, sampled_mask_losses, uncertain_points
from egoray.train.samples import EGOMASK, TrainingClip

QUESTIONS = (
    "Please segment the {} in this image.",
    "Segment the {} for me.",
    "Give me the mask of the {}.",
    "Which pixels belong to the {}?",
    "Where is the {}? Answer with a mask.",
    "Find the {} and outline it.",
    "Mark the {} in these frames.",
    "I need the mask of the {}.",
    "Show me exactly where the {} is.",
    "Separate the {} from everything else.",
    "Draw the region that the {} covers.",
    "Locate the {} and segment it.",
    "Return a segmentation of the {}.",
    "Can you pick out the {} here?",
    "Follow the {} and mask it.",
    "Highlight every pixel of the {}.",
)
"""How a noun phrase is asked; a sentence that is a question is asked as it is. The first is inference's."""
ANSWERS = ("Sure, [SEG].", "It is [SEG].", "Here it is: [SEG].", "Certainly, [SEG].", "Sure, it is [SEG].")
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Part = Literal["lora", "embeddings", "head", "projector", "seg_head", "mask_decoder"]


class Sa2vaTraining(BaseModel):
    """What is trained of Sa2VA, and on what; the defaults are the released configuration's."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    trained: Annotated[tuple[Part, ...], Field(min_length=1, description="the parts that learn; the others stay as they are")] = (
        "lora",
        "embeddings",
        "head",
        "projector",
        "seg_head",
        "mask_decoder",
    )
    lora_rank: Annotated[int, Field(ge=1, description="of the adapters on the language model")] = 128
    lora_alpha: Annotated[int, Field(ge=1, description="an adapter counts alpha / rank times")] = 256
    lora_dropout: Annotated[float, Field(ge=0, lt=1, description="share of an adapter's inputs that a step leaves out")] = 0.05
    lm_weight: Annotated[float, Field(ge=0, description="cross-entropy of the answers' words")] = 1.0
    bce_weight: Annotated[float, Field(ge=0, description="binary cross-entropy of the masks' points")] = 2.0
    dice_weight: Annotated[float, Field(ge=0, description="of the masks' overlap at the points")] = 0.5
    num_points: Annotated[int, Field(ge=4, description="points that a mask is judged at")] = 12544
    oversample: Annotated[int, Field(ge=1, description="times as many are drawn, of which the least certain are kept")] = 3
    important: Annotated[float, Field(ge=0, le=1, description="share of the points that are those")] = 0.75
    num_frames: Annotated[int, Field(ge=1, description="key frames")] = 5
    num_sentences: Annotated[int, Field(ge=1, description="questions of a conversation")] = 5
    max_length: Annotated[int, Field(ge=64, description="tokens of a conversation; questions that do not fit are left out")] = 8192


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sa2vaSample:
    """A conversation about a clip, on the CPU.

    Attributes:
        ids: (L,) int64.
        answers: (L,) bool, the tokens to be learned.
        seg_at: places of the E [SEG] tokens.
        pixels: (F, 3, S, S) float32 for the vision tower.
        squares: (F, 3, side, side) float32 for SAM 2.
        masks: (E, F, h, w) float32 of 0 and 1.
        known: (E,) bool, False for a sentence that means nothing in the clip: its masks teach nothing.
    """

    ids: Tensor
    answers: Tensor
    seg_at: Sequence[int]
    pixels: Tensor
    squares: Tensor
    masks: Tensor
    known: Tensor


class Sa2vaTask:
    """Satisfies `Task`.

    SAM 2's predictors of mask quality and of presence learn nothing, as in the release: the loss does not ask them.

    Args:
        checkpoint: loaded, and from now on the task's own.
        options: what is trained and how much each loss counts.
    """

    module: Sa2vaModules

    def __init__(self, checkpoint: Checkpoint, options: Sa2vaTraining) -> None:
        self.module, self.options, self._checkpoint = checkpoint.modules, options, checkpoint
        self._seg_id, self._image_id = checkpoint.token("[SEG]"), checkpoint.token("<IMG_CONTEXT>")
        self._side = int(self.module.sam2.image_size)
        llm = self.module.vlm.model.language_model
        if "lora" in options.trained:
            ranks = {"rank": options.lora_rank, "alpha": options.lora_alpha, "dropout": options.lora_dropout}
            add_lora(llm, LAYERS, **ranks, where=str(checkpoint.folder))
        parts = {
            "embeddings": llm.get_input_embeddings(),
            "head": self.module.vlm.lm_head,
            "projector": self.module.vlm.model.multi_modal_projector,
            "seg_head": self.module.seg_head,
            "mask_decoder": self.module.sam2.sam_mask_decoder,
        }
        for part in options.trained:
            if part != "lora":
                parts[part].requires_grad_(True)
        decoder = self.module.sam2.sam_mask_decoder
        for unused in (decoder.iou_prediction_head, decoder.pred_obj_score_head, decoder.output_hypernetworks_mlps[0]):
            unused.requires_grad_(False)
        self._master()

    @classmethod
    def load(cls, checkpoint: str, *, device: torch.device, dtype: torch.dtype, options: Sa2vaTraining) -> Sa2vaTask:
        """Read the published layout; each load of a checkpoint gives the same weights, those of the fresh adapters too.

        Args:
            checkpoint: a folder, or a Hugging Face id.
            device: where it is trained.
            dtype: float32 or bfloat16, of what is frozen, but for SAM 2's float32.
            options: what is trained.

        Raises:
            ModelError: if the checkpoint cannot be used.
        """
        return cls(load(checkpoint, device, dtype), options)

    def prepare(self, clip: TrainingClip, rng: np.random.Generator) -> Sa2vaSample:
        """See `Task.prepare`: key frames in time order, sentences drawn with repetition.

        EgoMask-Train: one to all but one of the frames show the object, the rest do not; a list that is too short is drawn from again, and
        where one is empty the other fills up, which stops the released code.

        Raises:
            FormatError: also if no question fits the model's length.
        """
        options = self.options
        drawn = rng.integers(len(clip.sentences), size=options.num_sentences)
        frames = _frames(clip, int(drawn[0]), options.num_frames, rng)
        images = [clip.image(frame) for frame in frames]
        ids, answers, asked = self._conversation(clip, [int(k) for k in drawn], rng)
        size = self._side // 4
        masks = np.zeros((len(asked), len(frames), size, size), np.float32)
        for e, number in enumerate(asked):
            for f, (frame, image) in enumerate(zip(frames, images, strict=True)):
                mask = clip.mask(number, frame, image.shape[:2])
                masks[e, f] = cv2.resize(mask.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
        return Sa2vaSample(
            ids=ids,
            answers=answers,
            seg_at=(ids == self._seg_id).nonzero()[:, 0].tolist(),
            pixels=torch.stack([for_tower(image, self._checkpoint.side_px) for image in images]),
            squares=torch.stack([_square(image, self._side) for image in images]),
            masks=torch.from_numpy(masks),
            known=torch.tensor([bool(clip.sentences[number].targets) for number in asked]),
        )

    def loss(self, sample: Sa2vaSample) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`: ``lm``, ``bce`` and ``dice`` as they are weighted, so that they sum to the loss, and the masks' mean ``iou``."""
        options, device = self.options, self.module.sam2.device
        logits, masks = self.module(
            sample.ids.to(device),
            self._image_id,
            sample.pixels.to(device),
            sample.squares.to(device),
            sample.seg_at,
            sample.answers.to(device),
        )
        lm = options.lm_weight * F.cross_entropy(logits.float(), sample.ids.to(device)[1:][sample.answers[1:].to(device)])
        known = sample.known.to(device)
        drawn, truth = masks[known].flatten(0, 1), sample.masks.to(device)[known].flatten(0, 1)
        if not len(drawn):
            return lm + 0 * masks.sum(), {"lm": float(lm.detach()), "bce": 0.0, "dice": 0.0}
        points = uncertain_points(drawn, options.num_points, options.oversample, options.important)
        bce, dice = sampled_mask_losses(drawn, truth, points)
        bce, dice = options.bce_weight * bce, options.dice_weight * dice
        figures = {"lm": lm, "bce": bce, "dice": dice, "iou": mask_iou(drawn > 0, truth > 0.5).mean()}
        return lm + bce + dice, {name: float(value.detach()) for name, value in figures.items()}

    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the vision tower and of the language model."""
        model = self.module.vlm.model
        return [*model.vision_tower.encoder.layer, *model.language_model.layers]

    def export(self, folder: Path) -> None:
        """Write the model as `Sa2va` reads it: the tensors of the checkpoint it came from in their float types, with what was learned.

        Raises:
            ModelError: if that checkpoint is no longer there, or is the folder to write.
        """
        source, config = self._checkpoint.folder, self._checkpoint.config
        if folder.resolve() == source.resolve():
            raise ModelError(f"{folder}: holds the checkpoint that is fine-tuned; export to another folder")
        weights, convert = read_weights(source), converter(config)
        trained = {name: value.detach() for name, value in self.module.named_parameters() if value.requires_grad}
        added = lora_deltas(self.module)
        for name, old in weights.items():
            parts = dict(convert(name, old))
            if not any(own in trained or own in added for own in parts):
                continue
            for own, part in parts.items():
                if own in trained:
                    parts[own] = trained[own].to("cpu", old.dtype)
                elif own in added:
                    parts[own] = (part.float() + added[own]).to(old.dtype)
            weights[name] = joined(name, parts, config)
        if (source / "sam2.yaml").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / "sam2.yaml", folder / "sam2.yaml")
        write_checkpoint(folder, weights, source)

    def _master(self) -> None:
        """Float32 for what is trained, as exact as the files have it."""
        wanted = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        convert = converter(self._checkpoint.config)
        for name, tensor in read_weights(self._checkpoint.folder).items():
            for own, part in convert(name, tensor).items():
                if own in wanted:
                    wanted[own].data = part.to(wanted[own].device, torch.float32, copy=True)
        for value in wanted.values():
            value.data = value.data.float()

    def _conversation(self, clip: TrainingClip, drawn: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, Tensor, list[int]]:
        """(L,) ids and which of them are learned, and the sentences that were asked."""
        found = self._checkpoint
        frame = "<img>" + "<IMG_CONTEXT>" * found.tokens_a_frame + "</img>"
        shown = "\n".join([frame] * self.options.num_frames)
        ids, learned, asked = [], [], []
        for number in drawn:
            query = clip.sentences[number].text.strip()
            if not query:
                raise FormatError(f"{clip.name}: a sentence without a word")
            phrase = QUESTIONS[rng.integers(len(QUESTIONS))].format(query.replace(".", "").lower())
            question = (query if "?" in query else phrase) if asked else shown + (query if "?" in query else phrase)
            answer = ANSWERS[rng.integers(len(ANSWERS))] + found.stops[0]
            turn = encode(found.tokenizer, ("\n" if asked else "") + found.turn.format(question), found.internlm2 and not asked)
            reply = encode(found.tokenizer, answer, False)
            if sum(map(len, ids)) + len(turn) + len(reply) > self.options.max_length:
                continue
            ids += [turn, reply]
            learned += [torch.zeros(len(turn), dtype=torch.bool), torch.ones(len(reply), dtype=torch.bool)]
            asked.append(number)
        if not asked:
            raise FormatError(f"{clip.name}: no question about it fits {self.options.max_length} tokens")
        return torch.cat(ids), torch.cat(learned), asked


def _frames(clip: TrainingClip, sentence: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` frames in time order; see `Sa2vaTask.prepare`."""
    total = len(clip.frame_names)
    if clip.source != EGOMASK or count == 1:
        return sorted(rng.choice(total, count, replace=total <= count + 1).tolist())
    present = clip.present(sentence)
    shows, hides = np.flatnonzero(present), np.flatnonzero(~present)
    num_shown = int(rng.integers(1, count))
    if not len(shows) or not len(hides):
        num_shown = count if len(shows) else 0
    return sorted([*_draw(shows, num_shown, rng), *_draw(hides, count - num_shown, rng)])


def _draw(pool: NDArray[np.int64], count: int, rng: np.random.Generator) -> list[int]:
    """Without repetition as far as the pool goes."""
    order = [rng.permutation(pool) for _ in range(-(-count // max(1, len(pool))))]
    return np.concatenate(order)[:count].tolist() if order else []


def _square(image: Image, side: int) -> Tensor:
    """(3, side, side) float32 for SAM 2: squeezed to a square by Pillow's default filter, normalised by full-precision constants."""
    resized = np.asarray(Picture.fromarray(image).resize((side, side)))
    scaled = torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
