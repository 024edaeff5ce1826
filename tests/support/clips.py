"""Clips in memory."""


class ArrayClip:
    """A list of ``(H, W, 3)`` uint8 frames as a `Clip`; ``read`` notes which were asked for."""

    def __init__(self, frames):
        self.images, self.read = list(frames), []
        self.num_frames, self.size_hw = len(self.images), self.images[0].shape[:2] if self.images else (1, 1)

    def frames(self, wanted=None):
        for frame in range(self.num_frames) if wanted is None else wanted:
            self.read.append(frame)
            yield frame, self.images[frame]

    def backward(self, start, stop):
        for frame in reversed(range(start, stop)):
            yield frame, self.images[frame]
