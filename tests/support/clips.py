"""Clips in memory."""


class ArrayClip:
    """A list of ``(H, W, 3)`` uint8 frames as a `Clip`."""

    def __init__(self, frames):
        self._frames = list(frames)
        self.num_frames, self.size_hw = len(self._frames), self._frames[0].shape[:2]

    def frames(self, wanted=None):
        yield from ((f, self._frames[f]) for f in (range(self.num_frames) if wanted is None else wanted))

    def backward(self, start, stop):
        yield from ((f, self._frames[f]) for f in reversed(range(start, stop)))
