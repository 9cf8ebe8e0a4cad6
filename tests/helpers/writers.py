"""Find what writes files in source text."""

from __future__ import annotations

import ast

MEMORY = ("io.BytesIO()", "io.StringIO()")
NAMES = {"write_text", "write_bytes", "tofile", "to_csv", "to_json_file", "save_pretrained"}
CALLS = {
    ("json", "dump"), ("yaml", "dump_all"), ("pickle", "dump"), ("np", "save"), ("np", "savez"),
    ("torch", "save"), ("shutil", "copy"), ("shutil", "copyfile"), ("shutil", "move"),
    ("os", "open"), ("os", "replace"),
}  # fmt: skip
DRAWN = {"save", "savefig", "imsave"}


def writes(source: str) -> list[str]:
    """Calls that write a file other than into memory."""
    tree = ast.parse(source)
    buffers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in MEMORY
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _writes(node, buffers)
    ]


def _writes(call: ast.Call, buffers: set[str]) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "open" and _mode(call, 1) != "r"
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if (owner, function.attr) in CALLS or function.attr in NAMES:
        return True
    if function.attr in DRAWN:
        first = call.args[0] if call.args else None
        return not (isinstance(first, ast.Name) and first.id in buffers)
    return function.attr == "open" and owner != "Image" and not set(_mode(call, 0)) <= set("rbt")


def _mode(call: ast.Call, place: int) -> str:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    node = given[0] if given else call.args[place] if len(call.args) > place else None
    return str(node.value) if isinstance(node, ast.Constant) else "r" if node is None else "?"
