"""Fingerprints of whatever a task puts into an example: all of it, or a refusal."""

from __future__ import annotations

import copyreg
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

from tokensieve.core.errors import TaskError
from tokensieve.core.files.pictures import picture_facts
from tokensieve.core.foreign import reason, shown

MOST_DEEP = 100  # a value inside others; what is deeper, or contains itself, is refused
PROTOCOL = 2  # of ``__reduce_ex__``: the first that refuses objects with content it cannot see
Named = type | FunctionType | BuiltinFunctionType
Plain = bool | int | float | complex | str | bytes | bytearray | None
NO_CONTENT = "has no content that could be compared"
Feed = Callable[[bytes], object]


def fingerprint(examples: Iterable[object]) -> str:
    """SHA-256 of everything about ``examples``, pixels included: what results depend on.

    Raises:
        TaskError: something in one of them has no content that could be compared.
    """
    return combined(map(fingerprint_of, examples))


def combined(prints: Iterable[str]) -> str:
    """The fingerprint of examples from those of each."""
    return hashlib.sha256("\n".join(prints).encode()).hexdigest()


def fingerprint_of(example: object) -> str:
    """The fingerprint of one example: all fields and attributes, those of subclasses included.

    A value is what pickling would write down of it, and all its attributes besides, so that
    nothing that a class keeps to itself is left out. Of classes and functions the name counts:
    their code is hashed with the plugin.

    Raises:
        TaskError: naming the example and the part that cannot be compared.
    """
    name = shown(getattr(example, "id", type(example).__name__))
    try:
        own = _digest(example, "", 0)
        values = [  # data that the class holds for all examples, which it may have read
            (name, value)
            for base in type(example).__mro__
            if base is not object and not base.__module__.startswith("tokensieve.")
            for name, value in sorted(base.__dict__.items())
            if not name.startswith(("__", "_abc_")) and not hasattr(type(value), "__get__")
        ]
        shared = _digest(values, " (class)", 0)
        return hashlib.sha256(own + shared).hexdigest()
    except TaskError as error:
        raise TaskError(f"example {name}{error}") from None
    except Exception as error:  # of code of the example's own class, and of broken pictures
        raise TaskError(f"example {name}: cannot be fingerprinted: {reason(error)}") from error


def _digest(value: object, place: str, depth: int) -> bytes:
    digest = hashlib.sha256()
    _add(digest.update, value, place, depth)
    return digest.digest()


def _add(feed: Feed, value: object, place: str, depth: int) -> None:
    """Feed one value: its kind, its content, its attributes, each with its length.

    ``place`` says in errors which part it is.
    """
    if depth > MOST_DEEP:
        raise TaskError(f"{place[:MOST_DEEP]}: is nested too deep, or contains itself")
    _put(feed, "kind", type(value).__qualname__.encode())
    pictures = sys.modules.get("PIL.Image")  # which is not imported to know its pictures
    if isinstance(value, Plain):
        _put(feed, "plain", _plain(value))
    elif isinstance(value, Named):
        found: object = sys.modules.get(str(value.__module__))
        for part in value.__qualname__.split("."):
            found = getattr(found, part, None)
        if found is not value:  # its code is hashed where its name leads
            raise TaskError(f"{place}: {shown(value)} {NO_CONTENT}: keep data in examples")
        _put(feed, "name", str(value.__qualname__).encode())
        return
    elif pictures is not None and isinstance(value, pictures.Image):
        for fact in picture_facts(value):
            _put(feed, "picture", fact)
        _add(feed, dict(value.info), f"{place}.info", depth + 1)
        return  # its other attributes are Pillow's own, such as where the file lay
    elif isinstance(value, PurePath):
        raise TaskError(f"{place}: {shown(str(value))}: a path says nothing of its file: keep text")
    else:
        _add_parts(feed, value, place, depth + 1)
    for name, item in _attributes(value):
        _put(feed, "attribute", name.encode())
        _add(feed, item, f"{place}.{name}", depth + 1)
    _put(feed, "end", b"")


def _add_parts(feed: Feed, value: object, place: str, depth: int) -> None:
    """Feed what a container holds, or what pickling would write down of any other object."""
    if isinstance(value, set | frozenset):
        for one in sorted(_digest(item, f"{place}, an item", depth) for item in value):
            _put(feed, "item", one)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _add(feed, item, f"{place}[{number}]", depth)
    elif isinstance(value, dict):
        for key, item in value.items():
            _add(feed, key, f"{place}, a key", depth)
            _add(feed, item, f"{place}[{shown(key)}]", depth)
    else:
        _add(feed, _state(value, place), place, depth)


def _put(feed: Feed, kind: str, content: bytes) -> None:
    feed(f"{kind}:{len(content)}:".encode())
    feed(content)


def _plain(value: Plain) -> bytes:
    """The bytes of a plain value; a subclass has those of its base."""
    if isinstance(value, str):
        return str.encode(value, "utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray):
        return bytes(memoryview(value))
    if isinstance(value, float):
        return float.hex(value).encode()
    if isinstance(value, int):
        return int.__format__(value, "x").encode()  # decimal digits have a limit
    return repr(None if value is None else (value.real, value.imag)).encode()


def _state(value: object, place: str) -> tuple[object, ...]:
    """Maker, arguments, state and items of an object, as pickling would write them down.

    By Python's own rule the state is the attributes alone, which are fed by themselves.
    """
    reducer = copyreg.dispatch_table.get(type(value))
    try:
        made: Any = reducer(value) if reducer else value.__reduce_ex__(PROTOCOL)
    except Exception as error:
        raise TaskError(f"{place}: {shown(value)} {NO_CONTENT} ({reason(error)})") from None
    if isinstance(made, str):  # there is one of that name only
        return ("global", made)
    whole: list[Any] = [*made, None, None, None]
    maker, arguments, state, listed, mapped = whole[:5]
    if maker in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined] # as pickle
        maker, arguments = "new", arguments[1:]
        state = None
    else:
        maker = str(getattr(maker, "__qualname__", type(maker).__qualname__))
    return maker, arguments, state, list(listed or ()), list(mapped or ())


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    """All attributes of an object: slots, what its ``__dict__`` holds, defaults of its fields."""
    found: dict[str, object] = {}
    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if name not in ("__dict__", "__weakref__"):
                try:
                    found[f"{base.__qualname__}.{name}"] = base.__dict__[name].__get__(value)
                except AttributeError:  # never set
                    continue
    found |= getattr(value, "__dict__", {})
    if is_dataclass(value):
        found |= {one.name: getattr(value, one.name, None) for one in fields(value)}
    yield from sorted(found.items())
