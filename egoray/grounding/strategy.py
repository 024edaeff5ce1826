"""How a sentence becomes a masklet: look at frames, propose boxes, choose an anchor, follow it both ways, give out its masks.

Each step is a part that can be replaced; the plainest choice of all is the paper's Grounded-SAM2. With a tracker that keeps no
memory (GrabCut), the frames' own candidates are linked to the anchor instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from egoray.grounding.gate import Gate, every_mask
from egoray.grounding.memory import Linker
from egoray.grounding.proposer import Candidate, Proposer
from egoray.grounding.sampler import Sampler, every_frame
from egoray.grounding.verifier import Verifier, most_confident
from egoray.models.base import Clip, Grounded, Judged, Judging, Prompt, TrackRequest, VideoTracker, check_texts, gathered
from egoray.schema import MaskRLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """Satisfies `StreamingGrounder`.

    Args:
        name: what its answers are filed under.
        proposer: finds candidates.
        tracker: follows an anchor; its memory policy is its own setting.
        sampler: frames that the proposer sees.
        verifier: chooses the anchors.
        linker: for a tracker without memory; None lets the tracker follow on its own.
        gate: which masks are given out.
    """

    name: str
    proposer: Proposer
    tracker: VideoTracker
    sampler: Sampler = every_frame
    verifier: Verifier = most_confident
    linker: Linker | None = None
    gate: Gate = every_mask

    def ground(self, clip: Clip, texts: Sequence[str]) -> list[Grounded]:
        """See `Grounder.ground`; all sentences share the passes over the clip."""
        return gathered(self.stream(clip, texts))

    def stream(self, clip: Clip, texts: Sequence[str]) -> Judging:
        """See `StreamingGrounder.stream`; nothing comes while candidates are looked for."""
        check_texts(texts)
        candidates = self.proposer.propose(clip, self.sampler(clip.num_frames), texts)
        anchors = {n: chosen for n, found in enumerate(candidates) if (chosen := self.verifier(found))}
        links = {n: self.linker(chosen, candidates[n]) for n, chosen in anchors.items()} if self.linker else {}
        masks: list[dict[int, MaskRLE]] = [{} for _ in texts]
        scores: list[dict[int, float]] = [{} for _ in texts]
        for n, frame, mask, score in self._follow(clip, anchors, links):
            scores[n][frame] = score
            given = mask if mask is not None and self.gate(score) else None
            if given is not None:
                masks[n][frame] = given
            yield Judged(text_index=n, frame=frame, mask=given, score=score)
        first = {n: max(chosen, key=lambda c: c.detection.score) for n, chosen in anchors.items()}
        return [
            Grounded(masks=masks[n], scores=scores[n], detection=(first[n].frame, first[n].detection) if n in first else None)
            for n in range(len(texts))
        ]

    def _follow(
        self, clip: Clip, anchors: Mapping[int, Sequence[Candidate]], links: Mapping[int, Mapping[int, Candidate]]
    ) -> Iterator[tuple[int, int, MaskRLE | None, float]]:
        """(sentence, frame, mask or None, confidence) of each frame that is judged."""
        if not anchors:
            return
        requests = []
        for n, chosen in anchors.items():
            prompts = {c.frame: Prompt(box=c.detection.box) for c in chosen}
            boxes = {frame: c.detection.box for frame, c in links.get(n, {}).items()}
            requests.append(TrackRequest(key=str(n), start=0, stop=clip.num_frames, prompts=prompts, boxes=boxes))
        if self.linker:
            wanted: Sequence[int] = sorted({frame for linked in links.values() for frame in linked})
        else:
            wanted = range(min(c.frame for chosen in anchors.values() for c in chosen), clip.num_frames)
        for frame, tracked in self.tracker.track(clip.frames(wanted), requests, clip.backward):
            for key, found in tracked.items():
                n = int(key)
                if self.linker and frame not in links[n]:
                    continue
                score = links[n][frame].detection.score if self.linker else found.score
                yield n, frame, found.patch.encode() if found.patch.any() else None, score
