"""Plugin files: Python files that the user names, loaded without importlib's bytecode cache."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tokensieve.core.blame import by_user
from tokensieve.core.errors import PluginError
from tokensieve.core.files.plain import MEGABYTE, read_plain
from tokensieve.core.foreign import reason, said, shorten, shown, text_of

MOST = 4 * MEGABYTE  # a scorer has a few thousand bytes
BREAKAGE = (Exception, SystemExit)  # a plugin that calls sys.exit() must not end the program


def plugin_path(plugin: str | Path) -> Path:
    """The absolute path of a plugin file; it is also the owner's name in the registry."""
    try:
        return Path(plugin).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise PluginError(f"plugin file {shown(str(plugin))}: {reason(error)}") from None


def read_plugin_file(path: Path) -> bytes:
    """Its content; an error if there is none."""
    name = shorten(str(path))
    if path.suffix != ".py":
        raise PluginError(f"plugin file {name} is not a Python file (*.py)")
    try:
        return read_plain(path, MOST)
    except FileNotFoundError:
        raise PluginError(f"plugin file {name} does not exist") from None
    except (OSError, ValueError) as error:
        raise PluginError(f"plugin file {name} cannot be read: {reason(error)}") from None


def load_plugin_file(path: Path, source: bytes) -> ModuleType:
    """Import the plugin file that the user named, from ``source``, its content.

    Compiled here and not by ``importlib``, whose bytecode cache would miss an edit within the same
    second and writes next to the user's file.
    """
    name = _module_name(path)
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if by_user(error):
            raise
        where = in_line(error, str(path))
        raise PluginError(
            f"plugin file {path} failed to import{where}: {first_line(error)}"
        ) from error
    return module


def module_of(path: Path) -> ModuleType | None:
    """The module that was loaded from a plugin file last."""
    return sys.modules.get(_module_name(path))


def _module_name(path: Path) -> str:
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    stem = re.sub(r"\W", "_", path.stem)
    return f"_tokensieve_plugin_{stem}_{digest}"


def in_line(error: BaseException, file: str) -> str:
    """`` in line N``, the last line of ``file`` that took part in the error."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file and frame.lineno]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno:
        lines.append(error.lineno)
    return f" in line {lines[-1]}" if lines else ""


def first_line(error: BaseException) -> str:
    """The error in one line; our own errors already say what they are."""
    lines = text_of(error).splitlines()
    return lines[0] if isinstance(error, PluginError) and lines else said(error)
