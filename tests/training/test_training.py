"""Both stages with tiny random models: every trainable parameter moves, and runs go on where they stopped."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from sifthinker.errors import ConfigError, ModelError, RecordError, SIFError
from sifthinker.training.settings import make_config

from ..small_data import build_chains, write_records

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SFT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"}
GRPO = {
    "max_steps": 2, "per_device_train_batch_size": 8, "num_generations": 4, "learning_rate": 1e-2,
    "max_completion_length": 24, "save_strategy": "no",
}  # fmt: skip


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def unmoved(before: dict[str, torch.Tensor], model: torch.nn.Module) -> list[str]:
    after = dict(model.named_parameters())
    return [name for name, value in before.items() if value.equal(after[name])]


def sft_config(model: Path, data: Path, output: Path, **changes: object) -> object:
    training = {**SFT, **changes.pop("training", {})}
    return make_config({"model": model, "data": data, "output": output, "training": training, **changes}, "sft")


def grpo_config(model: Path, data: Path, output: Path, **changes: object) -> object:
    training = {**GRPO, **changes.pop("training", {})}
    return make_config({"model": model, "data": data, "output": output, "training": training, **changes}, "grpo")


def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models never write a chain and would earn nothing; pay them by length, so that advantages differ."""
    from sifthinker.training import grpo

    monkeypatch.setattr(grpo, "format_reward", lambda completions, **_: [len(c[0]["content"]) / 10 for c in completions])


class TestSFT:
    def test_every_trainable_parameter_moves(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import sft_trainer

        trainer = sft_trainer(sft_config(tiny_vlm, chains, tmp_path / "run"))
        before = weights(trainer.model)
        assert not any("post_layernorm" in name for name in before)  # LLaVA never reads it
        trainer.train()
        assert unmoved(before, trainer.model) == []

    def test_the_attention_is_chosen(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import sft_trainer

        for named, expected in (("sdpa", "sdpa"), (None, "sdpa" if torch.accelerator.is_available() else "eager")):
            config = sft_config(tiny_vlm, chains, tmp_path / "run", attn_implementation=named)
            assert sft_trainer(config).model.config._attn_implementation == expected
        with pytest.raises(ModelError, match="nonsense"):
            sft_trainer(sft_config(tiny_vlm, chains, tmp_path / "run", attn_implementation="nonsense"))

    def test_the_loss_falls_on_the_chain_alone(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.records import read_examples
        from sifthinker.training.sft import sft_trainer

        trainer = sft_trainer(sft_config(tiny_vlm, chains, tmp_path / "run"))
        batch = trainer.data_collator([trainer.train_dataset[0]])
        kept = batch["input_ids"][0][batch["labels"][0] != -100]
        example = next(read_examples(chains))
        assert trainer.processing_class.tokenizer.decode(kept) == example.chain + "</s>"
        assert batch["pixel_values"].shape[0] == 2

    def test_answers_alone_are_asked_for_directly(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.prompts import user_prompt
        from sifthinker.records import read_examples
        from sifthinker.training.sft import sft_trainer

        trainer = sft_trainer(sft_config(tiny_vlm, chains, tmp_path / "run", answers_only=True))
        batch = trainer.data_collator([trainer.train_dataset[0]])
        example = next(read_examples(chains))
        tokenizer = trainer.processing_class.tokenizer
        assert tokenizer.decode(batch["input_ids"][0][batch["labels"][0] != -100]) == example.answer + "</s>"
        assert user_prompt(example.problem, protocol="direct") in tokenizer.decode(batch["input_ids"][0])

    def test_lora_is_merged_into_a_model_that_loads(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.models import load_model, load_processor
        from sifthinker.training.sft import train_sft

        trainer = train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", lora={"r": 2}, freeze=["vision_tower"]))
        assert type(trainer.model).__name__.startswith("PeftModel")
        merged, base = load_model(tmp_path / "run"), load_model(tiny_vlm)
        load_processor(tmp_path / "run")
        different = [n for n, p in merged.named_parameters() if not p.equal(dict(base.named_parameters())[n])]
        assert different
        assert not any("lora" in name or "vision_tower" in name for name in different)
        assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) >= 1
        card = (tmp_path / "run" / "README.md").read_text()
        assert f"SFT of `{tiny_vlm}`" in card
        assert "lora:" in card

    def test_a_resumed_run_equals_an_uninterrupted_one(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import train_sft

        keep = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
        whole = train_sft(sft_config(tiny_vlm, chains, tmp_path / "whole", training=keep))
        # The same schedule, killed after step 2: what is left is the checkpoint.
        (tmp_path / "cut").mkdir()
        (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "cut" / "checkpoint-2")
        resumed = train_sft(sft_config(tiny_vlm, chains, tmp_path / "cut", training=keep))
        assert resumed.state.global_step == 4
        losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)
        for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6), name

    def test_an_interruption_ends_with_a_checkpoint_to_go_on_from(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import TrainerCallback

        from sifthinker.training import sft

        class Impatient(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 1:
                    signal.raise_signal(signal.SIGINT)

        made = sft.sft_trainer

        def with_signal(config: object) -> object:
            trainer = made(config)
            trainer.add_callback(Impatient())
            return trainer

        keep = {"max_steps": 4, "save_strategy": "steps", "save_steps": 100, "logging_steps": 1}
        before = signal.getsignal(signal.SIGINT)
        with monkeypatch.context() as patch:
            patch.setattr(sft, "sft_trainer", with_signal)
            with pytest.raises(KeyboardInterrupt):
                sft.train_sft(sft_config(tiny_vlm, chains, tmp_path / "cut", training=keep))
        assert signal.getsignal(signal.SIGINT) is before
        assert (tmp_path / "cut" / "checkpoint-2").is_dir()
        assert not (tmp_path / "cut" / "config.json").exists()
        resumed = sft.train_sft(sft_config(tiny_vlm, chains, tmp_path / "cut", training=keep))
        whole = sft.train_sft(sft_config(tiny_vlm, chains, tmp_path / "whole", training=keep))
        for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6), name

    def test_a_checkpoint_that_was_being_written_is_passed_over(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from sifthinker.training.sft import train_sft

        keep = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
        whole = train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", training=keep))
        for name in ("finished.json", "checkpoint-4/trainer_state.json"):
            (tmp_path / "run" / name).unlink()
        (tmp_path / "run" / "checkpoint-4" / "model.safetensors").write_bytes(b"half of it")
        resumed = train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", training=keep))
        assert "checkpoint-4 is incomplete" in caplog.text
        assert resumed.state.global_step == 4
        for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6), name

    def test_what_is_finished_is_not_trained_again(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from sifthinker.training.runs import claim, record
        from sifthinker.training.sft import train_sft

        def config(**training: object) -> object:
            keep = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
            return sft_config(tiny_vlm, chains, tmp_path / "run", training={**keep, **training})

        train_sft(config())
        weights = (tmp_path / "run" / "model.safetensors").read_bytes()
        assert train_sft(config()) is None
        assert "is finished" in caplog.text
        # Killed after the last checkpoint, before the model was written.
        for name in ("finished.json", "model.safetensors"):
            (tmp_path / "run" / name).unlink()
        assert train_sft(config()).state.global_step == 2
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
        assert not (tmp_path / "run" / "checkpoint-3").exists()
        # Interrupted on the way to more steps: the same command must go on.
        record(config(max_steps=3), claim(config(max_steps=3), "sft"))
        assert not (tmp_path / "run" / "finished.json").exists()
        assert train_sft(config(max_steps=3)).state.global_step == 3
        assert (tmp_path / "run" / "model.safetensors").read_bytes() != weights

    def test_epochs_after_a_run_of_a_few_steps(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import train_sft

        keep = {"save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 4}
        train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", limit=12, training={**keep, "max_steps": 2}))
        epoch = {**keep, "num_train_epochs": 1, "max_steps": -1}
        assert train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", limit=12, training=epoch)).state.global_step == 3
        (tmp_path / "run" / "finished.json").unlink()
        assert train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", limit=12, training=epoch)).state.global_step == 3

    def test_another_runs_folder_is_refused(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.sft import train_sft

        train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", training={"max_steps": 1}))
        with pytest.raises(ConfigError, match="contains another run: answers_only was False, now True"):
            train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", answers_only=True))
        with pytest.raises(ConfigError, match="contains another run: "):
            train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "run"))

    def test_an_output_that_cannot_be_written_is_told_before_anything_is_loaded(self, tmp_path: Path) -> None:
        from sifthinker.training.sft import sft_trainer

        (tmp_path / "file").write_text("")
        with pytest.raises(SIFError, match="cannot make the folder"):
            sft_trainer(sft_config("no/model", "no-data", tmp_path / "file" / "run"))

    def test_a_run_that_is_refused_writes_nothing(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.sft import train_sft

        # 64 completions of 4 a prompt are 16 prompts, and there are 3; an SFT batch of 4 would be left out.
        few = grpo_config(tiny_vlm, chains, tmp_path / "run", limit=3, training={"per_device_train_batch_size": 64})
        with pytest.raises(
            ConfigError, match="a step needs 16 prompts, but the data has 3; lower per_device_train_batch_size"
        ):
            train_grpo(few)
        dropped = sft_config(tiny_vlm, chains, tmp_path / "run", limit=3, training={"dataloader_drop_last": True})
        with pytest.raises(
            ConfigError, match="a step needs 4 examples, because of dataloader_drop_last, but the data has 3"
        ):
            train_sft(dropped)
        with pytest.raises(ConfigError, match=r"max_length 60 .* the chains of all 18 examples would be cut off"):
            train_sft(sft_config(tiny_vlm, chains, tmp_path / "run", training={"max_length": 60}))
        assert list(tmp_path.iterdir()) == []

    def test_a_finished_run_stays_finished_if_its_continuation_is_refused(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path
    ) -> None:
        from sifthinker.training.sft import train_sft

        keep = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
        train_sft(sft_config(tiny_vlm, chains, tmp_path, training=keep))
        before = {name: (tmp_path / name).read_bytes() for name in ("run.json", "finished.json")}
        with pytest.raises(ConfigError, match="max_length 60"):
            train_sft(sft_config(tiny_vlm, chains, tmp_path, training={**keep, "max_steps": 2, "max_length": 60}))
        assert {name: (tmp_path / name).read_bytes() for name in before} == before

    def test_a_run_without_a_step_does_not_finish(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sifthinker.training import plan, sft

        monkeypatch.setattr(plan, "step_problems", lambda *arguments: [])
        training = {"max_steps": -1, "num_train_epochs": 0}
        with pytest.raises(ConfigError, match="ended without a step"):
            sft.train_sft(sft_config(tiny_vlm, chains, tmp_path, training=training))
        assert not list(tmp_path.glob("*.safetensors"))
        assert not (tmp_path / "finished.json").exists()


class TestGRPO:
    def test_every_trainable_parameter_moves(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uneven(monkeypatch)
        from sifthinker.training.grpo import grpo_trainer

        trainer = grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        before = weights(trainer.model)
        trainer.train()
        assert unmoved(before, trainer.model) == []

    def test_the_four_rewards_are_logged(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.progress import read_history

        train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        entry = read_history(tmp_path / "run")[0]
        for name in ("format", "answer", "grounding", "depth"):
            assert entry[f"rewards/{name}_reward/mean"] == 0
            assert entry[f"rewards/{name}_reward/missing"] == 0
        assert entry["chain/steps"] == entry["chain/box_movement"] == 0
        assert entry["frac_reward_zero_std"] == 1
        assert (tmp_path / "run" / "config.json").is_file()

    def test_sampled_chains_are_kept_as_the_rewards_command_reads_them(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path
    ) -> None:
        from sifthinker.evaluation.completions import score_file
        from sifthinker.training.grpo import SAMPLES, train_grpo

        train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        files = sorted((tmp_path / "run" / SAMPLES).iterdir())
        assert [file.name for file in files] == ["step-000000.jsonl", "step-000001.jsonl"]
        assert len(list(score_file(files[0], chains))) == 8

    def test_image_tokens_are_never_sampled(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        trainer = grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        assert trainer.generation_config.suppress_tokens == [trainer.model.config.image_token_id]
        trainer.model.config.video_token_id = 7
        again = type(trainer)(
            model=trainer.model,
            reward_funcs=trainer.reward_funcs,
            args=trainer.args,
            train_dataset=trainer.train_dataset,
            processing_class=trainer.processing_class,
        )
        assert again.generation_config.suppress_tokens == sorted([7, trainer.model.config.image_token_id])

    def test_the_ledger_is_saved_and_restored(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uneven(monkeypatch)
        from sifthinker.training.grpo import LEDGER, train_grpo

        keep = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        whole = train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "whole", training=keep))
        saved = json.loads((tmp_path / "whole" / "checkpoint-2" / LEDGER).read_text())
        assert "GRPO-SIF of" in (tmp_path / "whole" / "checkpoint-2" / "README.md").read_text()
        assert len(saved) == 4  # two prompts a step
        (tmp_path / "cut").mkdir()
        (tmp_path / "whole" / "checkpoint-2").rename(tmp_path / "cut" / "checkpoint-2")
        resumed = train_grpo(grpo_config(tiny_vlm, chains, tmp_path / "cut", training=keep))
        assert resumed.answer_reward.ledger.to_json() == whole.answer_reward.ledger.to_json()
        assert len(resumed.answer_reward.ledger.to_json()) == 8
        ours, theirs = ([e["reward"] for e in t.state.log_history if "reward" in e] for t in (whole, resumed))
        assert ours == pytest.approx(theirs, abs=1e-6)

    def test_a_checkpoint_without_a_ledger_is_refused(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        trainer = grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        with pytest.raises(ConfigError, match=r"ledger\.json is missing, so the checkpoint is not from GRPO-SIF"):
            trainer.train(resume_from_checkpoint=str(tmp_path))

    def test_batches_that_do_not_hold_groups_are_refused(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        with pytest.raises(ConfigError, match="training: "):
            grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run", training={"per_device_train_batch_size": 3}))

    def test_weights_are_named_under_rewards(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        with pytest.raises(ConfigError, match=r"training\.reward_weights: set the weights under `rewards`"):
            grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run", training={"reward_weights": [1, 1, 1, 1]}))
        trainer = grpo_trainer(
            grpo_config(tiny_vlm, chains, tmp_path / "run", rewards={"grounding": 2, "answer": 0, "depth": 0})
        )
        assert trainer.reward_func_names == ["format_reward", "grounding_reward"]
        assert trainer.reward_weights.tolist() == [1, 2]


def test_a_log_file_gets_a_line_a_log() -> None:
    import io
    from types import SimpleNamespace

    from rich.console import Console

    from sifthinker.training.progress import ProgressTable

    file = io.StringIO()
    table = ProgressTable("SFT", Console(file=file, width=100))
    state = SimpleNamespace(is_world_process_zero=True, max_steps=10, global_step=0)
    table.on_train_begin(None, state, None)
    for state.global_step in (1, 2):
        table.on_step_end(None, state, None)
        table.on_log(None, state, None, logs={"loss": 1 / state.global_step, "epoch": 1.0})
    assert file.getvalue() == "SFT 1/10: loss 1\nSFT 2/10: loss 0.5\n"
    table.stop()


class TestSharing:
    """Whole runs with and without sharing: prompts prefilled and scored once, or G times."""

    def losses(self, tiny_vlm: Path, data: Path, output: Path, sharing: str, **training: object) -> tuple[list, dict]:
        from sifthinker.training.grpo import grpo_trainer

        # Plain gradient descent: Adam would turn rounding in gradients that are zero in truth into whole steps.
        settings = {"max_steps": 5, "optim": "sgd", "learning_rate": 0.3, **training}
        # Double precision: in single, rounding flips a sampled token now and then, and the runs part ways.
        config = grpo_config(tiny_vlm, data, output, prefix_sharing=sharing, dtype="float64", training=settings)
        trainer = grpo_trainer(config)
        assert trainer.shares_prefixes == (sharing == "auto")
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        return [(e["loss"], e["kl"], e["entropy"], e["grad_norm"]) for e in entries], weights(trainer.model)

    @pytest.mark.parametrize(
        "training",
        [
            {},
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},  # whole groups in micro-batches
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},  # groups cut in two
            {"num_iterations": 2, "steps_per_generation": 1},  # old log-probabilities
            {"activation_checkpointing": True},
        ],
    )
    def test_five_steps_lose_the_same(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict
    ) -> None:
        uneven(monkeypatch)
        on, on_weights = self.losses(tiny_vlm, chains, tmp_path / "on", "auto", **training)
        off, off_weights = self.losses(tiny_vlm, chains, tmp_path / "off", "off", **training)
        assert len(on) == 5
        assert any(abs(loss) > 1e-4 for loss, *_ in on)
        for ours, theirs in zip(on, off, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6, rel=1e-4)
        for name, value in on_weights.items():
            assert torch.allclose(value, off_weights[name], atol=2e-5), name

    def test_groups_stay_whole(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        trainer = grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        batch = {"prompt_ids": torch.arange(12), "advantages": torch.arange(12) * 2, "n": list(range(12)), "k": None}
        shuffled = trainer._shuffle_groups({**batch, "total": torch.tensor(3)})
        assert sorted(shuffled["n"]) == list(range(12))
        assert shuffled["prompt_ids"].tolist() == shuffled["n"]
        assert shuffled["advantages"].tolist() == [2 * n for n in shuffled["n"]]
        groups = [[n // 4 for n in shuffled["n"][start : start + 4]] for start in (0, 4, 8)]
        assert all(len(set(group)) == 1 for group in groups)
        orders = {tuple(trainer._shuffle_groups(batch)["n"][::4]) for _ in range(40)}
        assert len(orders) == 6, "three groups come in every order"

    def test_what_cannot_be_shared_is_said(
        self,
        tiny_vlm: Path,
        chains: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from sifthinker.training import grpo

        monkeypatch.setattr(grpo, "why_not_shared", lambda model: "architecture 'x' is not among llava")
        trainer = grpo.grpo_trainer(grpo_config(tiny_vlm, chains, tmp_path / "run"))
        assert trainer.shares_prefixes is False
        assert "architecture 'x'" in caplog.text


class TestRGBOnly:
    def test_both_stages_without_depth(self, tiny_vlm: Path, tmp_path: Path) -> None:
        from sifthinker.engine.estimators import NoDepth
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.sft import train_sft

        assert build_chains(write_records(tmp_path / "raw", 7), tmp_path / "rgb", depth=NoDepth()) == 7
        train_sft(sft_config(tiny_vlm, tmp_path / "rgb", tmp_path / "sft"))
        trainer = train_grpo(grpo_config(tmp_path / "sft", tmp_path / "rgb", tmp_path / "grpo"))
        assert trainer.reward_func_names == ["format_reward", "answer_reward", "grounding_reward"]


class TestMisuse:
    def test_data_and_models_that_are_none(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import sft_trainer

        with pytest.raises(ModelError, match=r"config\.json"):
            sft_trainer(sft_config(tmp_path, chains, tmp_path / "run"))
        with pytest.raises(ModelError, match="no such model folder"):
            sft_trainer(sft_config(tmp_path / "none", chains, tmp_path / "run"))
        (tmp_path / "examples.jsonl").write_text("")
        with pytest.raises(RecordError, match="contains no example"):
            sft_trainer(sft_config(tiny_vlm, tmp_path, tmp_path / "run"))
