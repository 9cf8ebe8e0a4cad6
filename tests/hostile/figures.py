"""Count the hostile cases: ``python tests/hostile/figures.py`` runs them and writes the figures.

Every case is a test. What is tried and what holds goes to ``docs/data/hostile.json``, from which
the table of ``docs/security.md`` is made. A case that does not hold ends with exit code 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "data" / "hostile.json"
KINDS = {
    "identity": "1. Identity at the point of use",
    "gate": "2. One gate for what a component returns",
    "files": "3. One reader for every file of the user",
    "parameters": "4. Bounded parameters",
    "allowed": "5. Allow-lists where text reaches something that runs",
    "lost": "6. Nothing lost",
    "output": "7. Output is data too",
}


def kind_of(nodeid: str) -> str:
    """The kind that a test belongs to: the word behind ``test_`` in its file's name."""
    return Path(nodeid.partition("::")[0]).stem.removeprefix("test_").split("_")[0]


def files() -> list[str]:
    """All files of cases."""
    return [str(path) for path in sorted(HERE.glob("test_*.py")) if kind_of(path.name) in KINDS]


class Counting:
    """A plugin of pytest: per kind, how many cases were tried and how many held."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A case counts where its test was called, or could not be set up."""
        kind = kind_of(report.nodeid)
        if kind not in KINDS or report.skipped:
            return
        if report.when == "call" or (report.when == "setup" and report.failed):
            self.tried[kind] += 1
            self.held[kind] += report.passed


def main() -> int:
    """Run all kinds; write the figures if every one of them was run."""
    counting, start = Counting(), time.monotonic()
    code = int(pytest.main(["-q", "-p", "no:cacheprovider", *files()], plugins=[counting]))
    rows = {kind: [counting.tried[kind], counting.held[kind]] for kind in KINDS}
    figures = {"cases": rows, "seconds": round(time.monotonic() - start)}
    TABLE.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    tried, held = (sum(row[n] for row in rows.values()) for n in (0, 1))
    print(f"{tried} cases tried, {held} held")
    return code or int(held != tried)


if __name__ == "__main__":
    sys.exit(main())
