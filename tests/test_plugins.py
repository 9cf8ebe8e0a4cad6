"""Plugins come in by one door, are reported by name when they break, and leave nothing behind."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

import tokensieve
from tokensieve.core import plugins
from tokensieve.core.components import Component
from tokensieve.core.errors import PipelineError, PluginError, SignalError
from tokensieve.core.plugins import PROJECT, Registry, build_registry
from tokensieve.core.view import View

HOOK = "@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"


@pytest.fixture(autouse=True)
def _fresh_registry() -> Iterator[None]:
    plugins._build.cache_clear()
    yield
    plugins._build.cache_clear()


def scorer_source(name: str, result: str = "view.hidden.norm(dim=-1)") -> str:
    return textwrap.dedent(
        f'''\
        import tokensieve

        class Found(tokensieve.Scorer):
            """Rank visual tokens somehow."""
            name = "{name}"
            needs = frozenset({{"hidden"}})
            def score(self, view):
                return {result}

        '''
    )


def good_source(name: str) -> str:
    return f"{scorer_source(name)}{HOOK}    registry.add(Found)\n"


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return path


def install(site: Path, monkeypatch: pytest.MonkeyPatch, dist: str, source: str) -> None:
    """Make ``dist`` an installed distribution with one module and one entry point."""
    module = dist.replace("-", "_")
    write(site / f"{module}.py", source)
    info = site / f"{module}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[tokensieve]\nown = {module}\n")
    monkeypatch.syspath_prepend(str(site))


def scorers(registry: Registry) -> dict[str, str]:
    return {entry.name: entry.owner for entry in registry.all("scorer")}


# ------------------------------------------------------------------ installed plugins


def test_built_ins_come_through_the_entry_point_group(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = build_registry()
    assert set(scorers(built_in).values()) == {PROJECT}
    assert list(built_in.all("adapter"))
    assert list(built_in.all("pipeline"))

    points = [p for p in entry_points(group=PROJECT) if p.value.endswith(".adapters")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins._build.cache_clear()
    only_adapters = build_registry()
    assert not scorers(only_adapters)
    assert list(only_adapters.all("adapter"))


def test_source_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(PluginError, match=r"not installed.*pip install -e \."):
        build_registry()


def test_installed_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "acme-sieve-good", good_source("acme"))
    registry = build_registry()
    assert scorers(registry)["acme"] == "acme-sieve-good"
    assert not registry.problems
    pipeline = tokensieve.load_pipeline({"at": 1, "score": "acme", "keep": 0.5})
    assert pipeline.stages[0].score[0].scorer.name == "acme"


BREAKAGES = {
    "raises-on-import": "raise RuntimeError('no licence')\n",
    "exits-on-import": "import sys\nsys.exit('bye')\n",
    "syntax-error": "def broken(:\n",
    "missing-import": "import a_module_that_nobody_has\n",
    "without-hook": "VALUE = 1\n",
    "misspelt-hook": "import tokensieve\n@tokensieve.hookimpl\ndef tokensieve_regster(registry):\n"
    "    pass\n",
    "hook-raises": f"import tokensieve\n{HOOK}    raise RuntimeError('no licence')\n",
    "hook-exits": f"import tokensieve\n{HOOK}    raise SystemExit(0)\n",
    "half-registers": f"{scorer_source('half')}{HOOK}    registry.add(Found)\n    1 / 0\n",
    "takes-a-name": good_source("ttv"),
}


@pytest.mark.parametrize("case", BREAKAGES)
def test_broken_plugin_is_reported_by_name_and_stops_nobody_else(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = f"broken-{case}", f"good-beside-{case}"
    before = {kind: set(named) for kind, named in build_registry().entries.items()}
    plugins._build.cache_clear()
    install(tmp_path, monkeypatch, broken, BREAKAGES[case])
    install(tmp_path, monkeypatch, good, good_source("survivor"))

    registry = build_registry()
    (problem,) = registry.problems
    assert broken in problem
    assert "left out" in problem
    assert "\n" not in problem
    after = {kind: set(named) for kind, named in registry.entries.items()}
    assert after == {**before, "scorer": before["scorer"] | {"survivor"}}


def test_unknown_scorer_mentions_the_plugin_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "broken-owner", "raise RuntimeError('no licence')\n")
    with pytest.raises(PipelineError, match=r"unknown scorer 'wanted'.*'broken-owner'.*no licence"):
        tokensieve.load_pipeline({"at": 1, "score": "wanted", "keep": 0.5})


def test_broken_built_in_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(registry: Registry, module: Any, owner: str) -> None:
        raise PluginError("broken")

    monkeypatch.setattr(plugins, "_register", fail)
    with pytest.raises(PluginError, match="broken"):
        build_registry()


# ------------------------------------------------------------------ plugin files


def test_plugin_file_adds_to_what_is_installed(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", good_source("mine"))
    registry = build_registry([path])
    assert scorers(registry)["mine"] == str(path)
    assert "ttv" in scorers(registry)
    assert "mine" not in scorers(build_registry())
    dictionary = {"at": 1, "score": "mine", "keep": 0.5}
    assert tokensieve.load_pipeline(dictionary, plugins=[str(path)]).stages
    with pytest.raises(PipelineError, match="unknown scorer 'mine'"):
        tokensieve.load_pipeline(dictionary)


@pytest.mark.parametrize(
    "name", ["über ß 日本.py", "with-dash.py", "v1.2.scorer.py", "a b/inner.py", "class.py"]
)
def test_plugin_file_may_have_any_path(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, good_source("anywhere"))
    assert scorers(build_registry([path]))["anywhere"] == str(path)


def test_plugin_files_of_the_same_name_are_two(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "scorer.py", good_source("one"))
    two = write(tmp_path / "two" / "scorer.py", good_source("two"))
    registry = build_registry([one, two])
    found = {name: registry.get("scorer", name) for name in ("one", "two")}
    assert found["one"] is not found["two"]
    assert found["one"].__module__ != found["two"].__module__


def test_plugin_file_given_twice_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "twice.py", good_source("twice"))
    monkeypatch.chdir(tmp_path)
    assert "twice" in scorers(build_registry([path, "twice.py", "./twice.py"]))


def test_a_single_path_need_not_be_in_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "single.py", good_source("single"))
    assert "single" in scorers(build_registry(str(path)))
    assert "single" in scorers(build_registry(path))


def test_home_folder_may_be_written_as_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "home.py", good_source("home"))
    assert "home" in scorers(build_registry(["~/home.py"]))


def test_registry_is_built_once_and_sees_an_edited_plugin_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "edited.py", scorer_source("edited", "1") + HOOK + "    registry.add(Found)\n"
    )
    first = build_registry([path])
    assert build_registry([path]) is first
    stamp = path.stat().st_mtime_ns
    write(path, path.read_text().replace("return 1", "return 2"))  # as long as before
    os.utime(path, ns=(stamp, stamp))
    second = build_registry([path])
    results = [registry.get("scorer", "edited")().score(None) for registry in (first, second)]
    assert results == [1, 2]


def test_plugin_file_leaves_no_bytecode_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "clean.py", good_source("clean"))
    build_registry([path])
    assert list(tmp_path.iterdir()) == [path]


WRONG_FILES = {
    "raises": ("import tokensieve\n\n1 / 0\n", r"failed to import in line 3: ZeroDivisionError"),
    "raises deep": ("def f():\n    1 / 0\nf()\n", r"failed to import in line 2"),
    "exits": ("raise SystemExit\n", r"failed to import in line 1: SystemExit"),
    "syntax": ("x = 1\ndef f(:\n", r"failed to import in line 2: SyntaxError"),
    "null byte": ("x = 1\0\n", r"failed to import.*null bytes"),
    "no hook": ("x = 1\n", r"registers nothing: define `@tokensieve\.hookimpl def"),
    "no marker": (
        "def tokensieve_register(registry):\n    pass\n",
        r"registers nothing: define `@tokensieve\.hookimpl def",
    ),
    "misspelt hook": (
        "import tokensieve\n@tokensieve.hookimpl\ndef tokensieve_registers(registry):\n    pass\n",
        r"unknown hook 'tokensieve_registers'.*the hook is tokensieve_register\(registry\)",
    ),
    "misspelt beside a good one": (
        f"import tokensieve\n{HOOK}    pass\n"
        "@tokensieve.hookimpl\ndef tokensieve_registr(registry):\n    pass\n",
        r"unknown hook 'tokensieve_registr'",
    ),
    "wrong argument": (
        "import tokensieve\n@tokensieve.hookimpl\ndef tokensieve_register(reg):\n    pass\n",
        r"'reg'.*the hook is tokensieve_register\(registry\)",
    ),
    "hook raises": (
        f"import tokensieve\n{HOOK}    raise KeyError('x')\n",
        r"failed in line 4: KeyError",
    ),
    "no folder": (
        f"import tokensieve\n{HOOK}    registry.add_pipelines('/no/such/folder')\n",
        r"there is no folder /no/such/folder",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_plugin_file_is_one_clear_error(case: str, tmp_path: Path) -> None:
    source, reason = WRONG_FILES[case]
    path = write(tmp_path / "wrong.py", source)
    with pytest.raises(PluginError, match=reason) as caught:
        build_registry([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plugin_file_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"missing\.py does not exist"):
        build_registry([tmp_path / "missing.py"])
    with pytest.raises(PluginError, match=r"is not a Python file"):
        build_registry([write(tmp_path / "pipeline.yaml", "name: x")])
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(PluginError, match=r"folder\.py cannot be read"):
        build_registry([tmp_path / "folder.py"])
    with pytest.raises(PluginError, match="nobody-has-this-name"):
        build_registry(["~nobody-has-this-name/x.py"])
    with pytest.raises(PluginError, match="null byte"):
        build_registry(["x\0.py"])


def test_plugin_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes("x = 'ü'\n".encode("latin-1"))
    with pytest.raises(PluginError, match=r"latin\.py failed to import.*SyntaxError"):
        build_registry([path])


def test_name_clash_names_both_owners(tmp_path: Path) -> None:
    path = write(tmp_path / "clash.py", good_source("ttv"))
    with pytest.raises(PluginError) as caught:
        build_registry([path])
    assert f"scorer 'ttv' is added by '{path}' but 'tokensieve' already has it" in str(caught.value)

    other = write(tmp_path / "other.py", good_source("same"))
    again = write(tmp_path / "again.py", good_source("same"))
    with pytest.raises(PluginError) as caught:
        build_registry([other, again])
    assert str(other) in str(caught.value)
    assert str(again) in str(caught.value)


def test_failed_registration_leaves_nothing_behind() -> None:
    class Early(tokensieve.Scorer):
        """Comes before the failure."""

        name = "early"

        def score(self, view: View) -> torch.Tensor:
            return view.hidden[..., 0]

    class Plugin:
        @tokensieve.hookimpl
        def tokensieve_register(self, registry: Registry) -> None:
            registry.add(Early)
            registry.add_model("early", Path("early"))
            raise RuntimeError("too late")

    registry = Registry()
    with pytest.raises(PluginError, match=r"plugin 'plug' failed.*too late"):
        plugins._register(registry, Plugin(), "plug")  # type: ignore[arg-type]
    assert not any(registry.entries.values())
    assert registry.owner == PROJECT


# ------------------------------------------------------------------ what the registry takes


def _class(**body: Any) -> type[Component]:
    def score(self: Any, view: View) -> torch.Tensor:
        return view.hidden[..., 0]

    members = {"__module__": __name__, "__doc__": "A scorer.", "score": score, **body}
    return type("Made", (tokensieve.Scorer,), members)


def _annotated(parameter: str, kind: Any, value: Any) -> type[Component]:
    return _class(**{"name": "made", "__annotations__": {parameter: kind}, parameter: value})


REFUSED = {
    "no class": (lambda: 3, "3 is no subclass of Scorer, Selector, Merger or Adapter"),
    "other class": (lambda: dict, "is no subclass"),
    "object": (
        lambda: _class(name="made").model_validate({}),
        "is an object: add the class itself",
    ),
    "no name": (_class, "has no name: set the class attribute `name`"),
    "blank name": (lambda: _class(name=" "), "has no name"),
    "number as name": (lambda: _class(name=5), "has no name"),
    "abstract": (
        lambda: type("Made", (tokensieve.Scorer,), {"__module__": __name__, "name": "made"}),
        "scorer 'Made' is not complete: define score",
    ),
    "reserved parameter": (
        lambda: _annotated("weight", float, 1.0),
        "parameter 'weight' is a key of its own in YAML: rename it",
    ),
    "unknown signal": (
        lambda: _class(name="made", needs=frozenset({"hiden"})),
        r"`needs` names the unknown signal 'hiden' \(did you mean 'hidden'\?\)",
    ),
    "unknown optional signal": (
        lambda: _class(name="made", uses=frozenset({"cls"})),
        "`uses` names the unknown signal 'cls'",
    ),
    "letters as signals": (
        lambda: _class(name="made", needs=frozenset("hidden")),
        "unknown signal 'd'",
    ),
    "text as signals": (
        lambda: _class(name="made", needs="hidden"),
        r"`needs` is 'hidden', allowed: a set of signals such as frozenset\(\{\"hidden\"\}\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_registry_refuses_what_would_fail_later(case: str) -> None:
    make, reason = REFUSED[case]
    registry = Registry()
    with pytest.raises(PluginError, match=reason):
        registry.add(make())  # type: ignore[no-untyped-call]
    assert not any(registry.entries.values())


@pytest.mark.parametrize(("attribute", "kind"), [("name", str), ("needs", frozenset)])
def test_annotated_class_attribute_is_not_mistaken_for_a_parameter(
    attribute: str, kind: type
) -> None:
    with pytest.warns(UserWarning, match=f'"{attribute}".*shadows'):
        component = _annotated(attribute, kind, kind())
    with pytest.raises(PluginError, match=f"`{attribute} = ...` without a type"):
        Registry().add(component)


# ------------------------------------------------------------------ what a plugin may read


@pytest.fixture
def view() -> View:
    valid = torch.ones(1, 2, dtype=torch.bool)
    signals = {"hidden": lambda: torch.zeros(1, 2, 3)}
    return View(valid, valid.long(), signals, boundary=4)


def test_reading_an_undeclared_signal_names_reader_signal_and_remedy(view: View) -> None:
    reader = view.for_component("scorer 'mine'", frozenset({"grid"}))
    with pytest.raises(SignalError) as caught:
        _ = reader.hidden
    message = str(caught.value)
    assert "scorer 'mine' reads 'hidden' but does not declare it: add it to `needs`" in message
    assert "(declared: grid)" in message
    assert not reader.has("hidden")


def test_reading_a_signal_that_is_not_there_names_boundary_and_remedy(view: View) -> None:
    reader = view.for_component("scorer 'mine'", frozenset({"cls_feature"}))
    assert not reader.has("cls_feature")
    with pytest.raises(SignalError, match=r"boundary 4: ask `view\.has\('cls_feature'\)` first"):
        _ = reader.cls_feature


@pytest.mark.parametrize("access", [View.has, View.read])
def test_misspelt_signal_is_an_error_not_an_absent_one(view: View, access: Any) -> None:
    with pytest.raises(SignalError, match=r"no signal 'hiden' \(did you mean 'hidden'\?\)"):
        access(view, "hiden")
