"""`transformers serve` runs what is trained here: the same thoughts come from it as from the model in this process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.endpoint import Endpoint
from sifthinker.errors import ConfigError, EndpointError
from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.served import ServedThinker
from sifthinker.thinker import Thinker

pytest.importorskip("torch")
if not all(map(find_spec, ("fastapi", "uvicorn", "openai"))):
    pytest.skip("needs transformers[serving]", allow_module_level=True)

STARTS_WITHIN_S = 300
MOST_TOKENS = 40


@pytest.fixture(scope="module")
def server(wordy_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of `wordy_vlm`, on this machine alone."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(wordy_vlm)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=variables, start_new_session=True)
    try:
        until = time.monotonic() + STARTS_WITHIN_S
        while "Application startup complete" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail("it did not start:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]))
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def local(wordy_vlm: Path) -> Thinker:
    return Thinker.load(wordy_vlm, device="cpu", dtype="float32", max_new_tokens=MOST_TOKENS)


def served(server: str, model: Path | str, **options: Any) -> ServedThinker:
    return ServedThinker(Endpoint(server, str(model), max_retries=0), max_new_tokens=MOST_TOKENS, **options)


def pictures(count: int) -> list[tuple[Image.Image, str, DepthMap]]:
    draw = np.random.default_rng(0)
    return [
        (
            Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)),
            f"Which of the {number} blocks is nearer?",
            DepthMap(draw.random((30, 40))),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("protocol", ["chain", "direct", "structured"])
def test_the_same_thoughts(server: str, wordy_vlm: Path, local: Thinker, protocol: Any) -> None:
    tasks = pictures(4)
    theirs = served(server, wordy_vlm).think_all(tasks, protocol=protocol)
    for (image, question, depth), found in zip(tasks, theirs, strict=True):
        mine = local.think(image, question, depth, protocol=protocol)
        assert (found.text, found.reply, found.complete, found.tokens) == (mine.text, mine.reply, mine.complete, mine.tokens)
        assert found.tokens[1] > 1
    assert len({found.reply or found.text for found in theirs}) > 1, "the model says the same whatever it is shown"


def test_the_same_stream(server: str, wordy_vlm: Path, local: Thinker) -> None:
    (task,) = pictures(1)
    *parts, last = served(server, wordy_vlm).stream(*task)
    mine = local.think(*task)
    assert (last.text, last.complete, last.tokens) == (mine.text, mine.complete, mine.tokens)
    assert all(last.text.startswith(part.text) for part in parts)


@pytest.mark.parametrize("protocol", ["chain", "direct"])
def test_the_same_table(server: str, wordy_vlm: Path, chains: Path, protocol: str) -> None:
    """Every number and every row, to the last character."""
    asked = EvalSettings(
        data=str(chains), model=str(wordy_vlm), protocol=protocol, max_new_tokens=MOST_TOKENS, dtype="float32", limit=6
    )
    mine = evaluate(asked)
    theirs = evaluate(asked.replace(base_url=server, retries=0, dtype="auto"))
    assert theirs.rows == mine.rows
    assert theirs.results == mine.results
    assert json.dumps(theirs.to_json()["groups"]) == json.dumps(mine.to_json()["groups"])
    assert theirs.errors == 0


def test_it_has_no_grammars_and_says_so(server: str, wordy_vlm: Path) -> None:
    with pytest.raises(ConfigError, match=r"constrained by .* refused it: .*structured_outputs.*Leave out grammar"):
        served(server, wordy_vlm, grammar=True).think(*pictures(1)[0])


def test_another_model_is_named(server: str) -> None:
    with pytest.raises(EndpointError, match="nobody/none"):
        served(server, "nobody/none").think(*pictures(1)[0])
