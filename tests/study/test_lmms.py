"""Benchmarks of lmms-eval in a study: what holds without lmms-eval being installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from command_line import Call, one_line
from PIL import Image
from tiny_checkpoints import PARTS, save

from tokensieve.core.errors import PipelineError, TaskError
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.models.loading import load_model
from tokensieve.core.plugins.registry import build_registry
from tokensieve.core.study.lmms import library
from tokensieve.core.study.lmms.conversation import ask, read_conversation
from tokensieve.core.study.lmms.generation import read_generation
from tokensieve.core.study.lmms.manifest import CLASS, manifest
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.spec.study import read_study
from tokensieve.core.study.work.answering import Answerer

GRAY = Image.new("RGB", (96, 96), "grey")
STUDY = "models: tiny-llava\nbudgets: 0.5\ntasks:\n  - {task: 'lmms-eval:gqa'%s}\n"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lmms-eval were there; reading a study does not import it."""
    monkeypatch.setattr(library, "find_spec", lambda name: object())


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None)


def read(text: str, folder: Path = Path()) -> Any:
    return read_study(parse_yaml(text, "study.yaml"), build_registry(), folder)


def test_a_missing_extra_is_one_line(absent: None, call: Call) -> None:
    result = call("study", "--model-id", "tiny-llava", "--task", "lmms-eval:gqa")
    one_line(result, "lmms_eval", "pip install 'tokensieve[lmms]'")


def test_a_filelock_that_lmms_eval_cannot_use_is_one_line(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """Else every cell fails, once its model is loaded, with the name of a private module."""
    have = {"lmms_eval": object()}
    monkeypatch.setattr(library, "find_spec", have.get)
    result = call("study", "--model-id", "tiny-llava", "--task", "lmms-eval:gqa")
    one_line(result, "lmms-eval does not run with filelock", "pip install 'tokensieve[lmms]'")


def test_a_missing_extra_is_found_where_the_task_stands(absent: None) -> None:
    with pytest.raises(PipelineError, match=r"study.yaml:4:\d+: .*tokensieve\[lmms\]"):
        read(STUDY % "")


def test_a_study_names_benchmarks(installed: None, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    entry = ", include: mine, metric: exact_match, samples: 5, name: gqa-five"
    (spec,) = read(STUDY % entry, tmp_path).tasks
    assert spec.task == LmmsTask(
        benchmark="gqa", include=(tmp_path / "mine").resolve(), metric="exact_match"
    )
    assert (spec.title, spec.samples) == ("gqa-five", 5)
    assert read("models: tiny-llava\nbudgets: 1\ntasks: lmms-eval:gqa\n").tasks[0].title == "gqa"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (", include: nowhere", r"study.yaml:4:\d+: .*include: there is no folder .*nowhere"),
        (", includ: mine", r"unknown key \(did you mean 'include'\?\)"),
        (", seed: 3", r"unknown key, allowed: include, metric, name, samples, task"),
    ],
)
def test_mistakes_are_one_line(installed: None, entry: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as raised:
        read(STUDY % entry)
    assert len(str(raised.value).splitlines()) == 1


def test_include_is_for_benchmarks_only(installed: None, call: Call, tmp_path: Path) -> None:
    arguments = ["study", "--model-id", "tiny-llava", "--task", "digits", "--lmms-include"]
    one_line(call(*arguments, tmp_path), "--lmms-include", "lmms-eval:NAME")


def test_a_benchmark_scores_itself() -> None:
    with pytest.raises(TaskError, match="scored by lmms-eval itself"):
        LmmsTask(benchmark="gqa").score(None, "yes")  # type: ignore[arg-type]


def test_code_beside_a_task_decides_its_identity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library, "installed_version", lambda: "0.7.3")
    task = LmmsTask(benchmark="mine", include=tmp_path)
    (tmp_path / "mine.yaml").write_text("task: mine")
    (tmp_path / "scorer.py").write_text("1")
    before = task.identity()
    assert before["benchmark"] == "mine"
    assert before["lmms_eval"] == "0.7.3"
    assert str(tmp_path) not in str(before)
    (tmp_path / "picture.png").write_text("not code")
    assert task.identity() == before
    (tmp_path / "scorer.py").write_text("2")
    assert task.identity() != before
    assert "definition" not in LmmsTask(benchmark="gqa").identity()


def test_the_manifest_names_a_class_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for ``lmms_eval.models.registry_v2`` 0.7.3, which has this dataclass."""
    fake = ModuleType("lmms_eval.models.registry_v2")
    fake.__dict__["ModelManifest"] = SimpleNamespace
    monkeypatch.setitem(sys.modules, "lmms_eval", ModuleType("lmms_eval"))
    monkeypatch.setitem(sys.modules, "lmms_eval.models", ModuleType("lmms_eval.models"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    found = manifest()
    assert (found.model_id, found.chat_class_path) == ("tokensieve", CLASS)
    module, _, name = CLASS.rpartition(".")
    path = Path(__file__).parents[2] / "core" / Path(*module.split(".")[2:]).with_suffix(".py")
    assert f"class {name}(" in path.read_text()


@pytest.fixture(scope="module", params=sorted(PARTS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save(request.param, tmp_path_factory.mktemp(request.param))
    return load_model(str(folder), build_registry())


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_of_a_mixed_batch_are_those_of_each_alone(loaded: Any, beams: int) -> None:
    """Several pictures, none, a turn of the assistant: batches change no answer and no cost."""
    import torch

    import tokensieve

    torch.manual_seed(0)
    noise = Image.effect_noise((96, 96), 90).convert("RGB")
    said = {"role": "assistant", "content": [{"type": "text", "text": "4"}]}
    conversations = [
        read_conversation(messages)
        for messages in (
            ask([GRAY], "what is it ?"),
            ask([], "hello"),
            ask([noise, GRAY], "which one ?"),
            [*ask([noise], "how many ?"), said, *ask([], "sure ?")],
        )
    ]
    generation = read_generation({"max_new_tokens": 3, "num_beams": beams}, 4)
    with tokensieve.attach(loaded.model, "fastv") as session:
        answerer = Answerer(loaded, session)
        together = answerer.answer(conversations, generation)
        alone = [answerer.answer([one], generation)[0] for one in conversations]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        assert {**one.record, "seconds": 0} == {**other.record, "seconds": 0}
    counts = [one.record["visual_tokens"] for one in together]
    assert counts[1] == 0
    assert counts[2] == 2 * counts[0] == 2 * counts[3]
    assert together[0].record["average_tokens"] < counts[0]


def test_rated_continuations_are_the_models_log_likelihoods(loaded: Any) -> None:
    """Against one forward over prompt and continuation of the unpruned model."""
    import torch

    from tokensieve.core.run.prompts import encode_batch

    conversation = read_conversation(ask([GRAY], "what is it ?"))
    prompt = conversation.prompt(loaded)
    rated, record = Answerer(loaded, None).rate(conversation, [" yes w9", " w11"])
    assert record["average_tokens"] == record["visual_tokens"] > 0
    for (loss, greedy), text in zip(rated, [" yes w9", " w11"], strict=True):
        start = encode_batch(loaded, [prompt], [GRAY])["input_ids"].shape[1]
        inputs = encode_batch(loaded, [prompt + text], [GRAY])
        with torch.inference_mode():
            logs = loaded.model(**inputs).logits[0, start - 1 : -1].log_softmax(dim=-1)
        tokens = inputs["input_ids"][0, start:]
        assert loss == pytest.approx(-logs.gather(1, tokens[:, None]).mean().item(), abs=1e-5)
        assert greedy is bool((logs.argmax(dim=-1) == tokens).all())
