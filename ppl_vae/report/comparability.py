"""Which pairs' log-likelihoods can be compared, in nats or in bits per dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppl_vae.evaluation.bits import Kind, bits_per_dim, no_bits
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.report.pair_data import PairData


@dataclass(frozen=True)
class DataSpace:
    """The space on which p(x) is a mass or a density: nats on different spaces are incomparable.

    Args:
        kind: what p(x) is, if it is known.
        levels: number of values of an element of x, before dequantisation, if it is known.
        dimensions: number of observed elements of a datum; None if it varies.
        raw_levels: number of levels of x, if p(x) is a density and x not dequantised.
        given_context: p(x | context), which knows more of x than p(x).
    """

    kind: Kind | None
    levels: int | None
    dimensions: int | None
    raw_levels: int | None = None
    given_context: bool = False

    @classmethod
    def of(cls, inputs: PairData, kind: Kind | None) -> DataSpace:
        """Return the space of the data of a pair whose p(x) is of some kind."""
        given_context = bool(inputs.context)
        if kind == "density":
            data = inputs.data
            levels = data.dequantised_levels
            return cls(kind, levels, inputs.dimensions, data.levels, given_context)
        observation = getattr(inputs.pair, "observation", None)
        levels = None if observation is None else observation.levels
        return cls(kind, levels, inputs.dimensions, given_context=given_context)

    def __str__(self) -> str:
        given = "conditional on a context and " if self.given_context else ""
        return given + self._values

    @property
    def _values(self) -> str:
        if self.kind == "density":
            if self.levels is None:
                return "a density of values as they are"
            return f"a density of values dequantised from {self.levels} levels"
        if self.kind == "mass":
            return "a mass" if self.levels is None else f"a mass on {self.levels} levels"
        return "partly a mass, partly a density" if self.kind == "both" else "of an unknown kind"

    @property
    def no_bits(self) -> str | None:
        """Why there are no bits per dimension; None if there are."""
        if self.dimensions is None:
            return "the number of observed elements varies from datum to datum"
        if self.kind is None:
            return "the program does not say whether p(x) is a mass or a density"
        if self.raw_levels is not None:
            return (
                f"p(x) is a density, which is unbounded on x with {self.raw_levels} levels and no "
                f"noise between them; train and evaluate on dequantised data, "
                f"Dataset.dequantised(seed) or --data.dequantise true"
            )
        return no_bits(self.kind, self._noise_levels)

    def bits(self, nats: Estimate) -> Estimate:
        """Convert nats per datum to bits per dimension."""
        assert self.dimensions is not None
        return bits_per_dim(nats, (self.dimensions,), dequantised_levels=self._noise_levels)

    @property
    def integers(self) -> tuple[int, int, bool] | None:
        """Levels and dimensions, which bits per dimension are of; None if there are no bits."""
        if self.no_bits is not None or self.levels is None or self.dimensions is None:
            return None
        return self.levels, self.dimensions, self.given_context

    @property
    def _noise_levels(self) -> int | None:
        return self.levels if self.kind == "density" else None


@dataclass(frozen=True)
class ComparableGroup:
    """Pairs that can be compared with one another, or (``in_bits``) only in bits per dimension."""

    names: tuple[str, ...]
    data_space: DataSpace
    in_bits: bool

    def __str__(self) -> str:
        context = ", conditional on a context" if self.data_space.given_context else ""
        what = f"{self.data_space.levels} levels{context}" if self.in_bits else self.data_space
        return f"{', '.join(self.names)}: {what}"


def comparable_groups(spaces: Mapping[str, DataSpace], bits: bool) -> list[ComparableGroup]:
    """Return groups of pairs that are comparable in nats or, with ``bits``, at least in bits."""
    groups: dict[object, list[str]] = {}
    for name, space in spaces.items():
        groups.setdefault((bits and space.integers) or space, []).append(name)
    return [
        ComparableGroup(tuple(names), spaces[names[0]], len({spaces[n] for n in names}) > 1)
        for names in groups.values()
    ]


def incomparable(spaces: Mapping[str, DataSpace]) -> list[str]:
    """Return a warning if not all pairs are comparable in nats."""
    groups = comparable_groups(spaces, bits=False)
    if len(groups) < 2:
        return []
    words = ", ".join(f"{group.data_space} for {_conjunction(group.names)}" for group in groups)
    in_bits = [
        _conjunction(group.names) for group in comparable_groups(spaces, bits=True) if group.in_bits
    ]
    units = f"in nats; compare the bits per dimension of {', of '.join(in_bits)}"
    if not in_bits:
        units = "with one another, in nats or in bits"
    return [f"p(x) is {words}: NELBO, reconstruction, IWAE and IS cannot be compared {units}."]


def _conjunction(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
