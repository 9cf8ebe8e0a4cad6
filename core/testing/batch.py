"""A batch of images with known signals, the views it hands out, and a record of their use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tokensieve.core.contract.signals import (
    HISTORY_SIGNALS,
    SIGNALS,
    EncoderAttention,
    Module,
    QueryRows,
    TokenStates,
    Transition,
)
from tokensieve.core.contract.tensors import at_least_float32
from tokensieve.core.contract.view import View
from tokensieve.core.engine.decision import BoundaryTokens
from tokensieve.core.engine.layout import Layout, Segment
from tokensieve.core.engine.reduction import Groups
from tokensieve.core.errors import SignalError

STATES = ("normed_states", "embeddings", "previous_keys")
TEXT_ATTENTION = "attention"
Value = TypeVar("Value")


@dataclass
class Record:
    """A record of what a component was given: which signals it read, what it wrote to."""

    reads: set[str] = field(default_factory=set)
    given: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    lists: list[tuple[str, list[int], list[int]]] = field(default_factory=list)

    def give_list(self, label: str, original: Sequence[int]) -> list[int]:
        """A copy of ``original`` to hand out, remembered."""
        copy = list(original)
        self.lists.append((label, copy, list(original)))
        return copy

    def read(self, signal: str, reader: Callable[[], Value]) -> Value:
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
    """Implements :class:`tokensieve.plugin.TextAttention`."""

    values: dict[QueryRows, Tensor]
    text: Tensor
    valid: Tensor
    record: Record
    label: str

    def received(self, rows: QueryRows | Tensor, *, gravity: bool = False) -> Tensor:
        """``[batch, heads, tokens]``; an error for rows that no model knows."""
        if isinstance(rows, Tensor):
            weights = at_least_float32(rows).masked_fill(~self.valid, 0)
            total = weights.sum(dim=1, keepdim=True)
            share = weights / total.masked_fill(total == 0, 1)
            mean = torch.einsum("bt,bhtn->bhn", share.to(self.text), self.text)
            values = torch.where((total == 0)[..., None], self.values["last"].to(mean), mean)
        elif rows in self.values:
            values = self.values[rows]
        else:
            raise ValueError(f"rows {rows!r}, allowed: {', '.join(self.values)}")
        if gravity:
            values = values * torch.arange(1, values.shape[-1] + 1, device=values.device)
        return self.record.give(self.label, values)


@dataclass(frozen=True)
class SyntheticLayer:
    """Implements :class:`tokensieve.core.contract.signals.EncoderLayer`."""

    values: dict[tuple[str, bool], Tensor]
    record: Record

    def attention(self, kind: EncoderAttention = "auto", *, joined: bool = False) -> Tensor:
        """``[batch, tokens, heads]``."""
        name = "cls" if kind == "auto" else kind
        return self.record.give("encoder_layers", self.values[name, joined])

    def keys(self, *, joined: bool = False) -> Tensor:
        """``[batch, tokens, n]``."""
        return self.record.give("encoder_layers", self.values["keys", joined])


@dataclass(frozen=True)
class SyntheticBatch:
    """Signals of several images as one padded batch; hands out fresh views.

    ``tensors`` holds the plain signals, the visual part of token states, and ``scores``,
    ``available`` for selectors, all ``[batch, tokens, ...]`` (``cls_feature`` is
    ``[batch, 1, vision dim]``). ``text`` holds the masks ``valid`` and ``instruction``
    ``[batch, text]``, ``attention`` ``[batch, heads, text, tokens]``, and by signal the text part
    of token states.
    """

    valid: Tensor
    index: Tensor
    keys: tuple[int, ...]
    boundary: int
    tensors: dict[str, Tensor]
    attention: dict[str, dict[QueryRows, Tensor]]
    text: dict[str, Tensor]
    encoder: dict[float | None, dict[tuple[str, bool], Tensor]]
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
            {name: tensor[at] for name, tensor in self.text.items()},
            {
                depth: {name: tensor[at] for name, tensor in values.items()}
                for depth, values in self.encoder.items()
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
        names the component in errors.
        """
        log = record or Record()
        view = View(
            log.give("valid", self.valid),
            log.give("index", self.index),
            {
                name: partial(log.read, name, read)
                for name, read in self._readers(log).items()
                if name not in hidden
            },
            keys=log.give_list("keys", self.keys),
            boundary=self.boundary,
        )
        return view.restricted(reader, frozenset(SIGNALS))

    def tokens(self) -> BoundaryTokens:
        """The same for the deciding function of the engine: every image is all of a sample."""
        counts = [int(count) for count in self.valid.sum(dim=1)]
        layout = Layout(tuple((Segment("image", count, 0),) for count in counts), max(counts))
        groups = Groups.of(layout, "image", self.valid.device)
        padding = (0, self.valid.shape[1] - groups.valid.shape[1])
        rows, valid = (
            torch.nn.functional.pad(part, padding) for part in (groups.rows, groups.valid)
        )
        groups = Groups(groups.blocks, groups.sample, rows, valid)
        hidden = self.tensors["hidden"]
        empty = hidden.new_zeros(len(counts), layout.length, hidden.shape[-1])
        return BoundaryTokens(
            layout,
            groups,
            self.index,
            self._readers(Record()),
            keys=list(self.keys),
            sizes=self.tensors["sizes"] * self.valid,
            hidden=groups.put(empty, hidden),
            project=lambda vectors: vectors.new_zeros(len(vectors), hidden.shape[-1]),
        )

    def _readers(self, log: Record) -> dict[str, Callable[[], object]]:
        """By signal that there is, what hands out a copy of it."""
        plain = [name for name in self.tensors if name in SIGNALS]
        between, words = self.text[TEXT_ATTENTION], self.text["valid"]
        readers: dict[str, Callable[[], object]] = {
            **{name: partial(log.give, name, self.tensors[name]) for name in plain},
            **{
                name: partial(SyntheticAttention, values, between, words, log, name)
                for name, values in self.attention.items()
            },
            **{name: partial(self._states, name, log) for name in STATES},
            "encoder_layers": lambda: partial(self._layer, log),
            "transitions": partial(self._transitions, ("attention", "mlp"), log),
            "block_transitions": partial(self._transitions, ("block",), log),
        }
        absent = frozenset() if self.boundary else HISTORY_SIGNALS
        return {name: read for name, read in readers.items() if name not in absent}

    def _states(self, name: str, log: Record) -> TokenStates:
        return TokenStates(
            log.give(name, self.tensors[f"{name} visual"]),
            log.give(name, self.text[name]),
            log.give(name, self.text["valid"]),
            log.give(name, self.text["instruction"]),
        )

    def _layer(self, log: Record, depth: float | None) -> SyntheticLayer:
        if depth not in self.encoder:
            raise SignalError(
                f"the vision-encoder layer at depth {depth} was not captured: declare it in "
                "vision_depths()"
            )
        return SyntheticLayer(self.encoder[depth], log)

    def _transitions(self, modules: Sequence[Module], log: Record) -> tuple[Transition, ...]:
        return tuple(
            _mapped(transition, partial(log.give, "transitions"))
            for transition in self.transitions
            if transition.module in modules
        )


def _mapped(transition: Transition, change: Callable[[Tensor], Tensor]) -> Transition:
    """The transition with each of its tensors changed."""
    return replace(
        transition,
        magnitude=change(transition.magnitude),
        cosine=change(transition.cosine),
        valid=change(transition.valid),
        columns=change(transition.columns),
    )
