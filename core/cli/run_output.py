"""The output of ``tokensieve run``: tables, JSON and a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

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
Unit = Callable[..., str]
"""Words for a number, in the unit that suits another one beside it."""
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
    rows = table("visual tokens", "before", "after", "share", left=["visual tokens"])
    rows.add_row("original", "", str(result.visual_tokens), units.percent(1))
    for stage in result.trace.stages:
        share = units.percent(stage.after[0] / result.visual_tokens)
        rows.add_row(boundary_name(stage), str(stage.before[0]), str(stage.after[0]), share)
    out.print(rows)
    out.print()
    out.print(_cost_table(pipeline, result))
    out.print()
    kind = str(loaded.model.dtype).removeprefix("torch.")
    for line in [
        *result.trace.notes,
        f"times: median of {result.repeats} interleaved runs after one warm-up each, "
        "vision encoder and scoring included; "
        f"{kind} on {loaded.model.device}, attention: {result.attention}",
        f"FLOPs, visual tokens: {PAPER}",
        f"FLOPs, all tokens: {COMPUTE}",
    ]:
        out.print(line, soft_wrap=True)


def boundary_name(stage: StageTrace) -> str:
    """``boundary 2 (written as 7)``."""
    scaled = stage.written_boundary != stage.boundary
    return f"boundary {stage.boundary}" + (
        f" (written as {stage.written_boundary})" if scaled else ""
    )


def _cost_table(pipeline: str, result: AnswerComparison) -> Rows:
    """FLOPs, cache and times of both models; a time that pruning makes longer says so."""
    before, after = result.untouched, result.pruned
    costs: list[tuple[str, Cost, Unit]] = [
        ("decoder prefill FLOPs, visual tokens", result.flops(PAPER), units.flops),
        ("decoder prefill FLOPs, all tokens", result.flops(COMPUTE), units.flops),
        ("KV cache, all tokens", result.kv_bytes(), units.size),
    ]
    first = Cost(before.first_token, after.first_token)
    costs.append(("time to the first token", first, units.duration))
    if before.per_token is not None and after.per_token is not None:
        further = Cost(before.per_token, after.per_token)
        costs.append(("time per further token", further, units.duration))
    lengths = f"{before.tokens}"
    if before.tokens != after.tokens:
        lengths = f"{before.tokens} and {after.tokens}"
    answer = Cost(before.seconds, after.seconds)
    costs.append((f"time of the answer ({lengths} tokens)", answer, units.duration))
    rows = table("cost", "untouched", pipeline, "share", "", left=["cost", ""])
    for name, cost, unit in costs:
        verdict = SLOWER if unit is units.duration and cost.share > 1 else ""
        pruned = unit(cost.pruned, cost.untouched)
        rows.add_row(name, unit(cost.untouched), pruned, units.percent(cost.share), verdict)
    return rows


def drawable_panels(
    loaded: LoadedModel, question: VisualQuestion, result: AnswerComparison
) -> Panels | None:
    """The tokens' places on the pictures; None if the adapter cannot say, or nobody could see."""
    panels = find_panels(loaded, question, result.visual_tokens)
    for panel in (panel for group in panels or () for panel in group):
        left, top, right, bottom = panel.box
        if max(right - left, bottom - top) > WIDEST:
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
) -> dict[str, object]:
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


def _answer_data(answer: Answer) -> dict[str, object]:
    return {
        "answer": answer.text,
        "tokens": answer.tokens,
        "first_token": answer.first_token,
        "per_further_token": answer.per_token,
        "whole_answer": answer.seconds,
    }


def _cost_data(cost: Cost) -> dict[str, float]:
    return {"untouched": cost.untouched, "pruned": cost.pruned, "share": cost.share}
