"""What a GRPO-SIF trainer does with a config and with completions, without a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker.scoring.trl import AnswerReward, GroundingReward

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from ..scoring.test_rewards import LEFT, LEFT_TOP, RIGHT, WHOLE, chain  # noqa: E402
from .test_training import grpo_config  # noqa: E402


@pytest.fixture(scope="module")
def trainer(tiny_vlm: Path, chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from sifthinker.training.grpo import grpo_trainer

    training = {"num_generations": 4, "num_generations_eval": 2}
    return grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path_factory.mktemp("run"), training=training))


def test_the_terms_of_a_config_reach_the_rewards(tiny_vlm: Path, chains: Path, tmp_path: Path, trainer: Any) -> None:
    from sifthinker.training.grpo import grpo_trainer

    def terms(trainer: Any) -> tuple[bool, str, str, dict[str, Any]]:
        shape, answer, grounding, depth = trainer.reward_funcs
        assert isinstance(answer, AnswerReward)
        assert isinstance(grounding, GroundingReward)
        assert isinstance(shape, partial)
        assert isinstance(depth, partial)
        assert trainer.answer_reward is answer
        return answer.progress, grounding.correction, grounding.denominator, {**shape.keywords, **depth.keywords}

    assert terms(trainer) == (True, "own", "max", {"opened": False, "repeats": False})
    chosen = {"progress": False, "correction": "group", "denominator": "min", "depth_repeats": True}
    other = grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run", reward_terms=chosen))
    assert terms(other) == (False, "group", "min", {"opened": False, "repeats": True})


def test_the_shape_of_chains_is_logged(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Areas: 3, 2, 1 and none. The first moves from the left half to its upper half, IoU 1/2, the second from the right half
    # to the left, IoU 0, the third never focuses.
    texts = [chain(WHOLE, LEFT, LEFT_TOP), chain(RIGHT, LEFT), chain(WHOLE), "no chain"]
    logged: dict[str, float] = {}
    monkeypatch.setattr(trainer, "_log_metric", logged.__setitem__)
    trainer._log_chains(texts, [True] * 4)
    assert logged == {"chain/steps": 6 / 4, "chain/box_movement": pytest.approx((1 / 2 + 1) / 2)}
    trainer._log_chains([chain(WHOLE)], [True])
    assert logged == {"chain/steps": 1, "chain/box_movement": 0}
    trainer._log_chains(texts, [False] * 4)  # RGB-only chains state no depth
    assert logged == {"chain/steps": 0, "chain/box_movement": 0}


@pytest.mark.parametrize(("training", "filled"), [(True, [1, 0.5, 0, 0.5]), (False, [1, 1, 0, 0])])
def test_gaps_are_filled_within_groups(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, training: bool, filled: list[float]
) -> None:
    """Groups are of four in training and of two in evaluation, which also leaves the ledger alone."""

    def gaps(completions: list[Any], **columns: Any) -> list[float | None]:
        return [1.0, None, 0.0, None]

    monkeypatch.setattr(trainer, "reward_funcs", [gaps, *trainer.reward_funcs[1:]])
    row = {"prompt": [], "id": "a", "answer": "cat", "boxes": [[0, 0, 0.5, 1]], "depth": None, "choices": ""}
    tokens = trainer.processing_class.tokenizer("<answer>cat</answer></s>", add_special_tokens=False)["input_ids"]
    before = trainer.answer_reward.ledger.to_json()
    trainer.model.train(training)
    try:
        found = trainer._calculate_rewards([row] * 4, [[]] * 4, [[{"role": "assistant", "content": ""}]] * 4, [tokens] * 4)
    finally:
        trainer.model.train()
    assert found[:, 0].tolist() == filled
    assert trainer.answer_reward.ledger.to_json() == ({**before, "a": 1} if training else before)
    trainer.answer_reward.ledger._means.pop("a", None)


@pytest.fixture
def qwen(real_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family that vLLM is expected to sample, as if vLLM were installed."""
    monkeypatch.setattr("sifthinker.training.settings.find_spec", lambda name: name)
    return real_model("qwen2_5_vl")


@pytest.fixture
def handed_over(qwen: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the trainer is made from, for settings of TRL's; vLLM need not be installed for what it would be given."""
    from sifthinker.training import grpo

    monkeypatch.setattr(grpo, "SIFGRPOTrainer", lambda **given: SimpleNamespace(**given))
    common = {"use_vllm": True, "vllm_mode": "server"}
    return lambda **more: grpo.grpo_trainer(grpo_config(qwen, chains, tmp_path / "run", training={**common, **more}))


def test_served_models_are_kept_from_writing_placeholders(handed_over: Callable[..., Any]) -> None:
    """vLLM takes no list of suppressed tokens; a bias does the same, whatever else is said of generation."""
    made = handed_over()
    token = made.model.config.image_token_id
    bias = {token: -100.0, made.model.config.video_token_id: -100.0}
    assert made.args.generation_kwargs == {"logit_bias": bias}
    more = {"stop": ["</answer>"], "logit_bias": {7: 1.0, token: 5.0}}
    made = handed_over(generation_kwargs=more)
    assert made.args.generation_kwargs == {"stop": ["</answer>"], "logit_bias": {**bias, 7: 1.0}}


def test_vllm_is_given_the_prompts_tokens_and_their_images(
    qwen: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of TRL's own trainer up to the object that talks to a server, which is replaced and writes two tokens."""
    from sifthinker.training.grpo import grpo_trainer

    made, asked = {}, []

    class Written:
        def __init__(self, **named: Any) -> None:
            made.update(named)
            server = {"model_config": {"logprobs_mode": "processed_logprobs"}}
            self.vllm_client = SimpleNamespace(get_server_info=lambda: server)

        def sync_weights(self) -> None: ...

        def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any) -> Any:
            asked.append((prompts, images, num_generations))
            return prompts, [[7, 8]] * len(prompts), [[[-1.0], [-1.0]]] * len(prompts), None

    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", Written)
    training = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://127.0.0.1:9", "temperature": 0.9}
    trainer = grpo_trainer(grpo_config(qwen, chains, tmp_path, training={**training, "max_steps": 1}))
    trainer.train()
    token = trainer.model.config.image_token_id
    wanted = {"mode": "server", "server_base_url": "http://127.0.0.1:9", "temperature": 0.9, "max_completion_length": 24}
    assert {name: made[name] for name in wanted} == wanted
    assert made["generation_kwargs"]["logit_bias"][token] == -100.0
    ((prompts, images, group),) = asked
    assert (len(prompts), group) == (8, 4)
    assert prompts[0] == prompts[1] != prompts[4]
    # Two images that are resized to 56 by 56, of 28 by 28 a token: their tokens are written out.
    assert [ids.count(token) for ids in prompts] == [2 * 2 * 2] * 8
    assert all([image.size for image in shown] == [(64, 64), (64, 64)] for shown in images)


def test_groups_that_span_processes_stay_as_they_are(trainer: Any) -> None:
    batch = {"prompt_ids": torch.arange(6), "n": list(range(6))}  # a group and a half
    assert trainer._shuffle_groups(batch) is batch
