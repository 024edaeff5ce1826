"""How fast and how dear: evenly spaced sends below the account's limits, and a cap in USD that is reserved before sending.

One `Limiter` serves all workers of a run. A worker's `Gate` collects the requests that wait in it and leases their send times
together, a second's worth at most, so that a lease and not a request is a call across the cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

QUANTUM_S = 1.0
"""How far ahead send times are leased: what a pause or a stop cannot call back."""
_WINDOW_S = 60.0
_HEADROOM = 1.02  # a send can come late by some milliseconds and the next in time: keep 2 % below the limit
_SLACK_S = 0.5  # the same for whole windows
_OPEN_BUDGET = float("inf")

Want = tuple[int, float]
"""What a request may take: tokens as the server's limit counts them, and USD."""


class Stopped(Exception):
    """No request may be sent any more; the message says why in one line. ``kind`` is "budget" or "fatal"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Lease:
    """Seconds from now at which to send the first requests asked for, or why none may be sent any more."""

    send_in_s: tuple[float, ...]
    stop: tuple[str, str] | None = None


class Pace:
    """Send times for a limit of so many units a minute: evenly spaced, and never more than the limit within any 60 s.

    Args:
        per_min: the limit.
    """

    def __init__(self, per_min: float) -> None:
        self._per_min = per_min
        self._next = float("-inf")
        self._sent: deque[tuple[float, float]] = deque()
        self._total = 0.0  # units in it

    def earliest(self, now: float, amount: float) -> float:
        """When ``amount`` units may go at the earliest; more than the limit goes alone in its minute."""
        while self._sent and self._sent[0][0] <= now - _WINDOW_S - _SLACK_S:
            self._total -= self._sent.popleft()[1]
        at, total = max(now, self._next), self._total + amount
        for sent_at, units in self._sent:
            if total <= self._per_min:
                break
            total -= units
            at = max(at, sent_at + _WINDOW_S + _SLACK_S)
        return at

    def take(self, at: float, amount: float) -> None:
        """Note that ``amount`` units go at ``at``."""
        self._sent.append((at, amount))
        self._total += amount
        self._next = at + amount * _WINDOW_S * _HEADROOM / self._per_min


class Limiter:
    """The limits and the purse of one run; every method must be called on one event loop.

    Args:
        requests_per_min: limit of the account.
        tokens_per_min: limit of the account, counted as servers do on arrival: prompt plus the most tokens of the answer.
        max_usd: cap of all spending, or None.
        spent_usd: what earlier runs spent.
        keep: called with (spent, reserved) in USD before any lease that reserves money is handed out.
    """

    def __init__(
        self,
        *,
        requests_per_min: float,
        tokens_per_min: float,
        max_usd: float | None = None,
        spent_usd: float = 0.0,
        keep: Callable[[float, float], None] = lambda spent, reserved: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._requests, self._tokens = Pace(requests_per_min), Pace(tokens_per_min)
        self._cap = _OPEN_BUDGET if max_usd is None else max_usd
        self.spent_usd, self.reserved_usd = spent_usd, 0.0
        self.open = 0  # leased and not settled
        self._keep, self._clock, self._sleep = keep, clock, sleep
        self._paused_until = float("-inf")
        self.stopped: tuple[str, str] | None = None
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    async def lease(self, wants: Sequence[Want]) -> Lease:
        """Send times of the first of ``wants``, at least one; waits in the order of calling until the first is a second away.

        Where the cap leaves no room it waits for open requests to come in below what they had reserved; when none are open,
        the run is stopped.
        """
        async with self._turn:
            await self._wait_for_room(wants[0])
            if self.stopped:
                return Lease((), self.stopped)
            granted: list[float] = []
            for tokens, usd in wants:
                now = self._clock()
                at = max(now, self._paused_until, self._requests.earliest(now, 1), self._tokens.earliest(now, tokens))
                if granted and (at > now + QUANTUM_S or not self._has_room(usd)):
                    break
                self._requests.take(at, 1)
                self._tokens.take(at, tokens)
                self.reserved_usd += usd
                self.open += 1
                granted.append(at)
            if any(usd for _, usd in wants):
                self.keep()
        return Lease(tuple(max(0.0, at - self._clock()) for at in granted))

    async def _wait_for_room(self, want: Want) -> None:
        """Until the want may be sent within a second and paid, or nothing may be sent any more."""
        while not self.stopped:
            now = self._clock()
            if not self._has_room(want[1]):
                if not self.open:
                    left = max(0.0, self._cap - self.spent_usd)
                    self.stop(
                        "budget", f"the cap of ${self._cap:g} is reached (${left:.4f} left, the next request may take ${want[1]:.4f})"
                    )
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            at = max(self._paused_until, self._requests.earliest(now, 1), self._tokens.earliest(now, want[0]))
            if at <= now + QUANTUM_S:
                return
            await self._sleep(min(at - now - QUANTUM_S + 0.001, QUANTUM_S))

    def _has_room(self, usd: float) -> bool:
        return self.spent_usd + self.reserved_usd + usd <= self._cap + 1e-12

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """A leased request came in: what it had reserved, and what it did cost."""
        self.open -= 1
        self.reserved_usd = self.reserved_usd - reserved_usd if self.open else 0.0
        self.spent_usd += spent_usd
        self._changed.set()

    def keep(self) -> None:
        """Have the sums written down."""
        self._keep(self.spent_usd, self.reserved_usd)

    def pause(self, seconds: float) -> None:
        """The server asks everybody to wait; send times leased before are kept."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def stop(self, kind: str, message: str) -> None:
        """No more leases; the first reason stays."""
        self.stopped = self.stopped or (kind, message)
        self._changed.set()


class Gate:
    """A worker's side: requests pass it at their send times.

    Args:
        lease: `Limiter.lease`, wherever it lives.
    """

    def __init__(self, lease: Callable[[list[Want]], Awaitable[Lease]]) -> None:
        self._lease = lease
        self._waiting: deque[tuple[Want, asyncio.Future[None]]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._stopped: Stopped | None = None

    async def enter(self, want: Want) -> None:
        """Return when it is time to send.

        Raises:
            Stopped: if nothing may be sent any more.
        """
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((want, passed))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        await passed
        if self._stopped:
            raise self._stopped

    def stop(self, reason: Stopped) -> None:
        """Let nobody through any more, those with a send time included."""
        self._stopped = self._stopped or reason
        while self._waiting:
            _pass(self._waiting.popleft()[1])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            if self._stopped:
                return self.stop(self._stopped)
            try:
                lease = await self._lease([want for want, _ in self._waiting])
            except Exception as error:  # the limiter is gone: without it nothing may be spent
                return self.stop(Stopped("fatal", f"the rate limiter is lost ({type(error).__name__}); run the same command again"))
            if lease.stop:
                return self.stop(Stopped(*lease.stop))
            for send_in_s in lease.send_in_s:
                if self._waiting:
                    loop.call_later(send_in_s, _pass, self._waiting.popleft()[1])
        return None


def _pass(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
