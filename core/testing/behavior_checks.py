"""Checks that hold for scorers, selectors and mergers alike: what they read, and invariances."""

from __future__ import annotations

import random

import torch

from tokensieve.core.blame import by_user
from tokensieve.core.contract.signals import HISTORY_SIGNALS, SIGNALS
from tokensieve.core.errors import SignalError
from tokensieve.core.testing.batch import Record, same
from tokensieve.core.testing.calls import difference
from tokensieve.core.testing.checks import check_each, explained
from tokensieve.core.testing.synthetic import HALF_TYPES
from tokensieve.core.testing.trials import CheckFailed, Trial, require


def runs(trial: Trial) -> None:
    """it runs: ragged batch, equal tokens, one token, every boundary, after an earlier prune"""
    for case in trial.cases():
        try:
            case.answer()
        except BaseException as error:  # whatever it raises, say in which case
            if by_user(error):
                raise
            raise CheckFailed(f"{explained(error, trial.tested.cls)} ({case})") from error


def deterministic(trial: Trial) -> None:
    """the same input gives the same result, whatever ran before; global random state untouched"""
    states = torch.get_rng_state(), random.getstate()
    try:
        for case in trial.cases():
            torch.manual_seed(1)
            random.seed(1)
            first = case.outcome()
            torch.manual_seed(2)
            random.seed(2)
            before = torch.get_rng_state(), random.getstate()
            case.changed(seed=case.scene.seed + 1).outcome()
            second = case.outcome()
            after = torch.get_rng_state(), random.getstate()
            equal = all(same(values, second[name]) for name, values in first.items())
            require(equal, f"two calls give different results ({case})")
            untouched = torch.equal(before[0], after[0]) and before[1] == after[1]
            require(untouched, "draws from the global random generator: use its own, seeded one")
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])


def batch_invariant(trial: Trial) -> None:
    """every image gives in a batch what it gives alone"""
    for case in trial.cases():
        whole = case.outcome()
        for number in range(len(case.scene.tokens)):
            alone = case.outcome(case.batch.row(number))
            mine = {name: values[number : number + 1] for name, values in whole.items()}
            wrong = difference(mine, alone)
            require(
                not wrong, f"{wrong} of image {number} depend on the rest of the batch ({case})"
            )


def padding_invariant(trial: Trial) -> None:
    """neither the amount of padding nor what stands in it changes the result"""
    for case in trial.cases():
        plain, width = case.outcome(), case.batch.valid.shape[1]
        for padding, garbage in ((0, 1), (5, 2)):
            padded = case.changed(padding=padding, garbage=garbage).outcome()
            cut = {name: values[:, :width] for name, values in padded.items()}
            wrong = difference(plain, cut)
            what = f"{padding} more columns of padding" if padding else "other values in padding"
            require(not wrong, f"{what} change the {wrong} ({case})")


def unchanged_inputs(trial: Trial) -> None:
    """it does not write to what it is given"""
    for case in trial.cases():
        record = Record()
        case.answer(record=record)
        changed = record.changed()
        require(not changed, f"writes to {', '.join(changed)} (in-place operation?)")


def declared_signals(trial: Trial) -> None:
    """it reads only signals that it declares in `needs` or `uses`"""
    unknown = sorted(trial.readable - SIGNALS.keys())
    require(not unknown, f"declares the unknown signal {unknown[:1]}")
    undeclared = sorted(_reads(trial) - trial.readable)
    require(
        not undeclared,
        f"reads {', '.join(undeclared)} but does not declare it: add it to `needs`, or to `uses` "
        "if it can do without",
    )


def needed_signals(trial: Trial) -> None:
    """it reads every signal that it needs; capturing one costs time, and some models lack it"""
    unread = sorted(trial.required - _reads(trial))
    require(not unread, f"needs {', '.join(unread)} but never reads it: take it out of `needs`")


def _reads(trial: Trial) -> set[str]:
    """The signals that it reads in some case."""
    record = Record()
    for case in trial.cases():
        case.answer(record=record)
        if trial.tested.kind == "selector":
            case.turns(record=record)
    return record.reads


def optional_signals(trial: Trial) -> None:
    """it works where the signals in `uses` are missing"""
    optional = trial.readable - trial.required
    for case in trial.cases():
        try:
            case.answer(hidden=optional)
        except SignalError as error:
            raise SignalError(f"cannot do without what it `uses`: {error}") from error


def declared_layers(trial: Trial) -> None:
    """transitions of layers outside history() do not change the result"""
    if not trial.readable & HISTORY_SIGNALS:
        return
    for case in trial.cases():
        layers = case.scene.layers
        if not layers:
            continue
        more = tuple(range(max(0, layers[0] - 3), case.scene.boundary))
        wrong = difference(case.outcome(), case.changed(layers=more).outcome())
        require(
            not wrong,
            f"the {wrong} depend on layers {more}, but history({case.scene.boundary}) is "
            f"{layers[0]} to {layers[-1]}: pick the transitions by their layer",
        )


def half_precision(trial: Trial) -> None:
    """bfloat16 and float16 inputs with outliers give finite results, without overflow"""
    for case in trial.cases():
        full = case.outcome()
        for dtype in HALF_TYPES:
            half = case.changed(dtype=dtype)
            for name, values in half.outcome().items():
                lost = full[name].isfinite() & ~values.isfinite()
                require(not lost.any(), f"{name} are not finite ({half}): compute in float32")


RUNS = check_each(runs, gate=True)
DETERMINISTIC = check_each(deterministic, gate=True)
BEHAVIOR_CHECKS = tuple(
    map(
        check_each,
        (
            batch_invariant,
            padding_invariant,
            unchanged_inputs,
            declared_signals,
            needed_signals,
            optional_signals,
            declared_layers,
            half_precision,
        ),
    )
)
