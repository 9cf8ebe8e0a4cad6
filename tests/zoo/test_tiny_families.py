"""What the recipe computes for each family is what the model computes by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tokensieve.adapters.zoo.families import IMAGE_MEAN, IMAGE_STD, Family
from tokensieve.adapters.zoo.tasks.pictures import SMALL, TASKS
from tokensieve.adapters.zoo.training.packing import IGNORE, Packer, Portion, block_mask
from tokensieve.adapters.zoo.training.recipe import FamilyTrainer, train
from tokensieve.adapters.zoo.training.schedule import FamilyRecipe, portion
from tokensieve.adapters.zoo.training.starting import FAMILIES

CASES = [(name, side) for name, family in FAMILIES.items() for side in family.sides]
QUICK = FamilyRecipe(sight_steps=1, steps=4, decay_steps=2, warmup_steps=2, large_from=4)
QUICK = replace(QUICK, sparse=(4, 160), whole=(2, 272), large=(1, 704))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]()


def normalized(image: np.ndarray[Any, Any]) -> torch.Tensor:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (pixels - IMAGE_MEAN[0]) / IMAGE_STD[0]


def asked(family: Family, images: list[Image.Image]) -> Any:
    processor = family.build_processor()
    content = [{"type": "image"}, {"type": "text", "text": "What color is the 7?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return processor(images=images, text=[text] * len(images), return_tensors="pt")


@pytest.mark.parametrize(("name", "side"), CASES)
def test_features_are_the_models_own(name: str, side: int) -> None:
    torch.manual_seed(0)
    family = FAMILIES[name]()
    model = family.build_model().eval()
    scene = TASKS["needle"].scene(1, "train", side)
    inputs = asked(family, [Image.fromarray(scene.image)] * 2)
    pixels = family.pixels(normalized(scene.image).repeat(2, 1, 1, 1))
    with torch.inference_mode():
        ours = family.encode(model, pixels, 2).features.flatten(0, 1)
        extra = {key: inputs[key] for key in ("pixel_values", "image_grid_thw") if key in inputs}
        theirs = model.model.get_image_features(**extra, return_dict=True).pooler_output
    whole = torch.cat(list(theirs)).reshape(ours.shape)
    # the processor rounds a thumbnail to whole numbers of 0 to 255, the recipe does not
    tolerance = 0.15 if name == "tiny-internvl" else 1e-4
    assert torch.allclose(ours, whole, atol=tolerance)


@pytest.mark.parametrize(("name", "side"), CASES)
def test_layout_is_that_of_the_processor(name: str, side: int) -> None:
    family = FAMILIES[name]()
    layout = family.layout(side)
    inputs = asked(family, [Image.new("RGB", (side, side))])
    ids = inputs["input_ids"][0]
    model = family.build_model()
    where = (ids == model.config.image_token_id).nonzero()[:, 0]
    positions = torch.arange(len(ids))[None]
    if "image_grid_thw" in inputs:
        grid, kinds = inputs["image_grid_thw"], inputs["mm_token_type_ids"]
        positions = model.model.get_rope_index(inputs["input_ids"], kinds, grid)[0][:, 0]
    assert ids[: where[0]].tolist() == family.head
    assert ids[where[-1] + 1 :][: len(family.tail)].tolist() == family.tail
    assert torch.equal(positions[:, where], layout.positions)
    assert (positions[:, where[-1] + 1] == layout.start).all()


@pytest.mark.parametrize(("name", "side"), CASES)
def test_cells_say_which_part_of_the_picture_a_token_shows(name: str, side: int) -> None:
    torch.manual_seed(0)
    family = FAMILIES[name]()
    model = family.build_model().eval()
    layout = family.layout(side)
    noise = torch.randn(1, 3, side, side)
    row, column = 4, 7
    bright = noise.clone()
    bright[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 4
    with torch.inference_mode():
        change = [
            family.encode(model, family.pixels(picture), 1).features for picture in (noise, bright)
        ]
    moved = (change[0] - change[1]).square().sum(-1)[0]
    moved[layout.cells < 0] = 0
    assert int(layout.cells[moved.argmax()]) == row * layout.rows + column


def test_a_family_is_small_and_plain(family: Family) -> None:
    model = family.build_model()
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert type(model).__module__.startswith("transformers.")
    assert model.config.text_config.num_hidden_layers >= 8


def test_vocabularies_agree_where_they_overlap() -> None:
    one, *others = (FAMILIES[name]().tokenizer.get_vocab() for name in FAMILIES)
    shared = [word for word in one if all(word in other for other in others)]
    assert len(shared) >= 70
    assert all(other[word] == one[word] for word in shared for other in others)


def test_packed_questions_see_the_picture_and_themselves() -> None:
    visible = block_mask(torch.tensor([[0, 1, 1, 2, -1]]), 2)[0, 0] == 0
    assert visible[2:, :3].all(dim=0).tolist() == [True, True, True]
    assert visible.long().tolist()[5] == [1, 1, 1, 0, 0, 1, 0]
    assert not visible.triu(1).any()


def test_a_sparse_batch_keeps_every_item(family: Family) -> None:
    side = min(family.sides)
    part = Portion(TASKS["signs"], side, 4, 200, 60)
    batch = Packer(family).batch(part, "train", 0)
    kept = torch.zeros(4, len(batch["cells"]), dtype=torch.bool).scatter(1, batch["keep"], True)
    items = (batch["token_label"] != IGNORE) & (batch["token_label"] < 30)
    assert items.any(dim=1).all()
    assert kept[items].all()
    assert (kept.sum(dim=1) == 60).all()


def test_training_resumes_where_it_stopped(tmp_path: Path, family: Family) -> None:
    """Two steps, a stop, two more: the same weights as four steps in one go."""
    recipe = QUICK
    if SMALL not in family.sides:
        recipe = replace(recipe, teacher="")
    whole = FamilyTrainer(family, recipe, tmp_path / "whole", "cpu")
    for _ in range(4):
        whole.advance()
    (tmp_path / "parts").mkdir()
    half = FamilyTrainer(family, recipe, tmp_path / "parts", "cpu")
    half.advance()
    half.advance()
    half.save()
    rest = FamilyTrainer(family, recipe, tmp_path / "parts", "cpu")
    train(rest)
    for name, parameter in rest.model.named_parameters():
        expected = dict(whole.model.named_parameters())[name].to(parameter.dtype)
        assert torch.equal(parameter, expected), name
    folder = tmp_path / "parts" / "model"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model) is type(family.build_model())
    assert AutoProcessor.from_pretrained(folder).chat_template
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


def test_late_steps_show_large_pictures() -> None:
    recipe = FamilyRecipe()
    family = FAMILIES["tiny-internvl"]()
    late = [portion(recipe, family, step) for step in range(recipe.steps - 40, recipe.steps)]
    assert {part.side for part in late} == {96, 192}
    assert {part.task.name for part in late} == {*TASKS, "sheets"}
