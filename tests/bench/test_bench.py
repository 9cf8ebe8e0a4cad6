"""The benchmark measures what it says; nothing here looks at how long anything took."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

import tokensieve
from tokensieve.core.bench.clock import Clock
from tokensieve.core.bench.measuring import HookTime, cache_bytes, hook_seconds, timed_pass
from tokensieve.core.bench.memory import peak_tensor_bytes
from tokensieve.core.bench.model import BenchModel, Setup, build_model
from tokensieve.core.bench.result import BenchResult, Spread, Variant, VariantComparison, paired
from tokensieve.core.bench.runner import Bench, Plan
from tokensieve.core.cli.bench import register
from tokensieve.core.contract.dims import DecoderDims, ModelSize
from tokensieve.core.engine import base as engine_module
from tokensieve.core.engine import transitions as transitions_module
from tokensieve.core.engine.decoder import prompt as prompt_module
from tokensieve.core.engine.session import attach_timed
from tokensieve.core.errors import TokensieveError
from tokensieve.core.models.sizes import SIZES
from tokensieve.core.plugins.discovery import build_registry

PRESETS = ("fastv", "transprune", "visionzip", "random", "uniform", "visionzip+transprune")
GQA = DecoderDims(layers=8, dim=64, mlp_dim=1024, heads=4, kv_heads=2, head_dim=16)
TINY = {
    "llava": SIZES["tiny"],
    "qwen-vl": ModelSize(
        "tiny-qwen",
        "qwen-vl",
        "",
        GQA,
        visual_tokens=96,
        vocabulary=128,
        vision={"hidden_size": 32, "intermediate_size": 48, "depth": 8, "num_heads": 2},
    ),
    "internvl": ModelSize(
        "tiny-internvl",
        "internvl",
        "",
        GQA,
        visual_tokens=512,
        vocabulary=128,
        vision={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    ),
}
CPU = Setup(torch.device("cpu"), torch.float32, batch=2, text_tokens=15)


@pytest.fixture(scope="module")
def subjects() -> dict[str, BenchModel]:
    return {family: build_model(size, CPU) for family, size in TINY.items()}


@pytest.fixture(scope="module")
def finished(subjects: dict[str, BenchModel]) -> tuple[BenchResult, list[str]]:
    said: list[str] = []
    plan = Plan(["fastv", "none", "visionzip"], runs=3, warmup=1, decode_tokens=2)
    return Bench(subjects["llava"], plan, said.append).run(), said


# ---------------------------------------------------------------- the models


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_config_has_the_stated_size(size: ModelSize) -> None:
    adapter = build_registry().get("adapter", size.adapter)
    config = adapter.sized_config(size)
    dims, tokens = adapter.describe(config)
    assert dims == size.dims
    assert tokens == size.visual_tokens
    assert config.model_type in adapter.model_types
    assert config.text_config.vocab_size == size.vocabulary


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llava-1.5-7b", 7.06), ("qwen2.5-vl-7b", 8.29), ("internvl3-8b", 7.94)],
)
def test_real_sizes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    size = SIZES[name]
    config = build_registry().get("adapter", size.adapter).sized_config(size)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)
    decoder = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    matrices = sum(p.numel() for p in decoder if p.ndim > 1)
    assert matrices == size.decoder_parameters


@pytest.mark.parametrize("family", TINY)
def test_prompt_has_text_on_both_sides_of_the_image(
    subjects: dict[str, BenchModel], family: str
) -> None:
    subject = subjects[family]
    ids = subject.inputs["input_ids"]
    image = torch.isin(ids, torch.tensor(subject.bound.placeholder_ids))
    assert ids.shape[0] == CPU.batch
    assert image.sum(dim=1).tolist() == [subject.size.visual_tokens] * CPU.batch
    assert (~image).sum(dim=1).tolist() == [CPU.text_tokens] * CPU.batch
    assert image[:, 7].all() and not image[:, :7].any() and not image[:, -8:].any()
    assert not torch.equal(ids[0], ids[1])


@pytest.mark.parametrize("pipeline", [None, "transprune"])
@pytest.mark.parametrize("family", TINY)
def test_steps_decode_what_generate_decodes(
    subjects: dict[str, BenchModel], family: str, pipeline: str | None
) -> None:
    subject = subjects[family]
    session = tokensieve.attach(subject.model, pipeline or "none")
    with session, torch.no_grad():
        output, tokens = subject.prefill(), []
        for _ in range(4):
            tokens.append(output.logits[:, -1].argmax(dim=-1))
            output = subject.step(output)
        expected = subject.model.generate(
            **subject.inputs,
            attention_mask=torch.ones_like(subject.inputs["input_ids"]),
            max_new_tokens=4,
            do_sample=False,
        )
    assert torch.equal(torch.stack(tokens, dim=1), expected[:, -4:])


def test_same_weights_every_time(subjects: dict[str, BenchModel]) -> None:
    before = torch.random.get_rng_state()
    again = build_model(SIZES["tiny"], CPU)
    pairs = zip(again.model.parameters(), subjects["llava"].model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_too_large_for_the_memory_is_refused_before_it_is_built() -> None:
    huge = ModelSize("huge", "llava", "", DecoderDims(10**6, 4096, 11008, 32, 32, 128), 576, 32064)
    with pytest.raises(TokensieveError, match=r"size huge has .* GB of weights"):
        build_model(huge, CPU)


# ---------------------------------------------------------------- what is measured


def test_rounds_are_interleaved(finished: tuple[BenchResult, list[str]]) -> None:
    names = ["untouched", "fastv", "none", "visionzip"]
    kinds = ["warm-up", "run", "run", "run", "memory and overhead"]
    assert finished[1] == [f"{kind}: {name}" for kind in kinds for name in names]
    assert len(finished[1]) == Plan(["a", "b", "c"], runs=3, warmup=1).steps


def test_tokens_flops_and_cache_agree_with_a_count_by_hand(
    finished: tuple[BenchResult, list[str]],
) -> None:
    fastv = finished[0].comparisons[0]
    text, image, dims = CPU.text_tokens, 144, SIZES["tiny"].dims
    layers = [image] * 2 + [image // 2] * 6

    def flops(visual: int) -> int:
        n, d, m = visual + text, dims.dim, dims.mlp_dim
        return n * 4 * d * d + 2 * n * n * d + 3 * n * d * m

    assert fastv.variant.layer_tokens == layers
    assert fastv.flops == pytest.approx(sum(map(flops, layers)) / (8 * flops(image)))
    rows = sum(visual + text for visual in layers)
    assert fastv.variant.kv_bytes == CPU.batch * rows * 2 * dims.dim * 4
    assert fastv.kv == pytest.approx(rows / (8 * (image + text)))
    assert fastv.time_over_flops == pytest.approx(fastv.decoder.median / fastv.flops)


def test_the_empty_pipeline_costs_nothing(finished: tuple[BenchResult, list[str]]) -> None:
    none = finished[0].comparisons[1]
    assert (none.flops, none.kv, none.peak) == (1, 1, 1)
    assert none.variant.scoring is None and none.variant.hooks is None


def test_ratios_are_medians_of_paired_runs(finished: tuple[BenchResult, list[str]]) -> None:
    result = finished[0]
    for comparison in result.comparisons:
        ours, theirs = comparison.variant.prefill.values, result.untouched.prefill.values
        assert len(ours) == len(theirs) == 3
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert comparison.prefill.median == statistics.median(ratios)
        assert comparison.variant.decoder.median < comparison.variant.prefill.median


def test_result_is_plain_json(finished: tuple[BenchResult, list[str]]) -> None:
    plain = json.loads(json.dumps(finished[0].to_plain(), allow_nan=False))
    assert plain == finished[0].to_plain()
    environment = plain["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert (environment["dtype"], environment["attention"]) == ("float32", "sdpa")
    assert [entry["name"] for entry in plain["pipelines"]] == ["fastv", "none", "visionzip"]
    assert all(entry["verdict"] for entry in plain["pipelines"])


def test_bench_leaves_the_model_and_the_engine_as_they_were(
    subjects: dict[str, BenchModel], finished: tuple[BenchResult, list[str]]
) -> None:
    for module in subjects["llava"].model.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert not [hook for hook in hooks if hook.__module__.startswith("tokensieve")]
    clock = ByHand()
    with attach_timed(subjects["llava"].model, "transprune", HookTime(clock)), torch.no_grad():
        subjects["llava"].prefill()
    assert clock.marks > 0  # whoever times a session sees its hooks
    before = clock.marks
    with tokensieve.attach(subjects["llava"].model, "transprune"), torch.no_grad():
        subjects["llava"].prefill()
    assert clock.marks == before  # and nobody times the next one


def test_what_cannot_run_fails_before_anything_is_timed(subjects: dict[str, BenchModel]) -> None:
    said: list[str] = []
    plan = Plan(["random", "fastv"], keep={"average": 2})
    with pytest.raises(TokensieveError, match=r"'fastv'.*impossible"):
        Bench(subjects["llava"], plan, said.append)
    assert not said


class ByHand(Clock):
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0
        self.marks = 0

    def settle(self) -> None: ...

    def mark(self) -> float:
        self.marks += 1
        return self.now

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def delay(self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, by: float) -> None:
        call = getattr(where, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += by
            return call(*args, **kwargs)

        monkeypatch.setattr(where, name, slow)


@pytest.mark.parametrize(
    ("pipeline", "place", "scoring", "total"),
    [
        ("fastv", "decide", 1, 1),
        ("transprune", "decide", 3, 3),
        ("transprune", "change", 6, 6),  # attention and MLP of the layers 1 to 3
        ("visionzip", "vision", 1, 1),
        ("visionzip", "layout", 0, 1),
        ("fastv", "decoder", 0, 0),
    ],
)
def test_overhead_counts_exactly_our_own_time(
    subjects: dict[str, BenchModel],
    monkeypatch: pytest.MonkeyPatch,
    pipeline: str,
    place: str,
    scoring: float,
    total: float,
) -> None:
    subject, clock = subjects["llava"], ByHand()
    where = {
        "decide": (engine_module, "decide"),
        "change": (transitions_module, "change"),
        "vision": (type(subject.bound), "record"),
        "layout": (vars(prompt_module)["Images"], "read"),
        "decoder": (subject.bound.layers[3], "forward"),
    }[place]
    clock.delay(monkeypatch, *where, by=1.0)
    times = HookTime(clock)
    with attach_timed(subject.model, pipeline, times), torch.no_grad():
        assert hook_seconds(subject, times) == (scoring, total)


def test_decoder_time_is_part_of_the_prefill(
    subjects: dict[str, BenchModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, clock = subjects["llava"], ByHand()
    clock.delay(monkeypatch, subject.model.model.vision_tower, "forward", by=5.0)
    clock.delay(monkeypatch, subject.bound.layers[0], "forward", by=2.0)
    clock.delay(monkeypatch, engine_module, "decide", by=1.0)
    with torch.no_grad(), tokensieve.attach(subject.model, "transprune"):
        timed = timed_pass(subject, clock, decode_tokens=3)
    assert (timed.prefill, timed.decoder, timed.decode) == (10.0, 5.0, [2.0] * 3)


# ---------------------------------------------------------------- memory


def test_peak_counts_every_living_byte_once() -> None:
    old = torch.ones(1000)

    def call() -> torch.Tensor:
        first = old + 1  # 4000 bytes
        view = first.view(10, 100).t()[:50]
        second = view.clone()  # 2000: 6000 in all
        first.mul_(2)
        del first, view  # 2000
        old.view(-1).add_(1)
        third = torch.cat([second.flatten(), second.flatten()])  # 4000: 6000 in all
        return third.double()  # 8000: 14000 in all

    assert peak_tensor_bytes(call) == 14000
    assert peak_tensor_bytes(lambda: old.view(10, 100).t()) == 0
    assert peak_tensor_bytes(lambda: [torch.zeros(250) for _ in range(4)]) == 4000
    assert peak_tensor_bytes(lambda: [torch.zeros(250).sum() for _ in range(4)]) <= 1000 + 16


@pytest.mark.parametrize("pipeline", PRESETS)
@pytest.mark.parametrize("family", TINY)
def test_pruned_prefill_needs_no_more_memory_than_the_untouched(
    subjects: dict[str, BenchModel], family: str, pipeline: str
) -> None:
    subject = subjects[family]
    with torch.no_grad():
        untouched = peak_tensor_bytes(subject.prefill)
        whole = cache_bytes(subject.prefill().past_key_values)
        with tokensieve.attach(subject.model, pipeline):
            pruned = peak_tensor_bytes(subject.prefill)
            cut = cache_bytes(subject.prefill().past_key_values)
    assert cut < whole <= untouched
    assert pruned <= untouched


# ---------------------------------------------------------------- words


def spread(*values: float) -> Spread:
    return Spread.of(values)


def test_spread_is_median_and_quartiles() -> None:
    values = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = Spread.of(values.tolist())
    expected = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert [found.low, found.median, found.high] == pytest.approx(expected.tolist())
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, [3.0])


@pytest.mark.parametrize(
    ("prefill", "decoder", "decode", "words"),
    [
        ((1.1, 1.2, 1.3), 1.2, (1.0, 1.0, 1.0), "slower here: prefill takes 1.20x the time"),
        ((0.9, 0.98, 1.05), 0.9, (1.0, 1.0, 1.0), "no faster here: prefill takes 0.98x"),
        ((0.5, 0.5, 0.52), 0.52, (1.0, 1.0, 1.0), "faster: prefill 2.00x, as its FLOPs say"),
        ((0.6, 0.6, 0.62), 0.6, (1.0, 1.0, 1.0), "faster: prefill 1.67x, but 20% behind its FLOPs"),
        ((0.5, 0.5, 0.5), 0.5, (1.1, 1.1, 1.2), "decoding is slower, 1.10x the time"),
        ((0.5, 0.5, 0.5), 0.5, (0.8, 0.8, 0.8), "decoding 1.25x"),
        ((0.5, 0.5, 0.5), 0.5, (0.9, 1.0, 1.1), "decoding as fast as untouched"),
    ],
)
def test_verdict_says_what_was_measured(
    prefill: tuple[float, ...], decoder: float, decode: tuple[float, ...], words: str
) -> None:
    def variant(*times: Spread, flops: float) -> Variant:
        prefill, decoder, decode = times
        return Variant("x", prefill, decoder, decode, None, None, 1, 1, flops, [1])

    one = spread(1.0, 1.0, 1.0)
    pruned = variant(spread(*prefill), spread(*[decoder] * 3), spread(*decode), flops=0.5)
    verdict = VariantComparison.of(pruned, variant(one, one, one, flops=1.0)).verdict
    assert words in verdict
    assert "\n" not in verdict


def test_pairing_cancels_a_slow_spell() -> None:
    assert paired(spread(2.0, 20.0, 2.0), spread(4.0, 40.0, 4.0)).values == [0.5, 0.5, 0.5]


# ---------------------------------------------------------------- the command


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def test_command_prints_a_verdict_and_writes_all_numbers(app: typer.Typer, tmp_path: Path) -> None:
    file = tmp_path / "numbers.json"
    options = "bench --size tiny --runs 1 --warmup 0 --decode-tokens 1 --pipeline fastv --keep 10"
    result = CliRunner().invoke(app, [*options.split(), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "fastv: " in result.stdout and "time / FLOPs" in result.stdout
    numbers = json.loads(file.read_text())
    (fastv,) = numbers["pipelines"]
    assert fastv["layer_tokens"] == [144] * 2 + [10] * 6
    assert numbers["options"]["keep"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size tinny", "unknown model size 'tinny' (did you mean 'tiny'?)"),
        ("--dtype int8", "unknown dtype 'int8'"),
        ("--device warp", "unknown device 'warp'"),
        ("--attention flex_attention", "attention implementation 'flex_attention'"),
        ("--pipeline fats", "unknown pipeline 'fats'"),
        ("--keep many", "'many' is not a budget"),
        ("--json /no/such/folder/x.json", "--json /no/such/folder/x.json: not a file"),
    ],
)
def test_bad_options_are_one_line(app: typer.Typer, options: str, message: str) -> None:
    result = CliRunner().invoke(app, ["bench", "--size", "tiny", *options.split()])
    assert isinstance(result.exception, TokensieveError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_help_needs_no_torch() -> None:
    code = "import tokensieve.core.cli.bench, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
