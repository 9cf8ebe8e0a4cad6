"""The command line, called as a person calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Call, Result, one_line

from tokensieve.core.pipeline.flops import PAPER
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry

REGISTRY = build_registry()


# ---------------------------------------------------------------------- light commands


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["validate", "transprune", "visionzip"],
        ["schema"],
        ["show", "transprune"],
        ["show", "transprune", "--model", "small"],
        ["run", "--help"],
        ["bench", "--help"],
        ["check", "--help"],
    ],
    ids=" ".join,
)
def test_light_commands_import_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys; from tokensieve.core.cli.entry import main\n"
        f"sys.argv = ['tokensieve', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "heavy = {'torch', 'transformers', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_module_can_be_run() -> None:
    command = [sys.executable, "-m", "tokensieve", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tokensieve ")


def test_list_names_everything_registered(call: Call) -> None:
    shown = call("list")
    assert (shown.code, shown.err) == (0, "")
    rows = {tuple(line.split()[:2]): line for line in shown.out.splitlines() if line.strip()}
    for kind in ("scorer", "selector", "merger", "pipeline", "adapter", "model"):
        for entry in REGISTRY.all(kind):
            assert rows[kind, entry.name].rstrip().endswith(entry.owner)
    assert load_pipeline("fastv").description in rows["pipeline", "fastv"]
    assert "[CLS]" in rows["scorer", "cls-attention"]


def test_list_of_one_kind(call: Call) -> None:
    shown = call("list", "scorers")
    kinds = {line.split()[0] for line in shown.out.splitlines()[2:]}
    assert kinds == {"scorer"}


def test_list_refuses_an_unknown_kind(call: Call) -> None:
    shown = call("list", "scorrers")
    assert shown.code == 2
    assert "scorers" in shown.err


def test_list_shows_a_plugin_and_its_file(call: Call, plugin: Path) -> None:
    shown = call("list", "scorers", "--plugin", plugin)
    (line,) = [line for line in shown.out.splitlines() if " loud " in line]
    assert "Rank visual tokens by loudness." in line
    assert line.rstrip().endswith(str(plugin))


def test_list_tells_which_plugin_is_broken(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metadata = tmp_path / "broken_sieve-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-sieve\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tokensieve]\nx = broken_sieve_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("tokensieve.core.cli.options.build_registry", fresh_registry)
    shown = call("list", "scorers")
    assert shown.code == 0
    assert "broken-sieve" in shown.err
    assert "ttv" in shown.out


def fresh_registry(plugins: Any = ()) -> Any:
    from tokensieve.core.plugins import discovery as module

    module._build.cache_clear()
    try:
        return build_registry(plugins)
    finally:
        module._build.cache_clear()


# ---------------------------------------------------------------------- validate, schema, show


def test_validate_accepts_good_files_and_presets(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("at: 2\nscore: attention\nkeep: 0.5\n")
    shown = call("validate", "mine.yaml", "visionzip+transprune", "none")
    assert shown == Result(
        0,
        "mine.yaml: ok (mine, 1 stage)\n"
        "visionzip+transprune: ok (visionzip+transprune, 2 stages)\n"
        "none: ok (none, 0 stages)\n",
        "",
    )


def test_validate_names_file_line_and_column(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("stages:\n  - at: 2\n    score: atention\n    keep: 0.5\n")
    (tmp_path / "good.yaml").write_text("at: 2\nscore: attention\nkeep: 0.5\n")
    shown = call("validate", "bad.yaml", "good.yaml", "absent.yaml")
    assert shown.code == 2
    assert shown.out == "good.yaml: ok (good, 1 stage)\n"
    first, second = shown.err.splitlines()
    assert first.startswith("bad.yaml:3:12: stages[0].score")
    assert "did you mean 'attention'" in first
    assert second == "absent.yaml: cannot be read: No such file or directory"


def test_validate_knows_plugins(call: Call, plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("at: 2\nscore: loud\nkeep: 0.5\n")
    assert call("validate", "mine.yaml").code == 2
    assert call("validate", "mine.yaml", "--plugin", plugin).code == 0


def test_a_missing_plugin_file_is_one_line(call: Call) -> None:
    one_line(call("validate", "none", "--plugin", "nothing.py"), "nothing.py", "does not exist")


def test_schema_is_json_with_plugins(call: Call, plugin: Path) -> None:
    definitions = json.loads(call("schema", "--plugin", plugin).out)["$defs"]
    assert {"scorer:ttv", "scorer:loud", "stage"} <= set(definitions)


@pytest.mark.parametrize("preset", [entry.name for entry in REGISTRY.all("pipeline")])
def test_show_prints_yaml_that_loads_back(call: Call, preset: str, tmp_path: Path) -> None:
    (tmp_path / "copy.yaml").write_text(call("show", preset).out)
    assert load_pipeline(tmp_path / "copy.yaml") == load_pipeline(preset)


def test_show_with_another_budget(call: Call) -> None:
    shown = yaml.safe_load(call("show", "fastv", "--keep", "144").out)
    assert shown["stages"][0]["keep"] == 144
    shown = yaml.safe_load(call("show", "transprune", "--keep", "average=192").out)
    assert shown["keep"] == {"average": 192}


def budget_rows(out: str) -> list[list[str]]:
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("boundary")) + 2
    rows = []
    for line in lines[start:]:
        if not line.strip():
            break
        rows.append([cell.strip() for cell in line.split("  ") if cell.strip()])
    return rows


def test_show_transprune_on_llava_is_the_published_schedule(call: Call) -> None:
    """Golden, from the paper (576 -> 504 -> 360 -> 72, 1.557 of 3.817 TFLOPs)."""
    shown = call("show", "transprune", "--model", "llava-1.5-7b")
    assert (shown.code, shown.err) == (0, "")
    assert budget_rows(shown.out) == [
        ["-", "0-6", "576", "100.0 %", "576.00", "100.0 %", "0.835 TFLOPs", "66.1 MB"],
        ["7", "7-8", "504", "87.5 %", "519.75", "90.0 %", "1.043 TFLOPs", "82.6 MB"],
        ["9", "9-11", "360", "62.5 %", "416.25", "71.9 %", "1.265 TFLOPs", "100.3 MB"],
        ["12", "12-31", "72", "12.5 %", "236.25", "40.8 %", "1.557 TFLOPs", "123.9 MB"],
    ]
    assert "1.557 TFLOPs (40.8 % of 3.817 TFLOPs)" in shown.out
    assert "average 236.25" in shown.out
    assert "KV cache 123.9 MB (41.0 % of 302.0 MB)" in shown.out
    assert str(PAPER) in shown.out
    assert "scaled" not in shown.out


def test_show_takes_the_size_of_the_image(call: Call) -> None:
    """Golden, from the paper: LLaVA-1.6 with 2880 tokens."""
    shown = call("show", "transprune", "--model", "llava-1.5-7b", "--tokens", "2880")
    assert [row[2] for row in budget_rows(shown.out)] == ["2880", "2520", "1800", "360"]
    assert "8.330 TFLOPs (40.0 % of 20.825 TFLOPs)" in shown.out


def test_show_says_when_boundaries_are_scaled(call: Call, folders: dict[str, Path]) -> None:
    shown = call("show", "transprune", "--model", folders["llava"])
    assert [row[:2] for row in budget_rows(shown.out)] == [
        ["-", "-"], ["2", "7"], ["3", "9"], ["4", "12"],
    ]  # fmt: skip
    assert "boundaries [7, 9, 12] are tuned for 32 decoder layers; this model has 10" in shown.out


def test_show_reads_only_the_config(call: Call, folders: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((folders["internvl"] / "config.json").read_bytes())
    shown = call("show", "fastv", "--model", bare)
    assert shown.code == 0
    assert [row[2] for row in budget_rows(shown.out)] == ["16", "8"]


def test_show_says_that_an_adaptive_count_is_a_bound(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("at: 2\nscore: attention\nselect: threshold\n")
    shown = call("show", "mine.yaml", "--model", "small")
    assert "upper bounds: selector threshold" in shown.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["show", "transprun"], ["unknown pipeline", "did you mean 'transprune'?"]),
        (["show", "fastv", "--model", "llava-1.5-7B"], ["did you mean 'llava-1.5-7b'?"]),
        (["show", "fastv", "--model", "."], ["no config.json"]),
        (["show", "fastv", "--keep", "1.5"], ["impossible budget share = 1.5"]),
        (["show", "fastv", "--keep", "flop=0.4"], ["a budget has exactly one kind"]),
        (["show", "fastv", "--keep", "many"], ["'many' is not a budget"]),
        (["show", "fastv", "--keep", "{flops: "], ["--keep", "not valid YAML"]),
        (["show", "fastv", "--tokens", "100"], ["--model"]),
        (["show", "transprune", "--model", "small", "--keep", "5"], ["impossible"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_show_refuses_in_one_line(call: Call, arguments: list[str], parts: list[str]) -> None:
    one_line(call(*arguments), *parts)


def test_show_refuses_a_boundary_beyond_the_model(call: Call, tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("at: 40\nscore: attention\nkeep: 0.5\n")
    one_line(call("show", "deep.yaml", "--model", "small"), "boundary 40", "16 decoder layers")


def test_an_interrupt_ends_with_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokensieve.core.cli.files.load_pipeline", interrupt)
    assert call("validate", "none").code == 130


def test_our_own_bugs_keep_their_traceback_in_a_file(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tokensieve.core.cli.files.load_pipeline", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = call("validate", "none")
    (file,) = tmp_path.glob("tokensieve-*.txt")
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("RuntimeError: a bug: ")
    assert len(result.err.splitlines()) == 1
    assert str(file) in result.err
    assert "please report" in result.err
    assert 'raise RuntimeError("a bug")' in file.read_text()
