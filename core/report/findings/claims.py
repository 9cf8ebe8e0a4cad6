"""The pairs of methods or scorers that a report is to judge."""

from __future__ import annotations

from pathlib import Path

from tokensieve.core.errors import StudyError
from tokensieve.core.foreign import plain
from tokensieve.core.report.findings.comparing import Pairs
from tokensieve.core.report.findings.results import Results
from tokensieve.core.study.spec.claims import stored_claims


def claimed_pairs(folder: Path, results: Results, given: Pairs | None) -> Pairs:
    """Those that are given; else the study's own, as far as there are results.

    Claims of the study without results are noted among the problems.

    Raises:
        StudyError: a pair that is given names something that is not in the study.
    """
    scorers = (name for own in results.anatomy.values() for each in own for name in each.scores)
    known = {*results.methods, *scorers}
    if given is not None:
        pairs = [(plain(one), plain(other)) for one, other in given]
        for name in (name for pair in pairs for name in pair):
            if name not in known:
                allowed = ", ".join(sorted(known))
                raise StudyError(f"--claim: {name!r} is not in this study, allowed: {allowed}")
        return pairs
    stored, lost = stored_claims(folder)
    results.problems += lost
    pairs = []
    for one, other in stored:
        absent = [name for name in (one, other) if name not in known]
        if absent:
            results.problems.append(f"claim {one} > {other}: there are no results of {absent[0]}")
        else:
            pairs.append((one, other))
    return pairs
