"""What lmms-eval hands over, read without it: arguments, messages, logged samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tokensieve.core.contract.dims import DecoderDims
from tokensieve.core.errors import TaskError
from tokensieve.core.study.lmms.conversation import ask, read_conversation
from tokensieve.core.study.lmms.generation import read_generation
from tokensieve.core.study.lmms.scores import Metrics, note_of, read_scores
from tokensieve.core.study.lmms.task import LmmsTask
from tokensieve.core.study.store.records import SampleRecord
from tokensieve.core.study.work.answering import merge_records
from tokensieve.core.study.work.benchmark_cell import plain_metrics

GRAY = Image.new("RGB", (96, 96), "grey")


class TestGeneration:
    """A benchmark's ``generation_kwargs``."""

    def test_its_own_length_counts(self) -> None:
        assert read_generation({"max_new_tokens": 128}, 16).options["max_new_tokens"] == 128
        assert read_generation({"max_gen_toks": 8}, 16).options["max_new_tokens"] == 8
        assert read_generation(None, 16).options == {
            "num_beams": 1,
            "max_new_tokens": 16,
            "do_sample": False,
        }

    @pytest.mark.parametrize(
        ("given", "sampled"),
        [
            ({"temperature": 0, "do_sample": True}, False),
            ({"temperature": 0.7}, True),
            ({"temperature": 0.7, "do_sample": False}, False),
            ({"do_sample": True}, True),
            ({"temperature": 0, "top_p": 1.0, "do_sample": False}, False),
        ],
    )
    def test_temperature_counts_only_where_something_is_drawn(
        self, given: dict[str, Any], sampled: bool
    ) -> None:
        options = read_generation(given, 4).options
        assert options["do_sample"] is sampled
        assert ("temperature" in options) == (sampled and "temperature" in given)
        assert "top_p" not in options

    def test_answers_end_at_the_first_stop_text(self) -> None:
        generation = read_generation({"until": ["\n\n", "USER:"]}, 4)
        assert generation.cut("\n\n yes USER: no\n\nmore") == "yes"
        assert read_generation({"until": "."}, 4).cut("a. b") == "a"
        assert read_generation({"until": [""]}, 4).cut(" a ") == "a"

    def test_what_we_do_not_know_is_named(self) -> None:
        given = {"image_aspect_ratio": "pad", "num_beams": 3, "top_k": 4, "max_agentic_steps": 2}
        assert read_generation(given, 4).ignored == ("image_aspect_ratio",)
        assert read_generation(given, 4).beams == 3


class TestConversation:
    """lmms-eval's messages."""

    def test_turns_keep_the_places_of_their_pictures(self) -> None:
        content = [{"type": "text", "text": "this"}, {"type": "image", "url": GRAY.convert("L")}]
        read = read_conversation([{"role": "system", "content": "be brief"}, *ask([GRAY], "or")])
        assert [part["type"] for m in read.messages for part in m["content"]] == [
            "text",
            "image",
            "text",
        ]
        assert not read.is_question
        mixed = read_conversation([{"role": "user", "content": content}])
        assert not mixed.is_question
        assert mixed.images[0].mode == "RGB"
        assert read_conversation(ask([GRAY, GRAY], "which?")).is_question

    @pytest.mark.parametrize("kind", ["video", "audio"])
    def test_other_media_are_refused(self, kind: str) -> None:
        message = {"role": "user", "content": [{"type": kind, "url": "a.mp4"}]}
        with pytest.raises(TaskError, match=f"shows the model {kind}: only pictures"):
            read_conversation([message])

    def test_pictures_are_seen_as_everywhere(self) -> None:
        (clear,) = read_conversation(ask([Image.new("RGBA", (2, 2))], "?")).images
        assert clear.getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize(
        ("picture", "reason"),
        [
            (Image.new("F", (2, 2), float("nan")), "a picture cannot be used: some values are no"),
            ("no.png", "image no.png does not exist"),
            (5, "shows the model a int for a picture"),
        ],
    )
    def test_a_picture_that_cannot_be_seen_names_its_question(
        self, picture: Any, reason: str
    ) -> None:
        source = SimpleNamespace(
            OUTPUT_TYPE="generate_until", doc_to_messages=lambda document: ask([picture], "?")
        )
        with pytest.raises(TaskError, match=f"^here: question 3:? {reason}"):
            LmmsTask(benchmark="b")._example(source, 3, {}, "here")


class TestScores:
    """From logged samples to scores; ``samples`` are as lmms-eval 0.7.3 logs them."""

    def test_numbers_and_mappings(self) -> None:
        samples = [
            {"doc_id": 4, "submission": "a", "f1": {"score": 1.0}, "exact": 0},
            {"doc_id": 2, "submission": "b", "f1": {"score": 0.5}, "exact": True},
        ]
        metrics = Metrics(["submission", "f1", "exact"])
        assert read_scores(samples, metrics).by_document == {4: 1.0, 2: 0.5}
        named = Metrics(["submission", "f1", "exact"], wanted="exact")
        assert read_scores(samples, named).by_document == {4: 0.0, 2: 1.0}

    def test_the_first_answer_filter_counts(self) -> None:
        samples = [{"doc_id": 0, "exact": 1}, {"doc_id": 0, "exact": 0}]
        assert read_scores(samples, Metrics(["exact"])).by_document == {0: 1.0}

    def test_questions_may_have_a_metric_of_their_kind(self) -> None:
        samples = [{"doc_id": 0, "sees": {"score": 1}}, {"doc_id": 1, "thinks": {"score": 0}}]
        scores = read_scores(samples, Metrics(["sees", "thinks"]))
        assert scores.by_document == {0: 1.0, 1: 0.0}
        assert "sees, thinks" in (note_of(scores, {}) or "")

    @pytest.mark.parametrize(
        ("samples", "metrics", "message"),
        [
            ([{"doc_id": 0, "f1": ("a", "b")}], Metrics(["f1"]), r"no metric .* f1 \(\('a', 'b'"),
            ([{"doc_id": 0}], Metrics([]), "it has none"),
            ([{"doc_id": 0, "wer": 1}], Metrics(["wer"], frozenset({"wer"})), "better when lower"),
            (
                [{"doc_id": 0, "wer": 1}],
                Metrics(["wer"], frozenset({"wer"}), wanted="wer"),
                "better when lower",
            ),
            ([{"doc_id": 0, "a": 1}], Metrics(["a"], wanted="b"), "unknown metric 'b'"),
            ([{"doc_id": 0, "a": 1}, {"doc_id": 1, "a": None}], Metrics(["a"]), "gives None"),
            ([{"doc_id": 0, "a": 1}, {"doc_id": 1}], Metrics(["a"]), "question 1: .* nothing"),
            ([{"doc_id": 0, "a": 1}, {"doc_id": 1, "a": float("nan")}], Metrics(["a"]), "nan"),
        ],
    )
    def test_no_number_is_no_zero(
        self, samples: list[dict[str, Any]], metrics: Metrics, message: str
    ) -> None:
        with pytest.raises(TaskError, match=message):
            read_scores(samples, metrics)

    def test_a_mean_that_is_not_the_benchmarks_is_said(self) -> None:
        scores = read_scores([{"doc_id": 0, "a": 1}, {"doc_id": 1, "a": 0}], Metrics(["a"]))
        assert note_of(scores, {"a,none": 0.5}) is None
        assert note_of(scores, {"a,none": 50.0}) is not None
        far = read_scores([{"doc_id": 0, "a": 80}], Metrics(["a"]))
        assert "not between 0 and 1" in (note_of(far, {"a,none": 80.0}) or "")

    def test_aggregated_values_are_plain(self) -> None:
        given = {"alias": "x", "f1,none": 0.5, "f1_stderr,none": 0.1, "odd,none": [1]}
        assert plain_metrics(given) == {"f1,none": 0.5, "odd,none": "[1]"}


DIMS = DecoderDims(layers=2, dim=8, mlp_dim=16, heads=2, kv_heads=2, head_dim=4)


def test_rounds_add_up() -> None:
    one = SampleRecord(
        id="0",
        score=0.0,
        images=1,
        visual_tokens=10,
        average_tokens=5.0,
        per_layer=[5, 5],
        text_tokens=3,
        seconds=1.0,
        flops_share=0.5,
        kept_hash="a",
    )
    both = merge_records([one, one.model_copy(update={"flops_share": 0.25})], DIMS)
    assert merge_records([one], DIMS) == one
    assert (both["images"], both["visual_tokens"], both["average_tokens"]) == (2, 20, 10.0)
    assert both["per_layer"] == [10, 10]
    assert both["flops_share"] == pytest.approx(0.375)
    assert both["rounds"] == 2
