"""Draw examples once more in a new process, where hashes, clocks and counters begin anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tokensieve.core.errors import TaskError
from tokensieve.core.foreign import shorten
from tokensieve.core.gate.tasks import asked_examples
from tokensieve.core.plugins.registry import build_registry
from tokensieve.core.study.plan.fingerprints import fingerprint_of

HASHES = "PYTHONHASHSEED"
SEEDS = ("1", "2")  # of hash(): the new process gets the one that this one does not have
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from tokensieve.core.study.plan.redraw import main; main(sys.argv[1])"
)


@dataclass(frozen=True)
class Draw:
    """A registered task, its parameters as plain data, and how many examples."""

    task: str
    parameters: dict[str, object]
    samples: int


@dataclass(frozen=True)
class Redraw:
    """Draws that are made again; ``plugins`` are the files that the registry is built from."""

    plugins: tuple[str, ...]
    draws: tuple[Draw, ...]
    seed: int

    def run(self) -> list[list[str]]:
        """The fingerprint of every example of each draw, as another process finds them.

        Raises:
            TaskError: the other process cannot draw them.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "draws.json"
            place.write_text(json.dumps(asdict(self)), encoding="utf-8")
            seed = SEEDS[os.environ.get(HASHES) == SEEDS[0]]
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(place), json.dumps(sys.path)],
                env={**os.environ, HASHES: seed},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            try:
                found: list[list[str]] = json.loads(place.with_suffix(".out").read_text("utf-8"))
            except (OSError, ValueError):
                said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
                names = ", ".join(repr(draw.task) for draw in self.draws)
                raise TaskError(
                    f"task {names}: another process cannot draw its examples: {shorten(said[-1])}"
                ) from None
        return found


def main(place: str) -> None:
    """The program of the other process."""
    given = json.loads(Path(place).read_text(encoding="utf-8"))
    registry = build_registry(given["plugins"])
    found = []
    for draw in given["draws"]:
        task = registry.get("task", draw["task"]).model_validate(draw["parameters"])
        examples = asked_examples(task, draw["samples"], given["seed"])
        found.append([fingerprint_of(example) for example in examples])
    Path(place).with_suffix(".out").write_text(json.dumps(found), encoding="utf-8")
