"""Text of a stranger that reaches something that runs: what is on a list, or one clear line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import Call, clear, one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tokensieve.core.errors import TaskError, TokensieveError
from tokensieve.core.files.yaml_source import parse_yaml
from tokensieve.core.foreign import reason
from tokensieve.core.models.backends import BACKENDS
from tokensieve.core.models.checkpoints import LEFT_OUT, check_folder, looked_at, read_config
from tokensieve.core.models.finding import load_config
from tokensieve.core.models.loading import load_model
from tokensieve.core.output.quiet import quiet_transformers
from tokensieve.core.pipeline.loading import load_pipeline
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.study.lmms.task import LmmsTask, check_included
from tokensieve.core.study.spec.slurm_options import OPTIONS, read_parameters
from tokensieve.core.study.spec.study import StudySpec, read_study
from tokensieve.core.templates.chat import render_chat

REGISTRY = build_registry()
STUDY = "models: tiny-llava\nbudgets: 0.5\ntasks: digits\n"
MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What {{ 7 * 7 }}?"}]}
]


def study(text: str) -> StudySpec:
    return read_study(parse_yaml(text, "x.yaml"), REGISTRY, Path())


def refused(read: Callable[[], object], *parts: str) -> str:
    with pytest.raises(TokensieveError) as caught:
        read()
    clear(str(caught.value), *parts)
    return str(caught.value)


# ----------------------------------------------------------------------- Slurm

STRANGE_OPTIONS = [
    "local_setup", "slurm_setup", "setup", "slurm_local_setup", "slurm_srun_args", "srun_args",
    "slurm_additional_parameters", "additional_parameters", "cluster", "python", "slurm_python",
    "slurm_wckey", "wckey", "slurm_comment", "comment", "slurm_mail_user", "mail_user", "mail_type",
    "export", "wrap", "chdir", "output", "error", "folder", "name", "job_name", "slurm_job_name",
    "nodes", "exclude", "dependency", "array_parallelism", "slurm_array_parallelism",
    "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "slurm_partition", "slurm_account",
    "stderr_to_stdout", "signal_delay_s", "reservation", "Partition", "PARTITION", "partition ",
    "'partition\\n'", "p\u0430rtition", "__class__", "''", "1", "null", "--wrap",
]  # fmt: skip


@pytest.mark.parametrize("option", STRANGE_OPTIONS, ids=ascii)
def test_other_options_of_slurm_stand_on_the_command_line(option: str) -> None:
    key = option if option.startswith("'") else json.dumps(option)
    refused(lambda: study(f"{STUDY}slurm: {{{key}: touch}}\n"), "x.yaml:4:9: slurm", "--slurm")


STRANGE_VALUES = {
    "line end": '"a\\n#SBATCH --wrap=id"', "carriage return": '"a\\rb"', "NUL": '"a\\0"',
    "command": "'$(id)'", "backticks": "'`id`'", "semicolon": "a;id", "pipe": "a|id;", "and": "a&&id",
    "space": "a b", "leading dash": "--wrap=id", "dash": "-", "quote": "'a\"b'", "glob": "'*'",
    "variable": "$HOME", "path": "../a", "home": "~/a", "braces": "'a{b}'", "Unicode": "p\u00e4",
    "fullwidth": "\uff11", "long": "a" * 300, "empty": "''", "null": "null", "true": "true",
    "list": "[a]", "mapping": "{a: b}", "negative": "-1", "fraction": "1.5", "infinite": ".inf",
    "NaN": ".nan", "huge": "1e30", "many": "99999999999", "percent": "'50%'", "comma": "',a'",
    "override": '"a\\u202eb"', "end": '"a\\n"',
}  # fmt: skip


@pytest.mark.parametrize("value", STRANGE_VALUES)
@pytest.mark.parametrize("option", OPTIONS)
def test_values_of_slurm_are_plain(option: str, value: str) -> None:
    text = f"{STUDY}slurm: {{{option}: {STRANGE_VALUES[value]}}}\n"
    refused(lambda: study(text), "x.yaml:4:")


RIGHT_VALUES = [
    ("partition", "gpu", "slurm_partition", "gpu"),
    ("partition", "'gpu,cpu-2'", "slurm_partition", "gpu,cpu-2"),
    ("time", "120", "timeout_min", 120),
    ("time", "'02:00:00'", "timeout_min", 120),
    ("time", "'1-00:00:01'", "timeout_min", 1441),
    ("time", "12:30:00", "timeout_min", 750),
    ("cpus", "8", "cpus_per_task", 8),
    ("memory", "64G", "slurm_mem", "64G"),
    ("gpus", "0", "gpus_per_node", 0),
    ("account", "lab_1", "slurm_account", "lab_1"),
    ("qos", "normal", "slurm_qos", "normal"),
    ("constraint", "a100&ib", "slurm_constraint", "a100&ib"),
    ("constraint", "'a100|h100'", "slurm_constraint", "a100|h100"),
]


@pytest.mark.parametrize(("option", "value", "parameter", "given"), RIGHT_VALUES)
def test_harmless_options_of_slurm(option: str, value: str, parameter: str, given: Any) -> None:
    assert study(f"{STUDY}slurm: {{{option}: {value}}}\n").slurm == {parameter: given}
    assert read_parameters([f"{option}={value}"]) == {parameter: given}  # quotes as in YAML


@pytest.mark.parametrize("whole", ["a", "[partition]", "5", "true", "[{partition: a}]"])
def test_slurm_is_a_mapping(whole: str) -> None:
    refused(lambda: study(f"{STUDY}slurm: {whole}\n"), "x.yaml:4:8: slurm")


@pytest.mark.parametrize(
    "text", ["", "time", "=5", "a b=1", "--wrap=id", "time=", "time=-1", "memory=lots", "cpus=*a",
             "x=[[[[", "time=\x00", "1=2"],
)  # fmt: skip
def test_slurm_on_the_command_line_is_key_and_value(text: str) -> None:
    refused(lambda: read_parameters([text]), "--slurm")


def test_whoever_runs_a_study_may_say_what_runs() -> None:
    assert read_parameters(["cluster=local", "slurm_setup=[module load cuda]"]) == {
        "cluster": "local", "slurm_setup": ["module load cuda"]
    }  # fmt: skip


def test_slurm_options_are_for_slurm(call: Call) -> None:
    arguments = ["study", "--model-id", "tiny-llava", "--task", "digits", "--samples", "1"]
    one_line(call(*arguments, "--slurm", "time=5"), "--slurm", "--executor slurm")


# ---------------------------------------------------------- attention backends

KERNELS = [
    "kernels-community/flash-attn", "kernels-community/flash-attn2@v1", "mine/kernel:function",
    "paged|kernels-community/flash-attn", "flash_attention_2", "flash_attention_3",
    "flash_attention_4", "flex_attention", "paged|eager", "paged|sdpa", "SDPA", " sdpa", "sdpa ",
    "math", "default", "auto", "eager|sdpa", "../kernel", "os.system", "", "\u0455dpa",
]  # fmt: skip


@pytest.mark.parametrize("name", KERNELS, ids=ascii)
@pytest.mark.parametrize("by", ["study", "load", "doctor", "bench"])
def test_other_backends_are_refused_while_planning(by: str, name: str, call: Call) -> None:
    if by == "study":
        model = json.dumps({"model": "tiny-llava", "attention": name})
        text = STUDY.replace("tiny-llava", model)
        refused(lambda: study(text), "x.yaml:1:", "sdpa, eager")
    elif by == "load":
        refused(lambda: load_model("tiny-llava", REGISTRY, attention=name), "sdpa, eager")
    else:
        more = ["--pipeline", "none"] if by == "bench" else []
        one_line(call(by, f"--attention={name}", *more), "sdpa, eager")


@pytest.mark.parametrize("value", ["[sdpa]", "{text_config: sdpa}", "1", "true"])
def test_a_backend_is_a_name(value: str) -> None:
    model = f"{{model: tiny-llava, attention: {value}}}"
    refused(lambda: study(STUDY.replace("tiny-llava", model)), "x.yaml:1:")


@pytest.mark.parametrize("name", BACKENDS)
def test_tested_backends_are_allowed(name: str) -> None:
    model = json.dumps({"model": "tiny-llava", "attention": name})
    assert study(STUDY.replace("tiny-llava", model)).models[0].attention == name


# ------------------------------------------------------------------ checkpoints


@pytest.fixture
def model(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint to be spoilt; files are shared until they are replaced."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in folders["llava"].iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def put(folder: Path, name: str, content: str | bytes | dict[str, Any]) -> None:
    """Replace a file, not what it links to."""
    (folder / name).unlink(missing_ok=True)
    text = json.dumps(content) if isinstance(content, dict) else content
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def changed(folder: Path, name: str, **changes: Any) -> None:
    """Change entries of a file; ``a__b`` is ``b`` in ``a``, None takes one away."""
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    for key, value in changes.items():
        *above, last = key.split("__")
        place = content
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
        if value is None:
            del place[last]
    put(folder, name, content)


def load(folder: Path) -> Any:
    with quiet_transformers():
        return load_model(str(folder), REGISTRY)


PLACES = ["", "text_config", "vision_config", "text_config.vision_config"]


@pytest.mark.parametrize(
    "name", ["kernels-community/flash-attn", {"": "mine/kernel"}, "flex_attention"]
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", sorted(LEFT_OUT))
def test_a_config_names_no_code(key: str, place: str, name: Any, model: Path) -> None:
    content = json.loads((model / "config.json").read_text())
    where = content
    for part in filter(None, place.split(".")):
        where = where.setdefault(part, {})
    where[key] = name
    put(model, "config.json", content)
    config = load_config(str(model), REGISTRY)
    assert "kernel" not in str(config.to_dict())
    assert "flex_attention" not in str(config.to_dict())
    for part in (config, config.text_config, config.vision_config):
        assert part._attn_implementation is None


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("place", PLACES[:3])
def test_a_model_runs_what_we_name(key: str, place: str, model: Path) -> None:
    full = f"{place}__{key}" if place else key
    changed(model, "config.json", **{full: "kernels-community/flash-attn"})
    loaded = load(model).model
    parts = (loaded.config, loaded.config.text_config, loaded.config.vision_config)
    assert {part._attn_implementation for part in parts} == {"sdpa"}


CODE = "from pathlib import Path\nPath({!r}).touch()\nclass Mine: pass\n"
MAPS = {"AutoConfig": "mine.Mine", "AutoModelForImageTextToText": "mine.Mine",
        "AutoProcessor": "mine.Mine", "AutoTokenizer": ["mine.Mine", None],
        "AutoImageProcessor": "mine.Mine", "AutoModel": "mine.Mine"}  # fmt: skip
MAPPED = [
    ("config.json", "auto_map"), ("config.json", "text_config__auto_map"),
    ("config.json", "vision_config__auto_map"), ("processor_config.json", "auto_map"),
    ("processor_config.json", "image_processor__auto_map"), ("tokenizer_config.json", "auto_map"),
    ("preprocessor_config.json", "auto_map"), ("generation_config.json", "auto_map"),
    ("config.json", "custom_pipelines"), ("generation_config.json", "custom_generate"),
]  # fmt: skip


@pytest.mark.parametrize("known", [True, False], ids=["known class", "own class"])
@pytest.mark.parametrize(("file", "key"), MAPPED)
def test_code_of_a_checkpoint_is_never_run(file: str, key: str, known: bool, model: Path) -> None:
    marker = model.parent / "ran"
    put(model, "mine.py", CODE.format(str(marker)))
    put(model, "custom_generate.py", CODE.format(str(marker)))
    changed(model, file, **{key: MAPS})
    if not known:
        own = {"config.json": "model_type", "processor_config.json": "processor_class"}
        changed(model, file, **{own.get(file, "tokenizer_class"): "Mine"})
    try:
        load(model)
    except TokensieveError as error:
        clear(str(error), "model")
    else:
        assert known or file != "config.json"
    assert not marker.exists()


class Evil:
    """Unpickling it leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kept", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.safetensors", "adapter_model.bin", "consolidated.pth",
             "model.pt", "pytorch_model.bin.index.json", "training_args.bin", "flax_model.msgpack"],
)  # fmt: skip
def test_pickles_are_never_read(name: str, kept: bool, model: Path) -> None:
    marker = model.parent / "ran"
    put(model, name, pickle.dumps(Evil(marker)))
    if not kept and name != "model.safetensors":
        (model / "model.safetensors").unlink()
    if kept and name != "model.safetensors":
        load(model)
    else:
        refused(lambda: load(model), "model.safetensors")
    assert not marker.exists()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../other.safetensors", "/dev/zero", "a.pt",
                                   "no.safetensors", "", "a\n.safetensors", "~/x.safetensors"])  # fmt: skip
def test_an_index_names_files_beside_it(shard: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    put(model, "model.safetensors.index.json", {"weight_map": dict.fromkeys(weights, shard)})
    refused(lambda: load(model), "model.safetensors.index.json")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": None},
                                   {"weight_map": "model.safetensors"}])  # fmt: skip
def test_an_index_says_where_weights_are(index: dict[str, Any], model: Path) -> None:
    (model / "model.safetensors").unlink()
    put(model, "model.safetensors.index.json", index)
    refused(lambda: load(model), "model.safetensors.index.json", "weight_map")


MISFITS: dict[str, dict[str, Any]] = {
    "fewer layers": {"text_config__num_hidden_layers": 5},
    "one layer": {"text_config__num_hidden_layers": 1},
    "more layers": {"text_config__num_hidden_layers": 11},
    "no layers": {"text_config__num_hidden_layers": 0},
    "fewer layers of the encoder": {"vision_config__num_hidden_layers": 3},
    "more layers of the encoder": {"vision_config__num_hidden_layers": 9},
    "more words": {"text_config__vocab_size": 999},
    "fewer words": {"text_config__vocab_size": 9},
    "wider": {"text_config__hidden_size": 160},
    "wider inside": {"text_config__intermediate_size": 100},
    "other heads": {"text_config__num_key_value_heads": 1},
    "wider heads": {"text_config__head_dim": 64},
    "wider encoder": {"vision_config__hidden_size": 128},
    "other patches": {"vision_config__patch_size": 3},
    "larger pictures": {"vision_config__image_size": 480},
    "biases": {"text_config__attention_bias": True},
    "other encoder": {"vision_config__model_type": "siglip_vision_model"},
    "other decoder": {"text_config__model_type": "opt"},
    "other family": {"model_type": "llava_next"},
    "sizes as text": {"text_config__hidden_size": "wide"},
    "negative size": {"text_config__hidden_size": -8},
    "fraction": {"text_config__hidden_size": 63.5},
    "list": {"text_config__num_hidden_layers": [1]},
    "no decoder": {"text_config": []},
    "no encoder": {"vision_config": "clip"},
    "unknown activation": {"text_config__hidden_act": "os.system"},
    "unknown RoPE": {"text_config__rope_parameters": {"rope_type": "mine"}},
    "no such layer": {"vision_feature_layer": 99},
    "no such strategy": {"vision_feature_select_strategy": "mine"},
    "no such dtype": {"dtype": "int8"},
    "dtype of a module": {"dtype": "os"},
    "no such token": {"image_token_id": 10**9},
    "quantized": {"quantization_config": {"quant_method": "mxfp4"}},
    "quantized decoder": {"text_config__quantization_config": {"quant_method": "fp8"}},
    "compressed": {"compression_config": {"quant_method": "compressed-tensors"}},
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_config_that_does_not_fit_its_weights(
    case: str, model: Path, picture: Path, call: Call
) -> None:
    changed(model, "config.json", **MISFITS[case])
    result = call("run", "--model", model, "--image", picture, "--prompt", "What?", "--repeats", "1",
                  "--max-new-tokens", "1")  # fmt: skip
    one_line(result)


KINDS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
         torch.float8_e4m3fn, torch.float8_e5m2]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("every", [True, False], ids=["all", "one"])
def test_weights_are_fractions(kind: torch.dtype, every: bool, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    for name in list(weights) if every else list(weights)[-1:]:
        weights[name] = weights[name].to(kind)
    (model / "model.safetensors").unlink()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refused(lambda: load(model), "model.safetensors", "the weight", "allowed: F64")


def _spoil(weights: dict[str, Any], case: str) -> None:
    name = next(key for key in weights if key.endswith("q_proj.weight"))
    value = weights[name]
    if case in ("missing", "renamed"):
        del weights[name]
    if case == "renamed":
        weights[name + "s"] = value
    if case == "more":
        weights["mine.weight"] = value.clone()
    if case == "none":
        weights.clear()
    shapes = {"turned": value[:, ::2], "flat": value.reshape(-1), "empty": value[:0],
              "number": value[0, 0], "deeper": value[None]}  # fmt: skip
    if case in shapes:
        weights[name] = shapes[case].clone()


@pytest.mark.parametrize(
    "case", ["missing", "renamed", "more", "none", "turned", "flat", "empty", "number", "deeper"]
)
def test_weights_that_are_not_those_of_the_config(case: str, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    _spoil(weights, case)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refused(lambda: load(model), "do not fit its config.json", "weights")


def _header(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 100, _header("{"), _header("[]"), _header('{"a": 1}'), b"PK\3\4",
     _header('{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'),
     _header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}'),
     _header('{"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 0]}}'),
     _header('{"a": {"dtype": "F32", "shape": [1e30], "data_offsets": [0, 4]}}'),
     _header("[" * 100_000), (1 << 40).to_bytes(8, "little")],
    ids=range(13),
)  # fmt: skip
def test_weights_that_are_none(content: bytes, model: Path) -> None:
    put(model, "model.safetensors", content)
    refused(lambda: load(model), "model.safetensors")


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json",
             "tokenizer_config.json", "chat_template.jinja"],
)  # fmt: skip
def test_files_with_a_mark_are_read(name: str, model: Path, folders: dict[str, Path]) -> None:
    put(model, name, "\ufeff" + (model / name).read_text(encoding="utf-8"))
    marked, plain = load(model), load(folders["llava"])
    prompts = [one.adapter.prompt(one.processor, "w7", [None]) for one in (marked, plain)]
    assert prompts[0] == prompts[1]
    assert marked.model.generation_config.to_dict() == plain.model.generation_config.to_dict()
    assert marked.processor.tokenizer.get_vocab() == plain.processor.tokenizer.get_vocab()


def test_what_was_not_looked_at_is_not_there(model: Path) -> None:
    put(model, "mine.py", "1")
    put(model, "pytorch_model.bin", "1")
    put(model, "vocab.txt", "1")
    with looked_at(model) as folder:
        there = {file.name for file in folder.iterdir()}
    assert there == {file.name for file in model.iterdir()} - {"mine.py", "pytorch_model.bin"}


COMMON = [
    {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0},
    {"do_sample": True, "temperature": 1e-06, "repetition_penalty": 1.05, "eos_token_id": [2, 3]},
    {"temperature": 0.0, "top_p": None, "do_sample": False, "_from_model_config": True},
    {"transformers_version": "4.36.0", "num_beams": 4, "early_stopping": True},
    {"eos_token_id": None, "use_cache": True},
    {},
]


@pytest.mark.parametrize("content", COMMON, ids=str)
def test_generation_configs_of_published_models(content: dict[str, Any], model: Path) -> None:
    put(model, "generation_config.json", content)
    check_folder(model)
    load(model)


GENERATION: dict[str, str | bytes] = {
    "text": '"a"', "list": "[]", "nothing": "", "cut": "{", "NaN": '{"top_p": NaN}',
    "key twice": '{"top_p": 1, "top_p": 0.5}', "deep": '{"a": ' + "[" * 1000,
    "word as end": '{"eos_token_id": "</s>"}', "words as end": '{"eos_token_id": ["</s>"]}',
    "fraction as end": '{"eos_token_id": 2.5}', "true as end": '{"eos_token_id": true}',
    "no ends": '{"eos_token_id": []}', "mapping as padding": '{"pad_token_id": {}}',
    "word as start": '{"bos_token_id": "<s>"}', "nested ends": '{"eos_token_id": [[2]]}',
    "negative length": '{"max_new_tokens": -1}', "no such cache": '{"cache_implementation": "mine"}',
    "no such stopping": '{"early_stopping": "mine"}', "Latin-1": b'{"a": "\xe9"}', "UTF-16": "{}".encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("case", GENERATION)
def test_a_broken_generation_config_is_not_passed_over(case: str, model: Path) -> None:
    put(model, "generation_config.json", GENERATION[case])
    refused(lambda: check_folder(model), "generation_config.json")


PROCESSORS = [
    ("tokenizer.json", "{}"), ("tokenizer.json", '{"version": "9"}'), ("tokenizer.json", "["),
    ("tokenizer.json", '{"model": {"type": "BPE", "vocab": [], "merges": 1}}'),
    ("tokenizer.json", '{"model": {"type": "Mine"}}'), ("tokenizer.json", "\ufeff{}"),
    ("tokenizer_config.json", '{"tokenizer_class": 5}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
    ("tokenizer_config.json", '{"pad_token": 5}'), ("tokenizer_config.json", "null"),
    ("processor_config.json", "{}"), ("processor_config.json", "[]"),
    ("processor_config.json", '{"processor_class": "Mine"}'),
    ("processor_config.json", '{"processor_class": "LlavaProcessor", "image_processor": 5}'),
    ("processor_config.json", '{"processor_class": "os.system"}'),
    ("preprocessor_config.json", "{"), ("special_tokens_map.json", "["),
    ("added_tokens.json", '{"a": }'), ("chat_template.jinja", b"\xff"),
    ("adapter_config.json", '{"base_model_name_or_path": "other/model"}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), PROCESSORS)
def test_a_broken_processor_is_one_line(
    name: str, content: str, model: Path, picture: Path, call: Call
) -> None:
    put(model, name, content)
    result = call("run", "--model", model, "--image", picture, "--prompt", "What?", "--repeats", "1",
                  "--max-new-tokens", "1")  # fmt: skip
    one_line(result, "model")


TIMM: list[dict[str, Any]] = [
    {"model_args": {"checkpoint_path": "evil.bin"}}, {"model_args": {"pretrained": True}},
    {"model_args": {"pretrained_cfg": {"file": "evil.bin"}}}, {"model_args": {"cache_dir": "/tmp"}},
    {"model_args": {"pretrained_cfg_overlay": {"url": "http://x"}}}, {"model_args": "depth"},
    {"model_args": {"norm_layer": "os:system"}}, {"model_args": {"a": {"hf_hub_id": "x"}}},
    {"model_args": {"act_layer": "../x"}}, {"architecture": "hf-hub:evil/model"},
    {"architecture": "hf_hub:evil/model"}, {"architecture": "local-dir:/tmp"},
    {"architecture": "../x"}, {"architecture": 5}, {"architecture": ["vit"]},
    {"use_pretrained_backbone": True}, {"load_pretrained": True},
]  # fmt: skip


@pytest.mark.parametrize("nested", [True, False], ids=["encoder", "itself"])
@pytest.mark.parametrize("change", TIMM, ids=str)
def test_a_config_names_no_further_files(
    change: dict[str, Any], nested: bool, tmp_path: Path
) -> None:
    whole = {"model_type": "llava", "vision_config": change} if nested else change
    put(tmp_path, "config.json", whole)
    refused(lambda: read_config(tmp_path / "config.json"), "config.json", next(iter(change)))


# --------------------------------------------------------------- chat templates

DOUBLE = "{% set x = x ~ x %}"
BOX = "{% set x = [1] * 9 %}" + "{% set x = [x, x, x, x, x, x, x, x, x] %}" * 12
LONG = "{% set x = 'a' * 99999 %}"
GREEDY = {
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "range of a list": "{{ range(10 ** 9) | list }}",
    "loops in loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "three loops": "{% for i in range(999) %}" * 3 + "{% endfor %}" * 3,
    "loop of none": "{% for i in range(9999) %}{% for j in range(9999) if false %}{% endfor %}"
    "{% endfor %}",
    "long body": "{% for i in range(9999) %}" + "{% if i %}{% endif %}" * 999 + "{% endfor %}",
    "loop that calls itself": "{% for i in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "doubling": "{% set x = 'aaaaaaaaaa' %}" + DOUBLE * 60,
    "adding": "{% set x = 'aaaaaaaaaa' %}" + "{% set x = x + x %}" * 60,
    "block": "{% set x %}aaaaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "filter block": "{% set x %}{% filter upper %}" + "a" * 99_999 + "{% endfilter %}{% endset %}"
    + DOUBLE * 20,
    "times": "{{ 'a' * 10 ** 10 }}",
    "times from the right": "{{ 10 ** 10 * 'a' }}",
    "list times": "{{ [0] * 10 ** 10 }}",
    "tuple times": "{{ (0,) * 10 ** 10 }}",
    "lists": "{% set x = [1] %}" + "{% set x = x + x %}" * 60,
    "power": "{{ 10 ** (10 ** 10) }}{{ 9 ** (10 ** 9) }}",
    "power of a fraction": "{{ 2 ** (0.5 ** -99) }}",
    "squares": "{% set x = 10 %}" + "{% set x = x * x %}" * 60,
    "boxes as text": BOX + "{{ x }}",
    "boxes joined": BOX + "{{ x | join }}",
    "boxes as JSON": BOX + "{{ x | tojson }}",
    "boxes compared": BOX + "{{ x == x }}",
    "boxes in boxes": BOX + "{{ 1 in x }}",
    "boxes put together": BOX + "{{ x ~ x }}",
    "boxes sorted": BOX + "{{ x | sort }}",
    "boxes as keys": BOX + "{{ dict(a=x) }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent with a star": "{{ '%*d' % (999999999, 1) }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "format of a mapping": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "ljust": "{{ 'a'.ljust(10 ** 10) }}",
    "rjust": "{{ 'a'.rjust(10 ** 10) }}",
    "center": "{{ 'a'.center(10 ** 10) }}",
    "center filter": "{{ 'a' | center(9999999999) }}",
    "zfill": "{{ 'a'.zfill(10 ** 10) }}",
    "tabs": "{{ '\\t'.expandtabs(10 ** 10) }}",
    "indent": "{{ ('\\n' * 99999) | indent(10 ** 9) }}",
    "indent of JSON": "{{ [[1]] | tojson(indent=10 ** 9) }}",
    "wordwrap": "{{ 'a' | wordwrap(10 ** 9) }}",
    "batch": "{{ [1] | batch(10 ** 9, 0) | list }}",
    "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "filter by name": "{{ ['a'] | map('center', 999999999) | list }}",
    "replace": LONG + "{{ x.replace('a', x) }}",
    "replace filter": LONG + "{{ x | replace('a', x) }}",
    "replace nothing": LONG + "{{ x.replace('', x) }}",
    "join": LONG + "{{ x.join(x) }}",
    "join filter": LONG + "{{ x | join(x) }}",
    "cuts": "{% set x = 'a' * 999999 %}{% for i in range(9999) %}{% set y = x[::-1] %}{% endfor %}",
    "searches": "{% set x = range(9999) | list %}{% for i in range(9999) %}{{ -1 in x }}{% endfor %}",
    "macro": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "macros by two": "{% macro a(n) %}{% if n %}{{ a(n - 1) }}{{ a(n - 1) }}{% endif %}{% endmacro %}"
    "{{ a(60) }}",
    "macro of a loop": "{% macro a() %}{% for i in range(9999) %}{% endfor %}{% endmacro %}"
    "{% for i in range(9999) %}{{ a() }}{% endfor %}",
    "block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "caller": "{% macro a() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call a() %}" * 18 + "{% for i in range(99) %}{% endfor %}" + "{% endcall %}" * 18,
    "negative steps": "{{ [-10 ** 9] | map('a step') | list }}"
    "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "lorem ipsum": "{{ lipsum(n=10 ** 9) }}",
    "dates": "{{ strftime_now('%999999999d') }}",
    "deep brackets": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep lists": "{{ " + "[" * 3000 + "]" * 3000 + " }}",
    "deep loops": "{% for i in [1] %}" * 200 + "{% endfor %}" * 200,
    "deep conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "many terms": "{{ " + "1 + " * 20_000 + "1 }}",
    "many nots": "{{ " + "not " * 5000 + "1 }}",
    "long source": "x" * 300_000,
    "long number": "{{ " + "9" * 5000 + " }}",
    "number of a text": "{{ ('9' * 4000) | int }}",
    "namespace": "{% set n = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "namespace of lists": "{% set n = namespace(x=[1]) %}{% for i in range(9999) %}"
    "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "output": "{% for i in range(9999) %}" + "x" * 999 + "{% endfor %}",
}  # fmt: skip
REACHING = {
    "class": "{{ ''.__class__() }}", "mro": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}", "builtins": "{{ range.__self__.x }}",
    "self": "{{ self.__init__.__globals__ }}", "attr": "{{ ('' | attr('__class__')).__mro__ }}",
    "item": "{{ ''['__class__'].__mro__ }}", "format": "{{ '{0.__class__}'.format(1) }}",
    "generator": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "dict": "{{ dict.mro() }}", "fromkeys": "{{ dict.fromkeys([1]) }}",
    "namespace": "{% set n = namespace(__class__=1) %}",
    "namespace later": "{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "include": "{% include '/etc/passwd' %}", "import": "{% import 'os' as os %}",
    "extends": "{% extends 'x' %}", "append": "{{ [].append(1) }}", "update": "{{ {}.update({}) }}",
    "encode": "{{ 'a'.encode() }}", "nothing": "{{ nothing.at.all }}", "syntax": "{% if %}",
    "end": "{% endfor %}", "unknown tag": "{% mine %}", "unknown filter": "{{ 1 | mine }}",
    "unknown test": "{{ 1 is mine }}", "zero": "{{ 1 // 0 }}", "types": "{{ 1 + 'a' }}",
    "raise": "{{ raise_exception('two\\nlines \x1b[31m') }}", "call": "{{ 'a'() }}",
    "no iteration": "{% for i in 5 %}{% endfor %}", "index": "{{ [][5].a }}",
    "bytes": "{{ messages.__reduce__() }}", "half": "{{ '\\ud83d'.encode() }}",
    "debug": "{% debug %}", "do": "{% do [].append(1) %}", "trans": "{% trans %}a{% endtrans %}",
}  # fmt: skip


def processor(template: Any) -> Any:
    return SimpleNamespace(
        chat_template=template, tokenizer=SimpleNamespace(special_tokens_map={"bos_token": "<s>"})
    )


@pytest.mark.parametrize("case", [*GREEDY, *REACHING])
def test_templates_that_want_too_much(case: str) -> None:
    """Soon, and in one line; what they would make is never made."""
    start = time.perf_counter()
    with pytest.raises(Exception) as caught:
        render_chat(processor({**REACHING, **GREEDY}[case]), MESSAGES)
    clear(reason(caught.value))
    assert time.perf_counter() - start < 60  # of a template that would run for hours


PART = "{% for m in messages %}{% for p in m['content'] %}"
ENDS = "{% endfor %}{% endfor %}"
PLAIN = {
    "text": "a\nb\n", "parts": PART + "{{ p['type'] }}{% if p.text %}{{ p.text | trim }}{% endif %}" + ENDS,
    "roles": "{% for m in messages %}{{ m.role | upper }}: {% endfor %}{{ bos_token }}",
    "generation": "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "loop": PART + "{{ loop.index0 }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}" + ENDS,
    "break": PART + "{% if loop.first %}{% continue %}{% endif %}{{ p.type }}{% break %}" + ENDS,
    "namespace": "{% set n = namespace(a=1) %}{% for i in range(5) %}{% set n.a = n.a * 2 %}{% endfor %}{{ n.a }}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "map": "{{ messages[-1]['content'] | map(attribute='type') | join(', ') }}",
    "JSON": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "tools": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}",
    "macro": "{% macro w(x, y='b') %}<{{ x }}{{ y }}{{ caller() }}>{% endmacro %}{% call w('a') %}c{% endcall %}",
    "tests": "{{ messages is iterable }}{{ 'x' is string }}{{ {} is mapping }}{{ 4 is divisibleby 2 }}",
    "cuts": "{{ 'abcdef'[1:4] }}{{ messages[::-1] | length }}{{ 'a b c'.split(' ')[-1] }}",
    "numbers": "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 1.5 * 2 }}{{ -3 + 1 }}{{ 10 / 4 }}",
    "texts": "{{ ' a '.strip() }}{{ 'abc'.replace('b', 'x') }}{{ 'a-b'.split('-') }}{{ 'a' ~ 1 ~ none }}",
    "conditions": "{{ 'a' if messages else 'b' }}{{ 'a' in 'abc' and not false or none }}",
    "set": "{% set x %}a{{ 1 }}{% endset %}{{ x | length }}{{ x }}",
    "default": "{{ nothing | default('none') }}{{ nothing is defined }}{{ {'a': 1}.get('b', 2000) }}",
    "filter": "{% filter upper %}abc{% endfilter %}", "raw": "{% raw %}{{ x }}{% endraw %}",
    "white": "  {%- if true %}\n  a\n  {%- endif %}\n\n b  ", "comment": "a{# b #}c",
    "recursive": "{% for x in [[1], [2]] recursive %}{% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}"
    "{% endif %}{% endfor %}",
    "else": "{% for x in [] %}a{% else %}b{% endfor %}", "scope": "{% with a = 1 %}{{ a }}{% endwith %}",
    "assistant": "{% generation %}a{{ bos_token }}{% endgeneration %}",
    "unpacking": "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }}{% endfor %}",
    "cycler": "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner(',') %}{{ j() }}{{ j() }}",
    "sorted": "{{ [3, 1, 2] | sort }}{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 1] | unique | list }}",
    "Unicode": "\u00e9\u2028\U0001f600{{ '\\u00e9' }}", "special": "{{ bos_token ~ '<image>' }}",
}  # fmt: skip


def by_transformers(template: str) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>"
    )
    ((text,), _) = rendered
    return str(text)


@pytest.mark.parametrize("case", PLAIN)
def test_prompts_are_those_of_transformers(case: str) -> None:
    assert render_chat(processor(PLAIN[case]), MESSAGES) == by_transformers(PLAIN[case])


@pytest.mark.parametrize("name", ["tiny-llava", "tiny-qwen2.5-vl", "tiny-internvl"])
def test_prompts_of_models_are_those_of_their_processors(name: str) -> None:
    with quiet_transformers():
        own = load_model(name, REGISTRY).processor
    assert render_chat(own, MESSAGES) == own.apply_chat_template(
        MESSAGES, add_generation_prompt=True
    )


@pytest.mark.parametrize("given", [None, 5, {}, {"other": "x"}, ["x"], b"x"], ids=str)
def test_a_processor_without_a_template(given: Any) -> None:
    with pytest.raises(ValueError, match=r"chat_template\.jinja"):
        render_chat(processor(given), MESSAGES)


def test_templates_by_name_and_with_a_mark() -> None:
    assert render_chat(processor({"default": "\ufeffa", "rag": "b"}), MESSAGES) == "a"


def test_threads_have_meters_of_their_own() -> None:
    """Sixteen prompts at once, each of two thirds of the steps that one may take."""
    template = "{% for i in range(9000) %}{{ i }}{{ i }}{% endfor %}"
    alone, made = render_chat(processor(template), MESSAGES), []
    threads = [
        threading.Thread(target=lambda: made.append(render_chat(processor(template), MESSAGES)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [alone] * 16


SMALL_PROCESS = """
import json, resource, sys
from types import SimpleNamespace
from tokensieve.core.templates.chat import render_chat
resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))
for source in json.load(sys.stdin):
    try:
        render_chat(SimpleNamespace(chat_template=source), [])
    except MemoryError:
        raise
    except Exception:
        pass
"""


def test_no_template_takes_memory() -> None:
    """All greedy ones, one after the other, in a process that gets little of it."""
    run = [sys.executable, "-c", SMALL_PROCESS]
    sources = json.dumps(list(GREEDY.values())).encode()
    done = subprocess.run(run, input=sources, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


WORDS = ["a", "1", "x", "messages", "[", "]", "(", ")", "'", "|", "~", "+", "*", "**", "list", "in",
         "range", "for", "if", "set", "=", "{% ", " %}", "{{ ", " }}", "endfor", "endif", ".", ",",
         "join", "tojson", "999", " ", "macro", "endmacro", "loop", "{", "}", ":"]  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=25).map("".join))
def test_any_template_is_that_of_transformers_or_refused(template: str) -> None:
    try:
        text = render_chat(processor(template), MESSAGES)
    except Exception as error:
        clear(reason(error))
    else:
        assert text == by_transformers(template)


# ------------------------------------------------------- names import nothing

MODULES = [
    "antigravity", "this", "os.system", "os:system", "builtins.eval", "tokensieve_evil",
    "tokensieve_evil:Mine", "./tokensieve_evil.py", "tokensieve_evil.py", "../tokensieve_evil",
    "__import__('os')", "!!python/name:os.system", "git+https://example.org/x", "pickle:x",
]  # fmt: skip
USES: dict[str, Callable[[str], object]] = {
    "scorer": lambda name: load_pipeline({"at": 1, "score": name, "keep": 5}, registry=REGISTRY),
    "scorer in a mapping": lambda name: load_pipeline(
        {"at": 1, "score": {"scorer": name}, "keep": 5}, registry=REGISTRY
    ),
    "selector": lambda name: load_pipeline(
        {"at": 1, "score": "iga", "select": name, "keep": 5}, registry=REGISTRY
    ),
    "merger": lambda name: load_pipeline(
        {"at": 1, "score": "iga", "merge": name, "keep": 5}, registry=REGISTRY
    ),
    "pipeline": lambda name: load_pipeline(name, registry=REGISTRY),
    "task": lambda name: study(STUDY.replace("digits", json.dumps(name))),
    "model": lambda name: study(STUDY.replace("tiny-llava", json.dumps(name))),
    "pipeline of a study": lambda name: study(f"{STUDY}pipelines: {json.dumps(name)}\n"),
    "scorer of a study": lambda name: study(
        f"{STUDY}anatomy: {{scorers: [{json.dumps(name)}], samples: 1}}\n"
    ),
    "study": lambda name: REGISTRY.get("study", name),
}


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that could be imported from here, and leaves a mark if it is."""
    marker = tmp_path / "ran"
    (tmp_path / "tokensieve_evil.py").write_text(CODE.format(str(marker)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    assert not marker.exists()
    assert not {"tokensieve_evil", "antigravity", "this"} & set(sys.modules)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("use", USES)
def test_names_import_nothing(use: str, name: str, evil: Path) -> None:
    refused(lambda: USES[use](name))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("command", ["show", "validate", "run --pipeline", "study", "list"])
def test_names_on_the_command_line_import_nothing(
    command: str, name: str, evil: Path, call: Call
) -> None:
    result = call(*command.split(), name)
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.parametrize("named", [None, "other"])
def test_code_that_only_a_file_names_is_not_run(named: str | None, tmp_path: Path) -> None:
    task = LmmsTask(benchmark="mine", include=tmp_path / "mine")
    allowed = None if named is None else tmp_path / named
    with pytest.raises(TaskError) as caught:
        check_included([task], allowed)
    clear(str(caught.value), "--lmms-include", str(tmp_path / "mine"))
    check_included([task, LmmsTask(benchmark="gqa")], tmp_path / "mine")
