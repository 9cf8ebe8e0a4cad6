"""Claims stand in the study's file, and its report judges them without being told."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_helpers import run_here, study_of

from tokensieve.core.errors import StudyError
from tokensieve.core.study.claims import read_claim, stored_claims
from tokensieve.core.study.report.html import write_report

SMALL = {"tasks": [{"task": "digits", "samples": 4}], "budgets": [0.5]}


@pytest.mark.parametrize("text", ["fastv", "fastv >", "> fastv", "fastv > fastv", ""])
def test_what_is_no_claim(text: str) -> None:
    with pytest.raises(StudyError, match="two different names with > between"):
        read_claim(text)


def test_a_report_judges_the_claims_of_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = {"pipeline": {"at": 9, "score": "uniform", "keep": 0.5}, "name": "deep"}
    study = study_of(
        **SMALL, pipelines=["fastv", "visionzip", deep], claims=["fastv > uniform", "deep > fastv"]
    )
    run_here(study, tmp_path, monkeypatch)
    assert stored_claims(tmp_path) == [("fastv", "uniform"), ("deep", "fastv")]
    _, found = write_report(tmp_path, resamples=50)
    assert [(tally.method, tally.other) for tally in found.claims] == [("fastv", "uniform")]
    assert "claim deep > fastv: there are no results of deep" in found.results.problems
    _, found = write_report(tmp_path, claims=[("visionzip", "random")], resamples=50)
    assert [(tally.method, tally.other) for tally in found.claims] == [("visionzip", "random")]


@pytest.mark.parametrize("text", ["", "claims: 7", "- a", "claims: [x]", "claims: [", "name: x"])
def test_a_study_file_without_claims_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert stored_claims(tmp_path) == []
    assert stored_claims(tmp_path / "nowhere") == []
