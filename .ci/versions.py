"""Try the subset of the tests on every minor version of transformers that we support.

``python .ci/versions.py`` runs in an environment with ``.[test]``: transformers alone is exchanged,
in a folder of its own in front of the others. Results go to ``docs/data/versions.json``, from which
the table of ``docs/versions.md`` is made. ``--here TITLE`` runs it on the environment as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "data" / "versions.json"
SUBSET = (ROOT / ".ci" / "subset.txt").read_text(encoding="utf-8").split()
MINORS = ("5.19", "5.20", "5.21", "5.22", "5.23", "5.24")
SHOWN = ("torch", "torchvision", "timm", "pydantic", "pluggy", "typer", "pillow", "matplotlib")


def main() -> None:
    """Run, and write the results down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a minor version; default: all")
    parser.add_argument("--here", help="run the subset on this environment under this title")
    options = parser.parse_args()
    results = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    if options.here:
        results[options.here] = tried(os.environ.copy())
    else:
        for minor in options.only or MINORS:
            with tempfile.TemporaryDirectory() as folder:
                install(minor, folder)
                results[f"transformers {minor}"] = tried({**os.environ, "PYTHONPATH": folder})
    TABLE.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def install(minor: str, folder: str) -> None:
    """The newest release of a minor version, alone."""
    wanted = [f"transformers=={minor}.*", "--no-deps", "--target", folder]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted], check=True)


def tried(environment: dict[str, str]) -> dict[str, Any]:
    """What is installed, and how the subset ended."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUBSET]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped)", lines[-1])}
    asked = "import transformers; print(transformers.__version__)"
    version = subprocess.run(
        [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True
    )
    print(
        version.stdout.strip(), lines[-1], *[n for n in lines if n.startswith("FAILED")], sep="\n"
    )
    return {
        "python": platform.python_version(),
        "transformers": version.stdout.strip(),
        **{name: metadata.version(name) for name in SHOWN},
        **{kind: counts.get(kind, 0) for kind in ("passed", "failed", "skipped")},
    }


if __name__ == "__main__":
    main()
