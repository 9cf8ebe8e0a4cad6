"""The hooks that reduce a running model, and nothing the model could notice besides."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tokensieve.core.adapter import BoundModel, VisionRecord
from tokensieve.core.engine import masks
from tokensieve.core.engine.cache import ReducedLayer, cache_layer, check_cache
from tokensieve.core.engine.decision import decide
from tokensieve.core.engine.layout import Layout, read_layout
from tokensieve.core.engine.positions import next_shift, reindexed
from tokensieve.core.engine.reduction import Groups, Reduction
from tokensieve.core.engine.signals import Embeddings, SignalBoard
from tokensieve.core.engine.state import ForwardState, LayerInput, RecordedTransition
from tokensieve.core.errors import PluginError, UnsupportedError
from tokensieve.core.pipeline import Cut, Pipeline, scaling_notes
from tokensieve.core.trace import StageTrace, Trace
from tokensieve.core.view import Module, at_least_float32, on_device

if TYPE_CHECKING:
    from torch import Tensor, nn


class Engine:
    """Runs one pipeline on one bound model."""

    def __init__(self, bound: BoundModel, pipeline: Pipeline, seed: int) -> None:
        self.bound = bound
        self.pipeline = pipeline
        self.seed = seed
        self.cuts: dict[int, tuple[int, Cut]] = {
            cut.at: (number, cut) for number, cut in enumerate(pipeline.cuts(bound.dims.layers))
        }
        self.schedule = pipeline.schedule(bound.dims)
        self.reindex = pipeline.positions == "reindex"
        if bound.mrope and pipeline.mrope_positions is not None:
            self.reindex = pipeline.mrope_positions == "reindex"
        self.notes = scaling_notes(pipeline, bound.dims.layers)
        self.trace = Trace(notes=list(self.notes))
        self.state: ForwardState | None = None
        self.vision: VisionRecord | None = None
        self._handles: list[Any] = []
        self._parameters = list(inspect.signature(bound.inner.forward).parameters)

    # ------------------------------------------------------------------ hooks in and out

    def install(self) -> None:
        """Register all hooks; on any failure none stays."""
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def _install(self) -> None:
        if not self.cuts:
            return
        bound, keep = self.bound, self._handles.append
        keep(bound.model.register_forward_pre_hook(self._refuse_training, with_kwargs=True))
        keep(bound.inner.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(bound.inner.register_forward_hook(self._end, with_kwargs=True, always_call=True))
        keep(bound.decoder.register_forward_hook(self._restore_length, with_kwargs=True))
        keep(bound.rotary.register_forward_hook(self._positions, with_kwargs=True))
        previous = self._boundaries_reading("previous_attention") - {0}  # nothing ran before 0
        first = min([*self.cuts, *(at - 1 for at in previous)])
        for index in range(first, bound.dims.layers):
            hook = self._before_layer(index, remember=index + 1 in previous)
            keep(bound.layers[index].register_forward_pre_hook(hook, with_kwargs=True))
        for layer in self._watched_layers("transitions"):
            for kind, module in (
                ("attention", bound.attention_module(layer)),
                ("mlp", bound.mlp_module(layer)),
            ):
                keep(module.register_forward_hook(self._watch(layer, kind), with_kwargs=True))
        for layer in self._watched_layers("block_transitions"):
            module = bound.layers[layer]
            keep(module.register_forward_hook(self._watch(layer, "block"), with_kwargs=True))
        needed = self._signals()
        self._handles += bound.watch_vision(needed, self._see)

    def remove(self) -> None:
        """Take every hook away and forget all tensors."""
        while self._handles:
            self._handles.pop().remove()
        self.state = self.vision = None

    def _signals(self) -> frozenset[str]:
        readers = [c.readable() for _, cut in self.cuts.values() for c in cut.stage.components()]
        return frozenset().union(*readers) & self.bound.provides

    def _boundaries_reading(self, signal: str) -> set[int]:
        return {
            at
            for at, (_, cut) in self.cuts.items()
            for component in cut.stage.components()
            if signal in component.readable()
        }

    def _watched_layers(self, signal: str) -> list[int]:
        layers: set[int] = set()
        for at, (_, cut) in self.cuts.items():
            for component in cut.stage.components():
                if signal in component.readable():
                    span = component.rescaled(self._scale).history(at)
                    if span is not None:
                        layers.update(range(span[0], min(span[1], at - 1) + 1))
        return sorted(layers)

    def _scale(self, boundary: int) -> int:
        return self.pipeline.scale(boundary, self.bound.dims.layers)

    # ------------------------------------------------------------------ one forward

    def _refuse_training(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training:
            raise UnsupportedError("the model is in training mode: call model.eval() before pruning")
        if kwargs.get("labels") is not None:
            raise UnsupportedError("labels are not supported while pruning: detach to compute a loss")

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.state = None
        masks.check_backend(getattr(self.bound.decoder.config, "_attn_implementation", None))
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        check_cache(cache)
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        shaped = ids if ids is not None else embeds
        if shaped is None:
            return
        if mask is not None and (not isinstance(mask, torch.Tensor) or mask.ndim != 2):  # noqa: PLR2004
            raise UnsupportedError("pruning needs a two-dimensional attention mask [batch, tokens]")
        batch, length = int(shaped.shape[0]), int(shaped.shape[1])
        past = 0 if cache is None else int(cache.get_seq_length())
        padding = None if mask is None or bool((mask != 0).all()) else mask.bool()
        self.state = ForwardState(
            batch, length, past, cache, padding, None, Trace(notes=list(self.notes)), []
        )
        if length > 1:
            self._read_prompt(self.state, self._placeholders(ids, embeds), ids)

    def _placeholders(self, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        """``[batch, rows]`` bool: visual tokens, read off ids or placeholder embeddings."""
        wanted = self.bound.placeholder_ids
        if ids is not None:
            return torch.isin(ids, torch.tensor(wanted, device=ids.device))
        assert embeds is not None
        table = self.bound.model.get_input_embeddings()
        known = table(torch.tensor(wanted, device=embeds.device)).to(embeds.dtype)
        return (embeds[:, :, None] == known).all(dim=-1).any(dim=-1)

    def _read_prompt(self, state: ForwardState, visual: Tensor, ids: Tensor | None) -> None:
        flags = visual.cpu()
        real = None if state.new_padding is None else state.new_padding.cpu()
        if real is not None:
            flags = flags & real
        if not bool(flags.any()):
            return
        layout = read_layout(
            flags.tolist(), None if real is None else real.tolist(), self.bound.split_run
        )
        state.layout = layout
        state.origin = torch.where(visual, visual.long().cumsum(dim=1) - 1, -1)
        if state.new_padding is not None:
            shown = visual & state.new_padding
            state.origin = torch.where(shown, shown.long().cumsum(dim=1) - 1, -1)
        state.keys = prompt_keys(ids, real, state.batch, self.seed)
        for block in layout.blocks():
            state.original[block.sample, block.image] = block.length
            state.targets[block.sample, block.image] = self.schedule.counts(block.length)
        samples = range(state.batch)
        state.trace.visual_tokens = [layout.visual(sample) for sample in samples]
        state.trace.text_tokens = [layout.text(sample) for sample in samples]

    def _positions(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        state = self.state
        if state is None:
            return
        ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if ids is not None:
            axes = ids[None] if ids.ndim == 2 else ids  # noqa: PLR2004 - [batch, rows]
            state.positions = axes.expand(-1, state.batch, -1)

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        state, self.state = self.state, None
        if state is None:
            return
        if state.layout is None:
            if state.past == 0 and output is not None:  # a new prompt without images
                state.trace.visual_tokens = [0] * state.batch
                self.trace = state.trace
            return
        self.vision = None
        if output is None:  # the forward raised
            return
        for message, wrong in state.checks:
            if bool(wrong):
                raise PluginError(message)
        self.trace = state.trace
        self._finish_trace(state)

    def _finish_trace(self, state: ForwardState) -> None:
        trace, depth = state.trace, self.bound.dims.layers
        for sample in range(state.batch):
            alive, layers = trace.visual_tokens[sample], []
            stages = {stage.boundary: stage.after[sample] for stage in trace.stages}
            for layer in range(depth):
                alive = stages.get(layer, alive)
                layers.append(alive)
            trace.per_layer.append(layers)

    def _restore_length(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> None:
        """Give the caller one row per input token back; rows of dropped tokens are zero."""
        state = self.state
        if state is None or state.columns is None:
            return
        hidden = output.last_hidden_state
        columns = state.columns.to(hidden.device)
        if state.layout is not None and state.layout.ragged():
            assert state.valid is not None
            hidden = hidden * state.valid.to(hidden.device)[..., None]
        full = hidden.new_zeros(hidden.shape[0], state.length, hidden.shape[2])
        index = columns[..., None].expand(*columns.shape, hidden.shape[2])
        output.last_hidden_state = full.scatter_(1, index, hidden)

    def _see(self, record: VisionRecord) -> None:
        self.vision = record

    # ------------------------------------------------------------------ one layer

    def _before_layer(self, index: int, *, remember: bool) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            state = self.state
            if state is None:
                return None
            rest = dict(kwargs)
            hidden = args[0] if args else rest.pop("hidden_states")
            cache = rest.get("past_key_values")
            if cache is not state.cache:  # the decoder made one
                check_cache(cache)
                state.cache = cache
            original = rest["position_embeddings"]
            if state.layout is not None and index in self.cuts:
                hidden = self._cut(state, index, hidden, original)
            self._substitute(state, index, hidden, rest)
            if remember and state.layout is not None:
                state.previous = LayerInput(index, hidden, *rest["position_embeddings"])
            return (hidden, *args[1:]), rest

        return hook

    def _cut(
        self, state: ForwardState, index: int, hidden: Tensor, original: Embeddings
    ) -> Tensor:
        number, cut = self.cuts[index]
        layout = state.layout
        assert layout is not None and state.origin is not None
        before = [layout.visual(sample) for sample in range(state.batch)]
        groups = Groups.of(layout, cut.stage.scope, hidden.device)
        targets = {key: counts[number] for key, counts in state.targets.items()}
        board = SignalBoard(
            self.bound, state, groups, index, hidden,
            lambda: self._embeddings(state, index, hidden, original), self.vision,
        )  # fmt: skip
        with torch.no_grad():
            reduction = decide(cut, self._scale, board, layout, targets, state.checks)
        if reduction is not None:
            hidden = self._apply(state, index, reduction, hidden)
        else:
            state.trace.notes.append(
                f"boundary {cut.at} removes nothing: its budget ({cut.budget}) is not below the "
                f"tokens of any image"
            )
        layout = state.layout
        after = [layout.visual(sample) for sample in range(state.batch)]
        state.trace.stages.append(
            StageTrace(cut.at, cut.written_at, before, after, state.origin)
        )
        return hidden

    def _apply(
        self, state: ForwardState, index: int, reduction: Reduction, hidden: Tensor
    ) -> Tensor:
        """Carry every per-row tensor of the forward over to the surviving rows."""
        assert state.origin is not None and state.layout is not None
        rows = torch.arange(state.layout.length, device=hidden.device)[None]
        now = state.columns if state.columns is not None else rows.expand(state.batch, -1)
        state.columns = reduction.rows(now)
        padding = state.valid if state.lineage else state.new_padding
        kept = None if padding is None else reduction.rows(padding)
        if reduction.valid is not None:
            kept = reduction.valid if kept is None else kept & reduction.valid
        state.valid = kept
        state.origin = reduction.rows(reduction.relabel(state.origin))
        if kept is not None and reduction.layout.ragged():
            state.origin = state.origin.masked_fill(~kept.to(state.origin.device), -1)
        for seen in state.transitions:
            seen.rows = reduction.rows(seen.rows)
        changed = [
            reduction.layout.used(sample) != state.layout.used(sample)
            for sample in range(state.batch)
        ]
        lost = on_device(changed, hidden.device)
        state.removed = lost if state.removed is None else state.removed | lost
        state.lineage = (*state.lineage, (state.past, index))
        state.layout = reduction.layout
        return reduction.hidden(hidden)

    def _substitute(
        self, state: ForwardState, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Replace what the model computed for all tokens by what holds for the rows here."""
        cache = state.cache
        stored = None if cache is None else cache_layer(cache, index)
        if state.columns is None and not isinstance(stored, ReducedLayer):
            return
        if stored is not None and not isinstance(stored, ReducedLayer):
            stored = cache.layers[index] = ReducedLayer.take_over(stored, state.past_padding)
        valid = state.valid if state.columns is not None else state.new_padding
        past = 0 if stored is None else stored.rows
        key = (stored.lineage if stored is not None else (), state.lineage, str(hidden.device))
        if key not in state.substitutes:
            old = None if stored is None else stored.valid
            rows = hidden.shape[1]
            real = masks.join_valid(old, valid, state.batch, past, rows, hidden.device)
            backend = self.bound.decoder.config._attn_implementation
            mask = masks.layer_mask(backend, real, state.batch, rows, past + rows, hidden)
            embeddings = self._embeddings(state, index, hidden, kwargs["position_embeddings"])
            state.substitutes[key] = (mask, embeddings, self._shift(state, stored))
        mask, embeddings, shift = state.substitutes[key]
        kwargs.update(attention_mask=mask, position_embeddings=embeddings, position_ids=None)
        if stored is not None:
            stored.arm(state.length, valid)
            stored.shift = shift
            stored.lineage = (*stored.lineage, *state.lineage)

    def _embeddings(
        self, state: ForwardState, index: int, hidden: Tensor, original: Embeddings
    ) -> Embeddings:
        """Rotary embeddings of today's rows."""
        shift = self._stored_shift(state, index)
        if state.columns is None and shift is None:
            return original
        if not self.reindex or (state.removed is None and shift is None):
            assert state.columns is not None or not self.reindex
            return self._gathered(state, original)
        ids = self._current_ids(state, shift).to(hidden.device)
        cos, sin = self.bound.rotary.forward(hidden, ids if self.bound.mrope else ids[0])
        return cos, sin

    def _gathered(self, state: ForwardState, original: Embeddings) -> Embeddings:
        if state.columns is None:
            return original
        columns = state.columns.to(original[0].device)
        cos, sin = (
            part.expand(state.batch, -1, -1).gather(
                1, columns[..., None].expand(*columns.shape, part.shape[-1])
            )
            for part in original
        )
        return cos, sin

    def _current_ids(self, state: ForwardState, shift: Tensor | None) -> Tensor:
        """``[axes, batch, rows]`` ids of today's rows under the reindex policy."""
        ids = self._model_ids(state)
        if state.columns is not None:
            columns = state.columns.to(ids.device)
            ids = ids.gather(2, columns[None].expand(ids.shape[0], -1, -1))
        if state.removed is None:  # every decode step: ids only follow what earlier turns removed
            return ids if shift is None else ids - shift.to(ids.device)[:, None]
        valid = state.valid if state.columns is not None else state.new_padding
        return reindexed(
            ids,
            None if valid is None else valid.to(ids.device),
            state.removed.to(ids.device),
            None if shift is None else shift.to(ids.device),
        )

    def _model_ids(self, state: ForwardState) -> Tensor:
        if state.positions is None:
            raise UnsupportedError("the decoder made no rotary positions: cannot reindex")
        return state.positions

    def _stored_shift(self, state: ForwardState, index: int) -> Tensor | None:
        cache = state.cache
        if cache is None or index >= len(cache.layers):
            return None
        shift: Tensor | None = getattr(cache.layers[index], "shift", None)
        return shift

    def _shift(self, state: ForwardState, stored: ReducedLayer | None) -> Tensor | None:
        """What ids of later tokens have to move by in this layer."""
        before = None if stored is None else stored.shift
        if not self.reindex or state.columns is None:
            return before
        full, padding = self._model_ids(state), state.new_padding
        real = None if padding is None else padding.to(full.device)
        now = None if state.valid is None else state.valid.to(full.device)
        return next_shift(full, real, self._current_ids(state, before), now)

    # ------------------------------------------------------------------ transitions

    def _watch(self, layer: int, module: Module) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            state = self.state
            if state is None or state.layout is None:
                return
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            with torch.no_grad():
                magnitude, cosine = change(before, after)
            rows = torch.arange(before.shape[1], device=before.device)
            valid = state.valid if state.columns is not None else state.new_padding
            real = torch.ones_like(magnitude, dtype=torch.bool) if valid is None else valid
            state.transitions.append(
                RecordedTransition(
                    layer, module, magnitude, cosine, real.to(before.device),
                    rows.expand(state.batch, -1),
                )
            )  # fmt: skip

        return hook


def change(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Change of length and direction, each ``[batch, rows]``: ``|after| / |before|``, cosine."""
    before, after = at_least_float32(before), at_least_float32(after)
    length_before, length_after = before.norm(dim=-1), after.norm(dim=-1)
    tiny = torch.finfo(before.dtype).tiny
    cosine = (before * after).sum(dim=-1) / (length_before * length_after).clamp(min=tiny)
    return length_after / length_before.clamp(min=tiny), cosine


def prompt_keys(ids: Tensor | None, real: Tensor | None, batch: int, seed: int) -> list[int]:
    """One integer per sample from its unpadded prompt and the seed."""
    if ids is None:
        return [zlib.crc32(str(seed).encode())] * batch
    rows = ids.tolist()
    keep = [[True] * len(row) for row in rows] if real is None else real.tolist()
    return [
        zlib.crc32(repr((seed, [t for t, r in zip(row, flags, strict=True) if r])).encode())
        for row, flags in zip(rows, keep, strict=True)
    ]


__all__ = ["Engine", "Layout", "change", "prompt_keys"]
