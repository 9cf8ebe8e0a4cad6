"""``tokensieve run``: the numbers, the answers, the picture and the errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from command_line import Call, one_line
from PIL import Image

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.pipeline.flops import COMPUTE, decoder_flops
from tokensieve.core.plugins.discovery import build_registry

REGISTRY = build_registry()
QUESTION = "How many digits are there?"


def run_json(call: Call, *arguments: str | Path) -> dict[str, Any]:
    """``run --json``, with the shortest measurement."""
    shown = call("run", *arguments, "--json", "--repeats", "1", "--max-new-tokens", "3")
    assert (shown.code, shown.err) == (0, ""), shown.err
    data: dict[str, Any] = json.loads(shown.out)
    return data


def test_run_counts_what_the_pipeline_promises(
    call: Call, folders: dict[str, Path], picture: Path
) -> None:
    data = run_json(call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION)
    assert data["visual_tokens"] == 144
    assert [stage["after"] for stage in data["stages"]] == [126, 90, 18]
    assert [stage["boundary"] for stage in data["stages"]] == [2, 3, 4]
    assert [stage["written_boundary"] for stage in data["stages"]] == [7, 9, 12]
    assert [len(stage["kept"]) for stage in data["stages"]] == [126, 90, 18]
    assert data["visual_tokens_per_layer"] == [144] * 2 + [126, 90] + [18] * 6
    assert "scaled to [2, 3, 4]" in data["notes"][0]


def test_run_states_costs_of_the_decoder_that_ran(
    call: Call, folders: dict[str, Path], picture: Path
) -> None:
    data = run_json(
        call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--pipeline", "fastv",
    )  # fmt: skip
    dims = DecoderDims(10, 128, 192, 4, 4, 32)
    layers, text = [144] * 2 + [72] * 8, data["text_tokens"]
    assert data["flops_visual_tokens"]["pruned"] == decoder_flops(layers, dims)
    assert data["flops_all_tokens"]["untouched"] == decoder_flops(
        [144] * 10, dims, COMPUTE, text_tokens=text
    )
    rows = sum(layers) + 10 * text
    assert data["kv_bytes"]["pruned"] == rows * 2 * 128 * 4  # keys and values, float32
    assert data["kv_bytes"]["share"] == pytest.approx(rows / (10 * (144 + text)))


def test_run_answers_as_the_model_does(call: Call, folders: dict[str, Path], picture: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import tokensieve

    data = run_json(
        call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--pipeline", "random", "--seed", "3", "--keep", "5",
    )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(folders["llava"]).eval()
    processor = AutoProcessor.from_pretrained(folders["llava"])
    text = f"USER: <image> {QUESTION} ASSISTANT:"
    inputs = processor(images=[Image.open(picture)], text=text, return_tensors="pt")
    settings: Any = {"max_new_tokens": 3, "do_sample": False}

    def answer() -> str:
        with torch.no_grad():
            new = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
        return str(processor.decode(new, skip_special_tokens=True)).strip()

    assert data["untouched"]["answer"] == answer()
    with tokensieve.attach(model, "random", keep=5, seed=3) as session:
        assert data["pruned"]["answer"] == answer()
    assert data["stages"][0]["kept"] == session.trace.stages[0].kept[0].tolist()


def test_run_times_both_sides(call: Call, folders: dict[str, Path], picture: Path) -> None:
    data = run_json(call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION)
    for side in ("untouched", "pruned"):
        times = data[side]
        assert 0 < times["first_token"] <= times["whole_answer"]
        further = times["per_further_token"] * (times["tokens"] - 1)
        assert times["first_token"] + further == pytest.approx(times["whole_answer"])


def test_run_writes_an_overlay_next_to_the_caller(
    call: Call, folders: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    data = run_json(call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION)
    assert data["overlay"] == "picture-transprune.png"
    with Image.open(tmp_path / "picture-transprune.png") as overlay:
        assert overlay.width > 4 * 320  # the original and three boundaries


def test_run_prints_a_report_for_people(
    call: Call, folders: dict[str, Path], picture: Path
) -> None:
    shown = call(
        "run", "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--repeats", "1", "--max-new-tokens", "2", "--overlay", "seen.png",
    )  # fmt: skip
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].split(maxsplit=1) == ["question", QUESTION]
    assert any(line.startswith("boundary 4 (written as 12)") for line in lines)
    assert any("decoder prefill FLOPs" in line and "40.4 %" in line for line in lines)
    assert "median of 1 interleaved runs after one warm-up each" in shown.out
    assert "scoring included" in shown.out
    assert lines[-1] == "overlay: seen.png"


@pytest.mark.parametrize("family", tiny_checkpoints.PARTS)
def test_run_takes_a_local_folder_of_every_family(
    call: Call, folders: dict[str, Path], picture: Path, family: str, tmp_path: Path
) -> None:
    data = run_json(
        call, "--model", folders[family], "--image", picture, "--image", picture,
        "--prompt", "w7 w8", "--pipeline", "uniform", "--keep", "0.25",
    )  # fmt: skip
    tokens = {"llava": 144, "qwen-vl": 9 * 6, "internvl": 7 * 16, "llava-pixtral": 8 * 6}
    each = tokens[family]
    assert data["visual_tokens"] == 2 * each
    assert data["stages"][0]["after"] == 2 * int(each / 4)
    with Image.open(tmp_path / data["overlay"]) as overlay:
        assert overlay.height > 2 * 320  # one row of panels for each picture


def test_run_without_pruning_draws_the_original_only(
    call: Call, folders: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    data = run_json(
        call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--pipeline", "none",
    )  # fmt: skip
    assert data["stages"] == []
    assert data["flops_all_tokens"]["share"] == 1
    assert data["untouched"]["answer"] == data["pruned"]["answer"]
    assert (tmp_path / data["overlay"]).exists()


def test_run_in_bfloat16(call: Call, folders: dict[str, Path], picture: Path) -> None:
    data = run_json(
        call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--dtype", "bfloat16", "--device", "cpu",
    )  # fmt: skip
    assert data["dtype"] == "bfloat16"
    rows = sum(data["visual_tokens_per_layer"]) + 10 * data["text_tokens"]
    assert data["kv_bytes"]["pruned"] == rows * 2 * 128 * 2


def test_run_takes_plugins(
    call: Call, folders: dict[str, Path], picture: Path, plugin: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("at: 2\nscore: loud\nkeep: 7\n")
    data = run_json(
        call, "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--pipeline", "mine.yaml", "--plugin", plugin,
    )  # fmt: skip
    assert data["stages"][0]["after"] == 7


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--image", "nothing.png"], ["nothing.png", "does not exist"]),
        (["--image", "loud.py"], ["loud.py", "not an image"]),
        (["--dtype", "bf16"], ["unknown dtype", "did you mean 'bfloat16'?"]),
        (["--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
        (["--device", "cuda:99"], ["'cuda:99' is not available"]),
        (["--overlay", "x.jpg"], ["x.jpg", ".png"]),
        (["--overlay", "no/folder/x.png"], ["no/folder"]),
        (["--overlay", "picture.png"], ["overwrite"]),
        (["--pipeline", "transprun"], ["did you mean 'transprune'?"]),
        (["--keep", "0"], ["impossible budget"]),
        (["--prompt", "a <image> too many"], ["the processor refuses this"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_refuses_in_one_line(
    call: Call,
    folders: dict[str, Path],
    picture: Path,
    plugin: Path,
    arguments: list[str],
    parts: list[str],
) -> None:
    usual = {"--model": str(folders["llava"]), "--image": "picture.png", "--prompt": QUESTION}
    usual.update(dict(zip(arguments[::2], arguments[1::2], strict=True)))
    one_line(call("run", *(word for pair in usual.items() for word in pair)), *parts)


def test_run_asks_for_a_question_about_a_given_picture(call: Call, picture: Path) -> None:
    one_line(call("run", "--image", picture), "--prompt is missing")


def test_run_without_a_picture_takes_the_example(
    call: Call, folders: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "from pathlib import Path\nimport tokensieve\n\n@tokensieve.hookimpl\n"
        "def tokensieve_register(registry):\n"
        "    registry.entries['example'].pop('scene', None)\n"
        f"    registry.add_example('scene', Path({str(picture)!r}), 'how many red ?')\n"
    )
    data = run_json(call, "--model", folders["llava"], "--plugin", path)
    assert data["question"] == "how many red ?"
    assert data["images"] == [str(picture)]


def test_run_refuses_a_pipeline_before_it_answers(
    call: Call, folders: dict[str, Path], picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep.yaml").write_text("at: 40\nscore: attention\nkeep: 0.5\n")
    shown = call(
        "run", "--model", folders["llava"], "--image", picture, "--prompt", QUESTION,
        "--pipeline", "deep.yaml",
    )  # fmt: skip
    one_line(shown, "boundary 40", "10 decoder layers")


def test_run_knows_the_built_in_models_by_name(call: Call, picture: Path) -> None:
    shown = call("run", "--model", "tiny lava", "--image", picture, "--prompt", QUESTION)
    one_line(shown, "unknown model 'tiny lava'", "Hugging Face id")


PRESETS = [entry.name for entry in REGISTRY.all("pipeline")]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", ["tiny-llava", *tiny_checkpoints.PARTS])
def test_every_preset_answers_on_every_family(
    call: Call, folders: dict[str, Path], picture: Path, family: str, preset: str
) -> None:
    """The built-in model, and random weights of each family behind its real processor."""
    model = folders.get(family, family)
    data = run_json(
        call, "--model", model, "--image", picture, "--prompt", QUESTION, "--pipeline", preset,
        "--keep", "0.5",
    )  # fmt: skip
    pruned = data["visual_tokens_per_layer"][-1]
    assert pruned < data["visual_tokens"] or preset == "none"
    assert data["pruned"]["tokens"] >= 1


@pytest.mark.parametrize(
    ("model", "size", "drawn"),
    [
        ("tiny-llava", (2000, 1), True),
        ("tiny-llava", (1, 1), True),
        ("tiny-internvl", (2000, 1), True),
        ("tiny-llava-hd", (2000, 1), False),  # a line in a border of 191 times its height
        ("tiny-llava-hd", (1, 1), False),
    ],
)
def test_run_draws_strips_and_pixels_or_says_that_it_does_not(
    model: str, size: tuple[int, int], drawn: bool, call: Call, tmp_path: Path
) -> None:
    Image.new("RGB", size, (200, 10, 10)).save(tmp_path / "odd.png")
    shown = call(
        "run", "--model", model, "--image", "odd.png", "--prompt", "what?", "--pipeline", "fastv",
        "--repeats", "1", "--max-new-tokens", "2",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert (tmp_path / "odd-fastv.png").is_file() is drawn
    assert ("no overlay" in shown.err) is not drawn
