"""Claims stand in the study's file, and its report judges them without being told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Call
from study_helpers import run_here, study_of

from tokensieve.core.errors import StudyError
from tokensieve.core.report.page import write_report
from tokensieve.core.study.spec.claims import read_claim, stored_claims

SMALL: dict[str, Any] = {"tasks": [{"task": "digits", "samples": 4}], "budgets": [0.5]}


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
    assert stored_claims(tmp_path) == ([("fastv", "uniform"), ("deep", "fastv")], [])
    _, found = write_report(tmp_path, resamples=50)
    assert [(tally.method, tally.other) for tally in found.claims] == [("fastv", "uniform")]
    assert "claim deep > fastv: there are no results of deep" in found.results.problems
    _, found = write_report(tmp_path, claims=[("visionzip", "random")], resamples=50)
    assert [(tally.method, tally.other) for tally in found.claims] == [("visionzip", "random")]


@pytest.mark.parametrize("text", ["name: x", "claims: []", "claims:", "claims: ''"])
def test_a_study_file_without_claims_has_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert stored_claims(tmp_path) == ([], [])


LOST: dict[str, tuple[bytes | None, str]] = {
    "no file": (None, "study.yaml: cannot be read: "),
    "an empty file": (b"", "study.yaml:1:1: the file is empty"),
    "no YAML": (b"name: x\nclaims: [", "study.yaml:2:10: not valid YAML: "),
    "a tag": (b"claims: !!python/name:os.system", "study.yaml:1:9: tag "),
    "a key given twice": (b"claims: [a > b]\nclaims: [b > a]", "study.yaml:2:1: "),
    "a control character": (b"name: a\x07", "study.yaml:1:8: not valid YAML: "),
    "other bytes": (b"name: \xff", "study.yaml:1:7: is not UTF-8 text (byte 6)"),
    "a list": (b"- a", "study.yaml:1:1: a study is a mapping"),
    "a number": (b"claims: 7", "study.yaml:1:9: claims: '7': two different names"),
    "half a claim": (b"claims:\n- fastv >", "study.yaml:2:3: claims: 'fastv >': two different"),
    "no text": (b"claims:\n- {a: b}", "study.yaml:2:3: claims: "),
    "very long": (b"claims: " + b"x" * 5000, "study.yaml:1:9: claims: 'xx"),
}


@pytest.mark.parametrize(("content", "line"), LOST.values(), ids=LOST)
def test_claims_that_cannot_be_read_are_named_in_one_line(
    content: bytes | None, line: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "study.yaml").write_bytes(content)
    pairs, (lost,) = stored_claims(tmp_path)
    assert pairs == []
    assert line in lost
    assert len(lost.splitlines()) == 1
    assert len(lost) < 400


def test_one_bad_claim_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("claims:\n- a > b\n- a\n- b > c\n")
    pairs, (lost,) = stored_claims(tmp_path)
    assert pairs == [("a", "b"), ("b", "c")]
    assert "study.yaml:3:3: claims: 'a'" in lost


def test_the_report_says_that_claims_are_lost_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    study = study_of(**SMALL, pipelines=["fastv"], claims=["fastv > uniform"])
    run_here(study, tmp_path, monkeypatch)
    assert call("report", str(tmp_path)).err == ""
    (tmp_path / "study.yaml").write_text("claims: [")
    told = call("report", str(tmp_path))
    assert told.code == 0
    (line,) = told.err.splitlines()
    assert "not valid YAML" in line and line.endswith("what the study claims is not known")
    assert "what the study claims is not known" in (tmp_path / "report.md").read_text()
    assert "report.html" in told.out
    assert call("report", str(tmp_path), "--claim", "fastv > uniform").err == ""
