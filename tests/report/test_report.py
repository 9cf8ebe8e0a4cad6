"""The report finds what was planted in a study, and says "no evidence" where nothing was."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_study
from command_line import Call

pytest.importorskip("matplotlib")

from tokensieve.core.errors import StudyError
from tokensieve.core.report.findings import accuracy, comparing
from tokensieve.core.report.findings import attribution as signals
from tokensieve.core.report.findings.cells import token_scores
from tokensieve.core.report.findings.findings import Findings, find
from tokensieve.core.report.findings.full_grid import full_grid
from tokensieve.core.report.findings.labels import budget_label
from tokensieve.core.report.findings.reading import read_results
from tokensieve.core.report.findings.results import ModelTask, Place, Results
from tokensieve.core.report.page import write_report
from tokensieve.core.report.sections import sections
from tokensieve.core.report.statistics.significance import sign_flip_test
from tokensieve.core.report.verdicts import methods as verdicts
from tokensieve.core.report.verdicts.verdict import Verdict
from tokensieve.core.study.store.store import Store

RESAMPLES = 600


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_study.write_study(tmp_path_factory.mktemp("study") / "planted")


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "equal"
    return synthetic_study.write_study(folder, synthetic_study.EQUAL, anatomy=False, extra=False)


@pytest.fixture(scope="module")
def results(planted: Path) -> Results:
    return read_results(planted, resamples=RESAMPLES)


@pytest.fixture(scope="module")
def found(results: Results) -> Findings:
    return find(results)


@pytest.fixture(scope="module")
def said(found: Findings) -> dict[str, Verdict]:
    return {verdict.topic: verdict for verdict in sections(found)[0].verdicts}


@pytest.fixture(scope="module")
def nothing(equal: Path) -> dict[str, Verdict]:
    judged = sections(find(read_results(equal, resamples=RESAMPLES)))[0].verdicts
    return {verdict.topic: verdict for verdict in judged}


# ------------------------------------------------------------------ verdicts


def test_a_planted_winner_wins_everywhere(said: dict[str, Verdict]) -> None:
    assert said["Is there something to lose?"].kind == "yes"
    text = said["Is it better than random?"].text
    assert re.search(r"3 of 5 methods beat random at equal cost on all 3 models, most of all good",
                     text)  # fmt: skip
    assert "fickle (1 of 3)" in text
    assert "better on none: poor" in text
    best = said["good or poor?"]
    assert best.kind == "yes"
    assert best.text.startswith("good beats poor at equal cost on 3 of 3 models (over all +4")


def test_the_size_of_an_effect_is_in_its_interval(found: Findings) -> None:
    """Planted: +25 points for every model, but for chances that were cut at 98 %."""
    (summary,) = [t for t in found.baselines if (t.method, t.other) == ("good", "random")]
    assert summary.overall.difference.low < 0.25 < summary.overall.difference.high
    assert summary.overall.cells == 12


def test_equal_methods_are_not_told_apart(said: dict[str, Verdict]) -> None:
    (twins,) = [said[t] for t in ("twin or double?", "double or twin?") if t in said]
    assert twins.kind == "none"
    assert twins.text.startswith("No evidence that ")


def test_a_method_that_suits_one_model_is_called_that(said: dict[str, Verdict]) -> None:
    verdict = said["twin or fickle?"]
    assert verdict.kind == "mixed"
    assert "twin beats fickle on b and c and loses on a" in verdict.text


def test_rankings_that_carry_over(said: dict[str, Verdict], found: Findings) -> None:
    assert said["Do rankings carry over between tasks?"].kind in ("yes", "mixed")
    (agreement,) = [a for between, a in found.ranks if between == "model"]
    between = {
        frozenset((agreement.names[i], agreement.names[j])): agreement.matrix[i][j].value
        for i in range(3)
        for j in range(3)
        if i != j
    }
    assert between[frozenset("bc")] > between[frozenset("ab")]  # fickle differs most there
    assert all(i.low <= i.value <= i.high for line in agreement.matrix for i in line)


def test_the_favorite_of_the_others_is_held_out(found: Findings, said: dict[str, Verdict]) -> None:
    assert [entry.choice for entry in found.held_out] == ["good"] * 3
    assert all(entry.gain is not None and entry.gain.sign > 0 for entry in found.held_out)
    assert said["Is the others' favorite good on b?"].kind == "yes"


def test_where_nothing_differs_nothing_is_claimed(nothing: dict[str, Verdict]) -> None:
    for floor in ("random", "uniform", "downsample"):
        verdict = nothing[f"Is it better than {floor}?"]
        assert verdict.kind == "none"
        assert "No method is shown to beat" in verdict.text
    pairs = [v.kind for topic, v in nothing.items() if re.fullmatch(r"\w+ or \w+\?", topic)]
    assert pairs == ["none"] * 3
    assert nothing["Do rankings carry over between models?"].kind == "none"
    assert "yes" not in {v.kind for t, v in nothing.items() if "favorite" in t}


def test_one_method_more_does_not_change_the_words_for_many(found: Findings) -> None:
    many = [*found.claims] * 3
    alone = [t for t in many if t.method == "good"] * 3
    (verdict,) = verdicts.claims(alone)
    assert verdict.topic == "Is good, the best on average, better than the others?"
    assert "poor (+4" in verdict.text


def test_claims_can_be_named(results: Results) -> None:
    named = find(results, [("poor", "good"), ("blind", "sees")])
    judged = {v.topic: v for v in sections(named)[0].verdicts}
    assert judged["poor or good?"].kind == "no"
    assert "good beats poor" in judged["poor or good?"].text
    assert judged["Which is closer to the truth, blind or sees?"].kind == "no"
    assert "good or twin?" not in judged


# ------------------------------------------------------------------ signals


def test_scorers_are_told_apart(said: dict[str, Verdict]) -> None:
    truth = said["Which scorers know which tokens matter?"].text
    assert re.match(
        r"Rank tokens as leaving them out does: sees \(0\.\d\d, 95 % .*\)\. No evid", truth
    )
    region = said["Which scorers point at the relevant region?"].text
    assert re.match(r"More than chance would: sees", region)
    assert "chance 2.8 %" in region
    assert (
        "Late tokens score higher with late" in said["Does a token's place decide its score?"].text
    )
    assert said["Which is closer to the truth, sees or blind?"].kind == "yes"


def test_profiles_by_hand(results: Results) -> None:
    anatomy = signals.anatomies(results)[0]
    profile = {p.scorer: p for p in anatomy.profiles}["late"]
    shares, tops, sinks = [], [], []
    for record in anatomy.records:
        scores = np.array(record.scores["late"])
        lifted = scores - min(scores.min(), 0)
        relevant = [i for i, flag in enumerate(record.relevant) if flag]
        shares.append(lifted[relevant].sum() / lifted.sum())
        best = sorted(range(len(scores)), key=lambda i: -scores[i])
        tops.append(len(set(best[: len(relevant)]) & set(relevant)) / len(relevant))
        sinks.append(sum(lifted[i] for i in best[:3]) / lifted.sum())
    assert profile.mass is not None
    assert profile.hits is not None
    assert profile.mass.value == pytest.approx(np.mean(shares))
    assert profile.hits.value == pytest.approx(np.mean(tops))
    assert profile.sink.value == pytest.approx(np.mean(sinks))
    assert profile.chance == pytest.approx(4 / 144)
    assert profile.curve[0] < 0.2
    assert profile.curve[-1] > 0.8


def test_a_scorer_that_could_not_look_is_named(tmp_path: Path) -> None:
    record = synthetic_study._anatomy_record("a", 0)
    record["missing"] = {"cls-attention": "no [CLS]"}
    lonely = signals.read_anatomy(ModelTask("a", "digits"), [token_scores(record)])
    assert lonely.missing == {"cls-attention": "no [CLS]"}
    assert np.isnan(lonely.profiles[0].position.low)  # one image has no interval


# ------------------------------------------------------------------ numbers


def test_accuracy_is_the_mean_of_the_files(planted: Path, results: Results) -> None:
    place = Place("b", "signs", "16 tokens", "random")
    lines = [
        cell.samples
        for cell in Store(planted).cells()
        if cell.config["model"]["name"] == "b"
        and cell.config["task"]["name"] == "signs"
        and cell.config["budget"] == {"average": 16}
        and (cell.config["pipeline"] or {}).get("name") == "random"
    ]
    scores = [[line["score"] for line in sorted(cell, key=lambda s: s["id"])] for cell in lines]
    assert len(scores) == 3
    assert accuracy.accuracy(results, place).value == pytest.approx(np.mean(scores))
    other = place._replace(method="good")
    comparison = next(
        c for c in comparing.comparisons_by_cell(results) if (c.place, c.other) == (other, "random")
    )
    differences = results.scores(other) - np.mean(scores, axis=0)
    assert comparison.difference.value == pytest.approx(differences.mean())
    assert comparison.p == pytest.approx(sign_flip_test(differences))


def test_shares_and_agreement(results: Results) -> None:
    place = Place("a", "digits", "32 tokens", "good")
    whole = results.untouched[ModelTask("a", "digits")].scores[0]
    own = results.scores(place)
    share, same = accuracy.share_of_untouched(results, place), accuracy.agreement(results, place)
    assert share is not None
    assert same is not None
    assert share.value == pytest.approx(own.mean() / whole.mean())
    assert same.value == pytest.approx(np.mean((own == 1) & (whole == 1)))  # wrong ones all differ
    assert results.measured[place].token_share == pytest.approx(32 / 144)


def test_a_hole_costs_the_method_not_the_grid(results: Results) -> None:
    holed = Results(
        results.facts, *(getattr(results, n) for n in ("models", "tasks", "budgets", "methods"))
    )
    holed.weights, holed.ids = results.weights, results.ids
    holed.measured = dict(results.measured)
    del holed.measured[Place("a", "digits", "16 tokens", "twin")]
    grid = full_grid(holed)
    assert grid is not None
    assert grid.left_out == ("method twin",)
    assert grid.table.shape == (3, 2, 7, 2)
    for method in results.methods:
        holed.measured.pop(Place("c", "signs", "32 tokens", method), None)
    grid = full_grid(holed)
    assert grid is not None
    assert len(grid.methods) >= 7


def test_sums_leave_out_a_model_on_which_few_methods_run(tmp_path: Path) -> None:
    """Else `good` would be judged on three models and all others on two."""
    folder = synthetic_study.write_study(tmp_path / "few", anatomy=False, extra=False)
    whole = find(read_results(folder, resamples=50), [("good", "random")])
    for cell in list(Store(folder).cells()):
        name = cell.config["pipeline"]["name"]
        if cell.config["model"]["name"] == "c" and name not in {"none", "random", "good"}:
            Store(folder).discard(cell.key)
    found = find(read_results(folder, resamples=50), [("good", "random")])
    assert whole.results.pooled == ("a", "b", "c")
    assert whole.results.all_label == "all"
    assert found.results.pooled == ("a", "b")
    assert found.results.all_label == "all but c"
    (before,), (after,) = whole.claims, found.claims
    assert [comparison.models for comparison in after.by_model] == [("a",), ("b",), ("c",)]
    assert after.overall.models == ("a", "b")
    assert before.overall.cells == 12
    assert after.overall.cells == 8
    assert "over all but c" in verdicts.claim(after).text
    assert (
        "every model that they run on"
        in verdicts.against_baseline(found.baselines, "random")[0].text
    )


def test_only_shared_examples_are_compared(tmp_path: Path) -> None:
    folder = synthetic_study.write_study(tmp_path / "cut", anatomy=False, extra=False)
    cell = next(c for c in Store(folder).cells() if c.config["pipeline"]["name"] == "twin")
    result = synthetic_study.cell({**cell.config, "task": {**cell.config["task"], "samples": 150}})
    result.lines["samples.jsonl"] = cell.samples[:150]
    Store(folder).write(result)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(cell.key, result.key))
    found = read_results(folder, resamples=50)
    task = cell.config["task"]["name"]
    assert len(found.ids[task]) == 150
    assert any("150 of 200 examples" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("budget", "label"),
    [
        ({"average": 32}, "32 tokens"),
        ({"share": 0.22}, "22 %"),
        ({"flops": 0.4}, "40 % of FLOPs"),
        (None, "None"),
    ],
)
def test_budgets_in_words(budget: Any, label: str) -> None:
    assert budget_label(budget) == label


# ------------------------------------------------------------------ files


class Links(html.parser.HTMLParser):
    """Everything that a page would fetch, and all anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.jumps: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(str(value))
            if name in ("src", "href"):
                self._note(str(value))

    def _note(self, value: str) -> None:
        if value.startswith("#"):
            self.jumps.add(value[1:])
        else:
            self.fetched.append(value)


def test_the_command_writes_one_page_that_needs_nothing(planted: Path, call: Call) -> None:
    result = call("report", planted, "--out", "talk.html")
    assert result.code == 0, result.err
    assert "good beats poor at equal cost on 3 of 3 models" in result.out
    assert result.out.splitlines()[-3:] == ["talk.html", "talk.md", "talk.csv"]
    text = Path("talk.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert links.fetched
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.fetched)
    assert "script" not in links.tags
    assert "url(" not in text
    assert links.jumps <= links.ids
    assert text.index('id="verdicts"') < text.index('id="curves"') < text.index('id="numbers"')
    assert "keeps 48.0 tokens per layer, wanted 16" in text
    assert "RuntimeError: out of memory" in text


def test_the_same_study_gives_the_same_files(tmp_path: Path) -> None:
    small = synthetic_study.Planted({"a": 0.6}, {"digits": 0.0}, {"random": 0.0, "own": 0.2}, 60)
    planted = synthetic_study.write_study(tmp_path / "small", small)
    texts = []
    for name in ("one.html", "two.html"):
        files, _ = write_report(planted, tmp_path / name, resamples=100)
        texts.append([file.read_bytes() for file in files])
    assert texts[0] == texts[1]


def test_markdown_and_csv_hold_the_numbers(planted: Path, tmp_path: Path) -> None:
    (_, markdown, table), found = write_report(planted, tmp_path / "r.html", resamples=100)
    text = markdown.read_text(encoding="utf-8")
    assert "**good or poor?** (yes) good beats poor" in text
    assert "### a, digits" in text
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert len(rows) == len(found.results.measured) + len(found.results.untouched)
    row = next(
        r for r in rows if (r["model"], r["task"], r["budget"], r["method"])
        == ("c", "digits", "16 tokens", "good")
    )  # fmt: skip
    place = Place("c", "digits", "16 tokens", "good")
    assert float(row["accuracy"]) == pytest.approx(found.results.scores(place).mean(), rel=1e-4)
    assert float(row["accuracy_low"]) < float(row["accuracy"]) < float(row["accuracy_high"])
    assert float(row["over_random_p_corrected"]) >= float(row["over_random_p"])


def test_one_model_one_task_one_method_is_enough(tmp_path: Path) -> None:
    small = synthetic_study.Planted({"a": 0.6}, {"digits": 0.0}, {"random": 0.0, "own": 0.2}, 60)
    folder = synthetic_study.write_study(tmp_path / "small", small, anatomy=False, extra=False)
    (page, *_), found = write_report(folder, resamples=100)
    assert page.exists()
    assert found.ranks == ()
    assert found.held_out == ()


def test_anatomy_alone_is_enough(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for result in synthetic_study._anatomy_cells(synthetic_study.PLANTED):
        store.write(result)
    (page, *_), _ = write_report(tmp_path, resamples=100)
    assert 'id="signals"' in page.read_text(encoding="utf-8")


def test_mistakes_are_one_line(planted: Path, tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    for arguments, words in [
        (("report", tmp_path / "nowhere"), "no folder of a study"),
        (("report", tmp_path / "empty"), "no finished cell"),
        (("report", planted, "--out", "x.pdf"), "must end in .html"),
        (("report", planted, "--out", tmp_path / "no" / "x.html"), "cannot be written"),
        (("report", planted, "--claim", "good"), "'A > B'"),
        (("report", planted, "--claim", "good > goood"), "'goood' is not in this study"),
    ]:
        result = call(*arguments)
        assert result.code == 2
        assert words in result.err
        assert len(result.err.splitlines()) == 1


def test_a_missing_extra_is_named(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(StudyError, match=r"pip install 'tokensieve\[report\]'"):
        write_report(planted)


def test_a_corrupt_cell_is_missing_not_zero(tmp_path: Path) -> None:
    folder = synthetic_study.write_study(tmp_path / "cut", anatomy=False, extra=False)
    broken = next(c for c in Store(folder).cells() if c.config["pipeline"]["name"] == "good")
    with (broken.path / "samples.jsonl").open("a") as stream:
        stream.write("{}\n")
    found = read_results(folder, resamples=50)
    config = broken.config
    place = (config["model"]["name"], config["task"]["name"])
    assert Place(*place, f"{config['budget']['average']} tokens", "good") not in found.measured
    assert any("1 of" in problem for problem in found.problems)
