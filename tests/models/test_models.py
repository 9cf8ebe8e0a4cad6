"""Loading models: local folders of every family, and folders that something is wrong with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Call, one_line

from tokensieve.core.files.pictures import open_image
from tokensieve.core.models.loading import LoadedModel, load_model
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.run.prompts import VisualQuestion, find_panels

REGISTRY = build_registry()


def test_patches_of_a_wide_picture_lie_where_the_processor_cut_them(
    folders: dict[str, Path], picture: Path
) -> None:
    image = open_image(picture)
    shapes = {}
    for family, tokens in (
        ("llava", 144),
        ("qwen-vl", 54),
        ("internvl", 112),
        ("llava-pixtral", 48),
    ):
        loaded = load_model(str(folders[family]), REGISTRY)
        assert isinstance(loaded, LoadedModel)
        (panels,) = find_panels(loaded, VisualQuestion("w7", (image,)), tokens) or [[]]
        shapes[family] = [(p.rows, p.columns, tuple(round(x, 3) for x in p.box)) for p in panels]
    assert shapes["llava"] == [(12, 12, (0.167, 0, 0.833, 1))]
    assert shapes["qwen-vl"] == [(6, 9, (0, 0, 1, 1))]
    assert shapes["llava-pixtral"] == [(6, 8, (0, 0, 1, 1))]
    assert shapes["internvl"][0] == (4, 4, (0, 0, 0.333, 0.5))
    assert shapes["internvl"][-1] == (4, 4, (0, 0, 1, 1))
    assert len(shapes["internvl"]) == 7


def test_a_border_makes_the_grid_larger_than_the_picture() -> None:
    loaded = load_model("tiny-llava-hd", REGISTRY)
    (panel,) = loaded.bound.panels((96, 48), loaded.processor, None)
    assert (panel.rows, panel.columns, panel.box) == (24, 24, (-0.5, -1.5, 1.5, 2.5))
    (panel,) = loaded.bound.panels((384, 192), loaded.processor, None)
    assert panel.box == (0.25, 0, 0.75, 1)


def spoil_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


SPOILT: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "unknown to transformers": (
        lambda folder: spoil_config(folder, model_type="llavax"),
        ["cannot be loaded", "llavax"],
    ),
    "no adapter": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'),
        ["no adapter for model_type 'gpt2'", "supported:", "qwen2_5_vl"],
    ),
    "foreign code": (
        lambda folder: spoil_config(folder, model_type="mine", auto_map={"AutoConfig": "x.Y"}),
        ["never run"],
    ),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{broken"),
        ["config.json:1:2: not valid JSON"],
    ),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        ["model.safetensors"],
    ),
    "broken weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 1000),
        ["model.safetensors: cannot be read"],
    ),
    "missing weights": (
        lambda folder: spoil_config(
            folder,
            text_config={
                **json.loads((folder / "config.json").read_text())["text_config"],
                "num_hidden_layers": 11,
            },
        ),
        ["weights are missing", "layers.10"],
    ),
    "no chat template": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        ["chat template"],
    ),
    "no processor": (
        lambda folder: (folder / "processor_config.json").unlink(),
        ["cannot be loaded"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_one_line_says_what_is_wrong_with_a_model(
    call: Call, folders: dict[str, Path], picture: Path, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in folders["llava"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    spoil, parts = SPOILT[what]
    spoil(folder)
    one_line(call("run", "--model", folder, "--image", picture, "--prompt", "What?"), *parts)
