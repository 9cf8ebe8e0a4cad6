"""``tokensieve check`` and :func:`check_plugin_files`: a file in, a verdict out."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import broken_scorers
import broken_selectors_and_mergers
import pytest

from tokensieve.core.cli.entry import main
from tokensieve.core.errors import PluginError
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.testing import CHECKS, check_plugin_files

BROKEN = (broken_scorers, broken_selectors_and_mergers)
PLUGIN = '''
import tokensieve

class {class_name}(tokensieve.Scorer):
    """Rank visual tokens by the length of their hidden state."""
    name = "{name}"
    needs = frozenset({{"hidden"}})
    power: float = 1.0
    def score(self, view):
        return {score}

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add({class_name})
'''
GOOD_SCORE = "view.hidden.norm(dim=-1) ** self.power"
WRONG_SCORE = "view.hidden.norm() * view.hidden[..., 0]"


def plugin_file(folder: Path, name: str, score: str = GOOD_SCORE) -> Path:
    path = folder / f"{name}.py"
    path.write_text(PLUGIN.format(class_name="Scorer", name=name, score=score), encoding="utf-8")
    return path


def test_good_plugin_file_passes_all_checks(tmp_path: Path) -> None:
    results = check_plugin_files([plugin_file(tmp_path, "good-norm")])
    assert {result.component for result in results} == {"good-norm"}
    assert len(results) == len(CHECKS["scorer"])
    assert all(result.passed for result in results)


def test_components_of_a_plugin_file_can_be_pickled(tmp_path: Path) -> None:
    registry = build_registry([plugin_file(tmp_path, "pickled-norm")])
    component = registry.get("scorer", "pickled-norm")(power=2.0)
    assert pickle.loads(pickle.dumps(component)) == component


def test_broken_plugin_file_is_caught_check_by_check() -> None:
    results = check_plugin_files([str(module.__file__) for module in BROKEN])
    failed = {result.component: result.check for result in results if not result.passed}
    expected = [component for module in BROKEN for component in module.BROKEN]
    assert failed == {component.name: component.breaks for component in expected}


def test_pipelines_of_a_plugin_file_are_validated(tmp_path: Path) -> None:
    plugin = plugin_file(tmp_path, "piped-norm")
    (tmp_path / "fine.yaml").write_text("{at: 1, score: piped-norm, keep: 0.5}")
    (tmp_path / "wrong.yaml").write_text("{at: 1, score: piped-nrm, keep: 0.5}")
    text = plugin.read_text() + "    registry.add_pipelines(__file__.rsplit('/', 1)[0])\n"
    plugin.write_text(text)
    results = {r.component: r for r in check_plugin_files([plugin]) if r.kind == "pipeline"}
    assert results["fine"].passed
    assert not results["wrong"].passed
    assert "did you mean 'piped-norm'?" in results["wrong"].detail


def test_plugin_file_without_components_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text(
        "import tokensieve\n@tokensieve.hookimpl\ndef tokensieve_register(registry):\n    pass\n"
    )
    with pytest.raises(PluginError, match=r"empty\.py.*nothing to check"):
        check_plugin_files([path])


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tokensieve", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


Command = Callable[..., tuple[int, str, str]]


def test_check_command_lists_every_check_and_exits_0(command: Command, tmp_path: Path) -> None:
    code, out, err = command(plugin_file(tmp_path, "shown-norm"))
    assert (code, err) == (0, "")
    assert "scorer shown-norm" in out
    assert all(check.name in out and check.meaning in out for check in CHECKS["scorer"])
    assert f"{len(CHECKS['scorer'])} checks, 0 failed" in out


def test_check_command_exits_1_if_a_check_fails(command: Command, tmp_path: Path) -> None:
    wrong = plugin_file(tmp_path, "batch-norm", WRONG_SCORE)
    code, out, _ = command(wrong, plugin_file(tmp_path, "next-norm"))
    assert code == 1
    (line,) = [line for line in out.splitlines() if "batch-invariant" in line and "FAILED" in line]
    assert "depend on the rest of the batch" in line
    assert "scorer next-norm" in out


def test_check_command_says_what_was_not_run(command: Command, tmp_path: Path) -> None:
    code, out, _ = command(plugin_file(tmp_path, "flat-norm", "view.hidden"))
    assert code == 1
    (line,) = [line for line in out.splitlines() if "half-precision" in line]
    assert "not run" in line
    assert "score-shape" in line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        ("def broken(:\n", "SyntaxError"),
        ("import tokensieve\n\nundefined\n", "in line 3: NameError"),
        ("import sys\nsys.exit(0)\n", "in line 2: SystemExit"),
        ("VALUE = 1\n", "registers nothing"),
    ],
    ids=["missing", "syntax", "raises", "exits", "no-hook"],
)
def test_check_command_exits_2_with_one_line_if_a_file_cannot_be_loaded(
    command: Command, tmp_path: Path, content: str | None, reason: str
) -> None:
    path = tmp_path / "unloadable.py"
    if content is not None:
        path.write_text(content)
    code, out, err = command(path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert reason in err
    assert str(path) in err


def test_check_command_refuses_an_unknown_device(command: Command, tmp_path: Path) -> None:
    code, out, err = command("--device", "abacus", plugin_file(tmp_path, "device-norm"))
    assert (code, out) == (2, "")
    assert "abacus" in err
