"""The columns of a data set (values, labels, mask, context), validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from ppl_vae.data import sparse
from ppl_vae.data.checks import (
    checked_context,
    checked_factors,
    checked_mask,
    checked_values,
    extremes,
    parts_of,
)
from ppl_vae.data.dequantisation import check_dequantised, count_levels
from ppl_vae.data.factors import Factors
from ppl_vae.data.label_encoding import encode_labels
from ppl_vae.errors import describe, number

if TYPE_CHECKING:  # the types after __post_init__
    _Matrix = Tensor
    _Values = Tensor
    _Labels = Tensor
    _Classes = tuple[str, ...]
    _Scale = int | float
else:  # the types that __init__ accepts
    _Matrix = Tensor | np.ndarray | sparse.SciPySparse
    _Values = Tensor | np.ndarray
    _Labels = Tensor | np.ndarray | Sequence[object]
    _Classes = Sequence[str]
    _Scale = int | float | None


@dataclass(frozen=True, eq=False, repr=False)
class Columns:
    """What a :class:`~ppl_vae.data.Dataset` holds; the arguments are described there."""

    values: _Matrix
    labels: _Labels | None = None
    name: str = "data"
    _: KW_ONLY
    scale: _Scale = None  # type: ignore[assignment]
    mask: _Values | None = None
    context: _Values | None = None
    classes: _Classes | None = None
    conversions: tuple[str, ...] = ()
    # The scale that was not given, with the dtype that it is for; and the storage in a file.
    _default_scale: tuple[torch.dtype, float] | None = field(default=None, repr=False)
    _mapped: int | None = field(default=None, repr=False)
    dequantised_levels: int | None = None
    augmentation: Callable[[Tensor], Tensor] | None = None
    factors: Factors | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            values: Tensor | np.ndarray | sparse.SciPySparse,
            labels: Tensor | np.ndarray | Sequence[object] | None = None,
            name: str = "data",
            *,
            scale: int | float | None = None,
            mask: Tensor | np.ndarray | None = None,
            context: Tensor | np.ndarray | None = None,
            classes: Sequence[str] | None = None,
            conversions: tuple[str, ...] = (),
            dequantised_levels: int | None = None,
            augmentation: Callable[[Tensor], Tensor] | None = None,
            factors: Factors | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        vars(self)["values"] = values = checked_values(self.values)
        if self.mask is not None:
            vars(self)["mask"] = checked_mask(self.mask, values)
        if self.context is not None:
            vars(self)["context"] = checked_context(self.context, values)
        seen = self.observed()
        given: object = self.scale
        default = self._default_scale
        floating = values.is_floating_point()
        if default is not None and given == default[1] and floating != default[0].is_floating_point:
            given = None  # of values that were replaced
        if given is None:  # integers 0 and 1 are not grey levels of 255
            given = 255.0 if values.dtype == torch.uint8 and extremes(seen)[1] > 1 else 1.0
            vars(self)["_default_scale"] = (values.dtype, given)
        scale = number("", "scale", given, above=0, fix="it is the value that means 1.0")
        vars(self)["scale"] = scale
        self._check_range(seen)
        if not (self.augmentation is None or callable(self.augmentation)):
            raise TypeError(
                f"augmentation must be a function of a batch, got {describe(self.augmentation)}"
            )
        if self.factors is not None:
            vars(self)["factors"] = checked_factors(self.factors, values)
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {describe(self.name)}")
        levels, labels, classes = self.dequantised_levels, self.labels, self.classes
        if levels is not None:
            levels = check_dequantised(seen, scale, levels, self.name)
        if labels is not None:
            labels, classes = encode_labels(labels, len(self), classes)
            labels = labels.to(values.device)
        elif classes is not None:
            raise ValueError(f"classes name the labels, and {self.name!r} has none; give labels=")
        vars(self).update(dequantised_levels=levels, labels=labels, classes=classes)

    def _check_range(self, seen: Tensor) -> None:
        """Raise ValueError unless observed floats are finite, and integers at most the scale."""
        values, mask, scale = self.values, self.mask, self.scale
        if not values.is_floating_point():
            if scale != 1 and (largest := extremes(seen)[1]) > scale:
                raise ValueError(
                    f"integers must be at most scale={scale:g}, got {largest}; give the value that "
                    f"means 1.0 (255 for 8-bit images, 1 for values that stay as they are)"
                )
            return
        fix = 'remove or fill them, or say that they are missing: missing="nan", or mask='
        if self.is_sparse:
            if not seen.isfinite().all():
                entry = int(seen.isfinite().logical_not().nonzero()[0])
                where = sparse.place_of(values, entry)
                raise ValueError(
                    f"values must be finite, got {seen[entry]} at index {where}; {fix}"
                )
            return
        row = 0
        for part in parts_of(values):
            bad = part.isfinite().logical_not_()
            if mask is not None:
                bad &= mask[row : row + len(part)]
            if bad.any():
                first, *rest = bad.nonzero()[0].tolist()
                where = (row + first, *rest)
                raise ValueError(
                    f"values must be finite, got {values[where]} at index {where}; {fix}"
                )
            row += len(part)

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getstate__(self) -> dict[str, object]:
        """Return the state to copy or pickle: views as copies, a sparse matrix as its parts.

        torch writes the whole storage of a view.
        """
        state = dict(vars(self))
        for name, value in state.items():
            if isinstance(value, Tensor) and sparse.is_sparse(value):
                state[name] = sparse.parts_of(value)
            elif isinstance(value, Tensor):
                is_view = value.numel() * value.element_size() < value.untyped_storage().nbytes()
                state[name] = value.clone() if is_view else value
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self.values, tuple):
            vars(self)["values"] = sparse.csr_tensor(*self.values, check=False)

    @property
    def is_sparse(self) -> bool:
        """Whether only the values other than 0 are held."""
        return sparse.is_sparse(self.values)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one item, before flattening."""
        return tuple(self.values.shape[1:])

    @property
    def is_memory_mapped(self) -> bool:
        """Whether the values are read from a file as they are used; see `from_file`."""
        return self._mapped == _storage_of(self.values)

    @property
    def num_classes(self) -> int:
        """The number of named classes, else the largest label plus one.

        Raises ValueError without labels.
        """
        if self.classes is not None:
            return len(self.classes)
        return int(self.required_labels("num_classes").max()) + 1

    @property
    def labelled(self) -> Bool[Tensor, " data"]:
        """True for the items that have a label: ``dataset.subset(dataset.labelled)``."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool, device=self.values.device)
        return self.labels >= 0

    @property
    def levels(self) -> int:
        """The number of grey levels of integer data, scale + 1.

        Raises ValueError unless the values are integers 0, ..., scale.
        """
        return count_levels(self.observed(), self.scale, self.name)

    def required_labels(self, owner: str) -> Tensor:
        """Return the labels; raise ValueError, in the name of ``owner``, if no item has one."""
        if self.labels is None or not self.labelled.any():
            got = "None" if self.labels is None else f"none for all {len(self)} items"
            raise ValueError(f"{owner}: {self.name!r} must have labels, got {got}; give labels=")
        return self.labels

    def observed(self, index: Tensor | None = None) -> Tensor:
        """Return the observed values, of all items or those at ``index``; flat with a mask.

        Of all items of a sparse matrix, only what is held and a 0, which have the same extremes.
        """
        if self.is_sparse and index is None:
            return sparse.stored(self.values)
        values = self.values if index is None else self.values_at(index)
        if self.mask is None:
            return values
        return values[self.mask if index is None else self.mask_at(index, flat=False)]

    def values_at(self, index: Integer[Tensor, " batch"]) -> Tensor:
        """Return a copy of the stored values at ``index``."""
        index = self._from_start(index)
        if self.is_sparse:
            return sparse.dense_rows(self.values, index)
        # Whole rows at once: many times faster than values[index].
        return self.values.index_select(0, index)

    def mask_at(
        self,
        index: Integer[Tensor, " batch"],
        *,
        flat: bool = True,
        device: torch.device | str | None = None,
    ) -> Bool[Tensor, " batch *event"] | None:
        """Return the mask at ``index``, of the shape that `Dataset.draw` gives x; None if none."""
        if self.mask is None:
            return None
        rows = self.mask.index_select(0, self._from_start(index))
        return (rows.flatten(1) if flat else rows).to(device=device)

    def context_at(
        self,
        index: Integer[Tensor, " batch"],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor | None:
        """Return the contexts at ``index``, None if there are none; by default in torch's dtype."""
        if self.context is None:
            return None
        rows = self.context.index_select(0, self._from_start(index))
        return rows.to(device=device, dtype=dtype or torch.get_default_dtype())

    @property
    def _scale_is_default(self) -> bool:
        return self._default_scale is not None and self._default_scale[1] == self.scale

    def _from_start(self, index: Tensor) -> Tensor:
        """Return indices on the values' device, negative ones counted from the start."""
        index = index.to(self.values.device, torch.int64)
        return torch.where(index < 0, index + len(self), index)


def _storage_of(values: Tensor) -> int:
    """Return where the memory of values begins, also of those that a slice leaves out."""
    return 0 if sparse.is_sparse(values) else values.untyped_storage().data_ptr()
