"""SAM 2 over a stream of frames: many objects, one encoder pass a frame, and no more memory than the network attends to.

The package's predictor wants a folder of frames, keeps every frame and every memory to the end, and takes the objects one
by one. Here frames come from any iterator, each is encoded once for all objects, objects go through the network in
batches, and an object keeps what its next frame may attend to. The masks are the same.

Source: the paper's annotation step (SAM 2 prompted by the box on a trajectory's first frame, then propagated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import torch

from egoray.models.base import Frames, Image, TrackedMask, TrackRequest
from egoray.models.sam2_memory import Remembered
from egoray.models.sam2_network import Features, Network
from egoray.models.sam2_session import DEFAULTS, Session, Settings, Step, running
from egoray.models.sam2_weights import load_sam2

Masks = tuple[int, dict[str, TrackedMask]]


class Sam2Engine:
    """Satisfies `VideoTracker`.

    Args:
        checkpoint: a file or a published id, see `load_sam2`.
        device: a torch device; float32 on a CPU, bfloat16 autocast on a GPU.
        settings: see `Settings`.
        compile: see `Network`.
        side: see `load_sam2`.
        encode_batch: frames that the encoder takes at once; None lets the device decide.
        reuse_frames: frames whose features are kept for the way back, 17 MB each at 1024 px in float32; None lets the device decide.

    Raises:
        ModelError: if the checkpoint cannot be used.
    """

    name = "sam2"

    def __init__(
        self,
        checkpoint: str,
        device: str = "cpu",
        settings: Settings = DEFAULTS,
        *,
        compile: bool = False,
        side: int | None = None,
        encode_batch: int | None = None,
        reuse_frames: int | None = None,
    ) -> None:
        self.network = Network(load_sam2(checkpoint, device, side), compile)
        self.settings = settings
        on_gpu = self.network.device.type == "cuda"
        self.encode_batch = encode_batch or (4 if on_gpu else 1)
        self.reuse_frames = (256 if on_gpu else 48) if reuse_frames is None else reuse_frames
        self.encoded_frames = 0
        """Encoder passes so far, counted in frames."""
        if on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves float32

    def session(self, size_hw: tuple[int, int], num_frames: int | None = None) -> Session:
        """Step through a video by hand, with corrections: see `Session`."""
        return Session(self.network, size_hw, self.settings, num_frames)

    def encode(self, image: Image) -> Features:
        """What `Session.advance` takes of a frame; the same for any object and any way through the video."""
        self.encoded_frames += 1
        with running(self.network):
            return self.network.encode([image])[0]

    def restore(self, state: bytes) -> Session:
        """Go on with a session that `Session.save` wrote, see `Session.restore`."""
        return Session.restore(self.network, state, self.settings)

    def track(
        self,
        frames: Frames,
        requests: Sequence[TrackRequest],
        backward: Callable[[int, int], Frames] | None = None,
        num_frames: int | None = None,
    ) -> Iterator[Masks]:
        """See `VideoTracker.track`; an object not seen in a frame has an empty mask.

        A frame is encoded once on the way forward. Where objects are followed forward and back through it, the last
        ``reuse_frames`` of such frames are not encoded again on the way back. Frames without an object are not encoded.
        """
        first = _checked(requests, backward is not None)
        returning = [r for r in requests if r.start < first[r.key]]
        turning: dict[str, list[Remembered]] = {r.key: [] for r in returning}
        turns = max((first[r.key] for r in returning), default=0)
        encoded: dict[int, Features] = {}
        yield from self._forward(frames, requests, first, turning, encoded, turns, num_frames)
        if returning and backward is not None:
            again = backward(min(r.start for r in returning), turns)
            yield from self._backward(again, returning, first, turning, encoded, num_frames)

    def _forward(
        self,
        frames: Frames,
        requests: Sequence[TrackRequest],
        first: Mapping[str, int],
        turning: dict[str, list[Remembered]],
        encoded: dict[int, Features],
        turns: int,
        num_frames: int | None,
    ) -> Iterator[Masks]:
        """Follow from the first prompts to the stops; leave what the way back begins with in ``turning``, what it reuses in ``encoded``."""

        def enter(session: Session, frame: int) -> None:
            for request in requests:
                if frame >= request.stop:
                    session.drop(request.key)

        def leave(session: Session, frame: int) -> None:
            for key, kept in turning.items():
                past = session.objects.get(key, [])
                recent = not self.settings.fresh_return and frame - first[key] < self.network.num_pointers
                if past and past[-1].frame == frame and (past[-1].prompted or recent):
                    kept.append(past[-1])

        spans = {r.key: (first[r.key], r.stop) for r in requests}
        missing = set(first)
        for frame, masks in self._run(frames, spans, requests, num_frames, enter, leave, encoded, turns):
            missing -= masks.keys()
            yield frame, masks
        if missing:
            key = min(missing)
            raise ValueError(f"{key}: frame {first[key]}, where it is prompted, was not among the frames")

    def _backward(
        self,
        frames: Frames,
        requests: Sequence[TrackRequest],
        first: Mapping[str, int],
        turning: Mapping[str, list[Remembered]],
        encoded: dict[int, Features],
        num_frames: int | None,
    ) -> Iterator[Masks]:
        """Follow from the frames before the first prompts back to the starts."""

        def enter(session: Session, frame: int) -> None:
            for request in requests:
                if frame < request.start:
                    session.drop(request.key)
                elif frame < first[request.key] and request.key not in session.objects:
                    session.adopt(request.key, turning[request.key])

        spans = {r.key: (r.start, first[r.key]) for r in requests}
        yield from self._run(frames, spans, (), num_frames, enter, lambda session, frame: None, encoded, turns=0)

    def _run(
        self,
        frames: Frames,
        spans: Mapping[str, tuple[int, int]],
        prompted: Sequence[TrackRequest],
        num_frames: int | None,
        enter: Callable[[Session, int], None],
        leave: Callable[[Session, int], None],
        encoded: dict[int, Features],
        turns: int,
    ) -> Iterator[Masks]:
        """One pass over the frames, in either direction; each result is handed out once the next frame is under way.

        Features in ``encoded`` are used up; those of the last frames before ``turns`` are left in it.
        """
        session: Session | None = None
        pending: tuple[int, Step] | None = None
        source = iter(frames)
        while chunk := list(islice(source, self.encode_batch)):
            session = session or self.session(chunk[0][1].shape[:2], num_frames)
            needed = [(f, image) for f, image in chunk if any(a <= f < b for a, b in spans.values())]
            features = self._encode(session, needed, encoded)
            encoded.update((frame, features[frame]) for frame in features if frame < turns)
            while len(encoded) > self.reuse_frames and turns:
                del encoded[min(encoded)]
            for frame, _ in chunk:
                enter(session, frame)
                prompts = {r.key: r.prompts[frame] for r in prompted if frame in r.prompts and frame < r.stop}
                step = (
                    session.advance(frame, features[frame], prompts) if frame in features else Step([], [], session.size_hw, self.settings)
                )
                leave(session, frame)
                if pending:
                    yield pending[0], pending[1].masks()
                pending = (frame, step)
        if pending:
            yield pending[0], pending[1].masks()

    def _encode(self, session: Session, frames: Sequence[tuple[int, Image]], encoded: dict[int, Features]) -> dict[int, Features]:
        for frame, image in frames:
            session.check_size(frame, image)
        features = {frame: encoded.pop(frame) for frame, _ in frames if frame in encoded}
        if fresh := [(frame, image) for frame, image in frames if frame not in features]:
            self.encoded_frames += len(fresh)
            with running(self.network):
                made = self.network.encode([image for _, image in fresh])
            features |= dict(zip((frame for frame, _ in fresh), made, strict=True))
        return features


def _checked(requests: Sequence[TrackRequest], can_return: bool) -> dict[str, int]:
    """The frame of each request's first prompt, by key."""
    first: dict[str, int] = {}
    for request in requests:
        if request.key in first:
            raise ValueError(f"{request.key}: two requests with this key")
        if not request.prompts or not all(request.start <= f < request.stop for f in request.prompts):
            raise ValueError(f"{request.key}: needs a prompt, and each within the frames {request.start} to {request.stop - 1}")
        first[request.key] = min(request.prompts)
        if request.start < first[request.key] and not can_return:
            raise ValueError(f"{request.key}: starts before its first prompt; give `backward`, which reads those frames again")
    return first
