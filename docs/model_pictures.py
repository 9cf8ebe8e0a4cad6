"""Draw the built-in models' tasks, and how they learned them.

``python docs/model_pictures.py [RUN_FOLDER ...]`` writes to ``docs/images``. ``docs/data`` holds
every hundredth step of ``curve.jsonl`` of the runs whose weights are shipped; the folder of a run,
named like the model, replaces them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tokensieve.adapters.zoo.tasks.pictures import TASKS, sample
from tokensieve.core.report.figures.plotting import OKABE_ITO, styled

DOCS = Path(__file__).parent
DATA, IMAGES = DOCS / "data", DOCS / "images"
EVERY = 100
SHOWN = 7
LINES = {
    "sight_accuracy": "squares read",
    "grounding_accuracy": "words grounded",
    "digits_answer_accuracy": "digits answered",
    "signs_answer_accuracy": "signs answered",
    "needle_answer_accuracy_large": "needle answered",
}


def take_over(run: Path) -> None:
    """Keep every hundredth line of a run; lines that a resumed run wrote again count once."""
    lines = (run / "curve.jsonl").read_text(encoding="utf-8").splitlines()
    by_step = {(entry := json.loads(line))["step"]: entry for line in lines}
    kept = [by_step[step] for step in sorted(by_step) if step % EVERY == 0 and by_step[step]]
    text = "".join(json.dumps({k: v for k, v in e.items() if k != "seconds"}) + "\n" for e in kept)
    (DATA / f"{run.name}.jsonl").write_text(text, encoding="utf-8")


def curve(file: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and running means of one quantity."""
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    known = [entry for entry in entries if key in entry]
    return [entry["step"] for entry in known], [100 * entry[key] for entry in known]


def draw_curves() -> Figure:
    """One panel a model."""
    files = sorted(DATA.glob("tiny-*.jsonl"))
    figure = Figure(figsize=(4.2 * len(files), 3.4), layout="constrained")
    panels: Any = figure.subplots(1, len(files), squeeze=False, sharey=True)
    for axes, file in zip(panels[0], files, strict=True):
        for color, (key, label) in zip(OKABE_ITO, LINES.items(), strict=False):
            axes.plot(*curve(file, key), color=color, label=label, linewidth=2)
        axes.set(title=file.stem, xlabel="step", ylim=(0, 101))
    panels[0][0].set_ylabel("% right, running mean in training")
    panels[0][-1].legend(loc="lower right", fontsize=9)
    return figure


def draw_tasks() -> Figure:
    """A held-out picture of each task with its question."""
    figure = Figure(figsize=(11, 4.7), layout="constrained")
    panels: Any = figure.subplots(1, len(TASKS), squeeze=False)
    for axes, (name, task) in zip(panels[0], TASKS.items(), strict=True):
        picture, question, answer, boxes = sample(task, SHOWN, "heldout")
        axes.imshow(picture, interpolation="nearest")
        for left, top, right, bottom in boxes:
            size = right - left, bottom - top
            axes.add_patch(Rectangle((left, top), *size, fill=False, color="white", linestyle=":"))
        axes.set(title=name, xlabel=f"{question}\n{answer}", xticks=[], yticks=[])
    return figure


def main() -> None:
    """Take over the runs that are named, and draw."""
    for run in sys.argv[1:]:
        take_over(Path(run))
    with styled():
        draw_curves().savefig(IMAGES / "training.svg", format="svg", metadata={"Date": None})
        draw_tasks().savefig(IMAGES / "tasks.png", dpi=120)


if __name__ == "__main__":
    main()
