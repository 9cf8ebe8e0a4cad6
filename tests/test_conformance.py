"""Every registered component keeps the contract; the suite that says so can fail.

Nothing here lists components by hand: a scorer that is registered is covered.
"""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from broken_components import BROKEN, Norm

import tokensieve
from tokensieve import strategies
from tokensieve.core.cli import main
from tokensieve.core.components import Component
from tokensieve.core.errors import PluginError
from tokensieve.core.plugins import Entry, build_registry
from tokensieve.core.testing import (
    CHECKS,
    Check,
    CheckFailed,
    Scene,
    all_checks,
    assert_conforms,
    check_component,
    check_plugin_files,
    synthetic_batch,
)
from tokensieve.core.testing.synthetic import ROWS
from tokensieve.core.view import SIGNALS, View

ENTRIES = [entry for kind in CHECKS for entry in build_registry().all(kind)]
CASES = [(entry, check) for entry in ENTRIES for check in all_checks(entry.value)]
BROKEN_FILE = Path(__file__).parent / "broken_components.py"
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


@pytest.mark.parametrize(("entry", "check"), CASES, ids=[f"{e.name}-{c}" for e, c in CASES])
def test_registered_component_keeps_the_contract(entry: Entry, check: Check) -> None:
    check(entry.value)


def test_every_component_in_strategies_is_registered() -> None:
    defined = set()
    for found in pkgutil.walk_packages(strategies.__path__, f"{strategies.__name__}."):
        for value in vars(importlib.import_module(found.name)).values():
            if isinstance(value, type) and issubclass(value, Component):
                defined.add(value)
    built_in = {c for c in defined if c.__module__.startswith(strategies.__name__)}
    assert built_in
    assert built_in <= {entry.value for entry in ENTRIES}


@pytest.mark.parametrize("component", BROKEN, ids=lambda component: component.__name__)
def test_broken_component_is_caught_by_its_check_alone(component: Any) -> None:
    failed = [result for result in check_component(component) if not result.passed]
    assert [result.check for result in failed] == [component.breaks]
    assert failed[0].detail
    with pytest.raises(CheckFailed, match=component.breaks):
        assert_conforms(component)


def test_every_check_has_a_component_that_it_catches() -> None:
    names = {check.name for checks in CHECKS.values() for check in checks}
    assert names == {component.breaks for component in BROKEN} | {"registers"}


def test_class_that_cannot_be_registered_is_caught_by_registers_alone() -> None:
    class Nameless(Norm):
        """It has no name."""

    (result,) = check_component(Nameless)
    assert (result.check, result.passed) == ("registers", False)
    assert "name" in result.detail


def test_checks_that_make_no_sense_are_not_run() -> None:
    wrong_shape = next(c for c in BROKEN if c.breaks == "score-shape")
    results = check_component(wrong_shape)
    assert results[-1].check == "score-shape"
    assert len(results) < len(all_checks(wrong_shape))


def test_every_option_of_a_parameter_is_tried() -> None:
    class Moody(Norm):
        """Rank tokens, but not in every mood."""

        name = "moody"
        friendly: bool = True

        def score(self, view: View) -> torch.Tensor:
            if not self.friendly:
                raise RuntimeError("not today")
            return super().score(view)

    failed = [result for result in check_component(Moody) if not result.passed]
    assert [result.check for result in failed] == ["runs"]
    assert "not today" in failed[0].detail
    assert "with {'friendly': False}" in failed[0].detail
    assert not [r for r in check_component(Moody, {"friendly": True}) if not r.passed]


def test_examples_are_tried_as_parameter_sets() -> None:
    class Steep(Norm):
        """Rank tokens by a power of their length."""

        name = "steep"
        power: int

        @classmethod
        def examples(cls) -> list[dict[str, Any]]:
            return [{"power": 1}, {"power": 400}]

        def score(self, view: View) -> torch.Tensor:
            return super().score(view) ** self.power

    failed = {r.check: r.detail for r in check_component(Steep) if not r.passed}
    assert "with {'power': 400}" in failed["finite"]


def test_check_called_with_a_class_raises_if_the_class_breaks_it() -> None:
    wrong = next(component for component in BROKEN if component.breaks == "name")
    check = next(check for check in all_checks(wrong) if check.name == "name")
    with pytest.raises(AssertionError, match=r"scorer 'Bad_Name': name: .*not kebab-case"):
        check(wrong)


# ------------------------------------------------------------------ synthetic views


def test_synthetic_view_offers_every_signal() -> None:
    view = synthetic_batch(Scene(boundary=2, layers=(0, 1))).view()
    for signal in SIGNALS:
        assert view.has(signal)
        view.read(signal)
    assert {(t.layer, t.module) for t in view.transitions} == {
        (layer, module) for layer in (0, 1) for module in ("attention", "mlp")
    }
    assert view.next_attention.received("last").shape[::2] == view.valid.shape


def test_synthetic_view_has_no_history_at_boundary_0() -> None:
    view = synthetic_batch(Scene(boundary=0, layers=())).view()
    present = {signal for signal in SIGNALS if view.has(signal)}
    assert SIGNALS.keys() - present == {
        "transitions",
        "block_transitions",
        "previous_attention",
    }


def test_more_padding_leaves_the_real_tokens_as_they_are() -> None:
    scene = Scene(boundary=1, layers=(0,))
    plain = synthetic_batch(scene).view()
    padded = synthetic_batch(Scene(**{**vars(scene), "padding": 3, "garbage": 1})).view()
    width = plain.valid.shape[1]
    assert padded.valid.shape[1] == width + 3
    for signal in ("hidden", "vision_keys", "vision_attention", "grid"):
        before, after = plain.read(signal), padded.read(signal)[:, :width]
        assert torch.equal(before[plain.valid], after[plain.valid])
    for before, after in zip(plain.transitions, padded.transitions, strict=True):
        ours = before.at_tokens(before.magnitude)[plain.valid]
        assert torch.equal(ours, after.at_tokens(after.magnitude)[:, :width][plain.valid])
    hidden = plain.hidden[~plain.valid]
    assert not torch.equal(hidden, padded.hidden[:, :width][~plain.valid])


def test_pruned_scene_has_gaps_and_an_extra_token() -> None:
    view = synthetic_batch(Scene(pruned=True)).view()
    assert view.index[0, 0] == -1
    assert view.vision_features[0, 0].abs().sum() == 0
    assert (view.index[0].diff() > 1).any()


def structure(view: View) -> dict[str, Any]:
    """Signal -> dimensions and type; checks that it has one row per image, one value per token."""

    def described(values: torch.Tensor, tokens_at: int = 1) -> tuple[int, torch.dtype]:
        assert values.shape[0] == view.valid.shape[0]
        assert values.shape[tokens_at] == view.valid.shape[1]
        return values.ndim, values.dtype

    def of(signal: str) -> Any:
        value = view.read(signal)
        if signal == "cls_feature":
            assert value.shape[:2] == (view.valid.shape[0], 1)
            return value.ndim, value.dtype
        if signal.endswith(("next_attention", "previous_attention")):
            return [described(value.received(rows), 2) for rows in ROWS]
        if isinstance(value, torch.Tensor):
            return described(value)
        assert value
        for transition in value:
            assert transition.columns.max() < transition.valid.shape[1]
            assert transition.magnitude.shape == transition.cosine.shape == transition.valid.shape
        return {
            (t.module, *described(t.at_tokens(t.magnitude)), t.valid.dtype, t.columns.dtype)
            for t in value
        }

    return {signal: of(signal) for signal in sorted(SIGNALS) if view.has(signal)}


SPY = '''
import tokensieve
from tokensieve.core.view import SIGNALS

SEEN = []

class Spy(tokensieve.Scorer):
    """Rank tokens by index, and keep the views."""
    name = "spy"
    uses = frozenset(SIGNALS)
    def score(self, view):
        SEEN.append(STRUCTURE(view))
        return -view.index.float()

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Spy)
'''


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llava", "qwen-vl", "internvl"])
def test_synthetic_views_are_like_those_of_the_models(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    plugin = tmp_path / "spy.py"
    plugin.write_text(SPY, encoding="utf-8")
    spied = sys.modules[build_registry([plugin]).get("scorer", "spy").__module__]
    vars(spied)["STRUCTURE"] = structure
    model = tiny_models.build(family, dtype)
    prompts = [
        tiny_models.Prompt(2, tiny_models.DEFAULT_IMAGES[family], 3, seed=1),
        tiny_models.Prompt(4, tiny_models.DEFAULT_IMAGES[family][:1], 2, seed=2),
    ]
    pipeline = {"stages": [{"at": [0, 2], "score": "spy", "keep": [9, 5]}]}
    with tokensieve.attach(model, pipeline, plugins=[plugin]) as session, torch.no_grad():
        model(**tiny_models.inputs(family, prompts, dtype=dtype))
        missing = SIGNALS.keys() - session.bound.provides
    for boundary, real in zip((0, 2), vars(spied)["SEEN"], strict=True):
        scene = Scene(boundary=boundary, layers=tuple(range(boundary)), dtype=dtype)
        ours = structure(synthetic_batch(scene).view())
        if family == "qwen-vl":  # turns its queries and keys in float32, whatever its own type
            ours.update(vision_keys=(3, torch.float32), vision_attention=(3, torch.float32))
        assert real == {signal: kind for signal, kind in ours.items() if signal not in missing}


# ------------------------------------------------------------------ plugin files, command line


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
    results = check_plugin_files([BROKEN_FILE])
    failed = {result.component: result.check for result in results if not result.passed}
    assert failed == {component.name: component.breaks for component in BROKEN}


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


def test_scorer_of_the_documentation_conforms() -> None:
    class NormScorer(tokensieve.Scorer):
        """Rank visual tokens by the length of their hidden state."""

        name = "norm"
        needs = frozenset({"hidden"})
        power: float = 1.0

        def score(self, view: View) -> torch.Tensor:
            return view.hidden.norm(dim=-1) ** self.power

    assert_conforms(NormScorer)
