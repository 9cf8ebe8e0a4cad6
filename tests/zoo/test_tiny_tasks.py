"""The tasks ask real pictures, keep train and held-out apart, and know where the answer is."""

from __future__ import annotations

import numpy as np
import pytest

from tokensieve.adapters.zoo.tasks import digit_scenes, glyphs
from tokensieve.adapters.zoo.tasks.digit_scenes import Split
from tokensieve.adapters.zoo.tasks.pictures import (
    LARGE,
    SMALL,
    TASKS,
    Item,
    PictureScene,
    Signs,
    sample,
    vocabulary,
)
from tokensieve.adapters.zoo.training.sheets import SHEETS

PICTURES = 150


def signs_of(scene: PictureScene) -> list[tuple[Item, ...]]:
    return [scene.items[i : i + 3] for i in range(0, len(scene.items), 3)]


@pytest.mark.parametrize("side", [SMALL, LARGE])
@pytest.mark.parametrize("name", TASKS)
def test_a_picture_is_a_function_of_its_number(name: str, side: int) -> None:
    task = TASKS[name]
    one, two = (task.scene(5, "train", side) for _ in range(2))
    assert one.image.shape == (side, side, 3)
    assert np.array_equal(one.image, two.image)
    assert one.items == two.items
    assert not np.array_equal(one.image, task.scene(5, "heldout", side).image)
    assert task.questions(one, 5, "train", 9) == task.questions(two, 5, "train", 9)


def test_small_digit_scenes_are_those_of_tiny_llava() -> None:
    scene = TASKS["digits"].scene(7, "heldout", SMALL)
    old = digit_scenes.make_scene("heldout", 7)
    assert np.array_equal(scene.image, old.image)
    asked = TASKS["digits"].questions(scene, 7, "heldout", 8)
    expected = digit_scenes.questions_for(old, "heldout", 7, 8)
    assert [(q.text, q.answer, q.about) for q in asked] == [
        (q.text, q.answer, q.about) for q in expected
    ]


@pytest.mark.parametrize("name", ["signs", "needle"])
def test_answers_follow_from_the_picture(name: str) -> None:
    task = TASKS[name]
    for index in range(30):
        scene = task.scene(index, "heldout", task.side)
        for question in task.questions(scene, index, "heldout", 12):
            items = [scene.items[i] for i in question.about]
            if "olour" in question.kind:
                assert question.answer == items[0].color
            else:
                assert question.answer.split() == [item.label for item in items]
            for word in [*question.answer.split(), *question.text.lower().rstrip("?").split()]:
                assert word.rstrip(",") in vocabulary(), word


@pytest.mark.parametrize("name", TASKS)
def test_the_answer_lies_in_the_boxes(name: str) -> None:
    """Every box is inside the picture and holds ink."""
    for seed in range(12):
        image, _, _, boxes = sample(TASKS[name], seed, "heldout")
        assert boxes
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= image.shape[1]
            assert 0 <= top < bottom <= image.shape[0]
            window = image[top:bottom, left:right].astype(int)
            assert window.max() - np.median(image) > 80


def test_heldout_strings_and_places_are_never_trained_on() -> None:
    task = Signs()
    strings: dict[str, set[str]] = {"train": set(), "heldout": set()}
    places: dict[str, set[tuple[int, int]]] = {"train": set(), "heldout": set()}
    splits: tuple[Split, ...] = ("train", "heldout")
    for split in splits:
        for index in range(PICTURES):
            for sign in signs_of(task.scene(index, split)):
                strings[split].add("".join(item.label for item in sign))
                places[split].add((sign[0].left, sign[0].top))
    assert not strings["train"] & strings["heldout"]
    assert not places["train"] & places["heldout"]
    assert len(strings["heldout"]) > PICTURES
    assert len(places["heldout"]) >= 5


def test_signs_do_not_overlap_and_stay_in_the_picture() -> None:
    for index in range(PICTURES):
        scene = Signs().scene(index, "heldout")
        boxes = [item.box for item in scene.items]
        assert len({item.label for item in scene.items}) == len(boxes)
        for at, (left, top, right, bottom) in enumerate(boxes):
            assert right <= SMALL
            assert bottom <= SMALL
            for x, y, _, _ in boxes[:at]:
                assert abs(left - x) >= 16 or abs(top - y) >= 16


def test_a_glyph_is_never_cut_by_the_border_of_a_tile() -> None:
    """Tiles of 48 pixels: otherwise no tile would show what it is."""
    for task in (*TASKS.values(), SHEETS):
        for index in range(20):
            for item in task.scene(index, "train", SMALL).items:
                left, top, right, bottom = item.box
                assert left // 48 == (right - 1) // 48
                assert top // 48 == (bottom - 1) // 48


def test_letters_come_from_more_than_ten_faces_that_differ() -> None:
    bank = glyphs.letter_bank()
    assert len(glyphs.FACES) == 22
    for letter in glyphs.LETTERS:
        shapes = {opacity.tobytes() for opacity in bank[letter]}
        assert len(shapes) == len(glyphs.FACES), letter
        assert min(float(opacity.sum()) for opacity in bank[letter]) > 10
    whole = [bank[letter][0] for letter in glyphs.LETTERS]
    assert len({opacity.tobytes() for opacity in whole}) == len(glyphs.LETTERS)


def test_heldout_backgrounds_come_from_another_part_of_the_photographs() -> None:
    for photo in glyphs._photographs():
        assert photo.shape[1] - glyphs.TRAIN_COLUMNS >= LARGE
        assert min(photo.shape[0], glyphs.TRAIN_COLUMNS) >= LARGE
