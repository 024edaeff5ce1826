"""The questions put to a vision model, and the strict reading of its answers.

Every question has a version id, which enters the cache key and the expressions' rows: change a word, change the id. What is
the same for all objects comes first (instructions, examples), then the object's name, then its pictures, so that servers which
cache prompt prefixes pay the instructions once.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from egoray.config import ExpressConfig
from egoray.core.workfolder import fingerprint
from egoray.express.templates import FACETS

VERSIONS = {"direct": "direct-1", "metadata": "metadata-1", "choose": "choose-1"}
Part = dict[str, Any]
"""A part of a message: text, or a picture as a data URL."""

_GUIDE = """\
You help to build a dataset in which a sentence points at one thing in a video filmed from a head-mounted camera. Someone who \
reads your sentence, without any marks, must find exactly that thing and follow it through the whole recording.

What you are given
- The name that an annotator typed for the thing. It may be vague, misspelt or wrong: trust your eyes where they disagree.
- A few views from the recording, in the order of time. In each, a thin red rectangle was drawn around the thing afterwards. \
It is not part of the scene.
- Sometimes a last view that shows the thing close up, without the rectangle.

What may tell a thing apart
- Looks: colour, shape, material, texture, pattern, condition, parts, relative size ("the larger of the two jars").
- Writing on it: brand, label, number. Quote only what you can read with certainty.
- Where it is among other things: on, under, inside, beside, between, in front of. Prefer things that stay where they are \
(counter, sink, wall, window) to things that are carried about.
- What the person does with it, where that is plainly seen: cuts with it, drinks from it, opens it.
- What it is for, and what is commonly known of it.

Rules
1. Write plain English in lower case, one noun phrase, no full stop: "the dented steel pot on the left burner".
2. The sentence must name the thing. "the blue one" does not.
3. It must hold of this thing and of nothing else in the recording. If there are look-alikes, say what differs.
4. It must hold for the whole recording, not for one moment of it: the camera moves all the time, so "at the right edge" or \
"in the lower left corner" says nothing. Say where the thing is among other things instead.
5. Say only what you can see or what everybody knows. Never guess a brand, a content or an owner.
6. Never speak of the recording itself: no image, picture, photo, frame, video, clip, camera or view; and never of the marks: \
no rectangle, bounding box, outline or red box. A thing that is itself a picture frame or a box may of course be called so.
7. Do not describe the person who wears the camera beyond "the person" and "the hand".
8. Hands, other people and the background are not the thing, even where they are inside the rectangle.
9. If the thing is blurred or half hidden, describe what is certain and leave out the rest.

Common mistakes
- Naming the surface or container in place of the thing: the rectangle around a spoon in a bowl means the spoon.
- Generic praise or filler: "a useful kitchen item", "an object that can be seen", "commonly found in homes".
- Contradicting yourself between sentences: the same colour must have the same name in each.
- Listing everything. Two or three telling properties beat ten.
- Using the typed name when it is plainly wrong, or a word so wide ("item", "tool", "stuff") that it names half of the room.
- Counting from a side ("the second jar from the left"): the person walks around, and the order turns.
- Calling a thing "small" or "large" without anything to compare it with.
- Telling what happens once, as if it were a property: "the falling knife". Say "the knife that the person drops" instead.
- Describing the look-alikes at length. One short clause about how this thing differs is enough.

Answer with one JSON object that has exactly the keys below, and with nothing before or after it.
"""

_DIRECT = """\

Keys
- "object": the noun, one to three words, by which your sentences call the thing.
- "short": an expression of at most {short} words.
- "long": an expression of {short} to {long} words that adds properties which the short one lacks.

Examples, for other recordings
Name "cup": {{"object": "mug", "short": "the chipped white mug with a blue handle", "long": "the white ceramic mug with a chipped \
rim and a blue handle, kept next to the kettle, from which the person drinks"}}
Name "tool": {{"object": "screwdriver", "short": "the screwdriver with the clear yellow grip", "long": "the long flat-head \
screwdriver with a transparent yellow grip, taken from the wall rack and used on the wooden drawer"}}
Name "box": {{"object": "cereal box", "short": "the red cereal box beside the fridge", "long": "the tall red cardboard cereal box \
with a torn lid, standing between the fridge and the bread bin"}}
Name "plant pot": {{"object": "flower pot", "short": "the empty clay flower pot under the bench", "long": "the round unglazed clay \
flower pot without a plant in it, lying under the wooden garden bench beside a coiled hose"}}
Name "thing": {{"object": "phone charger", "short": "the black phone charger in the wall socket", "long": "the small black phone \
charger with a frayed grey cable, plugged into the socket above the desk and used to charge the person's phone"}}
"""

_METADATA = """\

Keys; give "" where there is nothing to say
- "caption": a noun phrase of at most {short} words, as few as identify the thing, without an article: "chipped white mug".
- "attributes": further looks, as a phrase: "made of thin steel with a black plastic handle".
- "relations": where it is among other things, as a phrase that follows the caption: "beside the kettle on the wooden counter".
- "text": the writing on it, exactly as it reads.
- "knowledge": what is commonly known of such a thing and helps to tell it apart, as a phrase: "a tool for tightening bolts by hand".
- "function": what this thing is used for, as a verb phrase that follows "used to": "scoop flour into the bowl". Be specific.

Examples, for other recordings
Name "cup": {{"caption": "chipped white mug", "attributes": "made of glazed ceramic with a blue handle", "relations": "next to the \
kettle", "text": "", "knowledge": "", "function": "drink hot tea"}}
Name "tool": {{"caption": "yellow-handled screwdriver", "attributes": "long, with a flat steel tip", "relations": "from the wall rack", \
"text": "STANLEY", "knowledge": "a hand tool for slotted screws", "function": "tighten the drawer's screws"}}
Name "plant pot": {{"caption": "empty clay flower pot", "attributes": "round and unglazed, with a hole in the base", "relations": "under \
the wooden garden bench beside a coiled hose", "text": "", "knowledge": "", "function": "grow a single plant"}}
"""

_CHOOSE = """\
You check sentences that are meant to point at one thing in a video filmed from a head-mounted camera. You see some candidates, \
each a thing from the same recording, shown once with a thin red rectangle around it; the rectangle was drawn afterwards and is \
not part of the scene. Candidates may look alike. For each numbered sentence, decide which single candidate it means. Judge only \
by the sentence and what you see; a sentence may mean any of the candidates, and several may mean the same one. If it fits two \
candidates equally well, or none, say "unsure".

Answer with one JSON object and nothing else. It has one key, "choices": a list with one item for each sentence, in order, and an \
item has the keys "sentence" (its number) and "candidate" (a letter, or "unsure").
"""


def _object_schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT = {"type": "string"}
_CHOICE = _object_schema(sentence={"type": "integer"}, candidate=_TEXT)
SCHEMAS = {
    "direct": _object_schema(object=_TEXT, short=_TEXT, long=_TEXT),
    "metadata": _object_schema(**dict.fromkeys(FACETS, _TEXT)),
    "choose": _object_schema(choices={"type": "array", "items": _CHOICE}),
}
_TYPES: dict[str, type] = {"string": str, "integer": int, "array": list, "object": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request: what to ask, and the key under which its answer is kept.

    ``body`` is what goes to the server, less ``response_format``; pictures are in it as data URLs.
    """

    kind: str
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """32 hex digits of the model, the prompt version, the parameters, the texts and the pictures' bytes."""
        return fingerprint([VERSIONS[self.kind], self.body])

    @property
    def schema(self) -> dict[str, Any]:
        """The ``response_format`` that asks for the answer's JSON schema."""
        return {"type": "json_schema", "json_schema": {"name": self.kind, "strict": True, "schema": SCHEMAS[self.kind]}}

    def again(self, answer: str, problems: Sequence[str]) -> Question:
        """The same conversation with the answer and what is wrong with it."""
        correction = "That answer cannot be used: " + "; ".join(problems) + ". Answer again, as one JSON object, and follow every rule."
        turns = [{"role": "assistant", "content": answer or "(no answer)"}, {"role": "user", "content": correction}]
        return Question(kind=self.kind, body={**self.body, "messages": [*self.body["messages"], *turns]})


def ask_for(kind: str, config: ExpressConfig, title: str, pictures: Sequence[bytes]) -> Question:
    """The question for expressions ("direct") or for metadata ("metadata") of one object, shown in JPEG pictures."""
    task = (_DIRECT if kind == "direct" else _METADATA).format(short=config.short_max_words, long=config.long_max_words)
    shown = [text_part(f"Name: {title or 'not given'}\nViews: {len(pictures)}"), *map(picture_part, pictures)]
    return Question(kind=kind, body=_body(config, _GUIDE + task, shown))


def ask_which(config: ExpressConfig, sentences: Sequence[str], candidates: Sequence[bytes]) -> Question:
    """The question which of the candidates (JPEG pictures, lettered from A) each sentence means."""
    shown = []
    for letter, picture in zip("ABCDEFGH", candidates, strict=False):
        shown += [text_part(f"Candidate {letter}:"), picture_part(picture)]
    listed = "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1))
    return Question(kind="choose", body=_body(config, _CHOOSE, [*shown, text_part(f"Sentences:\n{listed}")]))


def text_part(text: str) -> Part:
    """A text in a message."""
    return {"type": "text", "text": text}


def picture_part(jpeg: bytes) -> Part:
    """A picture in a message."""
    return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(), "detail": "high"}}


def _body(config: ExpressConfig, instructions: str, shown: Sequence[Part]) -> dict[str, Any]:
    messages = [{"role": "system", "content": instructions}, {"role": "user", "content": list(shown)}]
    if re.match(r"(o\d|gpt-5)", config.llm):  # these think, and know neither a temperature nor max_tokens
        return {"model": config.llm, "messages": messages, "max_completion_tokens": config.max_tokens}
    return {"model": config.llm, "messages": messages, "max_tokens": config.max_tokens, "temperature": config.temperature}


def parse(kind: str, text: str) -> tuple[dict[str, Any], list[str]]:
    """The answer as the schema's object, and what is wrong with it (then the object is empty).

    Strict: one JSON object, in a ```json fence or bare, with exactly the schema's keys and types. Nothing is repaired.
    """
    bare = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(bare[1] if bare else text)
    except (ValueError, RecursionError):
        return {}, ["it is not one JSON object"]
    wrong = _mismatches(value, SCHEMAS[kind], "the answer")
    return ({}, wrong) if wrong else (value, [])


def _mismatches(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    if not isinstance(value, _TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{where} is not of type {schema['type']}"]
    if schema["type"] == "array":
        return [wrong for i, item in enumerate(value) for wrong in _mismatches(item, schema["items"], f"{where}[{i}]")]
    if schema["type"] != "object":
        return []
    wrong = [f"{where} lacks the key {key!r}" for key in schema["required"] if key not in value]
    wrong += [f"{where} has the unknown key {key!r}" for key in value if key not in schema["properties"]]
    return wrong + [w for key, inner in schema["properties"].items() if key in value for w in _mismatches(value[key], inner, key)]
