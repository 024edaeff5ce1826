"""The limiter on a clock of its own: no window over the limit, no dollar over the cap."""

import asyncio

import numpy as np
import pytest

from egoray.express.limits import Gate, Lease, Limiter, Pace, Stopped


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


def send_times(limiter, clock, wants):
    async def run():
        times, left = [], list(wants)
        while left:
            lease = await limiter.lease(left)
            times += [clock.now + s for s in lease.send_in_s]
            del left[: len(lease.send_in_s)]
        return times

    return asyncio.run(run())


@pytest.mark.parametrize("per_min", [3, 60, 500])
def test_no_minute_holds_more_requests_than_the_limit_and_few_less(per_min):
    clock = Clock()
    limiter = Limiter(requests_per_min=per_min, tokens_per_min=1e9, clock=clock, sleep=clock.sleep)
    times = np.array(send_times(limiter, clock, [(1, 0.0)] * (3 * per_min)))
    within = [((times >= t) & (times < t + 60)).sum() for t in times]
    assert max(within) <= per_min
    assert len(times) / (times[-1] - times[0]) * 60 >= 0.95 * per_min
    assert np.all(np.diff(times) > 0.5 * 60 / per_min)  # spaced, not in bursts


def test_no_minute_holds_more_tokens_than_the_limit_even_with_large_requests():
    clock = Clock()
    limiter = Limiter(requests_per_min=1e6, tokens_per_min=10_000, clock=clock, sleep=clock.sleep)
    tokens = [int(t) for t in np.random.default_rng(1).integers(100, 4000, 200)]
    times = np.array(send_times(limiter, clock, [(t, 0.0) for t in tokens]))
    for t in times:
        assert sum(n for n, at in zip(tokens, times, strict=True) if t <= at < t + 60) <= 10_000


def test_more_than_the_limit_goes_alone():
    pace = Pace(10)
    pace.take(0.0, 25)
    assert pace.earliest(1.0, 1) > 60


def test_a_pause_holds_everybody():
    clock = Clock()
    limiter = Limiter(requests_per_min=6000, tokens_per_min=1e9, clock=clock, sleep=clock.sleep)
    limiter.pause(7.0)
    assert send_times(limiter, clock, [(1, 0.0)] * 3)[0] >= 7.0


def test_the_cap_waits_for_what_is_open_and_then_stops():
    async def run():
        kept = []
        limiter = Limiter(requests_per_min=1e6, tokens_per_min=1e9, max_usd=1.0, keep=lambda *sums: kept.append(sums))
        first = await limiter.lease([(1, 0.4), (1, 0.4), (1, 0.4)])
        assert len(first.send_in_s) == 2  # the third does not fit beside them
        assert kept[-1] == (0.0, 0.8)  # written down before they are sent
        waiting = asyncio.create_task(limiter.lease([(1, 0.4)]))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        limiter.settle(0.4, 0.1)
        assert len((await waiting).send_in_s) == 1
        limiter.settle(0.4, 0.4)
        limiter.settle(0.4, 0.4)
        last = await limiter.lease([(1, 0.4)])
        assert last.stop
        assert last.stop[0] == "budget"
        assert limiter.spent_usd == pytest.approx(0.9)

    asyncio.run(run())


def test_a_lost_limiter_lets_nothing_through():
    async def gone(wants):
        raise RuntimeError("actor died")

    async def run():
        with pytest.raises(Stopped, match="rate limiter is lost"):
            await Gate(gone).enter((1, 0.0))

    asyncio.run(run())


def test_one_lease_serves_all_that_wait():
    calls = []

    async def lease(wants):
        calls.append(len(wants))
        await asyncio.sleep(0)
        return Lease((0.0,) * len(wants))

    async def run():
        gate = Gate(lease)
        await asyncio.gather(*(gate.enter((1, 0.0)) for _ in range(64)))

    asyncio.run(run())
    assert sum(calls) == 64
    assert len(calls) <= 3
