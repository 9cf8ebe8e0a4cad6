"""Ctrl-C and SIGTERM: a line at once, an orderly end, and soon an end in any case.

A library may swallow ``KeyboardInterrupt`` while it is imported, and a thread may keep the program
from ending. So a signal is noted here first; what then follows is only given a moment. Results are
written whole as they come: an end at any moment loses none.

Light to import: the program listens before it imports anything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

PATIENCE = 1.2  # seconds for an orderly end
BASE = 128  # exit codes as shells count them: 130 after Ctrl-C, 143 after SIGTERM
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
TWICE = 0.3  # seconds within which a signal is the same one, passed on by somebody
GLANCES, GLANCE = 40, 0.01  # at what was started: how often, and seconds between
CLEAN = "\r\x1b[2K\x1b[?25h"  # takes a bar's line away and brings the cursor back


class Output(Protocol):
    """A stream that takes one more line, and then nothing."""

    def last_word(self, line: str, clean: str) -> None:
        """Write ``line``, after ``clean`` if it is a terminal."""


class Stop:
    """A stop that somebody may ask for: whether it was asked for, and the line that is said then.

    Attributes:
        number: of the signal; 0 as long as there was none.
        advice: what people should know, after ``stopped``.
        armed: somebody catches ``KeyboardInterrupt``; else a signal is only noted.
        may_exit: the process is all ours.
        ending: nothing is left to be done.
        output: where the line goes, and what is muted after it.
    """

    def __init__(self) -> None:
        self.reset(None)

    def reset(self, output: Output | None) -> None:
        """Forget any signal."""
        self.number, self.when, self.advice = 0, 0.0, ""
        self.said = self.ending = self.may_exit = self.armed = False
        self.output = output

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the second one, and one at the very end, are not waited for."""
        now, first = time.monotonic(), not self.number
        self.number = self.number or number
        self.say()
        if self.may_exit and (self.ending or (not first and now - self.when > TWICE)):
            self.exit()
        if first:
            self.when = now
            if self.armed:
                raise KeyboardInterrupt

    def say(self) -> None:
        """Write the one line; whatever libraries say afterwards is kept from the screen."""
        if self.said:
            return
        self.said = True
        line = f"stopped; {self.advice}\n" if self.advice else "stopped\n"
        if self.output is not None:
            self.output.last_word(line, CLEAN)

    def exit(self) -> NoReturn:
        """End this process now, and every process that it started."""
        self.say()
        end_children()
        os._exit(self.code)

    @property
    def code(self) -> int:
        """The exit code."""
        return BASE + (self.number or signal.SIGINT)

    def watch(self, reader: int) -> None:
        """Wait for a signal, which arrives here even while the main thread is busy in C."""
        while byte := os.read(reader, 1):
            if byte[0] in _numbers():
                time.sleep(PATIENCE)
                self.number = self.number or byte[0]
                self.exit()


STOP = Stop()
"""One for the process: signals are the process's."""


def advise(text: str) -> None:
    """Say this too if the program is stopped from now on."""
    STOP.advice = text


def _numbers() -> list[int]:
    return [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]


@contextmanager
def listening(output: Output) -> Iterator[Stop]:
    """Take signals while this lasts."""
    STOP.reset(output)
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _numbers():
            handler = signal.getsignal(number) or signal.SIG_DFL
            if number != getattr(signal, "SIGHUP", None) or handler is not signal.SIG_IGN:
                before[number] = handler  # ``nohup`` keeps SIGHUP from everybody
    for number in before:
        signal.signal(number, STOP.handle)
    try:
        yield STOP
    finally:
        STOP.ending = True
        for number, handler in before.items() if not STOP.may_exit else ():
            signal.signal(number, handler)


def end_in_time() -> None:
    """End the process a moment after any further signal, whatever it is at."""
    STOP.may_exit = True
    if sys.platform == "win32":  # pipes cannot wake anybody there
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=STOP.watch, args=(reader,), daemon=True).start()


def end_children() -> None:
    """Kill whatever this process started: nobody is left to wait for it."""
    seen: set[int] = set()
    for _ in range(GLANCES):
        found = set(filter(alive, seen.union(descendants(os.getpid()))))
        for pid in found - seen:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        seen |= found
        if not found:
            break
        time.sleep(GLANCE)
    processes = sys.modules.get("multiprocessing.process")
    for process in processes.active_children() if processes else ():  # systems without /proc
        process.kill()


def descendants(pid: int) -> list[int]:
    """Processes that ``pid`` started, and those that they did, as far as /proc tells."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text(encoding="ascii").split())
    return [*found, *(below for child in found for below in descendants(child))]


def alive(pid: int) -> bool:
    """Whether it still runs: one that has ended may wait for somebody to ask how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")
