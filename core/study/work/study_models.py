"""The models of a study and how they are asked: some answer in words, some name a class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from tokensieve.core.contract.tasks import Example, same_text
from tokensieve.core.engine.trace import Trace
from tokensieve.core.errors import ModelError
from tokensieve.core.files.pictures import as_seen
from tokensieve.core.foreign import foreign, shown
from tokensieve.core.lazy import torch
from tokensieve.core.models.loading import Loaded, LoadedClassifier, LoadedModel
from tokensieve.core.run.prompts import VisualQuestion, check_question, find_panels, prepare_batch

if TYPE_CHECKING:
    from torch import Tensor

    from tokensieve.core.contract.panel import Panel

Inputs = Mapping[str, "Tensor"]
"""What a processor made of questions."""
ONE, SEVERAL = "at question ", "at questions "  # how notes of exceptions begin


class StudyModel(ABC):
    """A loaded model, and how it is asked."""

    @abstractmethod
    def prepare(self, questions: Sequence[VisualQuestion]) -> Inputs:
        """The inputs of a batch, on the model's device and in its dtype."""

    @abstractmethod
    def answers(self, inputs: Inputs, max_new_tokens: int) -> list[str]:
        """The model's answer to each sample."""

    @abstractmethod
    def forward(self, inputs: Inputs) -> None:
        """One forward, for hooks that record it."""

    @abstractmethod
    def tokens(self, inputs: Inputs) -> tuple[list[int], list[int]]:
        """Visual tokens of each sample, and its other tokens."""

    @abstractmethod
    def panels(self, question: VisualQuestion, count: int) -> list[list[Panel]] | None:
        """The places of each picture's visual tokens; None if the adapter cannot say."""

    @abstractmethod
    def with_answer(self, inputs: Inputs, answer: str) -> tuple[Inputs, Tensor]:
        """Inputs of one sample and numbers of what stands for ``answer``, for its likelihood."""

    @abstractmethod
    def log_likelihood(self, inputs: Inputs, answer: Tensor) -> Tensor:
        """``[batch]`` log-likelihood of the answer, in float64."""


class GenerativeModel(StudyModel):
    """A vision-language model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def prepare(self, questions: Sequence[VisualQuestion]) -> Inputs:
        """Prompts and pictures, as the processor makes tensors of them."""
        inputs: Inputs = prepare_batch(self.loaded, questions)
        return inputs

    def answers(self, inputs: Inputs, max_new_tokens: int) -> list[str]:
        """Greedy answers in words."""
        ids = self.loaded.model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
        )
        new = ids[:, inputs["input_ids"].shape[1] :]
        texts = self.loaded.processor.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def forward(self, inputs: Inputs) -> None:
        """One prefill without an answer."""
        self.loaded.model(**inputs, logits_to_keep=1)

    def tokens(self, inputs: Inputs) -> tuple[list[int], list[int]]:
        """Placeholders count as visual, whatever else is no padding as others."""
        ids = inputs["input_ids"]
        placeholders = torch.tensor(self.loaded.bound.placeholder_ids, device=ids.device)
        visual = torch.isin(ids, placeholders).sum(dim=1)
        real = inputs.get("attention_mask", torch.ones_like(ids)).sum(dim=1)
        return visual.tolist(), (real - visual).tolist()

    def panels(self, question: VisualQuestion, count: int) -> list[list[Panel]] | None:
        """The panels that the processor made of each picture."""
        return find_panels(self.loaded, question, count)

    def with_answer(self, inputs: Inputs, answer: str) -> tuple[Inputs, Tensor]:
        """The prompt followed by the answer's tokens; per-token inputs grow with it."""
        check_question(answer, "the answer")
        with foreign(ModelError, f"model {self.loaded.name!r}: the tokenizer refuses the answer"):
            tokenizer = self.loaded.processor.tokenizer
            plain = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not plain:
            raise ModelError(
                f"the answer {shown(answer)} has no tokens: its likelihood says nothing"
            )
        ids = torch.tensor(plain, device=self.loaded.model.device)
        length, extended = inputs["input_ids"].shape[1], dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.shape == (1, length):
                tail = value.new_zeros(1, len(ids))
                if name == "input_ids":
                    tail = ids[None].to(value.dtype)
                elif name == "attention_mask":
                    tail = torch.ones_like(tail)
                extended[name] = torch.cat([value, tail], dim=1)
        return extended, ids

    def log_likelihood(self, inputs: Inputs, answer: Tensor) -> Tensor:
        """The log-likelihood of the answer's tokens, at the end of each sample."""
        count = len(answer)
        output = self.loaded.model(**inputs, use_cache=False, logits_to_keep=count + 1)
        logits = output.logits[:, -count - 1 : -1].double().log_softmax(dim=-1)
        chosen: Tensor = logits.gather(2, answer.expand(len(logits), -1)[..., None])[..., 0]
        return chosen.sum(dim=1)


class ClassifierModel(StudyModel):
    """A classifier of pictures: whatever the question, it answers with its likeliest class."""

    def __init__(self, loaded: LoadedClassifier) -> None:
        self.loaded = loaded

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes."""
        return self.loaded.classes

    def prepare(self, questions: Sequence[VisualQuestion]) -> Inputs:
        """The one picture of each question."""
        images = [image for question in questions for image in question.images]
        if len(images) != len(questions) or any(len(q.images) != 1 for q in questions):
            raise ModelError(
                f"model {self.loaded.name!r} is a classifier: a question needs exactly one picture"
            )
        with foreign(ModelError, f"model {self.loaded.name!r}: the processor refuses this"):
            inputs = self.loaded.processor(images, return_tensors="pt")
        placed: Inputs = inputs.to(self.loaded.model.device, self.loaded.model.dtype)
        return placed

    def answers(self, inputs: Inputs, max_new_tokens: int) -> list[str]:
        """Names of the likeliest classes."""
        logits = self.loaded.model(**inputs).logits
        if not bool(logits.isfinite().all()):
            raise ModelError(
                f"model {self.loaded.name!r} rates classes with numbers that are not finite: it "
                "names none"
            )
        return [self.classes[number] for number in logits.argmax(dim=-1).tolist()]

    def forward(self, inputs: Inputs) -> None:
        """One forward of the encoder."""
        self.loaded.model(**inputs)

    def tokens(self, inputs: Inputs) -> tuple[list[int], list[int]]:
        """Patches are visual tokens, [CLS] and registers are the others."""
        pictures, bound = inputs["pixel_values"], self.loaded.bound
        rows, columns = bound.grid(pictures)
        batch = len(pictures)
        return [rows * columns] * batch, [bound.prefix] * batch

    def panels(self, question: VisualQuestion, count: int) -> list[list[Panel]] | None:
        """The panels that the processor leaves of the one picture."""
        (image,) = question.images
        found = self.loaded.bound.panels(image.size, self.loaded.processor, None)
        covered = sum(panel.rows * panel.columns for panel in found)
        return [found] if covered == count else None

    def with_answer(self, inputs: Inputs, answer: str) -> tuple[Inputs, Tensor]:
        """The pictures alone, and the class that is called like the answer."""
        numbers = [n for n, name in enumerate(self.classes) if same_text(name, answer)]
        if not numbers:
            raise ModelError(
                f"the answer {shown(answer)} is no class of model {self.loaded.name!r}"
            )
        return dict(inputs), torch.tensor(numbers[0], device=self.loaded.model.device)

    def log_likelihood(self, inputs: Inputs, answer: Tensor) -> Tensor:
        """The log-likelihood of the class."""
        chances: Tensor = self.loaded.model(**inputs).logits.double().log_softmax(dim=-1)
        return chances[:, answer]


def study_model(loaded: Loaded) -> StudyModel:
    """The model as a study asks it."""
    if isinstance(loaded, LoadedClassifier):
        return ClassifierModel(loaded)
    return GenerativeModel(loaded)


def question_of(example: Example) -> VisualQuestion:
    """The question to a model: the pictures of any task, as a person sees them."""
    return VisualQuestion(example.question, tuple(as_seen(image) for image in example.images))


def prepare_named(model: StudyModel, examples: Sequence[Example]) -> Inputs:
    """The inputs of a batch; an error names the question that it comes from.

    Of a batch that is refused each question is tried alone, so that the right one is named.
    """
    with naming(examples):
        try:
            return model.prepare([question_of(example) for example in examples])
        except Exception:
            for example in examples if len(examples) > 1 else ():
                with naming([example]):
                    model.prepare([question_of(example)])
            raise


@contextmanager
def naming(examples: Sequence[Example]) -> Iterator[None]:
    """Note on whatever is raised inside the questions that it is about."""
    try:
        yield
    except Exception as error:
        if not any(note.startswith((ONE, SEVERAL)) for note in _notes(error)):  # innermost first
            first, last = shown(examples[0].id), shown(examples[-1].id)
            one = f"{ONE}{first}"
            error.add_note(one if len(examples) == 1 else f"{SEVERAL}{first} to {last}")
        raise


def question_named(error: BaseException) -> str:
    """`` (at question ID)`` where :func:`naming` knows which one it was, else nothing."""
    return "".join(f" ({note})" for note in _notes(error) if note.startswith(ONE))


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def untouched(loaded: Loaded, inputs: Inputs) -> Trace:
    """The trace that a pipeline without stages would leave."""
    visual, others = study_model(loaded).tokens(inputs)
    layers = loaded.bound.dims.layers
    return Trace(visual, [], [[count] * layers for count in visual], others)
