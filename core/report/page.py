"""Write a report down: one HTML file that needs nothing else, Markdown and CSV beside it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from tokensieve.core.errors import StudyError
from tokensieve.core.files.whole import save
from tokensieve.core.foreign import plain
from tokensieve.core.output.markdown import escaped, paragraph
from tokensieve.core.report.figures.plotting import quiet_matplotlib
from tokensieve.core.report.findings.claims import claimed_pairs
from tokensieve.core.report.findings.comparing import Pairs
from tokensieve.core.report.findings.findings import Findings, find
from tokensieve.core.report.findings.reading import read_results
from tokensieve.core.report.findings.results import Results
from tokensieve.core.report.sections import Section, sections, summary_line
from tokensieve.core.report.statistics.intervals import RESAMPLES
from tokensieve.core.report.tables.csv_file import csv_text
from tokensieve.core.report.verdicts.verdict import KINDS, SIGNS

EXTRA = ("jinja2", "matplotlib")
TEMPLATE = "report.html.jinja"
MADE_BY = "Made by tokensieve report."


def write_report(
    folder: Path,
    target: Path | None = None,
    *,
    claims: Pairs | None = None,
    resamples: int = RESAMPLES,
) -> tuple[list[Path], Findings]:
    """Read the study in ``folder`` and write its report; by default into the folder itself.

    Without ``claims`` it judges those of the study's own file.

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
    pairs = claimed_pairs(folder, results, claims)
    results.claimed = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    found = find(results, pairs)
    parts = sections(found)
    title, lead = escaped(results.facts.name), paragraph(summary_line(results))
    markdown = [f"# {title}", "", f"{lead}.", "", *(part.markdown() for part in parts), MADE_BY]
    texts = {
        html: _html(results, parts),
        html.with_suffix(".md"): "\n".join(markdown) + "\n",
        html.with_suffix(".csv"): csv_text(results, found.by_cell),
    }
    if target is not None:
        _check_neighbours(texts)
    save(texts, StudyError, "--out")
    return list(texts), found


def _check_neighbours(texts: dict[Path, str]) -> None:
    """Refuse to replace files beside the page that no report has written."""
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


def _html(results: Results, parts: Sequence[Section]) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_readable,
    )
    source = (Path(__file__).parent / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        title=results.facts.name,
        summary=summary_line(results),
        description=results.facts.description,
        sections=parts,
        signs=SIGNS,
        kinds=KINDS,
        run=results.facts.run,
    )


def _readable(value: object) -> object:
    """A text in one line, without control codes and marks that turn the writing."""
    return plain(" ".join(value.split())) if type(value) is str else value
