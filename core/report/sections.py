"""What stands in a report, in which order; independent of how it is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokensieve.core.report import figures, signal_figures, signal_tables, tables
from tokensieve.core.report import verdicts as words
from tokensieve.core.report.comparing import Contest, contests_by_cell
from tokensieve.core.report.full_grid import FullGrid, full_grid
from tokensieve.core.report.generalizing import (
    HeldOut,
    RankAgreement,
    leave_one_model_out,
    rank_agreement,
    split,
)
from tokensieve.core.report.plotting import Picture
from tokensieve.core.report.results import Ground, Results
from tokensieve.core.report.signal_verdicts import signal_verdicts
from tokensieve.core.report.signals import Anatomy, anatomies, read_anatomy
from tokensieve.core.report.tables import Table
from tokensieve.core.report.verdicts import Tally, Verdict
from tokensieve.core.report.wording import counted, listed

FEW_RIVALS = 12  # of more, one heat map is enough: the table says the rest
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    ``groups`` are verdicts below a heading of their own; ``folded`` tables open on a click.
    """

    anchor: str
    title: str
    intro: str = ""
    groups: tuple[tuple[str, tuple[Verdict, ...]], ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()

    @property
    def filled(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.groups or self.pictures or self.tables or self.folded)

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts."""
        return [verdict for _, verdicts in self.groups for verdict in verdicts]


@dataclass(frozen=True)
class Findings:
    """Everything computed once, from which all sections are made."""

    results: Results
    cells: tuple[Contest, ...]
    floors: tuple[Tally, ...]
    claims: tuple[Tally, ...]
    grid: FullGrid | None
    ranks: tuple[tuple[str, RankAgreement], ...]
    held_out: tuple[HeldOut, ...]
    anatomies: tuple[Anatomy, ...]
    wanted: tuple[tuple[str, str], ...]


def find(results: Results, wanted: Pairs = ()) -> Findings:
    """Compute; ``wanted`` are pairs of methods (or scorers) to compare."""
    against = [(method, floor) for floor in results.floors for method in results.rivals]
    methods = set(results.methods)
    pairs = [pair for pair in wanted if set(pair) <= methods] or words.default_claims(results)
    grid = full_grid(results)
    found = [("model", 0), ("task", 1)]
    ranks = [
        (name, agreement)
        for name, axis in found
        if grid is not None and (agreement := rank_agreement(grid, axis)) is not None
    ]
    return Findings(
        results=results,
        cells=tuple(contests_by_cell(results)),
        floors=tuple(words.tallies(results, against)),
        claims=tuple(words.tallies(results, pairs)),
        grid=grid,
        ranks=tuple(ranks),
        held_out=tuple(leave_one_model_out(grid)) if grid is not None else (),
        anatomies=tuple(anatomies(results)),
        wanted=tuple(wanted),
    )


def sections(found: Findings) -> list[Section]:
    """All sections that have something to show; the verdicts come first."""
    return [
        section
        for section in (
            _verdicts(found),
            _curves(found),
            _floors(found),
            _claims(found),
            _generalization(found),
            _signals(found),
            _numbers(found),
            _trouble(found),
        )
        if section.filled
    ]


def _present(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)


def _verdicts(found: Findings) -> Section:
    ranks = dict(found.ranks)
    shares = split(found.grid) if found.grid is not None else {}
    floors = [v for floor in found.results.floors for v in words.against_floor(found.floors, floor)]
    carried = [v for name in ("model", "task") for v in words.ranking(ranks.get(name), name)]
    groups = {
        "Is pruning by a method worth it?": [*words.stakes(found.results), *floors],
        "Which method is better?": words.claims(found.claims),
        "Does it generalize?": [
            *carried,
            *words.held_out(found.held_out),
            *words.variance(shares),
        ],
        "What do scorers look at?": signal_verdicts(found.anatomies, found.wanted),
    }
    filled = tuple((title, tuple(own)) for title, own in groups.items() if own)
    intro = (
        "Generated from the numbers below. A difference counts only where its 95 % interval and "
        "its corrected test agree; otherwise the verdict is that there is no evidence, which is "
        "not evidence that there is no difference."
    )
    return Section("verdicts", "Verdicts", intro, groups=filled)


def _curves(found: Findings) -> Section:
    intro = "Further left is cheaper. A method earns its place above the dashed lines."
    pictures = _present(figures.curves(found.results))
    return Section("curves", "Accuracy against cost", intro, pictures=pictures)


def _floors(found: Findings) -> Section:
    results = found.results
    floors = results.floors if len(results.rivals) <= FEW_RIVALS else results.floors[:1]
    maps = _present(*(figures.heat_map(results, found.floors, floor) for floor in floors))
    shown = (tables.floor_table(results, found.floors, found.cells),) if found.floors else ()
    intro = "Methods against dropping at random, keeping an even grid, and shrinking the image."
    return Section("baselines", "Against the baselines", intro, pictures=maps, tables=shown)


def _claims(found: Findings) -> Section:
    shown = (tables.claim_table(found.results, found.claims),) if found.claims else ()
    return Section("pairs", "Method against method", tables=shown)


def _generalization(found: Findings) -> Section:
    shares = split(found.grid) if found.grid is not None else {}
    shown = []
    if found.ranks:
        shown.append(tables.rank_table(found.ranks))
    if found.held_out:
        shown.append(tables.held_out_table(found.held_out))
    if shares:
        shown.append(tables.variance_table(shares))
    intro = ""
    if found.grid is not None and found.grid.left_out:
        intro = (
            "On the part of the grid without holes; left out: "
            f"{listed(found.grid.left_out, most=len(found.grid.left_out))}."
        )
    pictures = _present(figures.tau_matrices(found.ranks), figures.variance_bars(shares))
    title = "Does it generalize?"
    return Section("generalization", title, intro, pictures=pictures, tables=tuple(shown))


def _signals(found: Findings) -> Section:
    by_model = _joined(found.anatomies)
    truth = signal_figures.dots(
        by_model,
        [("rank correlation with the truth", lambda p: p.truth, 1.0)],
        "How well scorers rank tokens by what leaving them out costs the answer; all tasks "
        "pooled. Lines: 95 % intervals over images. Dashed: unrelated.",
    )
    region = signal_figures.dots(
        by_model,
        [
            ("top tokens there, %", lambda p: p.hits, 100.0),
            ("score mass there, %", lambda p: p.mass, 100.0),
        ],
        "Share of top tokens, and of the scores' sum, on the region where the answer lies. "
        "Dashed: chance. Lines: 95 % intervals over images.",
        chance=lambda profile: profile.chance,
    )
    examples = [signal_figures.example_picture(anatomy) for anatomy in found.anatomies]
    pictures = _present(
        truth,
        signal_figures.agreement_matrices(by_model),
        region,
        signal_figures.position_profiles(by_model),
        *examples,
    )
    intro = (
        "What scorers say of every single token, beside what the token is worth: it alone is "
        "dropped in front of the decoder, and the answer's log-likelihood changes."
    )
    folded = (
        *signal_tables.profile_tables(found.anatomies),
        *signal_tables.correlation_tables(by_model),
    )
    return Section("signals", "Signal anatomy", intro, pictures=pictures, folded=folded)


def _joined(found: Sequence[Anatomy]) -> list[Anatomy]:
    """One anatomy per model, its tasks pooled."""
    joined = []
    for model in dict.fromkeys(anatomy.ground.model for anatomy in found):
        own = [anatomy for anatomy in found if anatomy.ground.model == model]
        records = [record for anatomy in own for record in anatomy.records]
        joined.append(read_anatomy(Ground(model, "all tasks"), records))
    return joined


def _numbers(found: Findings) -> Section:
    folded = tuple(tables.accuracy_tables(found.results, found.cells))
    return Section("numbers", "All numbers", folded=folded)


def _trouble(found: Findings) -> Section:
    shown = tuple(tables.trouble_tables(found.results))
    intro = " ".join(f"{problem}." for problem in found.results.problems)
    if intro and not shown:
        shown = (tables.Table("Notes", ("",), tuple((p,) for p in found.results.problems)),)
    return Section("missing", "What is missing", intro, tables=shown)


def summary_line(results: Results) -> str:
    """``3 models, 12 methods, ...``."""
    examples = sorted({len(ids) for ids in results.ids.values()}) or [0]
    sizes = f"{examples[0]}" if len(examples) == 1 else f"{examples[0]} to {examples[-1]}"
    return ", ".join(
        [
            counted(len(results.models), "model"),
            f"{counted(len(results.rivals), 'method')} and {len(results.floors)} baselines",
            counted(len(results.budgets), "budget"),
            counted(len(results.tasks), "task"),
            f"{sizes} examples each",
        ]
    )
