"""The records of a study: JSON objects with known keys, and what a planned cell consists of."""

from __future__ import annotations

from collections.abc import ItemsView, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from tokensieve.core.study.plan.code import Files
from tokensieve.core.study.spec.parts import budget_title

Text = InstanceOf[str]
"""Any text, also one with half a character, which pydantic's own check of texts refuses."""
Kind = Literal["accuracy", "anatomy"]


class Record(BaseModel):
    """A JSON object, read by attribute or like the mapping that it is written as.

    What was not given is not written. Further keys are kept: results may be those of a later
    version.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    def plain(self) -> dict[str, Any]:
        """The JSON object."""
        return self.model_dump(exclude_unset=True)

    def _given(self) -> dict[str, Any]:
        every = {**self.__dict__, **(self.model_extra or {})}
        return {key: value for key, value in every.items() if key in self.model_fields_set}

    def __getitem__(self, key: str) -> Any:
        return self._given()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.model_fields_set

    def __len__(self) -> int:
        return len(self.model_fields_set)

    def get(self, key: str, default: object = None) -> Any:
        """The value of a key; ``default`` if it was not given."""
        return self._given().get(key, default)

    def keys(self) -> KeysView[str]:
        """The keys that were given."""
        return self._given().keys()

    def items(self) -> ItemsView[str, Any]:
        """Keys and values that were given."""
        return self._given().items()


def as_json(value: object) -> dict[str, Any]:
    """Records as ``json`` writes them: its argument ``default``."""
    if isinstance(value, Record):
        return value.plain()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


class ModelFacts(Record):
    """A model, wherever it is: a hash of its files, or its revision on the Hub.

    ``code`` is that of an adapter that a plugin brought.
    """

    name: Text
    sha256: Text | None = None
    revision: Text | None = None
    family: Text = ""
    code: dict[Text, Text] = Field(default_factory=dict)
    dtype: Text = ""
    device: Text = ""
    attention: Text = "default"


class TaskFacts(Record):
    """A task, how many questions of it are asked, and a hash of all of them."""

    name: Text
    task: Text = ""
    parameters: dict[Text, object] = Field(default_factory=dict)
    code: dict[Text, Text] = Field(default_factory=dict)
    samples: int = 0
    examples: Text = ""
    reads: Text | None = None


class PipelineFacts(Record):
    """A pipeline at a budget; ``resolved`` is what ``load_pipeline`` reads."""

    name: Text
    resolved: dict[Text, object] = Field(default_factory=dict)
    code: dict[Text, Text] = Field(default_factory=dict)


class AttributionFacts(Record):
    """The scorers that are compared, and the boundary where they are."""

    scorers: list[object]
    boundary: int


class CellConfig(Record):
    """Everything that decides a cell's result, and with it the cell's key.

    ``code`` and ``anatomy`` are there for cells of token attribution, which have no pipeline.
    """

    model: ModelFacts
    kind: Kind
    pipeline: PipelineFacts | None
    budget: dict[Text, int | float] | None
    seed: int
    task: TaskFacts
    max_new_tokens: int = 0
    versions: dict[Text, Text] = Field(default_factory=dict)
    code: dict[Text, Text] = Field(default_factory=dict)
    anatomy: AttributionFacts | None = None

    @property
    def pipeline_name(self) -> str:
        """The name of its pipeline; empty if it has none."""
        return self.pipeline.name if self.pipeline else ""

    @property
    def title(self) -> str:
        """``tiny-llava / digits / fastv / average=32 / seed 0``."""
        parts = [self.model.name, self.task.name]
        if self.kind != "accuracy":
            return " / ".join([*parts, self.kind])
        parts.append(self.pipeline_name)
        if self.budget is not None:
            parts.append(budget_title(self.budget))
        return " / ".join([*parts, f"seed {self.seed}"])


@dataclass(frozen=True)
class RunOptions:
    """Settings that do not enter a cell's key.

    ``model`` is what the model is loaded by and ``dtype`` how that was asked for; ``size`` are its
    bytes on disk (0: not known here); ``file`` is the absolute path of a task without code, or of
    the user's folder of lmms-eval tasks. ``sources``, ``weights`` and ``files`` are hashes by path
    of the plugin files, of the model's files and of those that the task reads, ``prints`` the
    fingerprints of its examples: what differs from them is named.
    """

    model: str
    device: str
    dtype: str
    batch: int
    size: int = 0
    file: str | None = None
    plugins: tuple[str, ...] = ()
    sources: Files = field(default_factory=dict)
    weights: Files = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    prints: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedCell:
    """One cell: ``config`` decides its result and its key."""

    key: str
    config: CellConfig
    how: RunOptions

    @property
    def samples(self) -> int:
        """Questions to be answered."""
        return self.config.task.samples

    @property
    def title(self) -> str:
        """The cell in words."""
        return self.config.title


@dataclass(frozen=True)
class Estimate:
    """Seconds of one worker, and whether such cells have been measured."""

    seconds: float
    measured: bool


Costs = Mapping[str, Estimate]
"""What cells will cost, by their keys."""
