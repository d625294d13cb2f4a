"""A chain is trained, scored and read as the model's chat template frames it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from sifthinker.chain import check_chain
from sifthinker.cli.main import main
from sifthinker.errors import ConfigError, ModelError
from sifthinker.models import end_tokens, load_processor, opened_by_template
from sifthinker.records import read_examples
from sifthinker.training.data import gold_completion, missing_end
from sifthinker.training.settings import make_config

pytest.importorskip("trl")

from .test_training import GRPO, SFT

# What templates do: write <think> for the model; the same with a line end, as Qwen's thinking models do; keep only what
# follows a turn's thoughts; write an empty thought, so that the model answers at once.
OPENS = ("{% if add_generation_prompt %}{% endif %}", "{% if add_generation_prompt %}<think>{% endif %}")
OPENS_LINE = (OPENS[0], "{% if add_generation_prompt %}<think>\n{% endif %}")
STRIPS = (
    "{% for part in message['content'] %}{{ part['text'] }}",
    "{% for part in message['content'] %}{{ part['text'].split('</think>')[-1] }}",
)
CLOSED = (OPENS[0], "{% if add_generation_prompt %}<think>\n\n</think>\n\n{% endif %}")


# Write no end of the assistant's turn, as LLaVA-1.5's template does.
ENDLESS = ("{{ eos_token }}", "")


@pytest.fixture
def templated(tiny_vlm: Path, tmp_path: Path) -> Callable[[tuple[str, str]], Path]:
    """A copy of the tiny model whose chat template has one part replaced."""

    def copy(change: tuple[str, str]) -> Path:
        folder = tmp_path / "templated"
        shutil.copytree(tiny_vlm, folder)
        template = folder / "chat_template.jinja"
        text = template.read_text()
        assert change[0] in text
        template.write_text(text.replace(*change, 1))
        return folder

    return copy


@pytest.mark.parametrize(("change", "opened"), [(OPENS, "<think>"), (OPENS_LINE, "<think>\n"), (OPENS[:1] * 2, "")])
def test_what_a_template_opens_belongs_to_the_chain(
    templated: Callable[[tuple[str, str]], Path], chains: Path, tmp_path: Path, change: tuple[str, str], opened: str
) -> None:
    from sifthinker.training.grpo import grpo_trainer

    model = templated(change)
    processor = load_processor(model)
    assert opened_by_template(processor) == opened
    example = next(read_examples(chains))
    gold = gold_completion(example, processor)
    assert check_chain(gold) == []

    config = make_config({"model": model, "data": chains, "output": tmp_path / "run", "training": GRPO}, "grpo")
    trainer = grpo_trainer(config)  # the gold chain earns its rewards, so that the run may begin

    def scores(text: str) -> dict[str, float]:
        """Each reward of a group of four such completions, of which all earn the same."""
        tokens = processor.tokenizer(text + "</s>", add_special_tokens=False)["input_ids"]
        found = trainer._calculate_rewards([row] * 4, [[]] * 4, [[{"role": "assistant", "content": "?"}]] * 4, [tokens] * 4)
        return dict(zip(trainer.reward_func_names, found[0].tolist(), strict=True))

    row = {"prompt": [], "id": "a", "answer": example.answer, "boxes": example.boxes, "depth": example.depth, "choices": ""}
    assert scores(gold.removeprefix(opened))["format_reward"] == 1
    if opened:  # a model that writes the tag again has written a broken chain
        assert scores(gold)["format_reward"] == 0
    else:
        assert scores(gold.removeprefix("<think>"))["format_reward"] == 0


def test_a_thought_that_a_template_closes_again_is_not_opened(templated: Callable[[tuple[str, str]], Path]) -> None:
    assert opened_by_template(load_processor(templated(CLOSED))) == ""


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("change", [STRIPS, CLOSED], ids=["strips", "closed"])
def test_a_template_that_breaks_chains_is_refused_before_the_start(
    templated: Callable[[tuple[str, str]], Path], chains: Path, tmp_path: Path, change: tuple[str, str], stage: str
) -> None:
    from sifthinker.training.grpo import grpo_trainer
    from sifthinker.training.sft import sft_trainer

    training = {**GRPO, "max_completion_length": 260} if stage == "grpo" else SFT
    values = {
        "model": str(templated(change)),
        "data": str(chains),
        "output": str(tmp_path / "run"),
        "training": training,
    }
    with pytest.raises(ConfigError, match="chat template breaks the chain of example"):
        (grpo_trainer if stage == "grpo" else sft_trainer)(make_config(values, stage))
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    told = CliRunner().invoke(main, ["plan", str(tmp_path / "c.yaml"), "--stage", stage])
    assert (told.exit_code, "problem: the model's chat template breaks the chain" in told.stderr) == (2, True)


def test_answers_alone_need_no_template_that_keeps_chains(
    templated: Callable[[tuple[str, str]], Path], chains: Path, tmp_path: Path
) -> None:
    from sifthinker.training.plan import make_plan
    from sifthinker.training.sft import DEFAULTS

    values = {"model": templated(STRIPS), "data": chains, "output": tmp_path / "run", "training": SFT}
    assert "breaks the chain" in make_plan(make_config(values, "sft"), "sft", DEFAULTS).refusals[0]
    assert make_plan(make_config({**values, "answers_only": True}, "sft"), "sft", DEFAULTS).problems == []


@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("change", [ENDLESS, ENDLESS[:1] * 2], ids=["endless", "ended"])
def test_the_end_of_a_turn_is_learnt_whether_or_not_the_template_writes_it(
    templated: Callable[[tuple[str, str]], Path], chains: Path, tmp_path: Path, change: tuple[str, str], answers_only: bool
) -> None:
    from sifthinker.training.sft import sft_trainer

    model = templated(change)
    processor, example = load_processor(model), next(read_examples(chains))
    added = missing_end(example, processor, end_tokens(model, processor))
    assert added == ("</s>" if change == ENDLESS else "")
    values = {"model": model, "data": chains, "output": tmp_path / "run", "training": SFT, "answers_only": answers_only}
    trainer = sft_trainer(make_config(values, "sft"))
    labels = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    learnt = labels[labels >= 0].tolist()
    assert learnt.count(processor.tokenizer.eos_token_id) == 1
    assert learnt[-1] == processor.tokenizer.eos_token_id


def test_ends_are_those_of_the_generation_config_and_the_tokenizer(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vlm, tmp_path / "model")
    processor = load_processor(tiny_vlm)
    end, other = processor.tokenizer.eos_token_id, processor.tokenizer.unk_token_id
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(f'{{"eos_token_id": [{other}, {end}]}}')
    assert end_tokens(tmp_path / "model", processor) == [end, other]
    file.write_text("{}")
    assert end_tokens(tmp_path / "model", processor) == [end]
    file.unlink()
    processor.tokenizer.eos_token = None
    assert end_tokens(tmp_path / "model", processor) == [end]  # the model's own
    with pytest.raises(ModelError, match=r"so its answers would never end; set eos_token_id in generation_config\.json"):
        missing_end(next(read_examples(chains)), processor, [])


def test_a_thinker_puts_the_tag_back(templated: Callable[[tuple[str, str]], Path]) -> None:
    from PIL import Image

    from sifthinker.thinker import Thinker

    thinker = Thinker.load(templated(OPENS_LINE), max_new_tokens=4)
    picture = Image.new("RGB", (64, 64))
    assert thinker.think(picture, "What is there?").text.startswith("<think>\n")
    assert not thinker.think(picture, "What is there?", protocol="direct").text.startswith("<think>")


def test_a_direct_answer_is_what_follows_the_reasoning() -> None:
    from PIL import Image

    from sifthinker.thinker import Thought

    picture = Image.new("RGB", (4, 4))
    assert Thought("?", picture, None, "It looks blue.</think>\n\nblue", protocol="direct").answer == "blue"
    assert Thought("?", picture, None, "It looks blue.</think>", protocol="direct").answer is None
    assert Thought("?", picture, None, "blue", protocol="direct").answer == "blue"
