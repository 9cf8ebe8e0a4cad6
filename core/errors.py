"""Errors that are the user's to fix. The command line prints them in one line, exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TokensieveError(Exception):
    """Something the caller can fix; the message says what, where and what to do."""


class PipelineError(TokensieveError):
    """A pipeline description is wrong; each of the ``problems`` is a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PluginError(TokensieveError):
    """A plugin could not be loaded or breaks the contract."""


class ModelError(TokensieveError):
    """A model, its files, or what it is asked about cannot be used."""


class AttachError(TokensieveError):
    """A pipeline cannot run on this model."""


class BudgetError(AttachError):
    """A pipeline cannot meet its budget on this image, whatever it drops."""


class TaskError(TokensieveError):
    """A task, or the file it reads, cannot be used."""


class StudyError(TokensieveError):
    """A study, or the folder that holds its results, cannot be used."""


class UnsupportedError(TokensieveError):
    """A call uses a feature that pruning does not support."""


class GuardError(UnsupportedError):
    """A forward did not run as pruning needs it; its answer would not be the pruned model's."""


class SignalError(TokensieveError):
    """A component reads a signal that it did not declare or that is not there."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """``(did you mean 'x'?) allowed: a, b`` for an unknown ``word``."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}, allowed: {', '.join(names) or 'none'}"
