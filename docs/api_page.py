"""The page of the public names: what each module of the door offers, read off the sources.

A name is followed from the module that offers it to the file that defines it. Its signature is
what that file says, its text the docstring there; that of a constant is the string after it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import rooms
from table_markup import markdown

WIDTH = 92  # of a signature in one line
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:")
Defined = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign

GROUPS = {
    "tokensieve": {
        "Pruning a model": "attach Session load_pipeline Pipeline",
        "Writing a plugin": "Scorer Selector Merger View Task Example Box hookimpl",
        "Errors, version": "TokensieveError __version__",
    },
    "tokensieve.plugin": {
        "Components": "Component Scorer Selector Merger Merged Split LayerRange",
        "Signals": "View SIGNALS TokenStates Transition TextAttention EncoderLayer "
        "EncoderAttention",
        "Parameters": "StrictModel TokenCount Share Factor Layer Seed",
        "Components that hold components": "ScoreTerms SelectorField combined_scores asked_turns",
        "Tensors": "torch at_least_float32 on_device unit take_rows floor_count",
        "Order and ties": "selection_order top_counts falling first_max above rounding",
        "Tasks": "Task Example Box same_text",
        "Adapters": "Adapter AdaptedModel Branch DecoderDims ModelSize Panel",
        "Vision-language models": "AdaptedVlm VisionRecord DECODER_SIGNALS VISION_SIGNALS",
        "Encoders": "AdaptedEncoder Demands ENCODER_SIGNALS BRANCH_SIGNALS ATTENTION_SIGNALS "
        "paid_attention received_attention joined_heads",
        "Smaller pictures": "IMAGE Grid ShrinkPlan spread_places",
        "Hooks": "Handle own Signature unknown_release",
        "Registering": "hookimpl Registry",
        "Errors": "TokensieveError PluginError SignalError AttachError UnsupportedError TaskError",
    },
    "tokensieve.testing": {
        "Checking": "assert_conforms check_component check_plugin_files all_checks",
        "Checks and results": "CHECKS Check CheckResult CheckFailed",
        "Synthetic pictures": "synthetic_batch SyntheticBatch Scene",
    },
}
"""By module and title, the names in the order in which they are read."""


@dataclass(frozen=True)
class Definition:
    """A public name: how it is written down, what it says of itself, and its public parts."""

    name: str
    signature: str
    doc: str
    parts: tuple[Definition, ...] = ()


@lru_cache(maxsize=1)
def files() -> dict[str, Path]:
    """The file of every module."""
    return {name: rooms.ROOT / file for name, file in rooms.modules().items()}


@lru_cache(maxsize=256)
def body_of(module: str) -> tuple[ast.stmt, ...]:
    """The statements of a module, those in ``if`` and ``else`` among them."""
    tree = ast.parse(files()[module].read_text(encoding="utf-8"))
    return tuple(flat(tree.body))


def flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order; an ``if`` is what it holds."""
    for statement in body:
        if isinstance(statement, ast.If):
            yield from flat([*statement.body, *statement.orelse])
        else:
            yield statement


def names_of(module: str) -> list[str]:
    """``__all__`` of a module."""
    for statement in body_of(module):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(statement.value)]
    raise LookupError(f"{module} has no __all__")


def definitions(module: str) -> dict[str, Definition]:
    """Every name that a module offers."""
    return {name: definition(module, name, name) for name in names_of(module)}


def definition(module: str, name: str, offered: str) -> Definition:
    """What ``name`` is in ``module``, which defines it or imports it.

    Raises:
        LookupError: it does neither.
    """
    body = body_of(module)
    for place, statement in enumerate(body):
        if isinstance(statement, ast.ImportFrom) and str(statement.module) in files():
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return definition(str(statement.module), alias.name, offered)
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return described(statement, offered, "")
        if isinstance(statement, ast.Assign | ast.AnnAssign) and name_of(statement) == name:
            return described(statement, offered, text_after(body, place))
    raise LookupError(f"{module} neither defines nor imports {name}")


def name_of(statement: ast.Assign | ast.AnnAssign) -> str:
    """What is assigned to."""
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    return ast.unparse(target)


def text_after(body: tuple[ast.stmt, ...] | list[ast.stmt], place: int) -> str:
    """The string after a statement, which says what it is about."""
    following = body[place + 1] if place + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return inspect.cleandoc(str(following.value.value))
    return ""


def described(node: Defined, name: str, text: str, width: int = WIDTH) -> Definition:
    """One definition under the name by which it is offered."""
    if isinstance(node, ast.FunctionDef):
        return Definition(name, signature_of(node, name, width), ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        doc = ast.get_docstring(node) or ""
        return Definition(name, class_line(node, name), doc, tuple(parts_of(node)))
    kind = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
    value = "" if node.value is None else f" = {ast.unparse(node.value)}"
    return Definition(name, f"{name}{kind}{value}" if len(value) < WIDTH else name + kind, text)


def signature_of(node: ast.FunctionDef, name: str, width: int) -> str:
    """A function or property with its types; a line per argument if it is wider than ``width``."""
    returns = ast.unparse(node.returns) if node.returns else "object"
    if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
        return f"{name}: {returns}"
    return called(name, arguments_of(node.args), f" -> {returns}", width)


def arguments_of(given: ast.arguments) -> list[str]:
    """The arguments with types and defaults; ``self`` and ``cls`` left out."""
    bare = len(given.args) - len(given.defaults)
    defaults: list[ast.expr | None] = [*[None] * bare, *given.defaults]
    pairs = zip(given.args, defaults, strict=True)
    texts = [written(one, default) for one, default in pairs if one.arg not in ("self", "cls")]
    if given.kwonlyargs:
        named = zip(given.kwonlyargs, given.kw_defaults, strict=True)
        texts += ["*", *(written(one, default) for one, default in named)]
    return texts


def written(argument: ast.arg, default: ast.expr | None) -> str:
    """One argument."""
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def called(name: str, arguments: list[str], after: str, width: int = WIDTH) -> str:
    """A call in one line, or with a line per argument."""
    line = f"{name}({', '.join(arguments)}){after}"
    if len(line) <= width:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in arguments), f"){after}"])


def class_line(node: ast.ClassDef, name: str) -> str:
    """``class Name(Base)``; of a dataclass how it is made."""
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
        fields = [field for field in fields if "ClassVar" not in field]
        return called(name, fields, "")
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    return f"class {name}({bases})" if bases else f"class {name}"


def parts_of(node: ast.ClassDef) -> Iterator[Definition]:
    """Public methods, and attributes that have a text of their own."""
    for place, part in enumerate(node.body):
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
            yield described(part, part.name, "", sys.maxsize)
        if isinstance(part, ast.AnnAssign) and text_after(node.body, place):
            yield described(part, name_of(part), text_after(node.body, place))


# ------------------------------------------------------------------ Markdown


def module_part(module: str) -> str:
    """All groups of a module; a name that ``tokensieve`` offers as well is described there."""
    found, above = definitions(module), names_of("tokensieve") if module != "tokensieve" else []
    lines: list[str] = []
    for title, names in GROUPS[module].items():
        lines += [f"### {title}", ""]
        shared = [f"`{name}`" for name in names.split() if name in above]
        if shared:
            lines += [f"{', '.join(shared)}: see [`tokensieve`](#tokensieve).", ""]
        for name in names.split():
            if name not in above:
                lines += [entry(found[name]), ""]
    return "\n".join(lines).rstrip()


def entry(found: Definition) -> str:
    """One name: title, signature, text, parts."""
    lines = [f"#### `{found.name}`", "", "```text", found.signature, "```", "", prose(found.doc)]
    if found.parts:
        lines += ["", "**Parts:**"]
    for part in found.parts:
        text = textwrap.indent(prose(part.doc), "  ").strip()
        lines += ["", f"- `{part.signature}`: {text}"]
    return "\n".join(lines).strip()


def prose(doc: str) -> str:
    """A docstring as Markdown: sections become lists, indented blocks stay as they are."""
    lines: list[str] = []
    section = ""
    for paragraph in markdown(doc).split("\n\n"):
        rows = paragraph.splitlines()
        if rows and rows[0] in SECTIONS:
            section = rows.pop(0)
            body = textwrap.dedent("\n".join(rows))
            lines.append(f"**{section}**\n\n{listed(body) if section != 'Returns:' else body}")
        elif rows and rows[0].startswith(("    ", ">>>")):
            lines.append("```text\n" + textwrap.dedent(paragraph) + "\n```")
        else:
            lines.append(re.sub(r"::$", ":", paragraph))
    return "\n\n".join(lines)


def listed(body: str) -> str:
    """``name: text`` lines as a list; what is indented goes on."""
    entries = re.sub(r"\n\s+", " ", body).splitlines()
    return "\n".join(
        re.sub(r"^([\w`*, ]+?): ", lambda match: f"- `{match[1].strip('`')}`: ", one)
        for one in entries
    )
