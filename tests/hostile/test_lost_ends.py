"""Nothing is lost, whatever ends a command: signals, readers that go, mistakes of ours."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Call, Result, assert_harmless, clear, one_line

from tokensieve.core.cli import run as run_command
from tokensieve.core.cli import study_output
from tokensieve.core.cli.entry import main
from tokensieve.core.errors import ModelError
from tokensieve.core.output.terminal import Screen, table

LIGHT = {
    "version": ["--version"],
    "help": ["--help"],
    "list": ["list"],
    "list of one kind": ["list", "scorers"],
    "show": ["show", "fastv"],
    "costs": ["show", "fastv", "--model", "small"],
    "validate": ["validate", "fastv", "none"],
    "schema": ["schema"],
}


class Broken(io.StringIO):
    """A stream that takes ``room`` characters, or that fails when it is flushed."""

    def __init__(self, error: int, room: int, at_flush: bool) -> None:
        super().__init__()
        self.error, self.room, self.at_flush = error, room, at_flush

    def write(self, text: str) -> int:
        self.room -= len(text)
        if self.room < 0 and not self.at_flush:
            raise OSError(self.error, os.strerror(self.error))
        return super().write(text)

    def flush(self) -> None:
        if self.room < 0:
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def call_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Call the command line with a standard output of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(output: Any, *arguments: str) -> Result:
        errors = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["tokensieve", *arguments])
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as exit_:
            main()
        return Result(int(exit_.value.code or 0), "", errors.getvalue())

    return run


@pytest.mark.parametrize("at_flush", [False, True], ids=["at write", "at flush"])
@pytest.mark.parametrize("room", [0, 40])
@pytest.mark.parametrize("command", LIGHT)
def test_a_reader_that_goes_ends_nothing(
    command: str, room: int, at_flush: bool, call_into: Callable[..., Result]
) -> None:
    done = call_into(Broken(errno.EPIPE, room, at_flush), *LIGHT[command])
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EBADF], ids=errno.errorcode.get)
@pytest.mark.parametrize("at_flush", [False, True], ids=["at write", "at flush"])
@pytest.mark.parametrize("command", LIGHT)
def test_an_output_that_takes_nothing_is_one_line(
    command: str, at_flush: bool, error: int, call_into: Callable[..., Result]
) -> None:
    done = call_into(Broken(error, 3, at_flush), *LIGHT[command])
    one_line(done, "standard output cannot be written", os.strerror(error))


@pytest.mark.parametrize("name", ["caf\u00e9", "\u65e5\u672c", "\U0001f600"], ids=ascii)
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
@pytest.mark.parametrize("command", ["validate", "show", "list"])
def test_signs_that_an_encoding_lacks_are_escaped(
    command: str, encoding: str, name: str, call_into: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(f"name: {name}\nat: 2\nscore: iga\nkeep: 0.5\n", "utf-8")
    raw = io.BytesIO()
    output = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    done = call_into(output, command, *(["p.yaml"] if command != "list" else []))
    assert (done.code, done.err) == (0, "")
    output.flush()
    text = raw.getvalue().decode(encoding)
    escaped = name.encode(encoding, "backslashreplace").decode(encoding)
    assert command == "list" or escaped in text


class Terminal(io.StringIO):
    """A terminal, as far as programs ask."""

    def isatty(self) -> bool:
        return True


NUMBERS = ["12345.678", "98.7 [65.4, 99.9]", "1,234 TFLOPs"]
TABLES = {
    "one column": (["number"], []),
    "names and numbers": (["name", "a", "b"], ["name"]),
    "names on both sides": (["name", "a", "b", "why"], ["name", "why"]),
    "many": (["pipeline", *"abcdefgh"], ["pipeline"]),
}


@pytest.mark.parametrize("width", [1, 5, 10, 20, 40, 79, 200])
@pytest.mark.parametrize("shape", TABLES)
def test_no_terminal_is_too_narrow_for_a_number(width: int, shape: str) -> None:
    columns, left = TABLES[shape]
    rows = table(*columns, left=left)
    for number in NUMBERS:
        rows.add_row(*(number if column not in left else "a-long-name" for column in columns))
    stream = Terminal()
    Screen(file=stream, width=width, force_terminal=True, color_system=None).print(rows)
    shown = "".join(stream.getvalue().split())
    wanted = len(columns) - len(left)
    for number in NUMBERS:
        assert shown.count("".join(number.split())) == wanted


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"COLUMNS": "20"}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("command", ["list", "costs", "show", "validate", "version"])
def test_odd_terminals_show_all_of_it(
    command: str,
    variables: dict[str, str],
    call_into: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain_out = io.StringIO()
    call_into(plain_out, *LIGHT[command])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    done = call_into(screen, *LIGHT[command])
    assert (done.code, done.err) == (0, "")
    numbers = {word for word in plain_out.getvalue().split() if word[0].isdigit()}
    shown = "".join(screen.getvalue().split())
    assert all(number in shown for number in numbers)
    if "TERM" in variables:
        assert "\x1b" not in screen.getvalue()


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Panic(BaseException):
    """As libraries in other languages raise it."""


UNFORESEEN: dict[str, BaseException] = {
    "plain": RuntimeError("a bug"),
    "no text": RuntimeError(),
    "lines": RuntimeError("one\ntwo\nthree"),
    "escapes": ValueError("\x1b[31mred\x07 \u202eturned"),
    "half character": ValueError("\ud83d"),
    "key": KeyError("pixel_values"),
    "long": TypeError("x" * 100_000),
    "broken text": Silent(),
    "assertion": AssertionError(),
    "memory": MemoryError(),
    "recursion": RecursionError("maximum recursion depth exceeded"),
    "import": ImportError("numpy.core.multiarray failed to import"),
    "system": SystemError("error return without exception set"),
    "stop": StopIteration(3),
    "generator": GeneratorExit(),
    "panic": Panic("called `Option::unwrap()` on a `None` value"),
    "group": ExceptionGroup("several", [ValueError(1), TypeError(2)]),
    "os": OSError(errno.EMFILE, "Too many open files"),
    "end of file": EOFError(),
    "markup": RuntimeError("[red]x[/red] {braces} %s"),
}


@pytest.mark.parametrize("temporary", ["writable", "not writable"])
@pytest.mark.parametrize("case", UNFORESEEN)
def test_what_nobody_foresaw_is_one_line(
    case: str, temporary: str, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UNFORESEEN[case]

    place = tmp_path / "tmp"
    if temporary == "writable":
        place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr("tokensieve.core.cli.files.load_pipeline", fail)
    result = call("validate", "none")
    assert result.code == 1
    assert result.out == ""
    clear(result.err)
    assert type(UNFORESEEN[case]).__name__ in result.err
    assert "please report" in result.err
    assert len(result.err) < 700
    if temporary == "writable":
        (file,) = place.iterdir()
        assert str(file) in result.err
        assert "in fail" in file.read_text(encoding="utf-8")


FAILURES: dict[str, Exception] = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "memory": MemoryError(),
    "Pillow": ValueError("encoder error -2\nwhen writing image file"),
    "ours": ModelError("overlay x.png: cannot be written: No space left on device"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_report_that_fails_costs_no_result(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FAILURES[case]

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tokensieve.core.report.page.write_report", fail)
    assert study_output.report(tmp_path) is False
    shown = capsys.readouterr()
    assert shown.out == ""
    clear(shown.err)
    assert str(tmp_path) in shown.err


@pytest.mark.parametrize("as_data", [False, True], ids=["tables", "JSON"])
@pytest.mark.parametrize("case", FAILURES)
def test_run_prints_its_results_before_its_picture(
    case: str, as_data: bool, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FAILURES[case]

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(run_command, "load_model", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(run_command, "answering", lambda loaded: loaded)
    monkeypatch.setattr(run_command, "prepare", lambda *_: None)
    monkeypatch.setattr(run_command, "compare", lambda *_, **__: None)
    monkeypatch.setattr(run_command, "drawable_panels", lambda *_: [])
    monkeypatch.setattr(run_command, "as_json", lambda *_: {"answer": "42"})
    monkeypatch.setattr(run_command, "print_report", lambda *_: print("answer: 42"))
    monkeypatch.setattr(run_command, "save_overlay", fail)
    result = call("run", *(["--json"] if as_data else []))
    assert result.code == 1
    assert "42" in result.out
    assert_harmless(result.out)
    clear(result.err)
    assert "overlay" in result.err
