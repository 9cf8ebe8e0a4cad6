"""Let a model, pruned or not, answer conversations and rate continuations; note what it cost."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.contract.tasks import Example
from tokensieve.core.engine.session import Session
from tokensieve.core.errors import ModelError, UnsupportedError
from tokensieve.core.foreign import foreign
from tokensieve.core.lazy import torch
from tokensieve.core.models.loading import LoadedModel
from tokensieve.core.pipeline.flops import decoder_flops
from tokensieve.core.run.prompts import encode_batch
from tokensieve.core.study.lmms.conversation import Conversation
from tokensieve.core.study.lmms.generation import Generation
from tokensieve.core.study.store.records import SampleRecord
from tokensieve.core.study.work.measures import sample_records
from tokensieve.core.study.work.study_models import Inputs, untouched

if TYPE_CHECKING:
    from torch import Tensor

SUMS = ("images", "visual_tokens", "average_tokens", "text_tokens", "seconds")


@dataclass(frozen=True)
class Answered:
    """The text, and the record of a study's sample as far as the prefill decides it."""

    text: str
    record: SampleRecord


class Answerer:
    """A loaded model with the session that prunes it (None: it is left alone)."""

    def __init__(self, loaded: LoadedModel, session: Session | None) -> None:
        self.loaded = loaded
        self.session = session

    def answer(
        self, conversations: Sequence[Conversation], generation: Generation
    ) -> list[Answered]:
        """Answers to a batch; those without a picture run by themselves."""
        answered: dict[int, Answered] = {}
        for shows in (True, False):
            places = [n for n, one in enumerate(conversations) if bool(one.images) is shows]
            batch = [conversations[place] for place in places]
            try:
                answers = self._answer(batch, generation) if batch else []
            except UnsupportedError:  # some pictures do not fit into one tensor
                if len(batch) == 1:
                    raise
                answers = [self._answer([one], generation)[0] for one in batch]
            answered |= zip(places, answers, strict=True)
        return [answered[place] for place in range(len(conversations))]

    def _answer(self, batch: Sequence[Conversation], generation: Generation) -> list[Answered]:
        start = time.perf_counter()
        inputs = self._inputs(batch)
        with torch.inference_mode():
            ids = self.loaded.model.generate(**inputs, **generation.options)
        new = ids[:, inputs["input_ids"].shape[1] :]
        raw = self.loaded.processor.batch_decode(new, skip_special_tokens=True)
        texts = [generation.cut(text) for text in raw]
        seconds = (time.perf_counter() - start) / len(batch)
        records = self._records(batch, inputs, generation.beams, seconds)
        return [Answered(*pair) for pair in zip(texts, records, strict=True)]

    def rate(
        self, conversation: Conversation, continuations: Sequence[str]
    ) -> tuple[list[tuple[float, bool]], SampleRecord]:
        """Mean negative log-likelihood of a token, and whether greedy decoding says the same.

        Every continuation is fed token by token after its prompt, so that the prompt alone is
        what is pruned, as in a generated answer.
        """
        start = time.perf_counter()
        batch = [conversation] * len(continuations)
        inputs, prompt = self._inputs(batch), conversation.prompt(self.loaded)
        tokenizer = self.loaded.processor.tokenizer
        wanted: list[list[int]] = []
        for continuation in continuations:  # the tokens that it adds to the prompt's
            before, whole, alone = (
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (prompt, prompt + continuation, continuation)
            )
            wanted.append(whole[len(before) :] if whole[: len(before)] == before else alone)
            if not wanted[-1]:
                raise ModelError(f"the choice {continuation!r} has no tokens")
        length = inputs["input_ids"].shape[1]

        def allowed(row: int, ids: Tensor) -> list[int]:
            step = len(ids) - length  # a row that is done repeats its last token
            return [wanted[row][min(step, len(wanted[row]) - 1)]]

        with torch.inference_mode():
            output = self.loaded.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                min_new_tokens=None,
                max_new_tokens=max(map(len, wanted)),
                prefix_allowed_tokens_fn=allowed,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits = torch.stack(output.logits, dim=1)  # batch tokens vocabulary, before each token
        rated = []
        for row, tokens in enumerate(wanted):
            logs = logits[row, : len(tokens)].float().log_softmax(dim=-1)
            chosen = logs.gather(1, torch.tensor(tokens, device=logs.device)[:, None])
            rated.append((-chosen.mean().item(), logs.argmax(dim=-1).tolist() == tokens))
        seconds = (time.perf_counter() - start) / len(batch)
        return rated, self._records(batch, inputs, 1, seconds)[0]

    def _inputs(self, batch: Sequence[Conversation]) -> Inputs:
        # no chat template, or one that refuses a turn
        with foreign(ModelError, f"model {self.loaded.name!r}: the prompt cannot be made"):
            texts = [conversation.prompt(self.loaded) for conversation in batch]
        images = [image for conversation in batch for image in conversation.images]
        inputs: Inputs = encode_batch(self.loaded, texts, images)
        return inputs

    def _records(
        self, batch: Sequence[Conversation], inputs: Inputs, beams: int, seconds: float
    ) -> list[SampleRecord]:
        """The cost of each conversation's prefill; beams repeat every one."""
        dims = self.loaded.bound.dims
        if self.session is None or not self.session.pipeline.stages or not batch[0].images:
            trace, beams = untouched(self.loaded, inputs), 1
        else:
            trace = self.session.trace
        examples = [Example("", one.images, "", "") for one in batch for _ in range(beams)]
        scored = [(example, "", 0.0) for example in examples]
        return sample_records(scored, trace, dims, seconds)[::beams]


def merge_records(records: Sequence[SampleRecord], dims: DecoderDims) -> SampleRecord:
    """One record of all prefills that a question took: rounds add up."""
    if len(records) == 1:
        return records[0]
    layers = [sum(column) for column in zip(*(r.per_layer for r in records), strict=True)]
    full = [decoder_flops([r.visual_tokens] * dims.layers, dims) for r in records]
    spent = sum(r.flops_share * flops for r, flops in zip(records, full, strict=True))
    hashes = ",".join(r.kept_hash for r in records)
    merged = {
        **{key: sum(getattr(record, key) for record in records) for key in SUMS},
        "per_layer": layers,
        "flops_share": spent / sum(full) if sum(full) else 1.0,
        "kept_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
        "rounds": len(records),
    }
    return records[0].model_copy(update=merged)
