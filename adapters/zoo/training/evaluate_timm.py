"""Does pruning hurt tiny-timm-vit? ``python -m tokensieve.adapters.zoo.training.evaluate_timm``.

Prints one table for each budget: accuracy on held-out scenes with its 95 % interval, the paired
difference to random patches with a bootstrap interval, and the share of the digit's own patches
that survive.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokensieve.adapters.zoo.tiny_timm import FOLDER, OneDigitScene, load_model, make_scene, pixels
from tokensieve.adapters.zoo.training.evaluate import Score

BATCH = 250
RESAMPLES = 4000
SEEDS = (0, 1, 2, 3, 4)
BOUNDARY = 4

METHODS: dict[str, dict[str, Any]] = {
    "random": {"score": "random"},
    "uniform": {"score": "uniform"},
    "ttv code": {"score": "ttv"},
    "ttv code, blocks 0-3": {"score": {"scorer": "ttv", "layers": [0, 3]}},
    "ttv block": {"score": {"scorer": "ttv", "variant": "block"}},
    "ttv code, lowest": {"score": "ttv", "select": "bottom-k"},
    "ttv block, lowest": {
        "score": {"scorer": "ttv", "variant": "block"},
        "select": "bottom-k",
    },
    "attention": {"score": "attention"},
    "cls-attention": {"score": "cls-attention"},
    "received-attention": {"score": "received-attention"},
    "hidden-change": {"score": "hidden-change"},
    "hidden-change, cosine": {"score": {"scorer": "hidden-change", "distance": "cosine"}},
    "tome": {"score": "uniform", "merge": "tome"},
    "cls-attention, absorb": {"score": "cls-attention", "merge": "absorb"},
}


@dataclass(frozen=True)
class Result:
    """Per scene: whether the digit was named, and the share of its patches that survived."""

    right: npt.NDArray[np.float64]
    found: npt.NDArray[np.float64]

    @property
    def score(self) -> Score:
        """Right answers; seeds of one scene count as one answer in the interval."""
        return Score(round(float(self.right.sum())), len(self.right))


@torch.no_grad()
def answers(model: Any, scenes: list[OneDigitScene]) -> npt.NDArray[np.float64]:
    """Whether each scene's digit is named."""
    given = model(pixels([scene.image for scene in scenes])).argmax(-1).numpy()
    return np.asarray(given == [scene.digit for scene in scenes], dtype=np.float64)


def run(
    model: Any, scenes: list[OneDigitScene], pipeline: dict[str, Any] | None, seed: int = 0
) -> Result:
    """Answer all scenes with a pipeline, or without one."""
    import tokensieve

    right, found = [], []
    for first in range(0, len(scenes), BATCH):
        batch = scenes[first : first + BATCH]
        if pipeline is None:
            right.append(answers(model, batch))
            found += [1.0] * len(batch)
            continue
        with tokensieve.attach(model, pipeline, seed=seed) as session:
            right.append(answers(model, batch))
        kept = session.trace.stages[-1].kept
        for scene, places in zip(batch, kept, strict=True):
            found.append(len({*scene.patches} & {*places.tolist()}) / len(scene.patches))
    return Result(np.concatenate(right), np.asarray(found))


def pruned(
    model: Any, scenes: list[OneDigitScene], method: str, share: float, boundary: int
) -> Result:
    """A method at one boundary; ``random`` is the mean over its seeds, scene by scene."""
    pipeline = {"name": "method", "at": boundary, "keep": share, **METHODS[method]}
    seeds = SEEDS if method == "random" else SEEDS[:1]
    results = [run(model, scenes, pipeline, seed) for seed in seeds]
    return Result(
        np.mean([result.right for result in results], axis=0),
        np.mean([result.found for result in results], axis=0),
    )


def difference(one: Result, other: Result) -> tuple[float, float, float]:
    """Paired difference of accuracies and its 95 % bootstrap interval over scenes."""
    gaps = one.right - other.right
    rng = np.random.default_rng(0)
    draws = [gaps[rng.integers(0, len(gaps), len(gaps))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(gaps.mean()), float(low), float(high)


def table(model: Any, scenes: list[OneDigitScene], share: float, boundary: int) -> str:
    """Markdown: one row for each method."""
    results = {name: pruned(model, scenes, name, share, boundary) for name in METHODS}
    lines = [
        "| method | accuracy | 95 % interval | minus random | 95 % interval | digit patches kept |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        low, high = result.score.interval()
        row = [name, f"{result.right.mean():.1%}", f"{low:.1%} to {high:.1%}"]
        if name == "random":
            row += ["", ""]
        else:
            gap, least, most = (100 * part for part in difference(result, results["random"]))
            row += [f"{gap:+.1f}", f"{least:+.1f} to {most:+.1f}"]
        lines.append(f"| {' | '.join([*row, f'{result.found.mean():.0%}'])} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the classifier")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--boundary", type=int, default=BOUNDARY)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25])
    options = parser.parse_args()
    model = load_model(options.model)
    scenes = [make_scene("heldout", index) for index in range(options.scenes)]
    low, high = (untouched := run(model, scenes, None)).score.interval()
    print(f"untouched: {untouched.right.mean():.1%} ({low:.1%} to {high:.1%})")
    for share in options.keep:
        print(f"\n{share:.0%} of the patches from boundary {options.boundary}:\n")
        print(table(model, scenes, share, options.boundary))


if __name__ == "__main__":
    main()
