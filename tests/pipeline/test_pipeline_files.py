"""Pipeline files: what is wrong is said with FILE:LINE:COL, where, what, and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tokensieve
from tokensieve.core.errors import PipelineError
from tokensieve.core.pipeline.loading import dump_yaml
from tokensieve.core.plugins.discovery import build_registry

PRESETS = [entry.name for entry in build_registry().all("pipeline")]
STAGE = "name: x\nstages:\n  - at: 2\n    score: attention\n    keep: "

# file text -> the whole error message
WRONG: dict[str, tuple[str, str]] = {
    "misspelt stage key": (
        "name: x\nstages:\n  - at: 2\n    score: attention\n    kep: 0.5\n",
        "p.yaml:5:5: stages[0].kep: unknown key (did you mean 'keep'?), "
        "allowed: at, keep, merge, order, scope, score, select",
    ),
    "misspelt top key": ("name: x\nstagse: []\n", "p.yaml:2:1: stagse: unknown key (did you mean 'stages'?)"),
    "duplicate key": ("name: x\nname: y\n", "p.yaml:2:1: duplicate key 'name', first given in line 1"),
    "duplicate nested key": (
        "at: 2\nscore: {scorer: iga, rows: last, rows: last}\nkeep: 1\n",
        "p.yaml:2:34: duplicate key 'rows', first given in line 2",
    ),
    "text for a number": (
        "at: two\nscore: iga\nkeep: 0.5\n",
        "p.yaml:1:5: at: must be a valid integer, not 'two'",
    ),
    "true is no boundary": (
        "at: true\nscore: iga\nkeep: 0.5\n",
        "p.yaml:1:5: at: must be a valid integer, not True",
    ),
    "negative boundary": ("at: -1\nscore: iga\nkeep: 1\n", "p.yaml:1:5: at: a boundary is a number of decoder layers, 0 or more"),
    "share above one": (
        STAGE + "1.5\n",
        "p.yaml:5:11: stages[0].keep: impossible budget share = 1.5, allowed: above 0 and at most 1",
    ),
    "no tokens": (STAGE + "0\n", "p.yaml:5:11: stages[0].keep: impossible budget tokens = 0, allowed: at least 1"),
    "negative tokens": (STAGE + "-3\n", "p.yaml:5:11: stages[0].keep: impossible budget tokens = -3"),
    "not a number": (STAGE + ".nan\n", "p.yaml:5:11: stages[0].keep: impossible budget share = nan"),
    "infinite": (STAGE + "{average: .inf}\n", "p.yaml:5:11: stages[0].keep: impossible budget average = inf"),
    "on is text": (STAGE + "on\n", "p.yaml:5:11: stages[0].keep: 'on' is not a budget, allowed: 192 (tokens)"),
    "true is no budget": (STAGE + "true\n", "p.yaml:5:11: stages[0].keep: True is not a budget"),
    "misspelt budget": (STAGE + "{avrage: 3}\n", "p.yaml:5:11: stages[0].keep: a budget has exactly one kind"),
    "two budgets": (STAGE + "{average: 3, flops: 0.1}\n", "p.yaml:5:11: stages[0].keep: a budget has exactly one kind"),
    "unknown scorer": (
        "at: 2\nscore: atention\nkeep: 1\n",
        "p.yaml:2:8: score: unknown scorer 'atention' (did you mean 'attention'?), "
        "allowed: attention, cls-attention, ",
    ),
    "unknown selector": ("at: 2\nscore: iga\nselect: topk\nkeep: 1\n", "p.yaml:3:9: select: unknown selector 'topk' (did you mean 'top-k'?)"),
    "unknown merger": (
        "at: 0\nscore: random\nkeep: 9\nmerge: {merger: contextul, keep: 1}\n",
        "p.yaml:4:17: merge.merger: unknown merger 'contextul' (did you mean 'contextual'?)",
    ),
    "unknown parameter": (
        "at: 2\nscore: {scorer: attention, row: last}\nkeep: 1\n",
        "p.yaml:2:28: score.row: unknown parameter of 'attention' (did you mean 'rows'?), allowed: gravity, heads, rows",
    ),
    "wrong parameter": (
        "at: 2\nscore:\n  - iga\n  - {scorer: attention, rows: first}\nkeep: 1\n",
        "p.yaml:4:31: score[1].rows: must be 'last', 'after-image-text', 'all-text' or 'raters', not 'first'",
    ),
    "wrong weight": (
        "at: 2\nscore: {scorer: iga, weight: heavy}\nkeep: 1\n",
        "p.yaml:2:30: score.weight: must be a valid number",
    ),
    "deep inside a composite": (
        "at: 2\nselect:\n  selector: composite\n  parts:\n    - {share: 0.9, score: iga}\n"
        "    - {score: unifrm}\nkeep: 0.5\n",
        "p.yaml:6:15: select.parts[1].score: unknown scorer 'unifrm' (did you mean 'uniform'?)",
    ),
    "shares above one": (
        "at: 2\nselect:\n  selector: composite\n  parts: [{share: 0.9, score: iga}, {share: 0.2, score: iga}]\nkeep: 5\n",
        "select: the shares add up to 1.1, allowed: at most 1",
    ),
    "late merging": (
        "at: 2\nscore: iga\nkeep: 9\nmerge: {merger: contextual, keep: 3}\n",
        "p.yaml:4:8: merge: 'contextual' merges before the projector",
    ),
    "growing": (
        "at: [2, 4]\nscore: iga\nkeep: [0.5, 0.7]\n",
        "p.yaml:3:7: keep: keeps 0.7 but 0.5 are left: a later boundary cannot keep more",
    ),
    "lists of different length": ("at: [2, 4]\nscore: iga\nkeep: [0.5, 0.4, 0.3]\n", "p.yaml:3:7: keep: 3 budgets for 2 boundaries"),
    "boundaries back and forth": ("at: [4, 2]\nscore: iga\nkeep: 1\n", "p.yaml:1:5: at: boundaries must increase"),
    "stages back and forth": (
        "stages:\n  - {at: 4, score: iga, keep: 9}\n  - {at: 2, score: iga, keep: 9}\n",
        "p.yaml:3:10: stages[1].at: boundary 2 comes after boundary 4",
    ),
    "no budget": ("at: 4\nscore: iga\n", "keep: is missing: a stage needs a budget"),
    "no scorer": ("at: 4\nkeep: 3\n", "score: is missing: a stage needs a scorer"),
    "a part without any scorer": (
        "at: 2\nselect: {selector: composite, parts: [{share: 0.5, score: iga}, {}]}\nkeep: 8\n",
        "score: is missing: a stage needs a scorer",
    ),
    "wrong policy": ("positions: kep\n", "p.yaml:1:12: positions: must be 'keep' or 'reindex', not 'kep'"),
    "python tag": (
        "name: !!python/object/apply:os.system ['true']\n",
        "p.yaml:1:7: tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
    ),
    "broken YAML": ("name: [x\nstages: 3\n", "p.yaml:2:7: not valid YAML: expected ',' or ']', but got ':'"),
    "tab": ("name: x\n\tat: 2\n", "p.yaml:2:1: not valid YAML"),
    "a list": ("- 1\n", "p.yaml:1:1: a pipeline is a mapping with the key 'stages'"),
    "empty": ("", "p.yaml:1:1: the file is empty"),
    "endless alias": ("a: &a [*a]\n", "p.yaml:1:4: aliases expand too far"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_located_and_explained(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = WRONG[case]
    Path("p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError) as caught:
        tokensieve.load_pipeline("p.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("p.yaml")


def test_exponential_aliases_stop(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for level in range(1, 12):
        items = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{items}]")
    (tmp_path / "p.yaml").write_text("\n".join(lines))
    with pytest.raises(PipelineError, match="aliases expand too far"):
        tokensieve.load_pipeline(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("written", "kind", "value"),
    [
        ("192", "tokens", 192),
        ("010", "tokens", 10),
        ("0.33", "share", 0.33),
        ("1e-3", "share", 1e-3),
        (".5", "share", 0.5),
        ("1.0", "share", 1.0),
        ("{average: 192}", "average", 192),
        ("{flops: 4e-1}", "flops", 0.4),
        ("{tokens: 12}", "tokens", 12),
    ],
)
def test_numbers_are_what_a_person_means(
    written: str, kind: str, value: float, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text(STAGE + written + "\n")
    (budget,) = tokensieve.load_pipeline(tmp_path / "p.yaml").stages[0].keep
    assert (budget.kind, budget.value) == (kind, value)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "1:30", "2026-11-22", "=", "0x10"])
def test_words_stay_words(word: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"name: {word}\n", encoding="utf-8")
    assert tokensieve.load_pipeline(tmp_path / "p.yaml").name == word


def test_unicode_names_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "größe – 试验.yaml"
    path.write_text(
        "description: naïve Kürzung ✂\nat: 0\nscore: random\nkeep: 3\n", encoding="utf-8"
    )
    pipeline = tokensieve.load_pipeline(path)
    assert pipeline.name == "größe – 试验"
    assert pipeline.description.endswith("✂")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(PipelineError, match=r"p\.yaml:1:7: is not UTF-8 text \(byte 6\)"):
        tokensieve.load_pipeline(path)


def test_missing_file_and_unknown_preset() -> None:
    with pytest.raises(PipelineError, match=r"nowhere\.yaml: cannot be read: No such file"):
        tokensieve.load_pipeline("nowhere.yaml")
    with pytest.raises(PipelineError, match="did you mean 'transprune'"):
        tokensieve.load_pipeline("transprun")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_round_trip_through_yaml(preset: str, tmp_path: Path) -> None:
    pipeline = tokensieve.load_pipeline(preset)
    path = tmp_path / "copy.yaml"
    path.write_text(dump_yaml(pipeline), encoding="utf-8")
    assert tokensieve.load_pipeline(path) == pipeline
    assert pipeline.name == preset


def test_dict_and_file_and_pipeline_are_the_same(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"name": "x", "at": 2, "score": "attention", "keep": 0.5}
    one = tokensieve.load_pipeline(plain)
    path = tmp_path / "x.yaml"
    path.write_text("name: x\nstages:\n- {at: [2], score: [attention], keep: [0.5]}\n")
    assert tokensieve.load_pipeline(path) == one == tokensieve.load_pipeline(one)


def test_budget_from_outside() -> None:
    one = tokensieve.load_pipeline("visionzip", keep=128)
    assert one.stages[0].keep[0].value == 128
    many = tokensieve.load_pipeline("transprune", keep=300)
    assert many.keep is not None and (many.keep.kind, many.keep.value) == ("average", 300)
    assert tokensieve.load_pipeline("none", keep=64) == tokensieve.load_pipeline("none")
    with pytest.raises(PipelineError, match="keep: impossible budget share = 2"):
        tokensieve.load_pipeline("visionzip", keep=2.0)


@pytest.mark.parametrize(
    ("depth", "boundaries"),
    [
        (32, [7, 9, 12]),
        (40, [7, 9, 12]),
        (28, [7, 9, 12]),
        (13, [7, 9, 12]),
        (10, [2, 3, 4]),
        (8, [2, 3, 4]),
    ],
)
def test_boundaries_as_written_where_the_model_is_deep_enough(
    depth: int, boundaries: list[int]
) -> None:
    assert tokensieve.load_pipeline("transprune").boundaries(depth) == boundaries
