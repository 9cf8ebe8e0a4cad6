"""Options that a study's file may give Slurm jobs: where and how large, and nothing that runs.

submitit takes further options, some of which are commands. They are for the command line of the
person who runs the study: ``--slurm KEY=VALUE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokensieve.core.errors import StudyError, did_you_mean
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.foreign import shown
from tokensieve.core.pipeline.fields import located

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}"
_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,3}):([0-5]\d):([0-5]\d)\Z", re.ASCII)
MOST_MINUTES = 366 * 24 * 60


@dataclass(frozen=True)
class Option:
    """An option by submitit's name, what it may be, and how that is said."""

    parameter: str
    allowed: str
    pattern: str = ""
    most: int = 0


OPTIONS = {
    "partition": Option("slurm_partition", "a name", rf"{_NAME}(,{_NAME})*"),
    "time": Option("timeout_min", "minutes, or HH:MM:SS", most=MOST_MINUTES),
    "cpus": Option("cpus_per_task", "1 to 1024", most=1024),
    "memory": Option("slurm_mem", "a size such as 64G", r"[1-9]\d{0,6}[KMGT]"),
    "gpus": Option("gpus_per_node", "0 to 64", most=64),
    "account": Option("slurm_account", "a name", _NAME),
    "qos": Option("slurm_qos", "a name", _NAME),
    "constraint": Option("slurm_constraint", "names with & or |", rf"{_NAME}([&|]{_NAME})*"),
}


def read_slurm(given: object) -> dict[str, int | str]:
    """The options of a study's file, as submitit's parameters.

    Raises:
        PydanticCustomError: with the place: another option, or a value that is not plain.
    """
    if not isinstance(given, Mapping):
        raise located(f"a mapping of {', '.join(OPTIONS)}, not {shown(given)}", ())
    found: dict[str, int | str] = {}
    for key, value in given.items():
        if key not in OPTIONS:
            hint = did_you_mean(str(key), OPTIONS)
            message = f"unknown option{hint}; others only by `--slurm KEY=VALUE`"
            raise located(message, (key,), at_key=True)
        plain = _plain(key, value)
        if plain is None:
            raise located(f"{shown(value)}, allowed: {OPTIONS[key].allowed}", (key,))
        found[OPTIONS[key].parameter] = plain
    return found


def _plain(key: str, value: object) -> int | str | None:
    """The value for submitit; None if it is not one that is allowed."""
    option = OPTIONS[key]
    clock = _CLOCK.match(value) if key == "time" and isinstance(value, str) else None
    if clock is not None:  # whole minutes; parts of one are rounded up
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        value = (days * 24 + hours) * 60 + minutes + (seconds > 0)
    if option.most:
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        return value if (key != "gpus") <= value <= option.most else None
    fits = isinstance(value, str) and re.fullmatch(option.pattern, value, re.ASCII)
    return str(value) if fits else None


def read_parameters(given: Iterable[str]) -> dict[str, object]:
    """``KEY=VALUE`` of the command line: options of a study's file, or submitit's own parameters.

    Raises:
        StudyError: it is not of that form.
    """
    found: dict[str, object] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (equals and key.isidentifier()):
            raise StudyError(f"--slurm {shown(text)}: allowed: KEY=VALUE, such as time=120")
        plain = parse_yaml(value, f"--slurm {key}").data if value.strip() else ""
        if key in OPTIONS:
            known = _plain(key, plain)
            if known is None:
                raise StudyError(f"--slurm {shown(text)}: allowed: {OPTIONS[key].allowed}")
            found[OPTIONS[key].parameter] = known
        else:
            found[key] = plain
    return found
