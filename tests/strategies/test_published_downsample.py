"""``downsample`` is the untouched model on smaller pixels, with as many placeholders as they fill.

Pixels are resized here, the prompt has fewer placeholders, and nothing is attached. Qwen's M-RoPE
keeps the coordinates of the large grid: there the slow decoder goes on from the same features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_models
import torch
from references import forward
from references.compare import Both, big_prompt, model_of, run_ours
from references.samples import encode, sequence
from tiny_models import IMAGE, Prompt
from torch import Tensor

import tokensieve

Grid = tuple[int, int]
GREEDY = {
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
    "suppress_tokens": tiny_models.SPECIAL,
}
STEPS = 4


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    size = (height, width)
    return torch.nn.functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


def fewer(ids: list[int], runs: list[int]) -> dict[str, Tensor]:
    """The prompt with ``runs[i]`` placeholders for image ``i``; images do not touch."""
    short: list[int] = []
    left = iter(runs)
    for place, token in enumerate(ids):
        if token != IMAGE:
            short.append(token)
        elif ids[place - 1] != IMAGE:
            short += [IMAGE] * next(left)
    row = torch.tensor([short])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


@contextmanager
def any_size(model: Any) -> Iterator[None]:
    """CLIP takes other sizes only when asked to; ``generate`` would not pass that on."""

    def ask(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "interpolate_pos_encoding": True}

    handles = []
    if model.config.model_type == "llava":
        tower = model.model.vision_tower
        handles.append(tower.register_forward_pre_hook(ask, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def entering(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What the untouched model feeds to decoder layer 0 for one sample, and its last logits."""
    seen: list[Tensor] = []
    norm = model.model.language_model.layers[0].input_layernorm
    handle = norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        with torch.no_grad(), any_size(model):
            logits = model(**inputs).logits
    finally:
        handle.remove()
    return seen[0][0], logits[0, -1]


def assert_same(model: Any, ours: Both, small: list[dict[str, Any]]) -> None:
    for sample, inputs in enumerate(small):
        hidden, logits = entering(model, inputs)
        mine = ours.entered[sample, -len(hidden) :]
        torch.testing.assert_close(mine, hidden, rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.logits[sample], logits, rtol=0, atol=1e-6)


def assert_same_generation(
    model: Any, inputs: dict[str, Any], small: dict[str, Any], keep: Any
) -> None:
    options = {"max_new_tokens": STEPS, **GREEDY}
    with tokensieve.attach(model, "downsample", keep=keep) as session:
        ours = model.generate(**inputs, **options)
        assert len(session.trace.stages) == 1
    with any_size(model):
        theirs = model.generate(**small, **options)
    assert torch.equal(ours.sequences[:, -STEPS:], theirs.sequences[:, -STEPS:])
    for mine, other in zip(ours.logits, theirs.logits, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


# ------------------------------------------------------------------ LLaVA

LLAVA_SIDE = 8


def llava() -> Any:
    return model_of("llava", side=LLAVA_SIDE)


def llava_inputs(images: int, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, 60, (4, images + 1), generator=generator).T.tolist()
    ids = [tiny_models.BOS, *text[0]]
    for image in range(images):
        ids += [IMAGE] * LLAVA_SIDE**2 + text[image + 1]
    side = 4 * LLAVA_SIDE
    row = torch.tensor([ids])
    pixels = torch.randn(images, 3, side, side, generator=generator, dtype=torch.float64)
    return {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": pixels}


def llava_small(inputs: dict[str, Any], grid: Grid) -> dict[str, Any]:
    rows, columns = grid
    pixels = inputs["pixel_values"]
    short = fewer(inputs["input_ids"][0].tolist(), [rows * columns] * len(pixels))
    return {**short, "pixel_values": resized(pixels, 4 * rows, 4 * columns)}


GRIDS: dict[Any, Grid] = {
    16: (4, 4), 0.25: (4, 4), 12: (4, 3), 20: (5, 4), 7: (3, 2), 1: (1, 1), 63: (8, 7), 0.22: (4, 3)
}  # fmt: skip
"""Of 64 tokens: the grid near the square that wastes least, tall rather than wide."""


@pytest.mark.parametrize("keep", GRIDS)
def test_llava_equals_the_model_on_smaller_pixels(keep: Any) -> None:
    inputs, (rows, columns) = llava_inputs(1, seed=3), GRIDS[keep]
    ours = run_ours(llava(), inputs, "downsample", keep=keep)
    assert ours.trace.per_layer == [[rows * columns] * 6]
    assert_same(llava(), ours, [llava_small(inputs, (rows, columns))])


def test_llava_of_576_tokens_at_the_preset_s_own_budget() -> None:
    model, inputs = model_of("llava", side=24, num_hidden_layers=2), big_prompt(seed=1)
    ours = run_ours(model, inputs, "downsample")
    assert ours.trace.stages[0].after == [121]
    assert_same(model, ours, [llava_small(inputs, (11, 11))])


def test_llava_with_two_images_in_a_sample_and_another_sample() -> None:
    one, two = llava_inputs(1, seed=4), llava_inputs(2, seed=5)
    fill = two["input_ids"].shape[1] - one["input_ids"].shape[1]
    padding = torch.zeros(1, fill, dtype=torch.long)
    batch = {
        key: torch.cat([torch.cat([padding, one[key]], dim=1), two[key]])
        for key in ("input_ids", "attention_mask")
    }
    batch["pixel_values"] = torch.cat([one["pixel_values"], two["pixel_values"]])
    ours = run_ours(llava(), batch, "downsample", keep=21)
    assert ours.trace.stages[0].after == [20, 40]
    assert_same(llava(), ours, [llava_small(sample, (5, 4)) for sample in (one, two)])


@pytest.mark.parametrize("keep", [12, 20])
def test_llava_generates_as_from_smaller_pixels(keep: int) -> None:
    inputs = llava_inputs(2, seed=6)
    assert_same_generation(llava(), inputs, llava_small(inputs, GRIDS[keep]), keep)


# ------------------------------------------------------------------ InternVL


def intern_small(inputs: dict[str, Any], tiles: list[int], side: int) -> dict[str, Any]:
    """Tiles of ``side`` x ``side`` tokens; a token covers 8 x 8 pixels."""
    short = fewer(inputs["input_ids"][0].tolist(), [count * side**2 for count in tiles])
    return {**short, "pixel_values": resized(inputs["pixel_values"], 8 * side, 8 * side)}


@pytest.mark.parametrize(("keep", "side"), [(0.25, 2), (0.3, 2), (0.6, 3), (0.99, 3), (1, 1)])
def test_internvl_equals_the_model_on_smaller_tiles(keep: Any, side: int) -> None:
    """A tile stays square, as pixel shuffle wants it; a number is split among the tiles."""
    model, tiles = model_of("internvl"), [(2,), (1, 3)]
    prompts = [Prompt(3 + 2 * n, group, 6 - n, seed=40 + n) for n, group in enumerate(tiles)]
    samples = [tiny_models.inputs("internvl", [prompt]) for prompt in prompts]
    ours = run_ours(model, tiny_models.inputs("internvl", prompts), "downsample", keep=keep)
    assert ours.trace.stages[0].after == [sum(group) * side**2 for group in tiles]
    small = [intern_small(s, [*group], side) for s, group in zip(samples, tiles, strict=True)]
    assert_same(model, ours, small)


@pytest.mark.parametrize(("keep", "side"), [(0.25, 2), (27, 3)])
def test_internvl_generates_as_from_smaller_tiles(keep: Any, side: int) -> None:
    inputs = tiny_models.inputs("internvl", [Prompt(3, (3, 3), 5, seed=44)])
    small = intern_small(inputs, [3, 3], side)
    assert_same_generation(model_of("internvl"), inputs, small, keep)


# ------------------------------------------------------------------ Qwen2.5-VL

UNIT, PATCH, FRAMES = 2, 4, 2


def patches(image: Tensor) -> Tensor:
    """``[frames, channels, height, width]`` as the processor hands it over: 2x2 blocks of patches.

    A patch is flattened as channels, frames, rows, columns.
    """
    _, _, height, width = image.shape
    block = UNIT * PATCH
    rows = []
    for top in range(0, height, block):
        for left in range(0, width, block):
            for down in range(0, block, PATCH):
                for across in range(0, block, PATCH):
                    y, x = top + down, left + across
                    part = image[:, :, y : y + PATCH, x : x + PATCH]
                    rows.append(part.transpose(0, 1).reshape(-1))
    return torch.stack(rows)


def qwen_inputs(grids: list[Grid], seed: int, small: list[Grid] | None = None) -> dict[str, Any]:
    """A prompt with images of these grids of tokens; with ``small``, resized to those."""
    inputs = tiny_models.inputs("qwen-vl", [Prompt(4, tuple(grids), 5, seed=seed)])
    generator = torch.Generator().manual_seed(seed)
    block, images = UNIT * PATCH, []
    for rows, columns in grids:
        shape = (FRAMES, 3, rows * block, columns * block)
        images.append(torch.randn(*shape, generator=generator).double())
    if small is not None:
        inputs = fewer(inputs["input_ids"][0].tolist(), [r * c for r, c in small])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
        images = [
            resized(image, r * block, c * block)
            for image, (r, c) in zip(images, small, strict=True)
        ]
    inputs["pixel_values"] = torch.cat([patches(image) for image in images])
    sizes = [[1, image.shape[2] // PATCH, image.shape[3] // PATCH] for image in images]
    return {**inputs, "image_grid_thw": torch.tensor(sizes)}


def centers(grid: Grid, small: Grid) -> list[int]:
    """Where the middle of each cell lies on the large grid; half-way goes up."""
    down, across = (
        [int((place + 0.5) * size / count) for place in range(count)]
        for size, count in zip(grid, small, strict=True)
    )
    return [row * grid[1] + column for row in down for column in across]


QWEN: dict[Any, tuple[list[Grid], list[Grid]]] = {
    0.25: ([(6, 8)], [(3, 4)]),
    10: ([(6, 8)], [(3, 3)]),
    0.5: ([(6, 8), (9, 4)], [(4, 6), (6, 3)]),
    5: ([(3, 7), (5, 5)], [(1, 4), (2, 2)]),
}


@pytest.mark.parametrize("keep", QWEN)
def test_qwen_feeds_the_decoder_the_features_of_the_smaller_image(keep: Any) -> None:
    model, (grids, small) = model_of("qwen-vl"), QWEN[keep]
    inputs = qwen_inputs(grids, seed=7)
    ours = run_ours(model, inputs, "downsample", keep=keep)
    hidden, _ = entering(model, qwen_inputs(grids, 7, small))
    torch.testing.assert_close(ours.entered[0], hidden, rtol=0, atol=1e-9)

    with torch.no_grad():
        rows = sequence(model, inputs, encode(model, inputs))
        stay = rows.all_text()
        for image, (grid, less) in enumerate(zip(grids, small, strict=True)):
            columns = rows.columns(image)
            stay += [columns[place] for place in centers(grid, less)]
        rows = rows.only(sorted(stay))
        rows.hidden = hidden
        expected = forward.run(model, rows, [], reindex=False).logits[-1]
    assert ours.trace.stages[0].kept[0].tolist() == [v for v in rows.visual if v is not None]
    torch.testing.assert_close(ours.logits[0], expected, rtol=0, atol=2e-5)


def test_qwen_generates_from_the_smaller_image() -> None:
    """Every step as one forward over all that stands there; images are encoded in front of it."""
    model, (grids, small) = model_of("qwen-vl"), QWEN[0.5]
    inputs = qwen_inputs(grids, seed=8)
    seen: list[Tensor] = []
    norm = model.model.language_model.layers[0].input_layernorm
    handle = norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with tokensieve.attach(model, "downsample", keep=0.5):
        output = model.generate(**inputs, max_new_tokens=STEPS, **GREEDY)
    handle.remove()
    hidden, _ = entering(model, qwen_inputs(grids, 8, small))
    torch.testing.assert_close(seen[0][0], hidden, rtol=0, atol=1e-9)
    for step, logits in enumerate(output.logits):
        ids = output.sequences[:, : inputs["input_ids"].shape[1] + step]
        longer = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        longer["mm_token_type_ids"] = (ids == IMAGE).int()
        ours = run_ours(model, {**inputs, **longer}, "downsample", keep=0.5)
        torch.testing.assert_close(logits[0], ours.logits[0].float(), rtol=0, atol=1e-5)
