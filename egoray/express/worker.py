"""One clip's work: see its objects, have a conversation about each, and leave a file or a failure row an object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from egoray.config import ExpressConfig
from egoray.core.storage import Folder
from egoray.core.workfolder import finish_attempt, start_attempt, write_expressions, write_failure
from egoray.errors import ConfigError, StageError
from egoray.express import offline
from egoray.express.batch import Waiting
from egoray.express.limits import Stopped
from egoray.express.plan import Clip, Shown
from egoray.express.views import Seen, look, most_alike
from egoray.express.writer import Ask, express, expression
from egoray.schema import Expression, FailureRow

Status = dict[str, Any]
"""A finished unit: {"unit", "end": "done" | "failed" | "left", "error", "message", "expressions", "review"}."""


class Worker:
    """Works on clips side by side, on one event loop; decoding is one clip at a time, on a thread.

    Args:
        out: the stage's work folder.
        config: the stage's settings.
        run_id: starts are counted within one run, so that a driver's death is never held against a clip.
        ask: puts a question to the model; None: the offline provider.
        retry_bad: ask again where the kept answers failed the checks.
        report: called with the status of each unit as it ends.
    """

    def __init__(
        self,
        out: Folder,
        config: ExpressConfig,
        run_id: str,
        ask: Ask | None,
        *,
        retry_bad: bool = False,
        report: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self._out, self._config, self._run_id, self._ask, self._retry_bad, self._report = out, config, run_id, ask, retry_bad, report
        self._decoding = asyncio.Lock()
        self._stopped: Stopped | None = None
        self._unwritable: ConfigError | None = None

    async def clip(self, packed: str) -> list[Status]:
        """Work on a packed clip; the statuses of its units.

        Raises:
            ConfigError: if the work folder cannot be written: no unit is to blame.
        """
        clip, wanted = Clip.unpack(packed)
        # a block that Ray repeats after an actor's death holds clips that were finished before
        todo = [s for s in clip.objects if s.unit in wanted and not self._out.exists(f"{s.unit}.parquet")]
        again = [self._ended(s.unit, "done") for s in clip.objects if s.unit in wanted and s not in todo]
        if not todo:
            return again
        async with self._decoding:
            if self._stopped:
                return again + [self._ended(shown.unit, "left") for shown in todo]
            name = clip.objects[0].unit
            attempt = start_attempt(self._out, name, self._run_id)
            try:
                if attempt > self._config.max_attempts:
                    raise StageError(
                        f"{clip.video.uri}: its actor died in each of {attempt - 1} attempts to decode it; "
                        "run with --retry-failed after looking at the clip or at the memory of the machine"
                    )
                seen = await asyncio.to_thread(look, clip, self._config, max(1, int(self._config.cpus_per_worker)))
            except (MemoryError, ConfigError):
                raise
            except Exception as error:
                finish_attempt(self._out, name, self._run_id)
                return again + [self._failed(clip, shown, error, attempt) for shown in todo]
            finish_attempt(self._out, name, self._run_id)
        units = {shown.unit for shown in todo}
        ended = await asyncio.gather(*(self._object(clip, one, seen) for one in seen if one.shown.unit in units))
        if self._unwritable:
            raise self._unwritable
        return again + list(ended)

    async def _object(self, clip: Clip, one: Seen, seen: Sequence[Seen]) -> Status:
        unit = one.shown.unit
        try:
            sentences = await self._sentences(one, seen)
            write_expressions(self._out, unit, sentences)
        except (Waiting, Stopped) as reason:
            if isinstance(reason, Stopped):
                self._stopped = reason
            return self._ended(unit, "left")
        except ConfigError as error:
            self._unwritable = error
            return self._ended(unit, "left")
        except MemoryError:
            raise
        except Exception as error:
            return self._failed(clip, one.shown, error, 1)
        return self._ended(unit, "done", expressions=len(sentences), review=sum(bool(s.review) for s in sentences))

    async def _sentences(self, one: Seen, seen: Sequence[Seen]) -> list[Expression]:
        others = [other for other in seen if other is not one]
        config = self._config
        if self._ask:
            lookalikes = [other.subject for other in most_alike(one, others, config.lookalikes)]
            return await express(one.subject, lookalikes, self._ask, config, retry_bad=self._retry_bad)
        ids = (one.subject.video_id, one.subject.object_id)
        told = offline.describe([s.sight for s in seen], one.sight, config.per_object, config.short_max_words)
        return [expression(ids, text, kind, "offline", "", offline.PROMPT_VERSION, review) for kind, text, review in told]

    def _failed(self, clip: Clip, shown: Shown, error: Exception, attempt: int) -> Status:
        message = " ".join(str(error).split())
        name = f"{clip.video.video_id}/{shown.object_id}"
        kind = getattr(error, "kind", "") or type(error).__name__
        row = FailureRow(stage="express", unit=name, error=kind, message=message, attempt=attempt, retryable=True)
        write_failure(self._out, shown.unit, row)
        return self._ended(shown.unit, "failed", error=kind, message=message)

    def _ended(self, unit: str, end: str, **more: Any) -> Status:
        status = {"unit": unit, "end": end, "error": "", "message": "", "expressions": 0, "review": 0, **more}
        self._report(status)
        return status
