"""Scores as sums and counts, which any number of workers may add in any order; the mean is taken once, at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSums:
    """Per metric the sum of its values and how many there were; ``ScoreSums()`` is the sum of nothing.

    The sums are exact (a float is a fraction), so ``+`` commutes and associates to the last bit: one machine and a hundred
    print the same figures.
    """

    sums: Mapping[str, Fraction] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, float]) -> ScoreSums:
        """One value of each metric, as one object or one expression gives them; a metric it lacks is not counted.

        Raises:
            ValueError: if a value is not finite.
        """
        try:
            return cls(sums={metric: Fraction(value) for metric, value in values.items()}, counts=dict.fromkeys(values, 1))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"scores must be finite numbers, got {dict(values)}; leave out a metric that has no value") from error

    def __add__(self, other: ScoreSums) -> ScoreSums:
        metrics = sorted(self.sums.keys() | other.sums.keys())
        return ScoreSums(
            sums={m: self.sums.get(m, Fraction()) + other.sums.get(m, Fraction()) for m in metrics},
            counts={m: self.counts.get(m, 0) + other.counts.get(m, 0) for m in metrics},
        )

    def compute(self) -> dict[str, float]:
        """The mean of each metric by name; a metric without values has no entry."""
        return {metric: float(total / self.counts[metric]) for metric, total in sorted(self.sums.items())}
