"""The sections of a report and their order; independent of how they are written down."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.core.output.markdown import escaped, paragraph
from tokensieve.core.report.figures import attribution as signal_figures
from tokensieve.core.report.figures import generalization as generalization_figures
from tokensieve.core.report.figures import methods as method_figures
from tokensieve.core.report.figures.attribution import Quantity
from tokensieve.core.report.figures.plotting import Picture
from tokensieve.core.report.findings.accuracy import loss_at_random
from tokensieve.core.report.findings.attribution import read_anatomy
from tokensieve.core.report.findings.findings import Findings
from tokensieve.core.report.findings.results import ModelTask, Results
from tokensieve.core.report.tables import attribution as signal_tables
from tokensieve.core.report.tables import generalization as generalization_tables
from tokensieve.core.report.tables import methods as method_tables
from tokensieve.core.report.tables.table import Table
from tokensieve.core.report.verdicts import generalization as generalization_verdicts
from tokensieve.core.report.verdicts import methods as method_verdicts
from tokensieve.core.report.verdicts.attribution import signal_verdicts
from tokensieve.core.report.verdicts.verdict import KINDS, Verdict
from tokensieve.core.report.verdicts.wording import counted, listed

HEAT_MAPS_UP_TO = 12  # candidates; of more, one heat map is enough: the table says the rest


@dataclass(frozen=True)
class Section:
    """A heading and what follows below it.

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

    def markdown(self) -> str:
        """The section without its figures."""
        lines = [f"## {escaped(self.title)}", ""]
        if self.intro:
            lines += [paragraph(self.intro), ""]
        for title, verdicts in self.groups:
            lines += [f"### {escaped(title)}", ""]
            lines += [
                f"- **{escaped(v.topic)}** ({KINDS[v.kind]}) {escaped(v.text)}" for v in verdicts
            ]
            lines.append("")
        lines += [table.markdown() for table in (*self.tables, *self.folded)]
        return "\n".join(lines)


def sections(found: Findings) -> list[Section]:
    """All sections that have something to show; the verdicts come first."""
    results = found.results
    curves = Section(
        "curves",
        "Accuracy against cost",
        "Further left is cheaper. A method earns its place above the dashed lines.",
        pictures=_drawn(method_figures.curves(results)),
    )
    few = len(results.candidates) <= HEAT_MAPS_UP_TO
    mapped = results.baselines if few else results.baselines[:1]
    maps = (method_figures.heat_map(results, found.baselines, name) for name in mapped)
    against = method_tables.baseline_table(results, found.baselines, found.by_cell)
    baselines = Section(
        "baselines",
        "Against the baselines",
        "Methods against dropping at random, keeping an even grid, and shrinking the image.",
        pictures=_drawn(*maps),
        tables=(against,) if found.baselines else (),
    )
    claims = (method_tables.claim_table(results, found.claims),) if found.claims else ()
    numbers = tuple(method_tables.accuracy_tables(results, found.by_cell))
    missing = tuple(method_tables.trouble_tables(results))
    if results.problems and not missing:
        missing = (Table("Notes", ("",), tuple((problem,) for problem in results.problems)),)
    problems = " ".join(f"{problem}." for problem in results.problems)
    every = (
        verdict_section(found),
        curves,
        baselines,
        Section("pairs", "Method against method", tables=claims),
        _generalization(found),
        _signals(found),
        Section("numbers", "All numbers", folded=numbers),
        Section("missing", "What is missing", problems, tables=missing),
    )
    return [section for section in every if section.filled]


def verdict_section(found: Findings) -> Section:
    """Every verdict, by the question that it answers."""
    ranks = dict(found.ranks)
    worth = method_verdicts.headroom(loss_at_random(found.results))
    for baseline in found.results.baselines:
        worth += method_verdicts.against_baseline(found.baselines, baseline)
    general = [
        verdict
        for between in ("model", "task")
        for verdict in generalization_verdicts.ranking(ranks.get(between), between)
    ]
    general += generalization_verdicts.held_out(found.held_out)
    general += generalization_verdicts.variance(found.shares)
    groups = {
        "Is pruning by a method worth it?": worth,
        "Which method is better?": method_verdicts.claims(found.claims),
        "Does it generalize?": general,
        "What do scorers look at?": signal_verdicts(found.anatomies, found.wanted),
    }
    intro = (
        "Generated from the numbers below. A difference counts only where its 95 % interval and "
        "its corrected test agree; otherwise the verdict is that there is no evidence, which is "
        "not evidence that there is no difference."
    )
    filled = tuple((title, tuple(own)) for title, own in groups.items() if own)
    return Section("verdicts", "Verdicts", intro, groups=filled)


def _generalization(found: Findings) -> Section:
    """Rankings, a model held out, the variance split."""
    shown = []
    if found.ranks:
        shown.append(generalization_tables.rank_table(found.ranks))
    if found.held_out:
        shown.append(generalization_tables.held_out_table(found.held_out))
    if found.shares:
        shown.append(generalization_tables.variance_table(found.shares))
    intro = ""
    if found.grid is not None and found.grid.left_out:
        intro = (
            "On the part of the grid without holes; left out: "
            f"{listed(found.grid.left_out, most=len(found.grid.left_out))}."
        )
    pictures = _drawn(
        generalization_figures.tau_matrices(found.ranks),
        generalization_figures.variance_bars(found.shares),
    )
    title = "Does it generalize?"
    return Section("generalization", title, intro, pictures=pictures, tables=tuple(shown))


def _signals(found: Findings) -> Section:
    """Scores of single tokens beside what the tokens are worth."""
    by_model = []  # one anatomy per model, its tasks pooled
    for model in dict.fromkeys(anatomy.on.model for anatomy in found.anatomies):
        own = [anatomy for anatomy in found.anatomies if anatomy.on.model == model]
        records = [record for anatomy in own for record in anatomy.records]
        by_model.append(read_anatomy(ModelTask(model, "all tasks"), records))
    truth = signal_figures.dots(
        by_model,
        [Quantity("rank correlation with the truth", lambda profile: profile.truth)],
        "How well scorers rank tokens by what leaving them out costs the answer; all tasks "
        "pooled. Lines: 95 % intervals over images. Dashed: unrelated.",
    )
    region = signal_figures.dots(
        by_model,
        [
            Quantity("top tokens there, %", lambda profile: profile.hits, 100.0),
            Quantity("score mass there, %", lambda profile: profile.mass, 100.0),
        ],
        "Share of top tokens, and of the scores' sum, on the region where the answer lies. "
        "Dashed: chance. Lines: 95 % intervals over images.",
        chance=lambda profile: profile.chance,
    )
    pictures = _drawn(
        truth,
        signal_figures.agreement_matrices(by_model),
        region,
        signal_figures.position_profiles(by_model),
        *(signal_figures.example_picture(anatomy) for anatomy in found.anatomies),
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


def _drawn(*pictures: Picture | None) -> tuple[Picture, ...]:
    """The figures that could be drawn."""
    return tuple(picture for picture in pictures if picture is not None)


def summary_line(results: Results) -> str:
    """``3 models, 12 methods, ...``."""
    examples = sorted({len(ids) for ids in results.ids.values()}) or [0]
    sizes = f"{examples[0]}" if len(examples) == 1 else f"{examples[0]} to {examples[-1]}"
    return ", ".join(
        [
            counted(len(results.models), "model"),
            f"{counted(len(results.candidates), 'method')} and {len(results.baselines)} baselines",
            counted(len(results.budgets), "budget"),
            counted(len(results.tasks), "task"),
            f"{sizes} examples each",
        ]
    )
