from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.chain import Region
from sifthinker.endpoint import Endpoint
from sifthinker.engine.teachers import CHECKS, Attempt, LocalTeacher, OpenAITeacher, Task, check_reply, explain, outline
from sifthinker.errors import EndpointError, ModelError
from sifthinker.records import Record
from sifthinker.responses import Reply

from ..stand_in import serve, thoughts

RECORD = Record(id="r", image="i.png", question="What colour is the mug?", answer="blue", boxes=((0.2, 0.2, 0.4, 0.4),))
FOCI = ((Region((0, 0, 1, 1), 0.5),), (Region((0.2, 0.2, 0.4, 0.4), 0.3),))
TASK = Task(RECORD, FOCI, ("whole", "target"), lambda: Image.new("RGB", (50, 50)))


def reply(*thoughts: str, answer: Any = "blue") -> str:
    return json.dumps({"thoughts": list(thoughts), "answer": answer})


FAULTS = [
    ("rubbish", "not_json"),
    ("[1]", "not_json"),
    ('{"thoughts": ["a", "b"]}', "not_json"),
    ('{"thoughts": "a", "answer": "blue"}', "not_json"),
    ('{"thoughts": ["a", 5], "answer": "blue"}', "not_json"),
    (reply("a", "b", answer=None), "not_json"),
    (reply("a"), "count"),
    (reply("a", "b", "c"), "count"),
    (reply("a", " "), "blank"),
    (reply("a", "word " * 121), "length"),
    (reply("a", "look <area>here"), "tag"),
    (reply("a", "the green box shows a mug"), "leak"),
    (reply("a", "the region in the highlighted rectangle"), "leak"),
    (reply("a", "which matches the given answer"), "leak"),
    (reply("a", "as instructed, I look"), "leak"),
    (reply("a", "The box drawn on the image shows a mug."), "leak"),
    (reply("a", "a box is drawn in green around the mug"), "leak"),
    (reply("a", "The outline marks a mug."), "leak"),
    (reply("a", "The outlined region holds a mug."), "leak"),
    (reply("a", "At coordinates 0.2, 0.4 there is a mug."), "leak"),
    (reply("a", "The answer given is blue."), "leak"),
    (reply("a", "I was told the answer is blue."), "leak"),
    (reply("a", "The mean depth here is 0.300."), "leak"),
    (json.dumps({"thoughts": ["a", "half \ud83d"], "answer": "blue"}), "not_json"),
    (reply("a", "b", answer="red"), "answer"),
    (reply("a", "the page shows <image> there"), "placeholder"),
    (reply("a", "it ends in <|im_end|>"), "placeholder"),
    (reply("a", "b") + reply("a", "c"), "ambiguous"),
    (f"<think>{reply('a', 'b')}</think>Done.", "not_json"),
    ('{"thoughts": [{"focus": 2, "text": "a"}, {"focus": 1, "text": "b"}], "answer": "blue"}', "not_json"),
    ('{"thoughts": ["a", {"text": 5}], "answer": "blue"}', "not_json"),
]

# How a reply may end, or fail to: what the teacher returns or raises → code, and how often it is asked.
ENDINGS: list[tuple[Any, str, int]] = [
    (Reply('{"thoughts": ["a', code="cut_off", reason="cut"), "cut_off", 3),
    (Reply("", code="cut_off", reason="cut"), "cut_off", 1),
    (Reply("", code="refused", reason="no"), "refused", 1),
    (Reply("I cannot.", code="refused", reason="no"), "refused", 1),
    (Reply("", code="no_content", reason="nothing"), "no_content", 1),
    (EndpointError("too large", "status_413", 1, "request"), "refused_request", 1),
    (EndpointError("down", "timeout", 6), "endpoint", 1),
]


class Recited:
    """A teacher that says what it is told to, in turn."""

    name = "recited"

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.told: list[tuple[str, ...]] = []

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> Any:
        self.told.append(earlier[-1].problems if earlier else ())
        said = self.replies.pop(0)
        if isinstance(said, Exception):
            raise said
        return said


class TestChecks:
    @pytest.mark.parametrize(("said", "code"), FAULTS)
    def test_each_fault_has_its_code(self, said: str, code: str) -> None:
        _, problems = check_reply(said, TASK)
        assert problems[0][0] == code
        assert problems[0][1]

    def test_every_code_is_tried(self) -> None:
        assert {code for _, code in FAULTS} | {code for _, code, _ in ENDINGS} == set(CHECKS)

    @pytest.mark.parametrize(
        "said",
        [
            reply("a", "b"),
            f"```json\n{reply('a', 'b')}\n```",
            f"<think>Is it {reply('c', 'd')}?</think>\nHere you are: {reply('a', 'b')} Anything else?",
            reply("a", "b", answer="Blue."),
            reply("a", "b", answer="The mug is blue"),
            reply("a", "b", answer="it's blue in this image"),
            '{"thoughts": [{"text": "a"}, {"thought": "b"}], "answer": "blue"}',
            '{"properties": {"thoughts": {"type": "array"}, "answer": {"type": "string"}}}' + reply("a", "b"),
        ],
    )
    def test_what_passes(self, said: str) -> None:
        assert check_reply(said, TASK) == (["a", "b"], [])

    def test_control_characters_become_spaces(self) -> None:
        found, problems = check_reply('{"thoughts": ["a\nb\\u0000c\x1bd", "e"], "answer": "blue"}', TASK)
        assert (found, problems) == (["a\nb c d", "e"], [])

    @pytest.mark.parametrize(
        ("truth", "answer", "passes"),
        [
            ("blue", "blue or red", False),
            ("blue", "not blue", False),
            ("blue", "either blue", False),
            ("blue", "blue and red", False),
            ("blue", "red blue", False),
            ("blue", "The mug is blue", True),
            ("silver car", "car", False),
            ("silver car", "a silver car", True),
            ("silver car", "a silver car on the mug", True),
            ("the mug on the top shelf by the door", "mug on the top shelf near the door", True),
            ("the mug on the top shelf by the door", "mug on the top shelf, not by the door", False),
            ("the mug on the top shelf by the door", "2 mug on the top shelf by the door", False),
            ("the mug on the top shelf by the door", "a lamp", False),
        ],
    )
    def test_the_answer_must_state_the_true_one(self, truth: str, answer: str, passes: bool) -> None:
        record = Record(id="r", image="i", question="What colour is the mug?", answer=truth, boxes=((0, 0, 1, 1),))
        task = Task(record, FOCI, ("whole", "target"), TASK.load_image)
        codes = [code for code, _ in check_reply(reply("a", "b", answer=answer), task)[1]]
        assert codes == ([] if passes else ["answer"])

    def test_a_sign_may_speak_of_instructions(self) -> None:
        assert check_reply(reply("a", "the sign says: read the instructions"), TASK)[1] == []

    def test_words_of_the_question_are_no_leak(self) -> None:
        record = Record(id="r", image="i", question="Is the green box full?", answer="no", boxes=((0, 0, 1, 1),))
        task = Task(record, FOCI, ("whole", "target"), TASK.load_image)
        assert check_reply(reply("a", "The green box is empty.", answer="no"), task)[1] == []


class TestCorrection:
    def test_reasons_go_back_to_the_teacher(self) -> None:
        teacher = Recited(reply("a"), reply("a", ""), reply("a", "b"))
        explanation = asyncio.run(explain(teacher, TASK))
        assert explanation.thoughts == ("a", "b")
        assert [attempt.codes for attempt in explanation.attempts] == [("count",), ("blank",), ()]
        assert teacher.told == [(), ("expected 2 thoughts, got 1",), ("thought 2 is blank",)]

    def test_after_two_corrections_every_attempt_is_kept(self) -> None:
        explanation = asyncio.run(explain(Recited("x", "y", "z", reply("a", "b")), TASK))
        assert explanation.thoughts is None
        assert [attempt.reply for attempt in explanation.attempts] == ["x", "y", "z"]

    @pytest.mark.parametrize(("ending", "code", "times"), ENDINGS)
    def test_only_words_are_corrected(self, ending: Any, code: str, times: int) -> None:
        teacher = Recited(*[ending] * 3)
        explanation = asyncio.run(explain(teacher, TASK))
        assert explanation.thoughts is None
        assert [attempt.codes for attempt in explanation.attempts] == [(code,)] * times
        assert all(attempt.problems for attempt in explanation.attempts)

    def test_a_whole_reply_counts_however_it_is_said_to_end(self) -> None:
        explanation = asyncio.run(explain(Recited(Reply(reply("a", "b"), code="cut_off", reason="cut")), TASK))
        assert explanation.thoughts == ("a", "b")

    def test_a_wrong_setup_is_no_attempt(self) -> None:
        with pytest.raises(EndpointError, match="bad key"):
            asyncio.run(explain(Recited(EndpointError("bad key", "status_401", 1, "setup")), TASK))


class TestOpenAI:
    def run(self, url: str, **options: Any) -> tuple[Any, Endpoint]:
        endpoint = Endpoint(url, "vlm", backoff_s=0.01, max_retries=1)

        async def go() -> Any:
            async with OpenAITeacher(endpoint, **options) as teacher:
                return await explain(teacher, TASK)

        return asyncio.run(go()), endpoint

    def test_the_request_shows_every_focus(self) -> None:
        with serve(lambda request, number: thoughts(request, "blue")) as (url, requests):
            explanation, _ = self.run(url, max_side=40)
        assert explanation.thoughts == ("I look at part 1.", "I look at part 2.")
        content = requests[0]["messages"][1]["content"]
        assert "What colour is the mug?" in content[0]["text"]
        assert '"depth":0.300' in content[3]["text"]
        picture = content[4]["image_url"]["url"].removeprefix("data:image/png;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (40, 40)
        schema = requests[0]["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["thoughts"]["minItems"] == 2

    def test_a_server_without_structured_output_is_asked_without(self) -> None:
        def answer(request: dict, number: int) -> Any:
            return (400, {}, "no response_format") if "response_format" in request else thoughts(request, "red")

        with serve(answer) as (url, requests):
            explanation, _ = self.run(url)
        assert explanation.thoughts is None
        # The refusal twice, of the schema and of JSON alone, then three attempts; the last ones carry the corrections.
        assert ["response_format" in request for request in requests] == [True, True, False, False, False]
        assert len(requests[-1]["messages"]) == 6
        assert "disagrees" in requests[-1]["messages"][-1]["content"]
        assert "blue" not in requests[-1]["messages"][-1]["content"]

    def test_a_dead_server_is_one_attempt(self) -> None:
        with serve(lambda request, number: (500, {}, "")) as (url, _):
            explanation, endpoint = self.run(url)
        assert [attempt.codes for attempt in explanation.attempts] == [("endpoint",)]
        assert endpoint.usage.failures == 1

    def test_an_empty_reply_is_no_turn_of_the_conversation(self) -> None:
        with serve(lambda request, number: thoughts(request, "blue") if number == 2 else " " if number else "rubbish") as (
            url,
            requests,
        ):
            explanation, _ = self.run(url)
        assert [attempt.reply for attempt in explanation.attempts][:2] == ["rubbish", " "]
        assert explanation.thoughts is not None
        assert [len(request["messages"]) for request in requests] == [2, 4, 4]

    def test_a_bound_of_the_reply_is_sent(self) -> None:
        with serve(lambda request, number: thoughts(request, "blue")) as (url, requests):
            self.run(url, max_tokens=99)
        assert requests[0]["max_tokens"] == 99


def test_outlines_are_drawn_on_a_copy() -> None:
    image = Image.new("RGB", (100, 100))
    drawn = np.asarray(outline(image, [Region((0.2, 0.2, 0.6, 0.6), 0.5)]))
    assert (drawn[18:22, 30] == (0, 255, 0)).all(axis=1).any()
    assert tuple(drawn[40, 40]) == (0, 0, 0)
    assert np.asarray(image).max() == 0


class TestLocal:
    def test_a_model_is_asked_in_its_own_words(self, tiny_vlm: Path) -> None:
        """A random model writes no JSON; what matters is that it was shown every focus and corrected."""
        teacher = LocalTeacher(str(tiny_vlm), max_new_tokens=8, device="cpu")
        explanation = asyncio.run(explain(teacher, TASK))
        assert explanation.thoughts is None
        assert [attempt.codes for attempt in explanation.attempts] == [("cut_off",)] * 3
        used = teacher.usage
        assert (used.requests, used.completion_tokens <= 24) == (3, True)
        # Two focuses of 64 image tokens in every prompt, and longer ones with each correction.
        assert used.prompt_tokens > 3 * 128 + 300

    def test_tasks_share_batches(self, tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from sifthinker.engine import teachers
        from sifthinker.models import Generation

        asked = []

        def complete(
            model: Any, processor: Any, conversations: Sequence[Any], images: Sequence[Any], **sampling: Any
        ) -> list[Generation]:
            asked.append(len(conversations))
            assert [len(shown) for shown in images] == [2] * len(images)
            return [Generation(reply("a", "b"), True, 10, 5) for _ in conversations]

        monkeypatch.setattr(teachers, "complete", complete)
        teacher = pickle.loads(pickle.dumps(LocalTeacher(str(tiny_vlm), batch_size=3)))

        async def go() -> list[Any]:
            return await asyncio.gather(*(explain(teacher, TASK) for _ in range(7)))

        assert [found.thoughts for found in asyncio.run(go())] == [("a", "b")] * 7
        assert sum(asked) == 7
        assert max(asked) <= 3

    def test_its_own_reply_may_spell_the_placeholder(self, tiny_vlm: Path) -> None:
        teacher = LocalTeacher(str(tiny_vlm), max_new_tokens=4, device="cpu")
        said = asyncio.run(teacher.reply(TASK, [Attempt("I see <image>.", ("no JSON",), ("not_json",))]))
        assert said.code == "cut_off"

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"config\.json"):
            asyncio.run(explain(LocalTeacher(str(tmp_path)), TASK))


def test_a_server_of_others(tiny_vlm: Path) -> None:
    """`transformers serve` with a tiny random model: it must understand our requests, and we its replies."""
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(tiny_vlm),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", str(tiny_vlm), timeout_s=120, max_retries=60, backoff_s=0.01)

            async def go() -> Any:
                async with OpenAITeacher(endpoint, max_tokens=16) as teacher:
                    for _ in range(600):
                        with contextlib.suppress(OSError):
                            socket.create_connection(("127.0.0.1", port), timeout=1).close()
                            break
                        assert server.poll() is None, "the server did not start"
                        await asyncio.sleep(0.1)
                    return await explain(teacher, TASK)

            explanation = asyncio.run(go())
        finally:
            server.terminate()
    assert {attempt.codes for attempt in explanation.attempts} <= {("not_json",), ("cut_off",)}, explanation
    assert endpoint.usage.prompt_tokens > 128
    assert endpoint.usage.completion_tokens > 0
