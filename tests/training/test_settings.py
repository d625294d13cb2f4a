from __future__ import annotations

import json
from pathlib import Path

import pytest

from sifthinker.endpoint import open_endpoint
from sifthinker.errors import ConfigError
from sifthinker.training.settings import (
    JudgeSettings,
    Lora,
    RewardTerms,
    TrainSettings,
    check_vllm,
    load_config,
    make_config,
    trainer_arguments,
)
from sifthinker.training.stages import train

pytest.importorskip("trl")

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*-*.yaml"))
BASE = {"model": "m", "data": "d", "output": "o"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


class TestFiles:
    def test_our_keys_and_trls(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, "model: m\ndata: d\noutput: o\nlora: {r: 64, alpha: 128}\nfreeze: visual\ntraining: {max_steps: 5}\n"
        )
        config = load_config(path, "sft", ["learning_rate=1e-5", "lora.dropout=0.05", "output=p", "training.max_steps=7"])
        assert config.lora == Lora(r=64, alpha=128, dropout=0.05)
        assert (config.output, list(config.freeze)) == ("p", ["visual"])
        assert dict(config.training) == {"max_steps": 7, "learning_rate": 1e-5}

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("model: m\ndata: d\noutput: o\nlearning_rat: 1\n", "unknown key 'learning_rat'"),
            ("model: m\ndata: d\noutput: o\ntraining: {learning_rat: 1}\n", "did you mean 'learning_rate'"),
            ("model: m\ndata: d\noutput: o\nlora: {rank: 1}\n", "lora: unknown key 'rank'"),
            ("model: m\ndata: d\n", "lacks output"),
            ("model: ''\ndata:\noutput: o\n", "lacks model, data"),
            ("model: m\ndata: d\noutput: o\nanswers_only: maybe\n", "answers_only must be true or false, got 'maybe'"),
            *(
                (text, "not YAML")
                for text in ("model: [", "model: a: b", "\tmodel: m", "model: \x07", "model: *m", "model: !m m")
            ),
            ("- a\n", "expected keys and values"),
            ("model: m\ndata: d\noutput: o\ntraining: 5\n", "training must be keys and values, got 5"),
            ("model: m\ndata: d\noutput: o\ntraining: {output_dir: x}\n", "set the folder with `output`"),
            (
                "model: m\ndata: d\noutput: o\nrewards: {format: 1}\n",
                "rewards is a setting of GRPO-SIF, and this is an SFT run",
            ),
        ],
    )
    def test_faults_are_named_with_their_place(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            load_config(write(tmp_path, text), "sft")
        assert "c.yaml" in str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            load_config(tmp_path / "none.yaml", "sft")

    @pytest.mark.parametrize("override", ["learning_rate", "=5"])
    def test_overrides_are_pairs(self, tmp_path: Path, override: str) -> None:
        with pytest.raises(ConfigError, match="key=value"):
            load_config(write(tmp_path, "model: m\ndata: d\noutput: o\n"), "sft", [override])


class TestTrackers:
    @pytest.mark.parametrize("report_to", ["wandb", ["tensorboard", "wandb"]])
    def test_completions_cannot_be_logged_to_wandb(self, report_to: str | list[str]) -> None:
        values = {**BASE, "training": {"report_to": report_to, "log_completions": True}}
        with pytest.raises(ConfigError, match=r"training.log_completions: TRL .* to wandb.*report_to: trackio"):
            make_config(values, "grpo")

    @pytest.mark.parametrize("installed", [True, False])
    def test_all_trackers_are_those_that_are_installed(self, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
        monkeypatch.setattr("sifthinker.training.settings.find_spec", lambda name: object() if installed else None)
        values = {**BASE, "training": {"report_to": "all", "log_completions": True}}
        if installed:
            with pytest.raises(ConfigError, match="to wandb"):
                make_config(values, "grpo")
        else:
            make_config(values, "grpo")

    @pytest.mark.parametrize(
        "training",
        [
            {"report_to": "wandb"},
            {"report_to": "wandb", "log_completions": False},
            {"report_to": "trackio", "log_completions": True},
            {"report_to": ["tensorboard"], "log_completions": True},
            {"log_completions": True},
        ],
    )
    def test_everything_else_is_taken(self, training: dict) -> None:
        assert dict(make_config({**BASE, "training": training}, "grpo").training) == training


class TestRewards:
    def test_a_weight_of_zero_leaves_a_reward_out(self) -> None:
        config = make_config({**BASE, "rewards": {"depth": 0, "answer": 0.5}}, "grpo")
        assert config.weights == {"format": 1.0, "answer": 0.5, "grounding": 1.0}
        assert config.replace(limit=5).weights == make_config(config.to_dict(), "grpo").weights == config.weights

    def test_terms_are_all_there_unless_taken_away(self) -> None:
        assert make_config(BASE, "grpo").reward_terms == RewardTerms(progress=True, correction="own", denominator="max")
        found = make_config({**BASE, "reward_terms": {"correction": False}}, "grpo")
        assert found.reward_terms == RewardTerms(correction="off")
        assert make_config(found.to_dict(), "grpo") == found

    @pytest.mark.parametrize(
        ("rewards", "words"),
        [
            (dict.fromkeys(("format", "answer", "grounding", "depth"), 0), "the run would learn nothing"),
            ({"style": 1}, "unknown key 'style'"),
            ({"format": "abc"}, "must be a number"),
        ],
    )
    def test_faults(self, rewards: dict, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            make_config({**BASE, "rewards": rewards}, "grpo")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"freeze": 5}, "freeze must be a list of text, got 5"),
        ({"limit": "abc"}, "limit must be"),
        ({"limit": 0}, "limit must be"),
        ({"limit": True}, "limit must be"),
        ({"sample": 0}, "sample must be"),
        ({"limit": 5, "sample": 5}, "limit and sample both choose examples"),
        ({"max_pixels": 2.5}, "max_pixels must be"),
        ({"dtype": "float8"}, r"dtype must be one of auto, float32, .*, got 'float8'"),
        ({"dtype": "foo"}, "dtype must be"),
        ({"lora": {"r": "x"}}, r"lora\.r must be a positive whole number, got 'x'"),
        ({"prefix_sharing": "maybe"}, "auto or off"),
        ({"judge": {"model": "m"}}, "judge: lacks base_url"),
        ({"answers_only": True}, "answers_only is a setting of SFT, and this is a GRPO-SIF run"),
        ({"reward_terms": {"progress": 1}}, "reward_terms.progress must be true or false, got 1"),
        ({"reward_terms": {"denominator": "mean"}}, "denominator must be max or min, got 'mean'"),
        ({"reward_terms": {"speed": True}}, "reward_terms: unknown key 'speed'"),
    ],
)
def test_values_of_the_wrong_kind(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config({**BASE, **change}, "grpo")


def test_a_bare_no_is_no(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\ntraining: {save_strategy: no}\n")
    assert load_config(path, "sft").training["save_strategy"] == "no"


def test_every_strategy_may_be_a_bare_no(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\ntraining: {eval_strategy: no, bf16: no}\n")
    assert load_config(path, "sft").training == {"eval_strategy": "no", "bf16": False}


def test_overrides_may_be_written_with_hyphens(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\n")
    config = load_config(path, "sft", ["max-pixels=9", "save-steps=3", "lora.r=2", "freeze=[visual]"])
    assert (config.max_pixels, config.training, config.lora, config.freeze) == (9, {"save_steps": 3}, Lora(r=2), ("visual",))


def test_a_config_comes_before_our_defaults_and_they_before_trls(tmp_path: Path) -> None:
    config = make_config({**BASE, "output": str(tmp_path), "training": {"logging_steps": 3, "bf16": False}}, "sft")
    made = trainer_arguments(config, "sft", {"logging_steps": 10, "save_steps": 7})
    assert (made.logging_steps, made.save_steps, made.output_dir) == (3, 7, str(tmp_path))


@pytest.mark.parametrize(
    ("change", "attention"),
    [
        ({}, "eager"),
        ({"dtype": "float64"}, None),
        ({"attn_implementation": "sdpa"}, "sdpa"),
        ({"dtype": "bfloat16"}, "eager"),
    ],
)
def test_attention_on_a_cpu(monkeypatch: pytest.MonkeyPatch, change: dict, attention: str | None) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert make_config({**BASE, **change}, "sft").attention == attention
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert make_config({**BASE, **change}, "sft").attention == change.get("attn_implementation")


def test_a_bare_off_is_off() -> None:
    assert make_config({**BASE, "prefix_sharing": False}, "grpo").prefix_sharing == "off"


def test_text_that_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "c.yaml", "sft")


def test_what_trl_refuses_is_our_error(tmp_path: Path) -> None:
    config = make_config({**BASE, "output": str(tmp_path), "training": {"loss_type": "grpo", "num_generations": 1}}, "grpo")
    with pytest.raises(ConfigError, match="training: "):
        trainer_arguments(config, "grpo", {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate must be a number, got 'fast'"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate must be a number"),
        ({"training": {"max_steps": "ten"}}, "training.max_steps must be a whole number"),
        ({"training": {"max_steps": 1.5}}, "training.max_steps must be a whole number"),
        ({"training": {"max_steps": True}}, "training.max_steps must be a whole number"),
        *(
            ({"training": {name: 0}}, f"training.{name} must be at least 1")
            for name in (
                "per_device_train_batch_size",
                "gradient_accumulation_steps",
                "num_generations",
                "max_completion_length",
            )
        ),
        ({"training": {"bf16": "maybe"}}, "training.bf16 must be true or false"),
        ({"training": {"hub_token": "hf_x"}}, "set HF_TOKEN"),
        ({"lora": {"r": 0}}, r"lora\.r must be a positive whole number, got 0"),
        ({"lora": {"r": 2.5}}, r"lora\.r must be a positive whole number, got 2.5"),
        ({"lora": {"dropout": 2}}, "dropout must be a number, at least 0 and below 1, got 2"),
        ({"lora": {"dropout": 1}}, "dropout must be a number, at least 0 and below 1, got 1"),
        ({"lora": {"alpha": -1}}, r"lora\.alpha must be a whole number, at least 0, got -1"),
        ({"lora": {"alpha": True}}, "lora.alpha must be a whole number"),
        ({"lora": {"target": 5}}, "lora.target must be text or a list of text, got 5"),
        ({"muon_lr": float("nan")}, "muon_lr must be a positive number"),
        ({"rewards": {"depth": -1}}, "at least 0"),
        ({"rewards": {"depth": float("nan")}}, "at least 0"),
        ({"judge": {"base_url": "nonsense", "model": "q"}}, "must start with http"),
        (
            {"judge": {"base_url": "http://x/v1", "model": "q", "timeout_s": -1}},
            "timeout_s must be a positive number, got -1",
        ),
    ],
)
def test_what_would_fail_later_is_told_at_once(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_config({"model": "m", "data": "d", "output": "o", **change}, "grpo")


def test_numbers_may_be_written_as_yaml_reads_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "model: m\ndata: d\noutput: o\nmuon_lr: 1e-3\nreward_terms:\n"
        "training: {learning_rate: 1e-5, max_steps: 1e2, temperature: 1e0}\n"
    )
    config = load_config(tmp_path / "c.yaml", "grpo")
    assert (config.muon_lr, dict(config.training)) == (1e-3, {"learning_rate": 1e-5, "max_steps": 100, "temperature": 1.0})
    assert isinstance(config.training["max_steps"], int)
    assert config.reward_terms == RewardTerms()


def test_a_dropout_that_yaml_takes_for_text(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\nlora: {dropout: 5e-2}\n")
    assert load_config(path, "sft").lora == Lora(dropout=0.05)
    assert load_config(path, "sft", ["lora.dropout=1e-1"]).lora == Lora(dropout=0.1)


def test_a_folder_with_a_number_for_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: 2024\noutput: o\n")
    config = load_config(path, "sft", ["output=2025"])
    assert (config.data, config.output) == ("2024", "2025")


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\nlimit: 0\nlora: {rank: 1}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: 3 faults") as caught:
        load_config(path, "sft")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "lacks data, output",
        "limit must be a positive whole number, got 0",
        "lora: unknown key 'rank'; known keys are alpha, dropout, r, target",
    ]
    path = write(
        tmp_path, "model: m\ndata: d\noutput: o\njudge: {base_url: 'http://x', model: j}\ntraining: {bf16: 3, max_step: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"c\.yaml: 3 faults") as caught:
        load_config(path, "sft")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "judge is a setting of GRPO-SIF, and this is an SFT run; leave it out",
        "training.bf16 must be true or false, got 3",
        "training: unknown key 'max_step'; did you mean 'max_steps'?",
    ]


def test_our_keys_and_trls_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\nmuon_lrr: 1\njudge: 5\ntraining: {lerning_rate: 1}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: 3 faults") as caught:
        load_config(path, "sft")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "judge must be keys and values, got 5",
        "unknown key 'muon_lrr'; did you mean 'muon_lr'?",
        "training: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
    ]
    with pytest.raises(ConfigError, match=r"^o: 2 faults"):
        make_config({**BASE, "limit": 0, "rewards": {"depth": 0}}, "sft", where="o")


def test_settings_made_in_python_are_checked_before_they_reach_trl() -> None:
    made = TrainSettings(model="m", data="d", output="o", training={"learning_rat": 1})
    with pytest.raises(ConfigError, match=r"^training: unknown key 'learning_rat'; did you mean 'learning_rate'"):
        trainer_arguments(made, "sft", {})
    with pytest.raises(ConfigError, match=r"^prefix_sharing is a setting of GRPO-SIF"):
        trainer_arguments(TrainSettings(model="m", data="d", output="o", prefix_sharing="auto"), "sft", {})


def test_runs_of_earlier_versions_have_the_same_identity() -> None:
    """What version 0.1 wrote into run.json for these settings."""
    values = {
        **BASE, "limit": 5, "dtype": "bfloat16", "freeze": "visual",
        "lora": {"r": 4, "dropout": 0.05, "target": ["q_proj", "v_proj"]}, "rewards": {"depth": 0, "answer": 0.5},
        "reward_terms": {"correction": False}, "judge": {"base_url": "http://x/v1", "model": "q"}, "prefix_sharing": False,
        "training": {"learning_rate": "1e-5", "max_steps": "1e2", "save_strategy": False},
    }  # fmt: skip
    assert make_config(values, "grpo").identity() == {
        "model": "m", "data": "d", "output": "o", "limit": 5, "dtype": "bfloat16", "freeze": ["visual"],
        "lora": {"r": 4, "alpha": 16, "dropout": 0.05, "target": ["q_proj", "v_proj"]},
        "rewards": {"format": 1.0, "answer": 0.5, "grounding": 1.0},
        "reward_terms": {"progress": True, "correction": "off", "denominator": "max", "depth_repeats": False},
        "judge": {
            "base_url": "http://x/v1", "model": "q", "api_key_env": "OPENAI_API_KEY", "timeout_s": 30.0, "retries": 3,
            "concurrency": 32, "cache": None,
        },
        "prefix_sharing": "off", "answers_only": False,
        "training": {"learning_rate": 1e-05, "max_steps": 100, "save_strategy": "no"},
    }  # fmt: skip
    assert make_config(BASE, "sft").identity() == {
        **BASE, "dtype": "float32", "freeze": [], "rewards": dict.fromkeys(("format", "answer", "grounding", "depth"), 1.0),
        "reward_terms": {"progress": True, "correction": "own", "denominator": "max", "depth_repeats": False},
        "prefix_sharing": "auto", "answers_only": False, "training": {},
    }  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_read(path: Path) -> None:
    made = load_config(path, "grpo" if "grpo" in path.stem else "sft")
    assert TrainSettings.from_values(made.to_dict()) == made


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("max_steps:", "training.max_steps has no value; leave the key out, or write one"),
        ("lr_scheduler_type:", "training.lr_scheduler_type has no value; leave the key out, or write one"),
    ],
)
def test_a_field_of_trls_without_a_value(tmp_path: Path, training: str, words: str) -> None:
    path = write(tmp_path, f"model: m\ndata: d\noutput: o\ntraining:\n  {training}\n")
    with pytest.raises(ConfigError, match=words):
        load_config(path, "sft")
    assert make_config({**BASE, "training": {"run_name": None}}, "sft").training == {"run_name": None}


@pytest.mark.parametrize(
    ("override", "meant"), [("eval_dat=x", "eval_data"), ("dat=x", "data"), ("max_step=1", "max_steps")]
)
def test_an_override_is_held_against_our_keys_too(tmp_path: Path, override: str, meant: str) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\n")
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        load_config(path, "sft", [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--rewards.dept=0"], "--rewards.dept: unknown key 'dept'; did you mean 'depth'?"),
        (["rewards.dept=0"], "override rewards.dept: unknown key 'dept'; did you mean 'depth'?"),
        (["--lerning-rate=1"], "--lerning-rate: unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        (["--reward_terms.correction=of"], "--reward_terms.correction must be one of own, group, off, got 'of'"),
        (["--max_steps=many"], "--max_steps must be a whole number, got 'many'"),
        (["--lora={rank: 4}"], "--lora: unknown key 'rank'; known keys are alpha, dropout, r, target"),
        (["--lora={r: 0}"], "--lora: r must be a positive whole number, got 0"),
        (["--answers_only=true"], "--answers_only is a setting of SFT, and this is a GRPO-SIF run; leave it out"),
        (["--dtype=float32", "--sample=5"], "{} with --sample: limit and sample both choose examples; remove one of them"),
        (
            ["--muon_lr=1", "--rewards.dept=0", "--max_step=1"],
            "4 faults\n  {}: lora: unknown key 'rank'; known keys are alpha, dropout, r, target\n"
            "  --rewards.dept: unknown key 'dept'; did you mean 'depth'?\n"
            "  --max_step: unknown key 'max_step'; did you mean 'max_steps'?\n"
            "  {}: training.bf16 must be true or false, got 3",
        ),
    ],
)
def test_a_fault_of_an_override_names_the_override_and_not_the_file(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    faulty = "lora: {rank: 1}\ntraining: {bf16: 3}\n" if len(overrides) > 2 else ""
    path = write(tmp_path, f"model: m\ndata: d\noutput: o\nlimit: 4\n{faulty}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, "grpo", overrides)
    shown = str(caught.value).splitlines()
    assert sorted(shown) == sorted(message.replace("{}", str(path)).splitlines())
    assert shown[0] == message.replace("{}", str(path)).splitlines()[0]


def test_nothing_like_an_override_names_few(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, "sft", ["qqqq=x"])
    assert str(caught.value).count(",") == 2


def test_a_field_of_trls_beside_training(tmp_path: Path) -> None:
    path = write(tmp_path, "model: m\ndata: d\noutput: o\nmax_steps: 5\n")
    with pytest.raises(ConfigError, match=r"max_steps belongs under `training:`"):
        load_config(path, "sft")


def test_stages_have_two_names() -> None:
    made = TrainSettings.from_values(BASE)
    for stage in ("SFT", "dpo"):
        with pytest.raises(ConfigError, match=f"stage must be sft or grpo, got '{stage}'"):
            train(made, stage)
        with pytest.raises(ConfigError, match="stage must be"):
            made.for_stage(stage)
    with pytest.raises(ConfigError, match=r"expected TrainSettings, got dict"):
        train(BASE, "sft")


def test_the_judge_is_asked_as_its_settings_say() -> None:
    settings = JudgeSettings(base_url="http://x/v1", model="q", retries=7, timeout_s=9, api_key_env="NO_SUCH_KEY")
    asked = open_endpoint(settings)
    assert (asked.model, asked.max_retries, asked.timeout_s, asked.concurrency) == ("q", 7, 9, 32)


class TestActivationCheckpointing:
    """`gradient_checkpointing` is what everybody writes; transformers 5.23 calls it `activation_checkpointing`."""

    @pytest.mark.parametrize("stage", ["sft", "grpo"])
    @pytest.mark.parametrize("wanted", [True, False])
    def test_the_name_that_everybody_writes_is_heard(self, stage: str, wanted: bool) -> None:
        training = {"gradient_checkpointing": wanted, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
        made = trainer_arguments(make_config({**BASE, "training": training}, stage), stage, {}, on_gpu=not wanted)
        assert made.activation_checkpointing is made.gradient_checkpointing is wanted
        assert made.activation_checkpointing_kwargs == {"use_reentrant": True}

    def test_without_a_word_a_gpu_recomputes_and_a_cpu_does_not(self) -> None:
        config = make_config(BASE, "sft")
        assert trainer_arguments(config, "sft", {}, on_gpu=True).activation_checkpointing
        assert not trainer_arguments(config, "sft", {}, on_gpu=False).activation_checkpointing

    def test_both_names_with_different_values(self) -> None:
        training = {"gradient_checkpointing": True, "activation_checkpointing": False}
        with pytest.raises(ConfigError, match=r"is True and training\.activation_checkpointing is False"):
            make_config({**BASE, "training": training}, "sft")
        same = {"gradient_checkpointing": True, "activation_checkpointing": True}
        assert trainer_arguments(make_config({**BASE, "training": same}, "sft"), "sft", {}).activation_checkpointing


class TestPlanningForAGpu:
    def test_needs_none_here(self) -> None:
        training = {"bf16": True, "tf32": True}
        made = trainer_arguments(make_config({**BASE, "training": training}, "grpo"), "grpo", {}, on_gpu=True)
        assert made.bf16

    def test_not_of_a_run_for_a_cpu(self) -> None:
        config = make_config({**BASE, "training": {"use_cpu": True}}, "sft")
        with pytest.raises(ConfigError, match="plan without --gpu"):
            trainer_arguments(config, "sft", {}, on_gpu=True)
        assert trainer_arguments(config, "sft", {}).use_cpu


class TestVLLM:
    """What TRL would hand to vLLM so that prompts and images no longer fit is refused before anything is loaded."""

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"training": {"use_vllm": True}}, "training.vllm_mode must be 'server', got 'colocate': .* Set it to server"),
            (
                {"training": {"use_vllm": True, "vllm_mode": "colocate"}},
                "training.vllm_mode must be 'server', got 'colocate'",
            ),
            (
                {"max_pixels": 262_144, "training": {"use_vllm": True, "vllm_mode": "server"}},
                "max_pixels 262,144 has no effect on vLLM.* Leave max_pixels out",
            ),
        ],
    )
    def test_combinations_that_images_do_not_survive(self, settings: dict, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            make_config({**BASE, **settings}, "grpo")

    SERVED = {"training": {"use_vllm": True, "vllm_mode": "server"}}

    @pytest.mark.parametrize(
        ("kind", "why"), [("llava", "under names that vLLM does not know"), ("internvl", "this type was not tested")]
    )
    def test_families_that_vllm_is_not_expected_to_sample(
        self, kind: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where a run is planned, for a machine that has vLLM; before data or weights are read."""
        from sifthinker.training.grpo import grpo_trainer
        from sifthinker.training.plan import make_plan

        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        config = make_config({**BASE, "model": str(tmp_path), **self.SERVED, "output": str(tmp_path / "o")}, "grpo")
        for start in (grpo_trainer, lambda config: make_plan(config, "grpo", {})):
            with pytest.raises(ConfigError, match=f"use_vllm: expected .*qwen2_5_vl.* is of type {kind}, .*{why}"):
                start(config)
        check_vllm(config.replace(training={}))

    @pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
    def test_a_vllm_that_is_not_there(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """TRL would say `pip install trl[vllm]`, which brings a transformers that ours does not run with."""
        from sifthinker.training.grpo import grpo_trainer

        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        config = make_config({**BASE, "model": str(tmp_path), **self.SERVED, "output": str(tmp_path / "o")}, "grpo")
        monkeypatch.setattr("sifthinker.training.settings.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"vLLM is not installed here.*pip install --no-deps vllm"):
            grpo_trainer(config)
        check_vllm(config, here=False)
        monkeypatch.setattr("sifthinker.training.settings.find_spec", lambda name: name)
        check_vllm(config)

    @pytest.mark.parametrize("settings", [{"training": {"use_vllm": True, "vllm_mode": "server"}}, {"max_pixels": 9}])
    def test_others_are_taken(self, settings: dict) -> None:
        make_config({**BASE, **settings}, "grpo")


@pytest.mark.parametrize(
    ("capability", "said", "bf16"),
    [("AVX2", {}, False), ("AVX512", {}, True), ("AVX2", {"bf16": True}, True), ("AVX2", {"fp16": True}, False)],
)
def test_without_fast_bfloat16_a_cpu_trains_in_float32(
    capability: str, said: dict[str, bool], bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    config = make_config({**BASE, "output": str(tmp_path), "training": said}, "sft")
    assert trainer_arguments(config, "sft", {}).bf16 is bf16
    if not said:
        assert trainer_arguments(config, "sft", {}, on_gpu=True).bf16
