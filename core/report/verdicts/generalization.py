"""Verdicts on generalization: rankings, a model held out, and where the variance comes from."""

from __future__ import annotations

from collections.abc import Sequence

from tokensieve.core.report.findings.generalizing import HeldOut, RankAgreement
from tokensieve.core.report.statistics.intervals import Interval
from tokensieve.core.report.verdicts.verdict import Kind, Verdict
from tokensieve.core.report.verdicts.wording import coefficient, number, percents, points, span


def ranking(agreement: RankAgreement | None, between: str) -> list[Verdict]:
    """Whether the order of the methods carries over between models or tasks."""
    if agreement is None:
        return []
    tau, topic = agreement.mean, f"Do rankings carry over between {between}s?"
    shown = f"Kendall's tau {coefficient(tau)}, mean over pairs of {between}s"
    if tau.sign > 0 and tau.low >= 0.5:  # noqa: PLR2004 - three of four pairs in the same order
        return [Verdict(topic, "yes", f"Yes: {between}s rank the methods much alike ({shown}).")]
    if tau.sign > 0:
        text = f"In part: {between}s rank the methods more alike than chance would ({shown})."
        return [Verdict(topic, "mixed", text)]
    if tau.sign < 0:
        return [
            Verdict(topic, "no", f"No: {between}s rank the methods against each other ({shown}).")
        ]
    return [Verdict(topic, "none", f"No evidence that they do ({shown}).")]


def held_out(entries: Sequence[HeldOut]) -> list[Verdict]:
    """Whether the method that the other models would choose is good on each model."""
    verdicts = []
    for entry in entries:
        topic, hundred = f"Is the others' favorite good on {entry.model}?", entry.loss.times(100)
        if entry.choice == entry.best:
            text = (
                f"{entry.choice}, best on the other models, is best here too (loss 95 % "
                f"{span(hundred)} points)"
            )
        else:
            text = (
                f"{entry.choice}, best on the other models, is {number(hundred.value)} points "
                f"(95 % {span(hundred)}) behind {entry.best}, the best here"
            )
        if entry.gain is None:
            verdicts.append(Verdict(topic, "none", f"{text}."))
            continue
        against = f"against random {points(entry.gain)}"
        if entry.gain.sign < 0:
            verdicts.append(Verdict(topic, "no", f"{text}; {against}."))
        elif entry.gain.sign == 0:
            text = f"{text}; no evidence of a gain {against}."
            verdicts.append(Verdict(topic, "none", text))
        else:
            kind: Kind = "mixed" if entry.loss.low > 0 else "yes"
            verdicts.append(Verdict(topic, kind, f"{text}; {against}."))
    return verdicts


def variance(shares: dict[str, Interval]) -> list[Verdict]:
    """Whether the method alone makes the difference, or its interplay with model and task."""
    if not shares:
        return []
    method, noise = shares["method"], shares["drawn examples"]
    interplay = [share for name, share in shares.items() if "method" in name and name != "method"]
    together = Interval(
        *(sum(getattr(s, end) for s in interplay) for end in ("value", "low", "high"))
    )
    text = (
        f"Of the variance between cells at equal cost, the method alone makes {percents(method)}; "
        f"its interplay with model and task, all terms together, {percents(together)}; the draw of "
        f"examples {percents(noise)}."
    )
    topic = "Method, or method for a model?"
    if method.low > together.high:
        return [Verdict(topic, "yes", f"{text} A method's merit is mostly its own.")]
    if method.high < together.low:
        return [Verdict(topic, "no", f"{text} What a method is worth depends on where it is used.")]
    return [Verdict(topic, "none", f"{text} No evidence which of the two is larger.")]
