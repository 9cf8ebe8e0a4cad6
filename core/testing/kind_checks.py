"""Checks of what each kind of component promises: scores, masks, merged tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from tokensieve.core.contract.answers import INTEGERS, NUMBERS, counted, described, fits
from tokensieve.core.contract.components import Merged
from tokensieve.core.gate.mergers import SIZES as SIZE_TYPES
from tokensieve.core.gate.mergers import flaw_of_split
from tokensieve.core.testing.behavior_checks import BEHAVIOR_CHECKS, DETERMINISTIC, RUNS
from tokensieve.core.testing.calls import SPACES, available, selected, selector_counts, splits
from tokensieve.core.testing.checks import Check, check_each
from tokensieve.core.testing.class_checks import CLASS_CHECKS, DOCUMENTED, REGISTERS
from tokensieve.core.testing.synthetic import HALF_TYPES
from tokensieve.core.testing.trials import Case, Trial, require

SIZES = (1, 2, 3, 4, 9, 25)


def _fits(answer: object, shape: tuple[int, ...], types: Sequence[str], case: Case) -> bool:
    """Whether it is a plain tensor of that shape, of one of the types, on the case's device."""
    return fits(answer, shape, types, case.batch.valid.device)


def score_shape(trial: Trial) -> None:
    """it returns one number per token, `[batch, tokens]`, on the device of its inputs"""
    for case in trial.cases():
        shape, answer = tuple(case.batch.valid.shape), case.answer()
        wrong = f"returns {described(answer)}, expected [batch, tokens] = {shape} ({case})"
        require(_fits(answer, shape, NUMBERS, case), wrong)


def finite(trial: Trial) -> None:
    """the scores of all real tokens are finite, also where all tokens are alike"""
    for case in trial.cases():
        wrong = ~case.outcome()["scores"].isfinite()
        image, token = (wrong.nonzero().tolist() or [[0, 0]])[0]
        require(not wrong.any(), f"image {image}, token {token}: NaN or infinite ({case})")


def mask_shape(trial: Trial) -> None:
    """it returns a bool `[batch, tokens]`, on the device of its inputs"""
    for case in trial.cases():
        shape, answer = tuple(case.batch.valid.shape), case.answer()
        good = _fits(answer, shape, ["bool"], case)
        require(good, f"returns {described(answer)}, expected bool {shape} ({case})")


def count(trial: Trial) -> None:
    """it takes exactly as many as asked; adaptive ones at most as many, and at least one"""
    for case in trial.cases():
        taken = case.outcome()["kept"].sum(dim=1).tolist()
        wanted = selector_counts(case.batch, case.share)
        for image, (got, asked) in enumerate(zip(taken, wanted, strict=True)):
            least = min(asked, 1) if trial.component.adaptive_count else asked
            require(
                least <= got <= asked,
                f"takes {got} tokens of image {image} where {asked} are asked for ({case})",
            )


def available_only(trial: Trial) -> None:
    """it takes no padding, and no token that is not available"""
    for case in trial.cases():
        wrong = case.answer() & ~available(case.batch)
        require(not wrong.any(), f"takes {int(wrong.sum())} tokens that are not available ({case})")


def ties_by_lowest_index(trial: Trial) -> None:
    """of equally important tokens it takes the first ones, unless it looks at more than scores"""
    if trial.readable or len(trial.readers) > 1 or trial.component.positional():
        return
    for case in trial.cases():
        if _draws_by_key(case):
            return
        kept, may = case.outcome()["kept"], available(case.batch)
        scores = case.batch.tensors["scores"]
        tied = (scores[:, :, None] == scores[:, None, :]) & may[:, :, None] & may[:, None, :]
        skipped = (tied & ~kept[:, :, None] & kept[:, None, :]).triu(diagonal=1)
        image, first, later = (skipped.nonzero().tolist() or [[0, 0, 0]])[0]
        message = f"image {image}: takes token {later} but not {first}, as important ({case})"
        require(not skipped.any(), message)


def _draws_by_key(case: Case) -> bool:
    """Whether it samples: seeded by the prompt's key, it owes ties nothing."""
    other = replace(case.batch, keys=tuple(key + 1 for key in case.batch.keys))
    return not torch.equal(case.outcome()["kept"], case.outcome(other)["kept"])


def order_of_selection(trial: Trial) -> None:
    """take_in_order returns integers, above 0 where `select` is true; no batch changes the order"""
    for case in trial.cases():
        turns, kept = case.turns(), case.outcome()["kept"] & available(case.batch)
        shape = tuple(kept.shape)
        good = _fits(turns, shape, INTEGERS, case)
        wrong = f"take_in_order returns {described(turns)}, expected integers {shape} ({case})"
        require(good, wrong)
        same_tokens = torch.equal((turns > 0) & available(case.batch), kept)
        require(same_tokens, f"take_in_order takes other tokens than select ({case})")
        order = counted(turns, kept)
        for image in range(len(kept)):
            alone, mine = case.turns(case.batch.row(image)), kept[image : image + 1]
            if torch.equal((alone > 0) & mine, mine):  # else the choice depends on it already
                own = torch.equal(counted(alone, mine), order[image : image + 1])
                wrong = f"the order of image {image} depends on the rest of the batch ({case})"
                require(own, wrong)


def split(trial: Trial) -> None:
    """split() adds up to the total: at least one selected, at most one extra token"""
    for size in SIZES:
        for total in range(1, size):
            for has_cls in (False, True):
                divided = trial.component.split(total, size, has_cls)
                flaw = flaw_of_split(divided, total)
                require(not flaw, f"split({total}, {size}, {has_cls}) is {divided}: {flaw}")


def merged_shape(trial: Trial) -> None:
    """it returns Merged: bool targets, vectors of its space, sizes, a promised extra token"""
    types = (torch.float32, *HALF_TYPES)
    for case in (case.changed(dtype=dtype) for case in trial.cases() for dtype in types):
        answer, batch = case.answer(), case.batch
        require(isinstance(answer, Merged), f"returns {described(answer)}, expected a Merged")
        divided = splits(trial.component, batch, case.share, True)
        like = batch.tensors[SPACES[trial.component.space]]
        dtype, shape, dim = like.dtype, tuple(batch.valid.shape), like.shape[-1]
        wanted = [
            ("targets", answer.targets, torch.bool, shape),
            ("vectors", answer.vectors, dtype, (*shape, dim)),
        ]
        if any(part.extra for part in divided):
            wanted.append(("extra", answer.extra, dtype, (shape[0], 1, dim)))
        for name, value, kind, size in wanted:
            word = str(kind).removeprefix("torch.")
            expected, good = f"{word} {size}", _fits(value, size, [word], case)
            require(good, f"{name}: {described(value)}, expected {expected} ({case})")
        good = _fits(answer.sizes, shape, SIZE_TYPES, case)
        require(good, f"sizes: {described(answer.sizes)}, expected {shape} ({case})")


def target_count(trial: Trial) -> None:
    """besides selected tokens, exactly as many others live on as asked"""
    for case in trial.cases():
        divided = splits(trial.component, case.batch, case.share, True)
        wanted, kept = [part.merged for part in divided], selected(case.batch, divided)
        others = case.outcome()["targets"] & ~kept & case.batch.valid
        got = others.sum(dim=1).tolist()
        require(got == wanted, f"{got} others live on where {wanted} are asked for ({case})")


def real_targets(trial: Trial) -> None:
    """targets are real tokens, and each stands for at least one"""
    for case in trial.cases():
        outcome = case.outcome()
        wrong = outcome["targets"] & ~case.batch.valid
        require(not wrong.any(), f"{int(wrong.sum())} targets are padding ({case})")
        small = outcome["targets"] & ~(outcome["sizes"] >= 1)
        require(not small.any(), f"{int(small.sum())} targets have a size below 1 ({case})")


def finite_vectors(trial: Trial) -> None:
    """merged vectors are finite, also where all tokens are alike"""
    for case in trial.cases():
        wrong = ~case.outcome()["vectors"].isfinite()
        require(not wrong.any(), f"{int(wrong.sum())} values are NaN or infinite ({case})")


def _each(*functions: Callable[[Trial], None]) -> tuple[Check, ...]:
    return tuple(check_each(function) for function in functions)


CHECKS: dict[str, tuple[Check, ...]] = {
    "scorer": (
        *CLASS_CHECKS,
        RUNS,
        check_each(score_shape, gate=True),
        DETERMINISTIC,
        *_each(finite),
        *BEHAVIOR_CHECKS,
    ),
    "selector": (
        *CLASS_CHECKS,
        RUNS,
        check_each(mask_shape, gate=True),
        DETERMINISTIC,
        check_each(order_of_selection, gate=True),
        *_each(count, available_only, ties_by_lowest_index),
        *BEHAVIOR_CHECKS,
    ),
    "merger": (
        *CLASS_CHECKS,
        check_each(split, gate=True),
        RUNS,
        check_each(merged_shape, gate=True),
        DETERMINISTIC,
        *_each(target_count, real_targets, finite_vectors),
        *BEHAVIOR_CHECKS,
    ),
    "adapter": (REGISTERS, DOCUMENTED),
}
"""The checks of each kind of component, in the order in which they run."""
