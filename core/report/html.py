"""Write a report down: one HTML file that needs nothing else, Markdown and CSV beside it."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokensieve.core.errors import StudyError
from tokensieve.core.files.whole import save
from tokensieve.core.foreign import plain
from tokensieve.core.output.markdown import escaped, paragraph
from tokensieve.core.report.plotting import quiet_matplotlib
from tokensieve.core.report.reading import read_results
from tokensieve.core.report.results import Results
from tokensieve.core.report.sections import (
    Findings,
    Pairs,
    Section,
    find,
    sections,
    summary_line,
)
from tokensieve.core.report.statistics import RESAMPLES
from tokensieve.core.report.tables import csv_text
from tokensieve.core.study.spec.claims import stored_claims

EXTRA = ("jinja2", "matplotlib")
TEMPLATE = "report.html.jinja"
SIGNS = {"yes": "\N{CHECK MARK}", "no": "\N{MULTIPLICATION X}", "mixed": "\N{ALMOST EQUAL TO}"}
NO_EVIDENCE_SIGN = "\N{WHITE CIRCLE}"
MADE_BY = "Made by tokensieve report."
KINDS = {"yes": "yes", "no": "no", "mixed": "in part", "none": "no evidence"}


def write_report(
    folder: Path,
    target: Path | None = None,
    *,
    claims: Pairs | None = None,
    resamples: int = RESAMPLES,
) -> tuple[list[Path], Findings]:
    """Read the study in ``folder`` and write its report; by default into the folder itself.

    Without ``claims`` it judges those that stand in the study's own file.

    Returns:
        The written files, HTML first, and what was found.

    Raises:
        StudyError: there is nothing to report on, or a package of the extra is missing.
    """
    require_extra()
    html = target or folder / "report.html"
    if html.suffix.lower() not in (".html", ".htm"):
        raise StudyError(f"--out {html}: the name must end in .html")
    results = read_results(folder, resamples=resamples)
    pairs = _stored_claims(folder, results) if claims is None else claims
    pairs = [(plain(one), plain(other)) for one, other in pairs]
    _check_claims(results, pairs)
    results.claimed = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    found = find(results, pairs)
    parts = sections(found)
    texts = {
        html: _html(results, parts),
        html.with_suffix(".md"): _markdown(results, parts),
        html.with_suffix(".csv"): csv_text(results, found.cells),
    }
    if target is not None:
        _check_neighbours(texts)
    save(texts, StudyError, "--out")
    return list(texts), found


def _check_neighbours(texts: dict[Path, str]) -> None:
    """Refuse to replace what lies beside the page and no report has put there."""
    for path, text in list(texts.items())[1:]:
        ours = text.splitlines()[-1 if path.suffix == ".md" else 0]
        try:
            there = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if there and ours not in (there[0], there[-1]):
            raise StudyError(
                f"--out {path.with_suffix('.html')}: {path} is written too, and the one that is "
                "there is no report: choose another name"
            )


def require_extra() -> None:
    """Say which extra is missing before any work is done."""
    for package in EXTRA:
        try:
            with quiet_matplotlib():
                importlib.import_module(package)
        except ImportError:
            raise StudyError(
                f"a report needs {package}: pip install 'tokensieve[report]'"
            ) from None


def _stored_claims(folder: Path, results: Results) -> Pairs:
    """The study's own, as far as there are results; what is left out is said."""
    known, able = _known_names(results), []
    pairs, lost = stored_claims(folder)
    results.problems += lost
    for one, other in pairs:
        absent = [name for name in (one, other) if name not in known]
        if absent:
            results.problems.append(f"claim {one} > {other}: there are no results of {absent[0]}")
        else:
            able.append((one, other))
    return able


def _known_names(results: Results) -> set[str]:
    """Pipelines and scorers with results."""
    scorers = {
        name for records in results.anatomy.values() for r in records for name in r["scores"]
    }
    return {*results.methods, *scorers}


def _check_claims(results: Results, claims: Pairs) -> None:
    known = _known_names(results)
    for name in (name for pair in claims for name in pair):
        if name not in known:
            allowed = ", ".join(sorted(known))
            raise StudyError(f"--claim: {name!r} is not in this study, allowed: {allowed}")


def _html(results: Results, parts: Sequence[Section]) -> str:
    jinja2: Any = importlib.import_module("jinja2")
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_readable,
    )
    environment.filters["data_uri"] = _data_uri
    source = (Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8")
    text: str = environment.from_string(source).render(
        title=results.name,
        summary=summary_line(results),
        description=str(results.manifest.get("description") or ""),
        sections=parts,
        signs={**SIGNS, "none": NO_EVIDENCE_SIGN},
        kinds=KINDS,
        run=_run_facts(results),
    )
    return text


def _readable(value: Any) -> Any:
    """What HTML cannot hold, or would show as something else: control codes, turned writing."""
    return plain(" ".join(value.split())) if type(value) is str else value


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _run_facts(results: Results) -> list[tuple[str, str]]:
    """How the study was run, as far as its manifest says."""
    manifest = results.manifest
    starts = manifest.get("starts") or [{}]
    last = starts[-1]
    versions = ", ".join(
        f"{name} {number}" for name, number in (last.get("versions") or {}).items()
    )
    machines = dict.fromkeys(
        f"{facts.get('device_name', facts.get('device'))} ({facts.get('dtype')}, attention "
        f"{facts.get('attention')})"
        for facts in manifest.get("environments") or []
        if facts.get("device")
    )
    facts = [
        ("started", str(last.get("started", ""))),
        ("starts", str(len(starts)) if len(starts) > 1 else ""),
        ("command", " ".join(map(str, last.get("command") or []))),
        ("git revision", str(last.get("git") or "")),
        ("Python", str(last.get("python", ""))),
        ("packages", versions),
        ("ran on", "; ".join(machines)),
        ("seeds of random pipelines", ", ".join(map(str, manifest.get("seeds") or []))),
    ]
    return [(name, value) for name, value in facts if value]


def _markdown(results: Results, parts: Sequence[Section]) -> str:
    lines = [f"# {escaped(results.name)}", "", f"{paragraph(summary_line(results))}.", ""]
    for part in parts:
        lines += [f"## {escaped(part.title)}", ""]
        if part.intro:
            lines += [paragraph(part.intro), ""]
        for title, verdicts in part.groups:
            lines += [f"### {escaped(title)}", ""]
            lines += [
                f"- **{escaped(v.topic)}** ({KINDS[v.kind]}) {escaped(v.text)}" for v in verdicts
            ]
            lines.append("")
        lines += [table.markdown() for table in (*part.tables, *part.folded)]
    return "\n".join([*lines, MADE_BY]) + "\n"
