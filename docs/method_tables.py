"""Tables of the catalog: what each preset is, takes, costs and does differently."""

from __future__ import annotations

from component_tables import deviating, positions, registry, shown, text_aware
from table_markup import code, markdown, table

from tokensieve.core.contract.adapted import IMAGE
from tokensieve.core.contract.components import Component
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.pipeline.pipeline import Pipeline
from tokensieve.core.plugins.registry import Entry


def presets() -> list[tuple[Entry, Pipeline]]:
    """All presets, loaded."""
    entries = registry().all("pipeline")
    return [(entry, load_pipeline(entry.value, registry=registry())) for entry in entries]


def signals(components: list[Component]) -> frozenset[str]:
    """What the components of a preset read, with its parameters."""
    return frozenset[str]().union(*(c.required() | c.uses for c in components))


def stages(pipeline: Pipeline) -> str:
    """Where it cuts."""
    places = ["image" if at == IMAGE else str(at) for stage in pipeline.stages for at in stage.at]
    deep = any(at not in ("image", "0") for at in places)
    depth = f" (of {pipeline.depth} layers)" if pipeline.depth and deep else ""
    return (", ".join(places) or "-") + depth


def yes(flag: bool) -> str:
    """A word for a table."""
    return "yes" if flag else "no"


def method_rows() -> str:
    """One row per preset: paper, place, signals, and what kind of method it is."""
    head = ["preset", "paper", "year", "cuts at", "signals", "text-aware", "adaptive count"]
    head += ["merges", "positions", "training-free", "license of the released code"]
    return table(head, [method_row(entry, pipeline) for entry, pipeline in presets()])


def method_row(entry: Entry, pipeline: Pipeline) -> list[str]:
    """The facts of one preset."""
    about, read = pipeline.about, signals(list(pipeline.components()))
    mergers = [stage.merge.name for stage in pipeline.stages if stage.merge]
    order = any(stage.order == "selection" for stage in pipeline.stages)
    return [
        f"`{entry.name}`",
        pipeline.source or "-",
        str(about.year or "-"),
        stages(pipeline),
        code(sorted(read)),
        text_aware(read),
        yes(any(stage.select.adaptive_count for stage in pipeline.stages)),
        code(sorted(set(mergers))),
        positions(pipeline) + (", in order of selection" if order else ""),
        yes(about.training_free),
        about.licence or "-",
    ]


def budget_rows() -> str:
    """What each preset keeps, and what a budget from outside means for it."""
    rows = []
    for entry, pipeline in presets():
        kept = ", ".join(shown(budget) for s in pipeline.stages for budget in s.budgets())
        rows.append([f"`{entry.name}`", kept or "all", pipeline.about.keep or "-"])
    return table(["preset", "keeps", "`keep` from outside"], rows)


def method_deviations() -> str:
    """What each preset does otherwise than the released code."""
    lines = []
    for entry, pipeline in presets():
        texts = list(pipeline.about.deviations)
        names = {component.name for component in pipeline.components()}
        parts = sorted(other.name for other, _ in deviating() if other.name in names)
        if parts:
            texts.append(f"See also {code(parts)} among the [components](pipelines.md#deviations).")
        if texts:
            told = " ".join(" ".join(markdown(text).split()) for text in texts)
            source = f" ({pipeline.about.code})" if pipeline.about.code else ""
            lines.append(f"- `{entry.name}`{source}: {told}")
    return "\n".join(lines)
