"""Nothing is lost by a signal: one line and its exit code, whatever libraries make of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
from command_line import Call

from tokensieve.core.cli import run as run_command


def stop_here(number: int) -> None:
    os.kill(os.getpid(), number)


def swallowed(number: int) -> None:
    try:
        stop_here(number)
    except BaseException:
        pass


def turned(number: int) -> None:
    try:
        stop_here(number)
    except BaseException:
        raise ImportError("failed to import") from None


def talkative(number: int) -> None:
    try:
        stop_here(number)
    finally:
        print("Exception ignored in: <module>", file=sys.stderr)


def leaving(number: int) -> None:
    try:
        stop_here(number)
    except KeyboardInterrupt:
        sys.exit(0)


MANNERS = [stop_here, swallowed, turned, talkative, leaving]
MOMENTS = {
    "plugins": (["list"], "tokensieve.core.cli.catalog.open_registry"),
    "reading": (["validate", "none"], "tokensieve.core.cli.files.load_pipeline"),
    "config": (["show", "fastv", "--model", "tiny-llava"], "tokensieve.core.cli.show.load_config"),
    "model": (["run"], "tokensieve.core.cli.run.load_model"),
    "planning": (["study", "quick", "--dry-run"], "tokensieve.core.study.plan.cells.plan"),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.__name__)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_is_one_line_whatever_libraries_make_of_it(
    moment: str,
    manner: Callable[[int], None],
    number: signal.Signals,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, place = MOMENTS[moment]
    module, _, name = place.rpartition(".")
    inside = getattr(__import__(module, fromlist=[name]), name)

    def interrupted(*given: Any, **options: Any) -> Any:
        manner(number)
        return inside(*given, **options)

    monkeypatch.setattr(place, interrupted)
    if moment == "model":
        monkeypatch.setattr(run_command, "compare", lambda *_, **__: sys.exit(0))
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    result = call(*arguments)
    assert result.code == 128 + number
    assert result.err == "stopped\n"
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert before == after


def test_ctrl_c_without_a_signal_is_the_same(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokensieve.core.cli.files.load_pipeline", interrupt)
    result = call("validate", "none")
    assert (result.code, result.err) == (130, "stopped\n")
