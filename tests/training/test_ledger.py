"""The ledger between processes, and rewards with gaps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sifthinker.scoring.trl import AnswerReward

from ..stand_in import serve

torch = pytest.importorskip("torch")
pytest.importorskip("trl")


def answer(text: str) -> str:
    return f"<answer>{text}</answer>"


def _one_of_two(rank: int, folder: str, port: int) -> None:
    """One process of two, each with one completion of a shared group and one of a group of its own."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from accelerate import PartialState
    from accelerate.utils import gather_object

    assert PartialState(cpu=True, backend="gloo").num_processes == 2
    reward = AnswerReward()
    reward.gather = gather_object
    right = ["cat", "dog"] if rank == 0 else ["dog", "dog"]
    first = reward([answer(text) for text in right], id=["shared", f"own-{rank}"], answer=["cat", "cat"])
    second = reward([answer("cat"), answer("cat")], id=["shared", "shared"], answer=["cat", "cat"])
    Path(folder, f"{rank}.json").write_text(json.dumps([first, second, reward.ledger.to_json()]))
    torch.distributed.destroy_process_group()


def test_two_processes_keep_one_ledger(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one_of_two, args=(str(tmp_path), port), nprocs=2)
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero[0] == [1, 0]
    assert one[0] == [0, 0]
    # The group's mean over both processes was 1/2: everyone's right answer is worth 1 + 1/2.
    assert zero[1] == one[1] == [1.5, 1.5]
    assert zero[2] == one[2] == {"shared": 1.0, "own-0": 0.0, "own-1": 0.0}


def test_a_run_on_two_processes(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    """Data-parallel on the CPU, as `torchrun` and `accelerate launch` start it: each process has one of two groups."""
    config = tmp_path / "c.yaml"
    training = "{max_steps: 2, per_device_train_batch_size: 4, num_generations: 4, max_completion_length: 16, save_steps: 1}"
    config.write_text(f"model: {tiny_vlm}\ndata: {chains}\noutput: {tmp_path / 'run'}\ntraining: {training}\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "sifthinker.cli", "train", "grpo", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    # Two groups a step, whose means both processes know; the main one saves them.
    assert len(json.loads((tmp_path / "run" / "checkpoint-2" / "ledger.json").read_text())) == 4
    assert len((tmp_path / "run" / "samples" / "step-000000.jsonl").read_text().splitlines()) == 8


class TestGaps:
    def test_a_missing_reward_moves_no_advantage(self) -> None:
        from sifthinker.training.grpo import without_gaps

        nan = float("nan")
        rewards = torch.tensor([[1.0, 0.5], [nan, 0.5], [0.0, 0.5], [nan, nan], [nan, 1.0], [2.0, 1.0]])
        filled = without_gaps(rewards, 3)
        assert filled[:3].tolist() == [[1.0, 0.5], [0.5, 0.5], [0.0, 0.5]]
        assert filled[3:].tolist() == [[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]
        # The completion without a verdict stands at its group's mean.
        sums = filled.sum(dim=1)
        assert sums[1] == sums[:3].mean()

    def test_what_is_missing_in_a_whole_group_stays_missing(self) -> None:
        from sifthinker.training.grpo import without_gaps

        assert without_gaps(torch.full((2, 1), float("nan")), 2).isnan().all()


def test_a_run_whose_judge_fails_half_the_time_finishes_and_says_so(
    tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sifthinker.training import grpo
    from sifthinker.training.progress import read_history

    from .test_training import grpo_config

    # A random model writes no answer; let every completion hold one that no rule decides, each worded differently.
    original = grpo.AnswerReward.__call__
    numbers = iter(range(10**6))

    def answering(self, completions, **columns):
        said = [answer(f"it may be {columns['answer'][0]} or thing {next(numbers)}") for _ in completions]
        return original(self, said, **{**columns, "answer": ["some open words"] * len(said), "choices": None})

    monkeypatch.setattr(grpo.AnswerReward, "__call__", answering)
    faults = [(500, {}, "down"), "I am not sure", "hang", (200, {}, "<html>")]

    def moody(request: dict, number: int) -> object:
        if number % 2:
            return "0.5"
        fault = faults[number // 2 % len(faults)]
        if fault == "hang":
            time.sleep(0.4)
        return fault

    with serve(moody) as (url, _):
        judge = {"base_url": url, "model": "j", "timeout_s": 0.2, "retries": 0, "concurrency": 1}
        trainer = grpo.train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "run", judge=judge))
    entries = [entry for entry in read_history(tmp_path / "run") if "reward" in entry]
    assert len(entries) == 2
    counts = trainer.answer_reward.judge.counts
    assert counts.failed == sum(entry["rewards/answer_reward/missing"] for entry in entries) > 2
    assert counts.model > 2
    # Those that were judged were worth 0.5 on the first visit; the failures are not in the mean.
    assert entries[0]["rewards/answer_reward/mean"] == pytest.approx(0.5)
