"""A batch of images with known signals, the views it hands out, and a record of their use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from tokensieve.core.view import HISTORY_SIGNALS, SIGNALS, Module, QueryRows, Transition, View


@dataclass
class Record:
    """What a component was given: the signals it read, and whether it changed a tensor."""

    reads: set[str] = field(default_factory=set)
    given: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    lists: list[tuple[str, list[int], list[int]]] = field(default_factory=list)

    def give_list(self, label: str, original: Sequence[int]) -> list[int]:
        """A copy of ``original`` to hand out, remembered."""
        copy = list(original)
        self.lists.append((label, copy, list(original)))
        return copy

    def read(self, signal: str, reader: Callable[[], Any]) -> Any:
        """Remember that ``signal`` was read, and read it."""
        self.reads.add(signal)
        return reader()

    def give(self, label: str, original: Tensor) -> Tensor:
        """A copy of ``original`` to hand out, remembered."""
        copy = original.clone()
        self.given.append((label, copy, original))
        return copy

    def changed(self) -> list[str]:
        """Labels of what was written to, even with equal values."""
        labels = [
            label
            for label, copy, original in self.given
            if copy._version or not same(copy, original)
        ]
        labels += [label for label, copy, original in self.lists if copy != original]
        return list(dict.fromkeys(labels))


def same(one: Tensor, other: Tensor) -> bool:
    """Equal shape, type and values; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    both_nan = one.isnan() & other.isnan() if one.is_floating_point() else False
    return bool(((one == other) | both_nan).all())


@dataclass(frozen=True)
class SyntheticAttention:
    """Implements :class:`tokensieve.core.view.TextAttention`."""

    values: dict[QueryRows, Tensor]
    record: Record
    label: str

    def received(self, rows: QueryRows) -> Tensor:
        """``[batch, heads, tokens]``; an error for rows that no model knows."""
        if rows not in self.values:
            raise ValueError(f"rows {rows!r}, allowed: {', '.join(self.values)}")
        return self.record.give(self.label, self.values[rows])


@dataclass(frozen=True)
class SyntheticBatch:
    """Signals of several images as one padded batch; hands out fresh views.

    ``tensors`` holds the plain signals, and ``scores``, ``available`` for selectors, all
    ``[batch, tokens, ...]`` (``cls_feature`` ``[batch, 1, vision dim]``).
    """

    valid: Tensor
    index: Tensor
    keys: tuple[int, ...]
    boundary: int
    tensors: dict[str, Tensor]
    attention: dict[str, dict[QueryRows, Tensor]]
    transitions: tuple[Transition, ...]

    def row(self, number: int) -> SyntheticBatch:
        """One image alone, with the padding it has in the batch."""
        at = slice(number, number + 1)
        return SyntheticBatch(
            self.valid[at],
            self.index[at],
            self.keys[at],
            self.boundary,
            {name: tensor[at] for name, tensor in self.tensors.items()},
            {
                name: {rows: tensor[at] for rows, tensor in values.items()}
                for name, values in self.attention.items()
            },
            tuple(_mapped(transition, lambda t: t[at]) for transition in self.transitions),
        )

    def view(
        self,
        record: Record | None = None,
        hidden: frozenset[str] = frozenset(),
        reader: str = "this component",
    ) -> View:
        """A view in which everything may be read; the signals in ``hidden`` are not there.

        Every read returns a copy, so a component that writes to it harms nobody else. ``reader``
        is who reads, for errors.
        """
        log = record or Record()
        plain = [name for name in self.tensors if name in SIGNALS]
        readers: dict[str, Callable[[], Any]] = {
            **{name: partial(log.give, name, self.tensors[name]) for name in plain},
            **{name: partial(self._attention, name, log) for name in self.attention},
            "transitions": partial(self._transitions, ("attention", "mlp"), log),
            "block_transitions": partial(self._transitions, ("block",), log),
        }
        absent = hidden if self.boundary else hidden | HISTORY_SIGNALS
        view = View(
            log.give("valid", self.valid),
            log.give("index", self.index),
            {
                name: partial(log.read, name, read)
                for name, read in readers.items()
                if name not in absent
            },
            keys=log.give_list("keys", self.keys),
            boundary=self.boundary,
        )
        return view.for_component(reader, frozenset(SIGNALS))

    def _attention(self, name: str, log: Record) -> SyntheticAttention:
        return SyntheticAttention(self.attention[name], log, name)

    def _transitions(self, modules: Sequence[Module], log: Record) -> list[Transition]:
        return [
            _mapped(transition, partial(log.give, "transitions"))
            for transition in self.transitions
            if transition.module in modules
        ]


def _mapped(transition: Transition, change: Callable[[Tensor], Tensor]) -> Transition:
    return replace(
        transition,
        magnitude=change(transition.magnitude),
        cosine=change(transition.cosine),
        valid=change(transition.valid),
        columns=change(transition.columns),
    )
