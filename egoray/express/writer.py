"""The conversation about one object: both strategies, the checks, one corrective re-ask, and the ambiguity check."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from egoray.config import ExpressConfig
from egoray.express import checks, templates
from egoray.express.answers import Answer
from egoray.express.prompts import VERSIONS, Question, ask_for, ask_which, parse
from egoray.schema import Expression

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "egoray expression")


class BadAnswer(Exception):
    """The model's answer cannot be used, and neither can its second one; the message says why."""


class Ask(Protocol):
    """`client.Client.ask`."""

    async def __call__(self, question: Question, *, anew: bool = False) -> Answer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a model is shown of an object: JPEG views with its box, a close-up or None, and the view for telling it from others."""

    video_id: str
    object_id: str
    title: str
    views: tuple[bytes, ...]
    close_up: bytes | None
    portrait: bytes

    @property
    def pictures(self) -> list[bytes]:
        """Everything that the questions about it show."""
        return [*self.views, *([self.close_up] if self.close_up else [])]


def expression(subject_ids: tuple[str, str], text: str, kind: str, source: str, model: str, version: str, review: str = "") -> Expression:
    """A record whose id comes from the object, the sentence and its origin."""
    name = "/".join((*subject_ids, kind, source, model, version, text))
    return Expression(
        expression_id=str(uuid.uuid5(_NAMESPACE, name)),
        video_id=subject_ids[0],
        object_id=subject_ids[1],
        text=text,
        kind=kind,
        source=source,
        model=model,
        prompt_version=version,
        review=review,
    )


async def express(
    subject: Subject, lookalikes: Sequence[Subject], ask: Ask, config: ExpressConfig, *, retry_bad: bool = False
) -> list[Expression]:
    """At most ``config.per_object`` sentences about one object, each checked; those that another object may fit are marked for review.

    Args:
        subject: the object.
        lookalikes: objects of the same clip that look most like it; none: the ambiguity check is left out.
        ask: puts a question to the model.
        config: the stage's settings.
        retry_bad: ask again where the kept answers are those that failed the checks before.

    Raises:
        BadAnswer: if an answer fails the checks twice.
        Lost, Stopped: as ``ask`` does.
    """
    asked = [
        _settled(ask_for(kind, config, subject.title, subject.pictures), ask, _check(kind, subject, config), retry_bad)
        for kind in config.strategies
    ]
    found = dict(zip(config.strategies, await _all(asked), strict=True))
    ids = (subject.video_id, subject.object_id)
    sentences: list[Expression] = []
    if direct := found.get("direct"):
        sentences += [expression(ids, _tidy(direct[kind]), kind, "direct", config.llm, VERSIONS["direct"]) for kind in ("short", "long")]
    if metadata := found.get("metadata"):
        for kind, text in templates.compose(metadata):
            names, earlier = (subject.title, metadata["caption"]), [s.text for s in sentences]
            if not checks.problems(text, max_words=config.long_max_words, names=names, siblings=earlier):
                sentences.append(expression(ids, text, kind, "metadata", config.llm, VERSIONS["metadata"]))
    sentences = sentences[: config.per_object]
    if not sentences:
        raise BadAnswer("no template makes a good sentence of the metadata")
    return await _told_apart(sentences, subject, lookalikes, ask, config, retry_bad) if lookalikes else sentences


async def _all(coroutines: Sequence[Any]) -> list[Any]:
    """All results; where some raise, the first of these, and only after all have ended: no paid answer is dropped half way."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


async def _settled(question: Question, ask: Ask, wrong: Callable[[dict[str, Any]], list[str]], retry_bad: bool) -> dict[str, Any]:
    """The parsed answer that passes the checks: the first one, or the one to a corrective re-ask.

    Raises:
        BadAnswer: if neither passes.
    """
    answer = await ask(question)
    value, problems = _judged(question, answer, wrong)
    if not problems:
        return value
    second = question.again(answer.text, problems)
    value, problems = _judged(question, await ask(second), wrong)
    if problems and retry_bad:
        value, problems = _judged(question, await ask(question, anew=True), wrong)
    if problems:
        raise BadAnswer("the answer cannot be used, nor can the second one: " + "; ".join(problems)[:400])
    return value


def _judged(question: Question, answer: Answer, wrong: Callable[[dict[str, Any]], list[str]]) -> tuple[dict[str, Any], list[str]]:
    """The answer's object and its problems."""
    if answer.fault:
        return {}, [answer.fault]
    if checks.is_refusal(answer.text):
        return {}, [f"it is a refusal ({' '.join(answer.text.split())[:100]})"]
    value, problems = parse(question.kind, answer.text)
    return value, problems or wrong(value)


def _check(kind: str, subject: Subject, config: ExpressConfig) -> Callable[[dict[str, Any]], list[str]]:
    return lambda value: (_direct_problems if kind == "direct" else _metadata_problems)(value, subject, config)


def _direct_problems(value: dict[str, str], subject: Subject, config: ExpressConfig) -> list[str]:
    names = (subject.title, value["object"])
    short = checks.problems(_tidy(value["short"]), max_words=config.short_max_words, names=names)
    long = checks.problems(_tidy(value["long"]), max_words=config.long_max_words, names=names, siblings=[value["short"]])
    return [f'in "short": {problem}' for problem in short] + [f'in "long": {problem}' for problem in long]


def _metadata_problems(value: dict[str, str], subject: Subject, config: ExpressConfig) -> list[str]:
    facets = templates.clean(value)
    names = (subject.title, facets["caption"])
    found = [f'in "caption": {problem}' for problem in checks.problems(facets["caption"], max_words=config.short_max_words, names=())]
    for facet in templates.FACETS[1:]:
        if facet != "text" and (spoken := checks.about_picture(facets[facet], names)):
            found.append(f'in "{facet}": it speaks of the picture ({", ".join(map(repr, spoken))})')
    if not found and not any(facets[facet] for facet in templates.FACETS[1:]):
        found.append("it says nothing but the caption")
    return found


def _tidy(text: str) -> str:
    """The sentence on one line, without a final full stop."""
    return " ".join(text.split()).rstrip(".").rstrip()


async def _told_apart(
    sentences: list[Expression], subject: Subject, lookalikes: Sequence[Subject], ask: Ask, config: ExpressConfig, retry_bad: bool
) -> list[Expression]:
    """The sentences, those marked that a model does not lead back to their object among the look-alikes."""
    candidates = sorted([subject, *lookalikes], key=lambda s: hashlib.sha256(s.portrait).digest())  # the right one has no fixed place
    letters = "ABCDEFGH"[: len(candidates)]
    question = ask_which(config, [s.text for s in sentences], [c.portrait for c in candidates])

    def wrong(value: dict[str, Any]) -> list[str]:
        numbers = [choice["sentence"] for choice in value["choices"]]
        if numbers != list(range(1, len(sentences) + 1)):
            return [f"it must choose for each of the sentences 1 to {len(sentences)}, in order"]
        unknown = {c["candidate"] for c in value["choices"]} - {*letters, "unsure"}
        return [f"there is no candidate {', '.join(sorted(unknown))}"] if unknown else []

    try:
        choices = (await _settled(question, ask, wrong, retry_bad))["choices"]
    except BadAnswer as error:
        return [replace(s, review=f"not checked against look-alikes: {error}") for s in sentences]
    marked = []
    for sentence, choice in zip(sentences, choices, strict=True):
        meant = None if choice["candidate"] == "unsure" else candidates[letters.index(choice["candidate"])]
        if meant is subject:
            marked.append(sentence)
        else:
            reason = "may mean several objects" if meant is None else f"was taken to mean object {meant.object_id} ({meant.title})"
            marked.append(replace(sentence, review=reason))
    return marked
