"""The records that a study writes: answers, scores of tokens, cells, and how it was run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokensieve.core.study.plan.records import CellConfig, Record, Text

Status = Literal["done", "unmet", "failed"]
SAMPLES, ATTRIBUTIONS = "samples.jsonl", "anatomy.jsonl"
"""The files of a cell's results: answers, or scores of tokens."""


class SampleRecord(Record):
    """One question: what was answered, and what the answer cost.

    ``kept_hash`` is equal where the same tokens were kept; ``rounds`` are the prefills that the
    question took, if they are several.
    """

    id: Text
    answer: Text = ""
    expected: Text = ""
    score: float
    images: int = 1
    visual_tokens: int = 0
    per_layer: list[int] = Field(default_factory=list)
    average_tokens: float = 0.0
    flops_share: float = 1.0
    text_tokens: int = 0
    kept_hash: Text = ""
    seconds: float = 0.0
    rounds: int = 1


class AttributionRecord(Record):
    """Token attribution of one question: what scorers say of each token, and what it is worth.

    ``panels`` has for each picture the rows, columns and box of its grids, ``pictures`` a small
    JPEG of each in base64. ``loo`` is the answer's log-likelihood with all tokens minus that
    without the token: positive if the token helps. ``relevant`` is empty where nobody knows where
    the answer is; ``missing`` says why scorers have no scores.
    """

    id: Text
    question: Text = ""
    answer: Text = ""
    rows: int = 1
    columns: int = 1
    panels: list[list[list[int | list[float]]]] = Field(default_factory=list)
    pictures: list[Text] = Field(default_factory=list)
    relevant: list[int] = Field(default_factory=list)
    log_likelihood: float = 0.0
    loo: list[float] = Field(default_factory=list)
    scores: dict[Text, list[float]] = Field(default_factory=dict)
    boundary: int = 0
    missing: dict[Text, Text] = Field(default_factory=dict)


class Summary(Record):
    """Means over samples; ``wanted`` and ``reached`` are in the budget's own currency.

    What follows them is of benchmarks. A cell that answered nothing has a summary without keys.
    """

    samples: int = 0
    accuracy: float = 0.0
    average_tokens: float = 0.0
    visual_tokens: float = 0.0
    flops_share: float = 1.0
    wanted: float | None = None
    reached: float | None = None
    metric: Text = ""
    metrics: dict[Text, float | Text] = Field(default_factory=dict)
    note: Text = ""
    ignored_generation_arguments: list[Text] = Field(default_factory=list)


class Environment(Record):
    """The machine of a cell; nothing of it is meant to change a result.

    ``model`` is there in the list of a study's manifest.
    """

    model: Text = ""
    host: Text = ""
    batch: int = 0
    device: Text = ""
    device_name: Text = ""
    dtype: Text = ""
    attention: Text = ""
    threads: int = 0


class Outcome(Record):
    """The end of a cell; ``error`` says why it is not done."""

    status: Status
    error: Text | None = None
    traceback: Text | None = None
    summary: Summary = Summary()


class CellDocument(Outcome):
    """The file ``cell.json``: what decided a cell's result, how it ended, where and when."""

    config: CellConfig
    seconds: float = 0.0
    started: Text = ""
    environment: Environment = Environment()


class Start(Record):
    """One start of a study."""

    started: Text = ""
    command: list[Text] = Field(default_factory=list)
    executor: Text = ""
    git: Text | None = None
    versions: dict[Text, Text] = Field(default_factory=dict)
    python: Text = ""
    platform: Text = ""
    processor: Text = ""
    cores: int | None = None


class Manifest(Record):
    """The file ``manifest.json``: what a study was run with, and the keys of its cells."""

    format: int = 1
    name: Text = ""
    description: Text = ""
    seeds: list[int] = Field(default_factory=list)
    budgets: list[dict[Text, int | float]] = Field(default_factory=list)
    models: list[Text] = Field(default_factory=list)
    pipelines: list[Text] = Field(default_factory=list)
    tasks: list[Text] = Field(default_factory=list)
    cells: list[Text] = Field(default_factory=list)
    starts: list[Start] = Field(default_factory=list)
    environments: list[Environment] = Field(default_factory=list)
