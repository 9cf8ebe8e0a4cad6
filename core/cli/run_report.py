"""What ``tokensieve run`` found, as tables, as JSON and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokensieve.core import units
from tokensieve.core.contract.panel import Panel
from tokensieve.core.engine.trace import StageTrace
from tokensieve.core.errors import ModelError
from tokensieve.core.files.whole import save
from tokensieve.core.models.loading import LoadedModel
from tokensieve.core.output.terminal import Rows, console, table
from tokensieve.core.pipeline.flops import COMPUTE, PAPER
from tokensieve.core.run.asking import Answer, AnswerComparison, Cost
from tokensieve.core.run.prompts import VisualQuestion, find_panels

SLOWER = "slower here"
EMPTY = "(empty answer)"
Panels = Sequence[Sequence[Panel]]
WIDEST = 8.0  # times the picture: a few pixels in a wide border cannot be drawn


def print_report(
    loaded: LoadedModel, pipeline: str, question: VisualQuestion, result: AnswerComparison
) -> None:
    """Answers, tokens per stage, costs and times, for people."""
    out = console()
    for label, text in [
        ("question", question.text),
        ("untouched", result.untouched.text or EMPTY),
        (pipeline, result.pruned.text or EMPTY),
    ]:
        out.print(f"{label:<{max(len(pipeline), 9)}}  {' '.join(text.split())}", soft_wrap=True)
    out.print()
    out.print(_stage_table(result))
    out.print()
    out.print(_cost_table(pipeline, result))
    out.print()
    for line in [*result.trace.notes, *_footnotes(loaded, result)]:
        out.print(line, soft_wrap=True)


def boundary_name(stage: StageTrace) -> str:
    """``boundary 2 (written as 7)``."""
    scaled = stage.written_boundary != stage.boundary
    return f"boundary {stage.boundary}" + (
        f" (written as {stage.written_boundary})" if scaled else ""
    )


def _stage_table(result: AnswerComparison) -> Rows:
    rows = table("visual tokens", "before", "after", "share", left=["visual tokens"])
    rows.add_row("original", "", str(result.visual_tokens), units.percent(1))
    for stage in result.trace.stages:
        share = units.percent(stage.after[0] / result.visual_tokens)
        rows.add_row(boundary_name(stage), str(stage.before[0]), str(stage.after[0]), share)
    return rows


def _cost_table(pipeline: str, result: AnswerComparison) -> Rows:
    rows = table("cost", "untouched", pipeline, "share", "", left=["cost", ""])
    for name, cost in (
        ("decoder prefill FLOPs, visual tokens", result.flops(PAPER)),
        ("decoder prefill FLOPs, all tokens", result.flops(COMPUTE)),
    ):
        rows.add_row(name, *_cells(cost, units.flops), "")
    rows.add_row("KV cache, all tokens", *_cells(result.kv_bytes(), units.size), "")
    for name, cost in _times(result):
        verdict = SLOWER if cost.share > 1 else ""
        rows.add_row(name, *_cells(cost, units.duration), verdict)
    return rows


def _cells(cost: Cost, unit: Any) -> tuple[str, str, str]:
    pruned = unit(cost.pruned, cost.untouched)
    return unit(cost.untouched), pruned, units.percent(cost.share)


def _times(result: AnswerComparison) -> list[tuple[str, Cost]]:
    before, after = result.untouched, result.pruned
    times = [("time to the first token", Cost(before.first_token, after.first_token))]
    if before.per_token is not None and after.per_token is not None:
        times.append(("time per further token", Cost(before.per_token, after.per_token)))
    lengths = f"{before.tokens}" if before.tokens == after.tokens else (
        f"{before.tokens} and {after.tokens}"
    )  # fmt: skip
    times.append((f"time of the answer ({lengths} tokens)", Cost(before.seconds, after.seconds)))
    return times


def _footnotes(loaded: LoadedModel, result: AnswerComparison) -> list[str]:
    kind = str(loaded.model.dtype).removeprefix("torch.")
    return [
        f"times: median of {result.repeats} interleaved runs after one warm-up each, "
        "vision encoder and scoring included; "
        f"{kind} on {loaded.model.device}, attention: {result.attention}",
        f"FLOPs, visual tokens: {PAPER}",
        f"FLOPs, all tokens: {COMPUTE}",
    ]


def _border(panel: Panel) -> float:
    """How many times larger than the picture a panel is, on its longer side."""
    left, top, right, bottom = panel.box
    return max(right - left, bottom - top)


def drawable_panels(
    loaded: LoadedModel, question: VisualQuestion, result: AnswerComparison
) -> Panels | None:
    """Where the tokens lie on the pictures; None if the adapter cannot say, or nobody could see."""
    panels = find_panels(loaded, question, result.visual_tokens)
    if panels is None or any(_border(panel) > WIDEST for group in panels for panel in group):
        return None
    return panels


def save_overlay(
    path: Path,
    loaded: LoadedModel,
    pipeline: str,
    question: VisualQuestion,
    result: AnswerComparison,
    panels: Panels,
) -> None:
    """Draw which patches survive."""
    from tokensieve.core.run.overlay import Frame, draw_overlay

    frames = [
        Frame(boundary_name(stage), stage.kept[0].tolist(), stage.after[0] - len(stage.kept[0]))
        for stage in result.trace.stages
    ]
    picture = draw_overlay(
        question.images,
        panels,
        frames,
        title=f"{pipeline} on {Path(loaded.name).name}",
        lines=[
            ("question", question.text),
            ("untouched", result.untouched.text or EMPTY),
            ("pruned", result.pruned.text or EMPTY),
        ],
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    save({path: buffer.getvalue()}, ModelError, "overlay")


def as_json(
    loaded: LoadedModel,
    pipeline: str,
    files: Sequence[Path],
    question: VisualQuestion,
    result: AnswerComparison,
    overlay: Path | None,
) -> dict[str, Any]:
    """Everything the report says, as plain data; times in seconds."""
    return {
        "model": loaded.name,
        "pipeline": pipeline,
        "images": [str(file) for file in files],
        "question": question.text,
        "device": str(loaded.model.device),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "attention": result.attention,
        "untouched": _answer_data(result.untouched),
        "pruned": _answer_data(result.pruned),
        "timed_runs": result.repeats,
        "visual_tokens": result.visual_tokens,
        "text_tokens": result.text_tokens,
        "stages": [
            {
                "boundary": stage.boundary,
                "written_boundary": stage.written_boundary,
                "before": stage.before[0],
                "after": stage.after[0],
                "kept": stage.kept[0].tolist(),
            }
            for stage in result.trace.stages
        ],
        "visual_tokens_per_layer": result.per_layer,
        "flops_visual_tokens": {**_cost_data(result.flops(PAPER)), "convention": str(PAPER)},
        "flops_all_tokens": {**_cost_data(result.flops(COMPUTE)), "convention": str(COMPUTE)},
        "kv_bytes": _cost_data(result.kv_bytes()),
        "notes": result.trace.notes,
        "overlay": None if overlay is None else str(overlay),
    }


def _answer_data(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "tokens": answer.tokens,
        "first_token": answer.first_token,
        "per_further_token": answer.per_token,
        "whole_answer": answer.seconds,
    }


def _cost_data(cost: Cost) -> dict[str, float]:
    return {"untouched": cost.untouched, "pruned": cost.pruned, "share": cost.share}
