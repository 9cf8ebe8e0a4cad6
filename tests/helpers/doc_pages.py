"""Run the code blocks of a documentation page, in order, as a reader would.

What each kind of block means stands in ``docs/contributing.md``.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

import tokensieve
from tokensieve.core.cli.app import app
from tokensieve.core.cli.entry import main
from tokensieve.core.plugins import discovery as plugins

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# ([\w./-]+\.(?:py|yaml|toml))\n")
LANGUAGES = ("python", "yaml", "toml", "console", "bash", "text")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line in the page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is, if it is one."""
        match = FILE_NAME.match(self.text)
        return match[1] if match else None


def read_blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(match[1], match[2], text[: match.start(2)].count("\n") + 1)
        for match in FENCE.finditer(text)
    ]


class Reader:
    """A reader who follows a page in the current folder; ``put_on_path`` installs folders."""

    def __init__(self, page: Path, put_on_path: Callable[[str], None]) -> None:
        self.page = page
        self.put_on_path = put_on_path
        self.namespace: dict[str, Any] = {"__name__": "docs"}
        self.exit_code = 0

    def follow(self, block: Block) -> None:
        """Do what the block says."""
        if block.file is not None:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.text.startswith(">>>"):
            self.doctest(block)
        else:
            getattr(self, block.language)(block)

    def python(self, block: Block) -> None:
        """Run it; line numbers in errors are those of the page."""
        padded = "\n" * (block.line - 1) + block.text
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(padded, str(self.page), "exec"), self.namespace)

    def doctest(self, block: Block) -> None:
        """Compare the output of every example."""
        parser, report = doctest.DocTestParser(), io.StringIO()
        test = parser.get_doctest(block.text, {}, self.page.name, str(self.page), block.line - 1)
        test.globs = self.namespace
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        failed = runner.run(test, out=report.write, clear_globs=False).failed
        assert not failed, report.getvalue()

    def yaml(self, block: Block) -> None:
        """A pipeline that is not a file of the page has to be valid."""
        path = Path("block.yaml")
        path.write_text(block.text, encoding="utf-8")
        tokensieve.load_pipeline(path)

    def text(self, block: Block) -> None:
        """Not to be run."""

    def console(self, block: Block) -> None:
        """Run every ``$`` line and compare what it prints."""
        command, *rest = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
        assert not command, f"line {block.line}: a console block starts with $"
        for line, expected in zip(rest[::2], rest[1::2], strict=True):
            printed = f"{self.exit_code}\n" if line == "echo $?" else self.command(line)
            assert re.fullmatch(as_pattern(expected), squeezed(printed), re.DOTALL), (
                f"{self.page.name}:{block.line}: `{line}` prints\n{printed}"
            )

    def command(self, line: str) -> str:
        """Standard output and error of a tokensieve command."""
        program, *arguments = shlex.split(line)
        assert program == "tokensieve", line
        output, before = io.StringIO(), sys.argv
        sys.argv = [program, *arguments]
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                main()
        except SystemExit as end:
            self.exit_code = int(end.code or 0)
        finally:
            sys.argv = before
        return output.getvalue()

    def bash(self, block: Block) -> None:
        """Copy files and install folders of the page; look at commands, but do not run them."""
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cp"]:
                shutil.copy(words[1], words[2])
            elif (
                words[:3] == ["pip", "install", "-e"]
                and (Path(words[3]) / "pyproject.toml").exists()
            ):
                self.install(Path(words[3]).resolve())
            elif words[:1] == ["tokensieve"]:
                check_options(words[1:])

    def install(self, folder: Path) -> None:
        """What an editable install leaves behind: the folder on the path, and metadata."""
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        stem = project["name"].replace("-", "_")
        info = folder / "site" / f"{stem}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        name, version = project["name"], project["version"]
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = project["entry-points"].items()
        lines = [f"[{group}]\n{k} = {v}" for group, named in groups for k, v in named.items()]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        self.put_on_path(str(folder))
        self.put_on_path(str(info.parent))
        forget_plugins()


def forget_plugins() -> None:
    """Discover plugins again, as a new process would."""
    plugins._build.cache_clear()


def squeezed(text: str) -> str:
    """The text without what only aligns columns."""
    return "\n".join(re.sub(r" +", " ", line).strip() for line in text.splitlines())


def as_pattern(expected: str) -> str:
    """Expected output in which ``...`` stands for anything."""
    return ".*".join(re.escape(part) for part in re.split(r"\s*\.{3}\s*", squeezed(expected)))


def check_options(words: list[str]) -> None:
    """Refuse a command line that names a command or an option that is not there."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {option for parameter in commands[words[0]].params for option in parameter.opts}
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    assert given <= known, f"unknown options {given - known} in {words}"
