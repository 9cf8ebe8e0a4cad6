"""Results are of what was planned: examples, code, data, weights, stored cells and names."""

from __future__ import annotations

import copy
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Call, one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_cells import (
    BUDGETS,
    CORRUPT,
    COST,
    LIE,
    LISTS,
    PAIRS,
    SHAPES,
    SPELLINGS,
    other,
    stored,
)
from identity_changes import (
    DATA,
    EDITS,
    IMPORTS,
    MINE,
    ONE,
    READS,
    RESTLESS,
    ROW,
    SAME,
    TASKS,
    TWO,
    WEIGHTS,
    flip,
    planned,
    rows,
    task_source,
    write_plugin,
)
from identity_examples import (
    DIFFERENT,
    NOT_COMPARED,
    PLAIN,
    added,
    extra,
    wide,
)
from PIL import Image
from plugin_sources import good_source, write
from study_helpers import Heard, spec_of, study_of

from tokensieve.core.contract.tasks import Example
from tokensieve.core.errors import PipelineError, PluginError, StudyError, TaskError
from tokensieve.core.files.yaml_source import read_yaml
from tokensieve.core.names import CONTROLS, RESERVED
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.executors.ray import RemoteWorker
from tokensieve.core.study.executors.slurm import RunShare
from tokensieve.core.study.plan.fingerprints import fingerprint
from tokensieve.core.study.plan.identity import model_files
from tokensieve.core.study.plan.keys import key_of
from tokensieve.core.study.plan.records import CellConfig, PlannedCell
from tokensieve.core.study.running import run_study
from tokensieve.core.study.store.flaws import CorruptCell
from tokensieve.core.study.store.records import CellDocument
from tokensieve.core.study.store.store import (
    CellResult,
    Store,
    check_folder_name,
    unfinished,
)
from tokensieve.core.study.work.worker import Worker


def clear(error: BaseException | str, *parts: str) -> None:
    """One line of bearable length that names its parts."""
    (line,) = str(error).splitlines()
    assert len(line) < 500
    for part in parts:
        assert part in line


# --------------------------------------------------------------------- examples


@pytest.mark.parametrize("case", DIFFERENT)
def test_whatever_differs_in_an_example_shows(case: str) -> None:
    one, other = DIFFERENT[case]
    assert fingerprint([one()]) != fingerprint([other()])
    assert fingerprint([one()]) == fingerprint([one()])
    assert fingerprint([other()]) == fingerprint([other()])


@pytest.mark.parametrize("case", ["order", "number", "twice"])
def test_whatever_differs_among_examples_shows(case: str) -> None:
    one, other = wide(), wide(id="2")
    lists = {"order": [other, one], "number": [one], "twice": [one, other, other]}
    assert fingerprint(lists[case]) != fingerprint([one, other])


def test_data_of_a_class_shows() -> None:
    def kind(answers: Any) -> Any:
        return type("Of", (Example,), {"answers": answers})("1", (), "?", "a")

    assert fingerprint([kind(["a"])]) != fingerprint([kind(["b"])])
    assert fingerprint([kind(["a"])]) == fingerprint([kind(["a"])])


@pytest.mark.parametrize("case", NOT_COMPARED)
@pytest.mark.parametrize("place", ["field", "attribute"])
def test_what_cannot_be_compared_is_refused(case: str, place: str) -> None:
    value = NOT_COMPARED[case]()
    example = wide(extra=value) if place == "field" else added("weight", value)
    with pytest.raises(TaskError) as caught:
        fingerprint([example])
    clear(caught.value, "example '1'", "extra" if place == "field" else "weight")
    if hasattr(value, "close"):
        value.close()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(one=PLAIN, other=PLAIN)
def test_equal_prints_are_equal_values(one: Any, other: Any) -> None:
    same = repr(one) == repr(other)
    assert (fingerprint([extra(one)]) == fingerprint([extra(other)])) == same


@settings(max_examples=100, deadline=None, derandomize=True)
@given(value=PLAIN)
def test_a_copy_has_the_same_print(value: Any) -> None:
    assert fingerprint([extra(value)]) == fingerprint([extra(copy.deepcopy(value))])


# ------------------------------------------------------------- code, data, weights


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker()


def failed(result: CellResult, *parts: str) -> None:
    assert result.status == "failed", result.cell
    clear(result.cell["error"], *parts)
    assert result.lines == {}


@pytest.mark.parametrize("change", ["edited", "commented", "removed"])
@pytest.mark.parametrize("how", IMPORTS)
def test_what_a_plugin_imports_is_part_of_it(
    how: str, change: str, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    plugin, file = write_plugin(tmp_path, how)
    before = planned("mine", [plugin], pipelines=[MINE])
    if change == "removed":
        file.unlink()
        failed(worker.run(before), file.name)
        return
    write(file, "FACTOR = 3\n" if change == "edited" else "FACTOR = 2  # two\n")
    after = planned("mine", [plugin], pipelines=[MINE])
    assert after.key != before.key
    failed(worker.run(before), str(file), "has changed since the study was planned")


ENTRIES = ["worker", "ray", "slurm"]


def run_by(entry: str, cell: PlannedCell, worker: Worker, out: Path) -> CellResult:
    """The cell's result, as each executor has it made."""
    if entry == "worker":
        return worker.run(cell)
    if entry == "ray":
        return RemoteWorker(None).run(cell)
    RunShare()([cell], str(out))
    (found,) = Store(out).cells()
    return CellResult(found.key, found.data, {"samples.jsonl": found.samples} if found.samples
                      else {})  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_plugin_gives_no_result(
    edit: str, entry: str, tmp_path: Path, worker: Worker
) -> None:
    plugin = write(tmp_path / "plugin.py", good_source("mine"))
    cell = planned("mine", [plugin], pipelines=[MINE])
    EDITS[edit](plugin)
    failed(run_by(entry, cell, worker, tmp_path / "out"), str(plugin))


def test_a_plugin_that_is_as_it_was_gives_a_result(tmp_path: Path, worker: Worker) -> None:
    plugin = write(tmp_path / "plugin.py", good_source("mine"))
    cell = planned("mine", [plugin], pipelines=[MINE])
    write(plugin, "")
    failed(worker.run(cell), str(plugin))
    write(plugin, good_source("mine"))
    assert worker.run(cell).status == "done"


def test_a_plugin_that_changes_while_its_cell_runs_gives_no_result(
    tmp_path: Path, worker: Worker
) -> None:
    """It writes to its own file as soon as it is asked."""
    once = "(open(__file__, 'a').write('#'), view.hidden.norm(dim=-1))[1]"
    source = good_source("mine").replace("view.hidden.norm(dim=-1)", once)
    plugin = write(tmp_path / "plugin.py", source)
    failed(worker.run(planned("mine", [plugin], pipelines=[MINE])), str(plugin))


def test_an_edit_while_a_study_runs_fails_the_cells_that_come_after_it(tmp_path: Path) -> None:
    """In processes of their own; the next start plans anew, and runs what it has to."""
    plugin = write(tmp_path / "plugin.py", good_source("mine"))
    changes = {**ONE, "pipelines": [MINE], "budgets": [32, 24]}
    study, heard = study_of([plugin], **changes), Heard()
    listened = heard.done

    def done(cell: PlannedCell, result: CellResult) -> None:
        listened(cell, result)
        write(plugin, good_source("mine") + "# edited\n")

    heard.done = done  # type: ignore[method-assign]
    cells = run_study(study, tmp_path / "out", heard, workers=1)
    late = [cell for cell in cells if cell.config["pipeline"]["name"] == "mine"]
    assert [cell.status for cell in late].count("failed") >= 1
    for cell in late:
        if cell.status == "failed":
            clear(cell.error, str(plugin))
    again = run_study(study_of([plugin], **changes), tmp_path / "out", Heard(), workers=1)
    mine = [cell.status for cell in again if cell.config["pipeline"]["name"] == "mine"]
    assert mine == ["done", "done"]
    assert "failed" not in {cell.status for cell in again}


@pytest.mark.parametrize("edited", ["a", "b"])
def test_two_plugins_of_one_file_name_are_both_looked_at(
    edited: str, tmp_path: Path, worker: Worker
) -> None:
    plugins = [write(tmp_path / name / "same.py", good_source(f"mine-{name}")) for name in "ab"]
    terms = [{"scorer": "mine-a"}, {"scorer": "mine-b"}]
    mine = {"pipeline": {"at": 1, "score": terms, "keep": 9}, "name": "mine"}
    before = planned("mine", plugins, pipelines=[mine])
    file = tmp_path / edited / "same.py"
    write(file, file.read_text() + "#\n")
    assert planned("mine", plugins, pipelines=[mine]).key != before.key
    failed(worker.run(before), str(file))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("change", TASKS)
def test_an_edited_task_gives_no_result(
    change: str, entry: str, tmp_path: Path, worker: Worker
) -> None:
    plugin = write(tmp_path / "grey.py", task_source())
    cell = planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    write(plugin, task_source(**TASKS[change]))
    failed(run_by(entry, cell, worker, tmp_path / "out"), str(plugin))


def test_two_tasks_with_the_same_examples_have_their_own_scores(
    tmp_path: Path, worker: Worker
) -> None:
    plugins = []
    for name, score in (("grey", "0.25"), ("gray", "0.75")):
        source = task_source(score=score).replace('"grey"\n\n', f'"{name}"\n\n')
        plugins.append(write(tmp_path / f"{name}.py", source))
    tasks = [{"task": "grey", "samples": 2}, {"task": "gray", "samples": 2}]
    cells = [cell for cell in study_of(plugins, **{**ONE, "tasks": tasks}).cells
             if cell.config["pipeline"]["name"] == "none"]  # fmt: skip
    assert [worker.run(cell).cell["summary"]["accuracy"] for cell in cells] == [0.25, 0.75]


@pytest.mark.parametrize("case", RESTLESS)
def test_a_task_that_draws_otherwise_at_every_start_is_refused(case: str, tmp_path: Path) -> None:
    imports, question = RESTLESS[case]
    plugin = write(tmp_path / "grey.py", task_source(imports=imports, question=question))
    with pytest.raises(TaskError) as caught:
        planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    clear(caught.value, "task 'grey'", "others at every start")


def test_the_command_line_says_so_too(call: Call, tmp_path: Path) -> None:
    plugin = write(tmp_path / "grey.py", task_source(question="str(hash('text'))"))
    result = call("study", "--model-id", "tiny-llava", "--task", "grey", "--plugin", plugin,
                  "--samples", "2", "--out", tmp_path / "out")  # fmt: skip
    one_line(result, "task 'grey'", "others at every start")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["same id", "lambda", "no examples", "raises", "no picture"])
def test_examples_that_nobody_can_tell_apart_are_refused(case: str, tmp_path: Path) -> None:
    changes = {
        "same id": {"id": "'x'"},
        "lambda": {"question": "lambda: 1"},
        "no examples": {"id": "str(n)) for n in () for _ in (1,)] or [] if 1 else [(0"},
        "raises": {"question": "str(1 / 0)"},
        "no picture": {"imports": "Image.new = lambda *a: (lambda: 1)"},
    }[case]
    if case == "no examples":
        changes = {"imports": "range = lambda count: ()"}
    before = Image.new
    try:
        plugin = write(tmp_path / "grey.py", task_source(**changes))
        with pytest.raises((TaskError, StudyError, PluginError)) as caught:
            planned("none", [plugin], tasks=[{"task": "grey", "samples": 2}])
    finally:
        Image.new = before
    clear(caught.value, "task 'grey'")


@pytest.mark.parametrize(
    ("case", "change"),
    [
        *((case, "edited") for case in READS),
        *((case, how) for case in list(READS)[:3] for how in ("removed", "emptied")),
    ],
)
def test_data_that_a_task_reads_by_itself_is_part_of_it(
    case: str, change: str, tmp_path: Path, worker: Worker
) -> None:
    file = write(tmp_path / "known.txt", "grey")
    parts = {key: text.format(file=str(file)) for key, text in READS[case].items()}
    plugin = write(tmp_path / "grey.py", task_source(**parts))
    changes: dict[str, Any] = {"tasks": [{"task": "grey", "samples": 2}]}
    cell = planned("none", [plugin], **changes)
    if change == "removed":
        file.unlink()
    else:
        write(file, "gray, or grey" if change == "edited" else "")
        assert planned("none", [plugin], **changes).key != cell.key
    failed(worker.run(cell), file.name)
    write(file, "grey")
    assert worker.run(cell).status == "done"


@pytest.mark.parametrize("how", ["pathlib.Path({!r}).read_bytes()", "numpy.load({!r})"])
def test_data_that_a_scorer_reads_is_part_of_it(how: str, tmp_path: Path, worker: Worker) -> None:
    file = tmp_path / "factors.npy"
    np.save(file, np.arange(3))
    source = f"import numpy, pathlib\nKNOWN = {how.format(str(file))}\n{good_source('mine')}"
    plugin = write(tmp_path / "plugin.py", source)
    cell = planned("mine", [plugin], pipelines=[MINE])
    assert worker.run(cell).status == "done"
    np.save(file, np.arange(4))
    failed(worker.run(cell), str(file))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of two questions about two pictures."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, gray in (("a.png", 10), ("b.png", 200)):
        Image.new("RGB", (96, 96), (gray, gray, gray)).save(folder / name)
    return write(folder / "data.jsonl", rows(ROW, TWO))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("case", DATA)
def test_data_that_changed_gives_no_result(
    case: str, entry: str, data: Path, worker: Worker
) -> None:
    cell = planned("none", [], tasks=[str(data)])
    change, named = DATA[case]
    change(data.parent)
    failed(run_by(entry, cell, worker, data.parent / "out"), named)
    try:
        again = planned("none", [], tasks=[str(data)])
    except TaskError as error:  # what cannot be read is refused while planning
        clear(error, named)
    except PipelineError as error:
        clear(error, named)
    else:
        assert again.key != cell.key


@pytest.mark.parametrize("case", SAME)
def test_data_that_says_the_same_gives_the_result(case: str, data: Path, worker: Worker) -> None:
    cell = planned("none", [], tasks=[str(data)])
    SAME[case](data.parent)
    assert worker.run(cell).status == "done"
    assert planned("none", [], tasks=[str(data)]).key == cell.key


def test_data_that_moved_gives_the_same_key(data: Path, tmp_path: Path) -> None:
    before = planned("none", [], tasks=[str(data)])
    moved = shutil.copytree(data.parent, tmp_path / "elsewhere" / "data")
    assert planned("none", [], tasks=[str(moved / "data.jsonl")]).key == before.key


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = build_registry().get("model", "tiny-llava")
    place = shutil.copytree(source, tmp_path_factory.mktemp("models") / "copy")
    write(place / "additional_chat_templates" / "tool.jinja", "x")
    return place


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_changed_give_no_result(case: str, checkpoint: Path, tmp_path: Path) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    cell = planned("none", [], models=[str(place)])
    change, named = WEIGHTS[case]
    change(place)
    failed(Worker().run(cell), str(place), named)


def test_weights_that_change_while_they_are_read_give_no_result(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    cell = planned("none", [], models=[str(place)])
    load = Worker._model.__globals__["load_model"]

    def loading(*arguments: Any, **named: Any) -> Any:
        loaded = load(*arguments, **named)
        flip(place / "model.safetensors")
        return loaded

    monkeypatch.setattr("tokensieve.core.study.work.worker.load_model", loading)
    failed(Worker().run(cell), str(place / "model.safetensors"))


@pytest.mark.parametrize("case", ["README.md", "pytorch_model.bin", "x.py", ".git/config.json"])
def test_what_no_model_is_loaded_from_changes_nothing(
    case: str, checkpoint: Path, tmp_path: Path
) -> None:
    place = shutil.copytree(checkpoint, tmp_path / "copy")
    before = model_files(place)
    write(place / case, "x")
    assert model_files(place) == before


ADAPTER = """
import tokensieve
from tokensieve.core.plugins.discovery import build_registry

class Own(build_registry().get("adapter", "llava")):
    name = "own"
    model_types = ("own_llava",)
    FACTOR = 1

@tokensieve.hookimpl
def tokensieve_register(registry):
    registry.add(Own)
"""


def configured_as(cell: PlannedCell, config: dict[str, Any]) -> PlannedCell:
    return PlannedCell(key_of(config), CellConfig.model_validate(config), cell.how)


@pytest.mark.parametrize("edit", ["edited", "removed", "not registered"])
def test_an_edited_adapter_gives_no_result(edit: str, tmp_path: Path, worker: Worker) -> None:
    plugin = write(tmp_path / "own.py", ADAPTER)
    cell = planned("none", [plugin])
    code = {"own.py": cell.how.sources[str(plugin)]}
    config = {
        **cell.config.plain(),
        "model": {**cell.config["model"], "family": "own", "code": code},
    }
    own = configured_as(cell, config)
    if edit == "removed":
        plugin.unlink()
    else:
        write(plugin, ADAPTER.replace(*(("= 1", "= 2") if edit == "edited" else ("add", "all"))))
    failed(worker.run(own), str(plugin))


def test_a_model_that_another_adapter_sees_gives_no_result(worker: Worker) -> None:
    cell = planned("none", [])
    config = {**cell.config.plain(), "model": {**cell.config["model"], "family": "qwen-vl"}}
    failed(worker.run(configured_as(cell, config)), "adapter 'llava'")


@pytest.mark.parametrize("revision", ["abc", "None"])
def test_another_revision_gives_no_result(revision: str, worker: Worker) -> None:
    cell = planned("none", [])
    model = {k: v for k, v in cell.config["model"].items() if k != "sha256"}
    config = {**cell.config.plain(), "model": {**model, "revision": revision}}
    result = worker.run(configured_as(cell, config))
    if revision == "None":  # the folder that is loaded has no revision either
        assert result.status == "done"
    else:
        failed(result, "revision None was loaded, not abc")


@pytest.mark.parametrize("package", ["tokensieve", "torch", "transformers"])
def test_another_version_gives_no_result(package: str, worker: Worker) -> None:
    cell = planned("none", [])
    config = {**cell.config.plain(), "versions": {**cell.config["versions"], package: "0.0.1"}}
    other = configured_as(cell, config)
    failed(worker.run(other), package, "0.0.1")


# ------------------------------------------------------------------ stored cells


@pytest.fixture(scope="module")
def cell() -> PlannedCell:
    return planned("mine", [], pipelines=[{"pipeline": "fastv", "name": "mine"}],
                   tasks=[{"task": "digits", "samples": 3}])  # fmt: skip


@pytest.mark.parametrize("case", CORRUPT)
def test_a_cell_that_is_not_what_it_says_is_run_again(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    CORRUPT[case](stored(cell, tmp_path))
    said: list[str] = []
    assert unfinished(store, [cell.key], said.append) == ([cell.key], {})
    (line,) = said
    clear(line, str(store.folder / cell.key), "corrupt", "it is run again")


@pytest.mark.parametrize("case", CORRUPT)
def test_a_cell_that_is_not_what_it_says_is_in_no_report(
    case: str, cell: PlannedCell, tmp_path: Path, call: Call
) -> None:
    CORRUPT[case](stored(cell, tmp_path / "study"))
    said: list[str] = []
    assert Store(tmp_path / "study").cells(every=True, say=said.append) == []
    clear(said[0], cell.key)
    result = call("report", tmp_path / "study")
    assert result.code == 2
    assert "Traceback" not in result.err
    assert cell.key in result.err


@pytest.mark.parametrize("case", SHAPES)
def test_a_configuration_of_another_shape_is_corrupt(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    SHAPES[case](stored(cell, tmp_path))
    (place,) = Store(tmp_path).folder.iterdir()
    with pytest.raises(CorruptCell) as caught:
        Store(tmp_path).read(place.name)
    clear(caught.value, place.name, "corrupt")


@pytest.mark.parametrize("status", ["unmet", "failed"])
def test_what_was_refused_needs_no_results(status: str, cell: PlannedCell, tmp_path: Path) -> None:
    facts = {"config": cell.config, "status": status, "error": "no"}
    Store(tmp_path).write(CellResult(cell.key, CellDocument.model_validate(facts)))
    found = Store(tmp_path).read(cell.key)
    assert found is not None
    assert found.status == status


# ------------------------------------------------------------------------ folders


@pytest.mark.parametrize("case", LISTS)
def test_a_manifest_that_lists_no_cells_hides_none(
    case: str, cell: PlannedCell, tmp_path: Path
) -> None:
    stored(cell, tmp_path)
    write(tmp_path / "manifest.json", json.dumps({"cells": LISTS[case]}))
    assert [one.key for one in Store(tmp_path).cells()] == [cell.key]


@pytest.mark.parametrize("how", ["moved", "copied", "linked", "renamed"])
def test_a_folder_elsewhere_holds_the_same_cells(
    how: str, cell: PlannedCell, tmp_path: Path
) -> None:
    old, new = tmp_path / "runs" / "old", tmp_path / "new" / "place"
    stored(cell, old)
    new.parent.mkdir()
    ways: dict[str, Callable[[Path, Path], object]] = {
        "moved": shutil.move, "copied": shutil.copytree, "renamed": lambda a, b: a.rename(b),
        "linked": lambda a, b: b.symlink_to(a),
    }  # fmt: skip
    ways[how](old, new)
    assert unfinished(Store(new), [cell.key], print)[0] == []


def test_a_cell_in_the_folder_of_another_is_none(cell: PlannedCell, tmp_path: Path) -> None:
    place = stored(cell, tmp_path)
    shutil.copytree(place, place.parent / ("0" * 16))
    with pytest.raises(CorruptCell, match="its configuration is not its own"):
        Store(tmp_path).read("0" * 16)


@pytest.mark.parametrize(
    ("part", "facts"),
    [("task", {"examples": "other"}), ("model", {"sha256": "other"}),
     ("model", {"revision": "other"})],
    ids=["questions", "weights", "revision"],
)  # fmt: skip
def test_results_of_other_data_or_weights_are_not_compared(
    part: str, facts: dict[str, Any], cell: PlannedCell, tmp_path: Path
) -> None:
    """The list of the study's cells is lost, and an older version of it lies in the folder."""
    from tokensieve.core.report.findings.reading import read_results

    store = Store(tmp_path)
    records: list[Any] = [{**COST, "id": str(n), "score": 0.5, "answer": "b"} for n in range(3)]
    data = {"config": cell.config, "status": "done", "started": "2026-01-01T00:00:00+00:00"}
    document = CellDocument.model_validate(data)
    store.write(CellResult(cell.key, document, {"samples.jsonl": records}))
    store.write(other(cell.config, part, **facts))
    found = read_results(tmp_path, resamples=10)
    assert found.methods == ("mine",)
    assert any("1 cells of other" in line for line in found.problems)


@pytest.mark.parametrize("part", ["models", "pipelines", "tasks"])
@pytest.mark.parametrize("pair", PAIRS)
def test_entries_of_one_title_are_refused(pair: str, part: str) -> None:
    key, value = {"models": ("model", "tiny-llava"), "pipelines": ("pipeline", "fastv"),
                  "tasks": ("task", "digits")}[part]  # fmt: skip
    with pytest.raises(PipelineError) as caught:
        spec_of(**{part: [{key: value, "name": name} for name in PAIRS[pair]]})
    clear(caught.value, f"{part}[1]")


@pytest.mark.parametrize("pair", PAIRS)
def test_folders_that_meet_elsewhere_are_refused(pair: str, tmp_path: Path) -> None:
    one, other_ = PAIRS[pair]
    (tmp_path / one).mkdir()
    if one == other_ or (tmp_path / other_).exists():  # the same folder here: it is gone on with
        check_folder_name(tmp_path / other_)
        return
    with pytest.raises(StudyError) as caught:
        check_folder_name(tmp_path / other_)
    clear(caught.value, repr(one), "--out")


@pytest.mark.parametrize("case", BUDGETS)
def test_budgets_of_one_title_are_refused(case: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec_of(budgets=BUDGETS[case])
    clear(caught.value, "budgets", "is there twice")


@pytest.mark.parametrize("values", [(0.401, 0.404), (0.25, 0.2501), (0.005, 0.004)], ids=str)
def test_budgets_that_differ_are_labeled_apart(values: tuple[float, float]) -> None:
    from tokensieve.core.report.findings.labels import budget_label

    assert len({budget_label({"flops": value}) for value in values}) == 2
    assert len({budget_label({"share": value}) for value in values}) == 2


# -------------------------------------------------------------------------- names


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("place", ["entry", "in place", "pipeline", "file", "name in a file"])
def test_a_reserved_name_can_only_name_what_it_is(
    place: str, name: str, spelling: str, tmp_path: Path
) -> None:
    taken = SPELLINGS[spelling](name)
    text = "at: 2\nscore: hidden-change\nkeep: 9\n"
    with pytest.raises(PipelineError) as caught:
        if place == "entry":
            spec_of(pipelines=[{"pipeline": "fastv", "name": taken}])
        elif place == "in place":
            spec_of(pipelines=[{"pipeline": {**LIE, "name": taken}, "name": "mine"}])
        elif place == "pipeline":
            load_pipeline({**LIE, "name": taken})
        elif place == "file":
            load_pipeline(write(tmp_path / f"{taken}.yaml", text))
        else:
            load_pipeline(write(tmp_path / "x.yaml", f"name: {json.dumps(taken)}\n{text}"))
    clear(caught.value, "is reserved for", repr(name))


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", RESERVED)
def test_a_preset_of_a_plugin_cannot_take_a_reserved_name(
    name: str, spelling: str, tmp_path: Path
) -> None:
    folder = tmp_path / "presets"
    write(folder / f"{SPELLINGS[spelling](name)}.yaml", "at: 2\nscore: ttv\nkeep: 9\n")
    source = (
        "import tokensieve\n\n@tokensieve.hookimpl\ndef tokensieve_register(registry):\n"
        f"    registry.add_pipelines({str(folder)!r})\n"
    )
    plugin = write(tmp_path / "plugin.py", source)
    with pytest.raises(PluginError) as caught:
        build_registry([plugin])
    clear(caught.value, name, str(plugin))


@pytest.mark.parametrize("name", RESERVED)
def test_the_command_line_refuses_a_file_of_a_reserved_name(
    name: str, call: Call, tmp_path: Path
) -> None:
    file = write(tmp_path / f"{name}.yaml", "at: 2\nscore: hidden-change\nkeep: 9\n")
    options = ("--model-id", "tiny-llava", "--task", "digits", "--dry-run")
    one_line(call("study", *options, "--pipeline", file), "is reserved for", name)
    one_line(call("validate", file), "is reserved for", f"{name}.yaml")


@pytest.mark.parametrize("keep", [0.5, 9, {"flops": 0.4}], ids=str)
@pytest.mark.parametrize("name", [name for name in RESERVED if name not in CONTROLS])
def test_what_it_is_can_have_its_name_at_any_budget(name: str, keep: Any) -> None:
    pipeline = load_pipeline(name, keep=keep)
    assert load_pipeline(pipeline.to_plain()) == pipeline
    assert spec_of(pipelines=[{"pipeline": pipeline.to_plain(), "name": name}])
    assert spec_of(pipelines=[{"pipeline": name, "name": "mine"}]).pipelines[0].title == "mine"


def test_the_controls_are_the_pipelines_that_built_in_studies_write_in_place() -> None:
    registry = build_registry()
    written = {
        entry["name"]: entry["pipeline"]
        for study in registry.all("study")
        for entry in read_yaml(study.value).data["pipelines"]
        if isinstance(entry, dict) and isinstance(entry["pipeline"], dict)
    }
    assert sorted(written) == sorted(CONTROLS)
    for name, pipeline in written.items():
        assert spec_of(pipelines=[{"pipeline": pipeline, "name": name}])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.sampled_from(RESERVED), data=st.data())
def test_no_spelling_of_a_reserved_name_gets_through(name: str, data: Any) -> None:
    signs = [data.draw(st.sampled_from([c, c.upper(), f"{c}\u200b", f"\u2060{c}"])) for c in name]
    taken = unicodedata.normalize(
        data.draw(st.sampled_from(["NFC", "NFD", "NFKC"])), "".join(signs)
    )
    with pytest.raises(PipelineError, match="is reserved for"):
        load_pipeline({**LIE, "name": taken})


@pytest.mark.parametrize("name", ["none-2", "nonee", "randomly", "n\u00f6ne", "uni form", "0"])
def test_other_names_are_free(name: str) -> None:
    assert load_pipeline({**LIE, "name": name}).name == name
