"""Rankings: ranks with ties, correlations of ranks, and the best of several."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tokensieve.core.report.statistics.intervals import ROUNDING, Floats


def average_ranks(values: npt.ArrayLike) -> Floats:
    """Ranks from 1, along the only axis; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[inverse]
    return ranks


def pearson(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Linear correlation; not a number if one of them is constant."""
    first, second = np.array(one, dtype=float), np.array(two, dtype=float)
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / scale if scale > 0 else math.nan


def spearman(one: npt.ArrayLike, two: npt.ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged."""
    return pearson(average_ranks(one), average_ranks(two))


def kendall_tau_b(one: npt.ArrayLike, two: npt.ArrayLike) -> Floats:
    """Kendall's tau-b along the last axis; not a number where one ranking is constant."""
    left, right = np.triu_indices(np.shape(one)[-1], k=1)
    signs = []  # [..., pairs] of the difference of every pair; rounding decides nothing
    for ranking in (one, two):
        values = np.asarray(ranking, dtype=float)
        differences = values[..., left] - values[..., right]
        signs.append(np.where(np.abs(differences) < ROUNDING, 0.0, np.sign(differences)))
    first, second = signs
    agreement = (first * second).sum(axis=-1)
    untied = np.abs(first).sum(axis=-1) * np.abs(second).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agreement / np.sqrt(untied), dtype=float)


def mean_off_diagonal(matrix: Floats) -> Floats:
    """Mean over pairs of a symmetric ``[..., n, n]``; pairs without a number are left out."""
    pairs = matrix[(..., *np.triu_indices(matrix.shape[-1], k=1))]
    known = np.isfinite(pairs)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, pairs, 0).sum(axis=-1) / known.sum(axis=-1))


def tau_matrix(table: Floats) -> Floats:
    """Tau-b between the rows of ``[..., rows, methods]``: ``[..., rows, rows]``."""
    return kendall_tau_b(table[..., :, None, :], table[..., None, :, :])


def leave_one_out_choice(table: Floats, held_out: int) -> int:
    """The column that is best on average over the other rows; ties go to the first."""
    return int(first_best(np.delete(table, held_out, axis=0).mean(axis=0)))


def first_best(values: Floats) -> npt.NDArray[np.intp]:
    """``[columns, ...]`` -> ``[...]`` the first column that is best.

    Means of the same answers can differ in the last bits (0.87 and 0.8699999999999999), depending
    on the order in which they were added: they are equal.
    """
    return np.asarray((values >= values.max(axis=0) - ROUNDING).argmax(axis=0))
