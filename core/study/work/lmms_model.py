"""The chat model that lmms-eval runs: any supported model, pruned by a pipeline.

``lmms-eval --model tokensieve --model_args pretrained=HF_ID,pipeline=fastv,keep=0.25`` makes one
from text; a study makes one from a model that it has loaded and pruned already.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from tokensieve.core.engine.session import attach
from tokensieve.core.errors import ModelError, TokensieveError
from tokensieve.core.lazy import torch
from tokensieve.core.models.loading import answering, load_model
from tokensieve.core.output.terminal import warn
from tokensieve.core.pipeline.loading import parse_keep
from tokensieve.core.plugins.discovery import build_registry
from tokensieve.core.plugins.files import BREAKAGE
from tokensieve.core.study.lmms.conversation import ask, read_conversation
from tokensieve.core.study.lmms.generation import Generation, read_generation
from tokensieve.core.study.lmms.library import PACKAGE, quiet
from tokensieve.core.study.store.records import SampleRecord
from tokensieve.core.study.work.answering import Answered, Answerer, merge_records

lmms: Any = object  # without the extra the module can be read, for its documentation
if find_spec(PACKAGE) is not None:
    with quiet():
        lmms = importlib.import_module(f"{PACKAGE}.api.model").lmms

BATCH, LENGTH = 1, 1024  # lmms-eval's own defaults
Place = tuple[str, int]
RATED_ARGUMENTS = 6


class TokensieveModel(lmms):  # type: ignore[misc]  # an extra's class: Any where it is not installed
    """Answers lmms-eval's requests and keeps what every question cost.

    Args:
        pretrained: a built-in model, a local folder, or a Hugging Face id.
        pipeline: a preset or a YAML file; ``none`` prunes nothing.
        keep: replaces the pipeline's budget: ``0.25``, ``64``, ``average=32``, ``flops=0.4``.
        plugins: plugin files, separated by ``:``.
        max_new_tokens: length of an answer where the task states none.
    """

    is_simple = False

    def __init__(  # noqa: PLR0913 - lmms-eval passes every argument by name
        self,
        pretrained: str = "",
        pipeline: str = "none",
        keep: float | str | None = None,
        seed: int = 0,
        device: str | None = None,
        dtype: str = "auto",
        attention: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_new_tokens: int = LENGTH,
        plugins: str = "",
        *,
        answerer: Answerer | None = None,
        tick: Callable[[int], None] = lambda questions: None,
    ) -> None:
        super().__init__()
        size = str(BATCH if batch_size is None else batch_size)  # as --batch_size was written
        if not size.isdigit() or not int(size):
            raise ModelError(f"batch_size={size}: allowed: 1, 2, ...")
        self.batch = int(size)
        self.max_new_tokens = int(max_new_tokens)
        self.tick = tick
        self.ends_process = False
        self.prefills: dict[Place, list[SampleRecord]] = {}
        self.ignored: set[str] = set()
        if answerer is None:
            files = [file for file in str(plugins).split(os.pathsep) if file]
            gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # of this process
            loaded = answering(
                load_model(
                    str(pretrained),
                    build_registry(files),
                    device=device or (gpu if torch.cuda.is_available() else "cpu"),
                    dtype=dtype,
                    attention=attention,
                )
            )
            budget = parse_keep(keep.replace(":", "=")) if isinstance(keep, str) else keep
            session = attach(loaded.model, pipeline, keep=budget, seed=int(seed), plugins=files)
            answerer = Answerer(loaded, session)
        self.answerer = answerer

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> Any:
        """For lmms-eval's command line, which swallows exceptions and then exits with code 0."""
        try:
            model = super().create_from_arg_string(arg_string, additional_config)
        except (TokensieveError, TypeError) as error:  # TypeError: an argument we do not have
            warn(f"tokensieve: {error}")
            raise SystemExit(2) from None
        model.ends_process = True
        return model

    @property
    def device(self) -> torch.device:
        """The device where lmms-eval gathers the results of several processes."""
        device: torch.device = self.answerer.loaded.model.device
        return device

    def clean(self) -> None:
        """Keep the model: lmms-eval would delete it after every run."""
        if self.ends_process and self.prefills:
            warn(f"tokensieve: {self.cost()}")

    def cost(self) -> str:
        """The cost of the visual tokens of all questions so far, in words."""
        records = [self.record(*place) for place in self.prefills]
        average, full, share = (
            fmean(getattr(record, key) for record in records)
            for key in ("average_tokens", "visual_tokens", "flops_share")
        )
        session = self.answerer.session
        name = session.pipeline.name if session else "no pipeline"
        return (
            f"{name}: {average:.1f} of {full:.1f} visual tokens per decoder layer, {share:.1%} of "
            f"the decoder's prefill FLOPs, {len(records)} questions"
        )

    def record(self, task: str, number: int) -> SampleRecord:
        """The cost of a question, all its rounds together."""
        return merge_records(self.prefills[task, number], self.answerer.loaded.bound.dims)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request; those with the same arguments share batches."""
        texts: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(request.args[2]), []).append(place)
        with self._loudly():
            for group in groups.values():
                generation = self._generation(requests[group[0]].args[2])
                for start in range(0, len(group), self.batch):
                    places = group[start : start + self.batch]
                    conversations = []
                    for place in places:
                        _, doc_to_messages, _, number, task, split = requests[place].args
                        document = self.task_dict[task][split][number]
                        conversations.append(read_conversation(doc_to_messages(document)))
                    answered = self.answerer.answer(conversations, generation)
                    for place, one in zip(places, answered, strict=True):
                        texts[place] = self._note(requests[place], one)
        return [texts[place] for place in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """All answers to each request: the task writes the next turn from those before."""
        every: list[list[str]] = []
        with self._loudly():
            for request in requests:
                _, doc_to_messages, arguments, number, task, split = request.args
                document = self.task_dict[task][split][number]
                generation = self._generation(arguments)
                texts: list[str] = []
                messages, info, done = doc_to_messages(document), None, False
                while not done:
                    (answered,) = self.answerer.answer([read_conversation(messages)], generation)
                    texts.append(self._note(request, answered))
                    following = doc_to_messages(
                        document,
                        round_idx=len(texts),
                        previous_output=list(texts),
                        previous_round_info=info,
                    )
                    if not isinstance(following, tuple):
                        break
                    messages, done, _, info = following
                every.append(texts)
        return every

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Mean loss of each continuation (lmms-eval takes the smallest), and whether it is greedy.

        The pictures of a question are pruned for its prompt alone; one such prefill is its record.
        Every pair comes as a ``GenerationResult``: lmms-eval 0.7.3 turns a plain one into text,
        on which its own scorer then fails.
        """
        rated: dict[int, tuple[float, bool]] = {}
        groups: dict[tuple[object, ...], list[int]] = {}  # of one prompt about one document
        with self._loudly():
            for place, request in enumerate(requests):
                if len(request.args) != RATED_ARGUMENTS:
                    raise ModelError(
                        "log-likelihoods without a picture's prompt (metric acc_mutual_info) are "
                        "not supported"
                    )
                key = (request.task_name, request.doc_id, str(request.args[0]))
                groups.setdefault(key, []).append(place)
            for places in groups.values():
                for start in range(0, len(places), self.batch):
                    part = places[start : start + self.batch]
                    context, _, doc_to_visual, number, task, split = requests[part[0]].args
                    document = self.task_dict[task][split][number]
                    shown = ask(doc_to_visual(document) or [], str(context))
                    ends = [requests[place].args[1] for place in part]
                    texts = [str(end(document)) if callable(end) else str(end) for end in ends]
                    values, record = self.answerer.rate(read_conversation(shown), texts)
                    rated |= zip(part, values, strict=True)
                    question = requests[part[0]].task_name, int(requests[part[0]].doc_id)
                    if question not in self.prefills:
                        self.prefills[question] = [record]
                        self.tick(1)
        result: Any = importlib.import_module(f"{PACKAGE}.api.instance").GenerationResult
        return [result(text=rated[place]) for place in range(len(requests))]

    def _generation(self, arguments: Any) -> Generation:
        generation = read_generation(arguments, self.max_new_tokens)
        self.ignored |= set(generation.ignored)
        return generation

    def _note(self, request: Any, answered: Answered) -> str:
        """Keep the cost of an answer; what another process answers too is counted there."""
        if not request.metadata.get("__padding_only__"):
            place = request.task_name, int(request.doc_id)
            if place not in self.prefills:
                self.tick(1)
            self.prefills.setdefault(place, []).append(answered.record)
        return answered.text

    @contextmanager
    def _loudly(self) -> Iterator[None]:
        """End the process with code 1 at an error, under lmms-eval's own command line."""
        try:
            yield
        except BREAKAGE:
            if not self.ends_process:
                raise
            traceback.print_exc()
            raise SystemExit(1) from None
