"""Start and end of the program: signals, streams, exit codes, errors in one line.

Light to import, and it listens before it imports the commands: Ctrl-C finds it from the start.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from tokensieve.core.cli.exit_codes import FAILED, INTERRUPTED, USER_ERROR
from tokensieve.core.errors import TokensieveError
from tokensieve.core.output import stopping, streams

NAME = "tokensieve"


def program() -> NoReturn:
    """The console entry point: :func:`main` in a process of its own."""
    streams.fill_gaps()
    main(alone=True)


def main(*, alone: bool = False) -> NoReturn:
    """Run the command in ``sys.argv``.

    Raises:
        SystemExit: always, with 0; 1 if part of the work failed; 2 if the input is wrong; 130
            after Ctrl-C. ``alone`` leaves at once when stopped, whatever else still runs.
    """
    with streams.guarded() as errors, stopping.listening(errors) as stop:
        if alone:
            stopping.end_in_time()
        try:
            code = _code(stop)
        except KeyboardInterrupt:  # while another error was on its way
            code = stop.code
        if stop.number and alone:
            stop.exit()
    raise SystemExit(code)


def _code(stop: stopping.Stop) -> int:
    """The exit code of the command; an error of it is told in one line."""
    try:
        stop.armed = True
        code = stop.code if stop.number else _run()
        sys.stdout.flush()
        stop.armed = False
    except BaseException as error:
        stop.armed = False
        code = FAILED if stop.number else _tell(error)
    if stop.number or code == INTERRUPTED:
        stop.say()
        return stop.code
    return code


def _run() -> int:
    """Run the command without typer's own handling of errors; its exit code."""
    try:
        os.getcwd()
    except OSError:
        raise TokensieveError(
            "the current folder does not exist any more: change to another one"
        ) from None
    from typer.main import get_command

    from tokensieve.core.cli.app import app

    command = get_command(app)
    try:
        with command.make_context(NAME, sys.argv[1:]) as context:
            command.invoke(context)
    except Exception as error:
        if type(error).__name__ == "Exit":  # of click, or of the copy of it within typer
            return int(getattr(error, "exit_code", 0))
        raise
    return 0


def _tell(error: BaseException) -> int:
    """Tell an error in one line; its exit code."""
    from tokensieve.core.foreign import shorten
    from tokensieve.core.output.terminal import LONGEST, complain, warn

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, TokensieveError):
        complain(error)
        return USER_ERROR
    usage: Any = error  # of click, or of the copy of it within typer: they share no class
    if type(error).__name__ == "NoArgsIsHelpError":
        usage.show()
        return USER_ERROR
    if hasattr(error, "format_message"):  # a command line that cannot be read
        context = getattr(error, "ctx", None)
        where = f"; see {context.command_path} --help" if context is not None else ""
        text = " ".join(usage.format_message().split()).rstrip(".")
        warn(f"{shorten(text, LONGEST)}{where}")
        return int(usage.exit_code)
    from tokensieve.core.output.unforeseen import unforeseen

    warn(unforeseen(error))
    return FAILED
