"""The figures in docs/security.md are those of the cases that are here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from hostile.figures import KINDS, TABLE, files, kind_of

LEAST = 2400
FIGURES = json.loads(TABLE.read_text(encoding="utf-8"))["cases"]


def test_every_kind_is_tried_as_often_as_we_say() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *files()], capture_output=True, text=True, check=True)
    found = Counter(kind_of(line) for line in done.stdout.splitlines() if "::" in line)
    assert {kind: found[kind] for kind in KINDS} == {kind: row[0] for kind, row in FIGURES.items()}


def test_enough_is_tried_and_all_of_it_holds() -> None:
    assert sum(tried for tried, _ in FIGURES.values()) >= LEAST
    assert all(held == tried for tried, held in FIGURES.values())
