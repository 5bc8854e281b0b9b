"""What p(x) of a pair is of, and with which others its nats can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppl_vae.evaluation.bits import Kind, bits_per_dim, no_bits
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.report.evaluated_pair import Subject


@dataclass(frozen=True)
class Target:
    """What p(x) is of: nats of different targets cannot be compared.

    Args:
        kind: what p(x) is; None where it is not known.
        levels: how many values an entry of x has, or had before it was dequantised; None where that
            is not known.
        dimensions: D, how many entries of a datum are observed; None where data differ in that.
        raw_levels: of a density: how many levels x has, with no noise between them; None for none.
    """

    kind: Kind | None
    levels: int | None
    dimensions: int | None
    raw_levels: int | None = None

    @classmethod
    def of(cls, subject: Subject, kind: Kind | None) -> Target:
        """Return what p(x) of a pair is of, p(x) being of some kind."""
        if kind == "density":
            data = subject.data
            return cls(kind, data.dequantised_levels, subject.dimensions, data.levels)
        observation = getattr(subject.pair, "observation", None)
        levels = None if observation is None else observation.levels
        return cls(kind, levels, subject.dimensions)

    def __str__(self) -> str:
        if self.kind == "density":
            if self.levels is None:
                return "a density of values as they are"
            return f"a density of values dequantised from {self.levels} levels"
        if self.kind == "mass":
            return "a mass" if self.levels is None else f"a mass on {self.levels} levels"
        return "partly a mass, partly a density" if self.kind == "both" else "of an unknown kind"

    @property
    def no_bits(self) -> str | None:
        """Why there are no bits per dimension; None where there are."""
        if self.dimensions is None:
            return "some data have fewer entries observed than others"
        if self.kind is None:
            return "the program does not say whether p(x) is a mass or a density"
        if self.raw_levels is not None:
            return (
                f"p(x) is a density, and x has {self.raw_levels} levels without noise between "
                f"them, on which a density can be as large as one likes; train and evaluate on "
                f"dequantised data, Dataset.dequantised(seed) or --data.dequantise true"
            )
        return no_bits(self.kind, self._noise)

    def bits(self, nats: Estimate) -> Estimate:
        """Return nats in bits per dimension, where there are."""
        assert self.dimensions is not None
        return bits_per_dim(nats, (self.dimensions,), dequantised_levels=self._noise)

    @property
    def integers(self) -> tuple[int, int] | None:
        """What bits per dimension are of; None where there are none, or it is not known."""
        if self.no_bits is not None or self.levels is None or self.dimensions is None:
            return None
        return self.levels, self.dimensions

    @property
    def _noise(self) -> int | None:
        return self.levels if self.kind == "density" else None


@dataclass(frozen=True)
class Comparable:
    """Pairs that can be compared with one another.

    Args:
        names: of the pairs.
        target: what p(x) of the first is of.
        in_bits: whether in bits per dimension alone, and not in nats.
    """

    names: tuple[str, ...]
    target: Target
    in_bits: bool

    def __str__(self) -> str:
        what = f"{self.target.levels} levels" if self.in_bits else self.target
        return f"{', '.join(self.names)}: {what}"


def in_nats(targets: Mapping[str, Target]) -> list[Comparable]:
    """Return the pairs with the same targets."""
    return [
        Comparable(tuple(n for n, t in targets.items() if t == target), target, False)
        for target in dict.fromkeys(targets.values())
    ]


def in_nats_or_bits(targets: Mapping[str, Target]) -> list[Comparable]:
    """Return the pairs that can be compared in nats or, where not, in bits per dimension."""
    groups: dict[object, list[str]] = {}
    for name, target in targets.items():
        groups.setdefault(target.integers or target, []).append(name)
    return [
        Comparable(tuple(names), targets[names[0]], len({targets[n] for n in names}) > 1)
        for names in groups.values()
    ]


def incomparable(targets: Mapping[str, Target]) -> list[str]:
    """Return a warning where nats of some pairs cannot be compared."""
    groups = in_nats(targets)
    if len(groups) < 2:
        return []
    words = ", ".join(f"{group.target} for {_listed(group.names)}" for group in groups)
    in_bits = [_listed(group.names) for group in in_nats_or_bits(targets) if group.in_bits]
    units = f"in nats; compare the bits per dimension of {', of '.join(in_bits)}"
    if not in_bits:
        units = "with one another, in nats or in bits"
    return [f"p(x) is {words}: NELBO, reconstruction, IWAE and IS cannot be compared {units}."]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
