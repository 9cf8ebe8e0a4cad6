"""Plugin files: any path, fresh content, one clear line when something is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plugin_sources import HOOK, good_source, scorer_source, scorers, write

import tokensieve
from tokensieve.core.errors import PipelineError, PluginError
from tokensieve.core.plugins.discovery import build_registry


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
    "unknown signal": (
        good_source("deaf").replace('hidden"', 'hiden"'),
        r"in line 12: scorer 'Found': `needs` names the unknown signal 'hiden'",
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
