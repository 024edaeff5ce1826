"""Objects being tracked through one video: what each remembers, one step a frame, corrections, and handing over to another process."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from egoray.core.boxes import clip_box
from egoray.errors import ModelError
from egoray.models.base import Image, Prompt, TrackedMask
from egoray.models.sam2_masks import fill_holes, to_patches
from egoray.models.sam2_memory import MemoryPolicy, Remembered, StockMemory
from egoray.models.sam2_network import Decoded, Features, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How objects are tracked.

    Args:
        policy: which frames enter memory.
        fill_holes: holes of at most this many pixels of the network's mask are filled; 0 leaves them.
        non_overlapping: each pixel belongs to one object, where it is most certain.
        corrections_stay: a corrected frame is remembered for good, as a first prompt is, instead of as one of the last frames.
        fresh_return: the way back from a prompt begins with the prompted frames alone, as if it were a run of its own.
        objects_at_once: objects that go through the network together; None lets the device decide.
    """

    policy: MemoryPolicy = field(default_factory=StockMemory)
    fill_holes: int = 0
    non_overlapping: bool = False
    corrections_stay: bool = False
    fresh_return: bool = False
    objects_at_once: int | None = None


DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class _Last:
    """The frame stepped last, as a correction needs it: each object's logits ``(1, 4h, 4w)`` and what it may attend to."""

    frame: int
    features: Features
    logits: dict[str, Tensor]
    context: dict[str, list[Remembered]]


class Step:
    """The masks of one frame, on their way from the device: the copies run while the next frame is computed."""

    def __init__(self, keys: list[str], decoded: Sequence[Decoded], size_hw: tuple[int, int], settings: Settings) -> None:
        self._keys, self._size_hw, self._settings = keys, size_hw, settings
        columns = [torch.cat([getattr(d, name) for d in decoded]) for name in ("logits", "iou", "score")] if decoded else []
        self._ready: torch.cuda.Event | None = None
        if columns and columns[0].device.type == "cuda":
            hosts = [torch.empty(c.shape, dtype=c.dtype, pin_memory=True) for c in columns]
            columns = [host.copy_(column, non_blocking=True) for host, column in zip(hosts, columns, strict=True)]
            self._ready = torch.cuda.Event()
            self._ready.record()
        self._columns = columns

    def masks(self) -> dict[str, TrackedMask]:
        """The objects' masks by key; waits for the device."""
        if not self._keys:
            return {}
        if self._ready is not None:
            self._ready.synchronize()
        logits, iou, score = self._columns
        maps = list(logits[:, 0].numpy())
        if self._settings.fill_holes:
            maps = [fill_holes(each, self._settings.fill_holes) for each in maps]
        patches = to_patches(maps, self._size_hw, self._settings.non_overlapping)
        confidence = score[:, 0].sigmoid().tolist()
        parts = zip(self._keys, patches, confidence, iou.tolist(), maps, strict=True)
        return {key: TrackedMask(patch=patch, score=s, iou=i, logits=low) for key, patch, s, i, low in parts}


class Session:
    """Tracks objects through the frames of one video, in one direction.

    Args:
        network: what computes.
        size_hw: height and width of the frames.
        settings: see `Settings`.
        num_frames: length of the video where it is known; only one shorter than the network's pointers makes a difference.
    """

    def __init__(self, network: Network, size_hw: tuple[int, int], settings: Settings = DEFAULTS, num_frames: int | None = None) -> None:
        self.network, self.size_hw, self.settings, self.num_frames = network, size_hw, settings, num_frames
        self.objects: dict[str, list[Remembered]] = {}
        self._num_pointers = min(network.num_pointers, num_frames or network.num_pointers)
        self._last: _Last | None = None
        cells = network.cells**2
        budget = 4096 if network.device.type == "cpu" else 65536  # tokens of the top map: one object at 1024 px, or sixteen
        self._at_once = settings.objects_at_once or max(1, budget // cells)

    def step(self, frame: int, image: Image, prompts: Mapping[str, Prompt] | None = None) -> dict[str, TrackedMask]:
        """Encode one frame and follow every object into it; objects with a prompt start (or start anew) from that.

        Args:
            frame: its number; distances in time are counted in these.
            image: ``(H, W, 3)`` uint8 RGB.
            prompts: by key; a new key is a new object.

        Raises:
            ModelError: for an image of another size, or out of memory.
            ValueError: for a prompt outside the frame.
        """
        self.check_size(frame, image)
        with running(self.network):
            (features,) = self.network.encode([image])
        return self.advance(frame, features, prompts or {}).masks()

    def advance(self, frame: int, features: Features, prompts: Mapping[str, Prompt]) -> Step:
        """`step` on an encoded frame, without waiting for the result."""
        for key, prompt in prompts.items():
            self._check_prompt(key, prompt)
        with running(self.network):
            before = dict(self.objects)
            done = [*self._prompted(features, prompts), *self._tracked(frame, features, [k for k in before if k not in prompts])]
            self._last = _Last(frame, features, {}, {})
            for keys, decoded, prompted in done:
                for key, entry in zip(keys, self.entries(frame, features, decoded, prompted, stays=prompted), strict=True):
                    past = before.get(key, [])
                    self._last.context[key] = [*past, entry] if prompted else past
                    self._hold(key, past, entry)
                self._last.logits.update(zip(keys, decoded.logits, strict=True))
            keys = [key for group, _, _ in done for key in group]
            return Step(keys, [decoded for _, decoded, _ in done], self.size_hw, self.settings)

    def correct(self, key: str, prompt: Prompt) -> TrackedMask:
        """The object's mask in the frame just stepped, mended by clicks, a box or a mask; later frames follow from it.

        Args:
            key: a tracked object.
            prompt: all that is to be said of this frame; it replaces earlier corrections of it.

        Raises:
            ValueError: if the object is not tracked, no frame was stepped yet, or the prompt lies outside the frame.
        """
        last = self._last
        if last is None or key not in last.context or key not in self.objects:
            raise ValueError(f"{key}: only an object in the frame that was stepped last can be corrected")
        self._check_prompt(key, prompt)
        frame, features, context = last.frame, last.features, last.context[key]
        with running(self.network):
            if prompt.mask is not None:
                decoded = self.network.take_mask(features, torch.from_numpy(prompt.mask).to(self.network.device))
            else:
                fused = self._fused(frame, features, {key: context})
                shown = self._filled(last.logits[key][None])
                decoded = self.network.decode(features, fused, self._points([prompt]), shown, first=False)
            decoded = replace(decoded, logits=self._filled(decoded.logits))
            before = [e for e in context if e.frame != frame]
            stays = self.settings.corrections_stay or len(before) < len(context)
            (entry,) = self.entries(frame, features, decoded, prompted=True, stays=stays)
            self._hold(key, before, entry)
            last.logits[key] = decoded.logits[0]
            return Step([key], [decoded], self.size_hw, self.settings).masks()[key]

    def adopt(self, key: str, past: Sequence[Remembered]) -> None:
        """Track an object from what it remembers elsewhere, at least one prompted frame.

        Raises:
            ValueError: if the key is tracked already.
        """
        if key in self.objects:
            raise ValueError(f"{key}: tracked already")
        self.objects[key] = list(past)

    def drop(self, key: str) -> None:
        """Stop tracking an object and forget it; nothing if it is unknown."""
        self.objects.pop(key, None)

    def save(self) -> bytes:
        """All that the next frame needs, in safetensors' format; see `restore`."""
        tensors: dict[str, Tensor] = {}
        objects = {}
        for i, (key, past) in enumerate(self.objects.items()):
            objects[key] = [(e.frame, e.prompted) for e in past]
            for j, entry in enumerate(past):
                parts = {"tokens": entry.tokens, "pointer": entry.pointer, "score": entry.score, "iou": entry.iou}
                tensors |= {f"{i}.{j}.{name}": t.cpu().contiguous() for name, t in parts.items() if t is not None}
        about = {"size_hw": self.size_hw, "num_frames": self.num_frames, "objects": objects}
        return safetensors.torch.save(tensors, metadata={"egoray": json.dumps(about)})

    @classmethod
    def restore(cls, network: Network, state: bytes, settings: Settings = DEFAULTS) -> Session:
        """The session that `save` wrote, on any device; it goes on with the same masks. Its first act is a step.

        Raises:
            ModelError: if the bytes are not a saved session, or one of another network.
        """
        try:
            tensors = safetensors.torch.load(state)
            header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
            about = json.loads(header["__metadata__"]["egoray"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ModelError("not a saved tracking session, or one cut short") from error
        session = cls(network, tuple(about["size_hw"]), settings, about["num_frames"])
        memory_shape = (network.cells**2, network.model.mem_dim)
        for i, (key, past) in enumerate(about["objects"].items()):
            session.objects[key] = []
            for j, (frame, prompted) in enumerate(past):
                parts = {n: tensors.get(f"{i}.{j}.{n}") for n in ("tokens", "pointer", "score", "iou")}
                fits = parts["pointer"] is not None and parts["pointer"].shape == (network.model.hidden_dim,)
                if not fits or (parts["tokens"] is not None and parts["tokens"].shape != memory_shape):
                    raise ModelError("the saved tracking session is of another network")
                moved = {n: t if t is None else t.to(network.device) for n, t in parts.items()}
                session.objects[key].append(Remembered(frame=frame, prompted=prompted, **moved))
        return session

    def check_size(self, frame: int, image: Image) -> None:
        """Raise a `ModelError` for an image of another size than the session's."""
        if image.shape[:2] != self.size_hw:
            (height, width), (h, w) = image.shape[:2], self.size_hw
            raise ModelError(f"frame {frame} is {width}x{height}, those before it are {w}x{h}; a video must keep one size")

    def _prompted(self, features: Features, prompts: Mapping[str, Prompt]) -> Iterator[tuple[list[str], Decoded, bool]]:
        """Decode objects from their prompts, without memory, those with equally many points together."""
        groups: dict[int, list[str]] = defaultdict(list)
        for key, prompt in prompts.items():
            groups[_num_points(prompt)].append(key)
        seen = self.network.unprompted(features)
        for num_points, group in groups.items():
            for keys in _parts(group, self._at_once if num_points else 1):
                if num_points:
                    points = self._points([prompts[k] for k in keys])
                    decoded = self.network.decode(features, seen.expand(len(keys), -1, -1), points, None, first=True)
                else:
                    mask = torch.from_numpy(prompts[keys[0]].mask).to(self.network.device)
                    decoded = self.network.take_mask(features, mask)
                yield keys, replace(decoded, logits=self._filled(decoded.logits)), True

    def _tracked(self, frame: int, features: Features, keys: list[str]) -> Iterator[tuple[list[str], Decoded, bool]]:
        for part in _parts(keys, self._at_once):
            fused = self._fused(frame, features, {k: self.objects[k] for k in part})
            yield part, self.network.decode(features, fused, None, None, first=False), False

    def _fused(self, frame: int, features: Features, pasts: Mapping[str, list[Remembered]]) -> Tensor:
        """Memory attention, those with equally much to remember together; rows in the order of ``pasts``."""
        network = self.network
        recalls = {k: self.settings.policy.recall(past, frame, network.num_masks, self._num_pointers) for k, past in pasts.items()}
        groups: dict[tuple[tuple[int, ...], int], list[str]] = defaultdict(list)
        for key, recall in recalls.items():
            groups[tuple(place for place, _ in recall.masks), len(recall.pointers)].append(key)
        rows: dict[str, Tensor] = {}
        for (places, _), group in groups.items():
            masks = torch.stack([torch.stack([e.tokens for _, e in recalls[k].masks]) for k in group])
            pointers = torch.stack([torch.stack([e.pointer for _, e in recalls[k].pointers]) for k in group])
            ages = torch.tensor([[age for age, _ in recalls[k].pointers] for k in group], dtype=torch.float32)
            scaled = (ages / max(1, self._num_pointers - 1)).to(network.device, non_blocking=True)
            rows |= zip(group, network.fuse(features, masks, places, pointers, scaled), strict=True)
        return torch.stack([rows[k] for k in pasts])

    def entries(self, frame: int, features: Features, decoded: Decoded, prompted: bool, stays: bool) -> list[Remembered]:
        """What to remember of each row; a row that stays for good is copied, since a view would hold the whole batch."""
        tokens = self.network.remember(features, decoded, prompted)
        rows = [row.clone() for row in tokens] if stays and len(tokens) > 1 else list(tokens)
        columns = zip(rows, decoded.pointers, decoded.score[:, 0], decoded.iou, strict=True)
        return [Remembered(frame, stays, *column) for column in columns]

    def _hold(self, key: str, past: list[Remembered], entry: Remembered) -> None:
        self.objects[key] = self.settings.policy.keep([*past, entry], entry.frame, self.network.num_masks, self._num_pointers)

    def _filled(self, logits: Tensor) -> Tensor:
        if not self.settings.fill_holes:
            return logits
        maps = [torch.from_numpy(fill_holes(each, self.settings.fill_holes)) for each in logits[:, 0].cpu().numpy()]
        return torch.stack(maps)[:, None].to(logits.device)

    def _points(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Corners of the box first (labels 2 and 3), then clicks, in the network's pixels."""
        height, width = self.size_hw
        corners = [[] if p.box is None else [p.box[:2], p.box[2:]] for p in prompts]
        coords = torch.tensor([[*c, *p.points] for c, p in zip(corners, prompts, strict=True)], dtype=torch.float32)
        labels = [[*((2, 3) if p.box is not None else ()), *p.labels] for p in prompts]
        return coords / torch.tensor([width, height]) * self.network.side, torch.tensor(labels, dtype=torch.int32)

    def _check_prompt(self, key: str, prompt: Prompt) -> None:
        height, width = self.size_hw
        if prompt.mask is not None and prompt.mask.shape != self.size_hw:
            raise ValueError(f"{key}: a mask prompt of {prompt.mask.shape} for frames of {self.size_hw}")
        if prompt.box is not None and clip_box(prompt.box, self.size_hw) is None:
            raise ValueError(f"{key}: the prompt box {prompt.box} has no area inside the frame of {width}x{height}")
        if any(not (0 <= x <= width and 0 <= y <= height) for x, y in prompt.points):
            raise ValueError(f"{key}: a prompt point lies outside the frame of {width}x{height}: {prompt.points}")


@contextmanager
def running(network: Network) -> Iterator[None]:
    """No gradients; bfloat16 autocast on a GPU; running out of its memory is a `ModelError`."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if network.device.type == "cuda":
            stack.enter_context(torch.autocast("cuda", torch.bfloat16))
        try:
            yield
        except torch.OutOfMemoryError as error:
            remedy = "use a smaller checkpoint, fewer workers a GPU, or fewer objects at once"
            raise ModelError(f"out of GPU memory at {network.side} x {network.side}; {remedy}") from error


def _num_points(prompt: Prompt) -> int:
    """Points that the network is given; 0 for a mask."""
    return len(prompt.points) + (2 if prompt.box is not None else 0)


def _parts(keys: list[str], size: int) -> list[list[str]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)]
