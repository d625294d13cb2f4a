"""Packed groups against TRL's own padded batch: the same log-probabilities, entropies and gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from trl import GRPOTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from sifthinker.models import freeze, load_model, load_processor  # noqa: E402
from sifthinker.training.image_rows import image_counts, told_image_counts  # noqa: E402
from sifthinker.training.prefix import (  # noqa: E402
    SHARING,
    best_size,
    block_mask,
    ends_in_image,
    shared_generate,
    shared_log_probs,
    why_not_shared,
)

from ..real_models import NEED_TORCHVISION, write_real_model  # noqa: E402
from .real_batch import pixtral_batch, real_batch  # noqa: E402

FEW = ("llava", "qwen2_5_vl", "smolvlm")  # for what does not depend on the layout of images

Batch = tuple[torch.Tensor, torch.Tensor, int, dict[str, Any]]


class Family:
    """A tiny random model of a family, and batches of its own processor."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder

    def model(self, attention: str = "sdpa") -> Any:
        """In single precision and training mode, with TRL's fused head."""
        model = load_model(self.folder, dtype="float32", attn_implementation=attention).train()
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        return model

    def batch(self, **shape: int) -> Batch:
        """See `real_batch`."""
        if self.name in NEED_TORCHVISION and find_spec("torchvision") is None:
            return pixtral_batch(self.model().config, **shape)
        return real_batch(load_processor(self.folder), **shape)


@pytest.fixture(scope="module")
def whole_attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mistral 3 as Mistral Small 3.1 has it: without the sliding window of transformers' default."""
    return write_real_model("mistral3", tmp_path_factory.mktemp("real") / "mistral3", sliding_window=None)


@pytest.fixture
def family(request: pytest.FixtureRequest, real_model: Callable[[str], Path]) -> Family:
    name = request.param
    return Family(name, request.getfixturevalue("whole_attention") if name == "mistral3" else real_model(name))


every_family = pytest.mark.parametrize("family", SHARING, indirect=True)
few_families = pytest.mark.parametrize("family", FEW, indirect=True)


def stock(model: Any, batch: Batch, batch_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's own computation, unbound from its trainer."""
    input_ids, attention_mask, keep, vision = batch
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    compute = (
        GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
    )  # without TRL's profiling, which needs a whole trainer
    told = told_image_counts(model, vision.get("num_images"))
    log_probs, entropies, _ = compute(
        trainer, told, input_ids, attention_mask, keep, batch_size=batch_size, compute_entropy=True, **vision
    )
    mask = attention_mask[:, -keep:]
    return log_probs * mask, entropies * mask


def shared(model: Any, batch: Batch, batch_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids, attention_mask, keep, vision = batch
    return shared_log_probs(model, input_ids, attention_mask, keep, vision=vision, batch_size=batch_size)


def gradients(model: Any, log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a loss in which every token has its own weight, as advantages give it."""
    model.zero_grad()
    weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
    (log_probs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(model: Any, batch: Batch, batch_size: int | None = None) -> None:
    ours, our_entropies = shared(model, batch, batch_size)
    our_gradients = gradients(model, ours)
    theirs, their_entropies = stock(model, batch, batch_size)
    their_gradients = gradients(model, theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(our_entropies, their_entropies, atol=1e-5, rtol=0)
    assert our_gradients.keys() == their_gradients.keys()
    assert our_gradients
    for name, gradient in their_gradients.items():
        difference = (our_gradients[name] - gradient).norm()
        assert difference <= 1e-5 * gradient.norm() + 1e-7, f"{name}: {difference} of {gradient.norm()}"


def adapted(model: Any) -> Any:
    """With LoRA in the language model, everything else frozen, and gradient checkpointing."""
    from peft import LoraConfig, get_peft_model

    tower = next(part for part in ("visual", "vision_tower", "vision_model") if f"model.{part}." in str(names(model)))
    freeze(model, (tower,))
    layers = r".*(language|text)_model\.layers.*(q|k|v|o|gate|up|gate_up|down)_proj"
    model = get_peft_model(model, LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first: then the adapters would do nothing and half the gradients vanish
            torch.nn.init.normal_(parameter, std=0.1)
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy"))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@every_family
class TestEveryFamily:
    """Two images of different sizes a prompt, prompts and completions of unequal length."""

    def test_full_training(self, family: Family) -> None:
        compare(family.model(), family.batch())

    def test_adapters_with_a_frozen_tower_and_gradient_checkpointing(self, family: Family) -> None:
        model = adapted(family.model())
        compare(model, family.batch())
        assert all("lora" in name for name, p in model.named_parameters() if p.grad is not None)

    def test_sub_groups_of_three_prompts(self, family: Family) -> None:
        compare(family.model(), family.batch(prompts=3, group=4, longest=6, seed=1), batch_size=3)

    def test_the_images_of_each_prompt_are_computed_once(self, family: Family) -> None:
        model, batch = family.model(), family.batch(prompts=2, group=4)
        image, seen = model.config.image_token_id, []
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(lambda _, inputs, output: seen.append(int((inputs[0] == image).sum())))
        shared(model, batch)
        packed = sum(seen)
        seen.clear()
        stock(model, batch)
        hook.remove()
        assert packed > 0
        assert sum(seen) == 4 * packed

    def test_the_same_words_about_other_images_are_not_shared(self, family: Family) -> None:
        model, (ids, mask, keep, vision) = family.model(), family.batch(prompts=1, group=4)
        other = dict(vision)
        pixels = vision["pixel_values"].clone()
        pixels[len(pixels) // 2 :] *= -1
        other["pixel_values"] = pixels
        compare(model, (ids, mask, keep, other))
        with torch.no_grad():
            before, after = (shared(model, (ids, mask, keep, given))[0] for given in (vision, other))
        assert (before[:2] - after[:2]).abs().max() < 1e-5
        assert (before[2:] - after[2:]).abs().max() > 1e-4

    def test_greedy_completions_are_those_of_a_padded_batch(self, family: Family) -> None:
        ours, theirs = sampled_both_ways(family, prompts=3, group=3)
        assert ours.tolist() == theirs.tolist()


@few_families
class TestOneOfEachKind:
    def test_eager_attention(self, family: Family) -> None:
        compare(family.model("eager"), family.batch())

    @pytest.mark.parametrize("batch_size", [1, 4, 5])
    def test_sub_groups(self, family: Family, batch_size: int) -> None:
        compare(family.model(), family.batch(), batch_size)

    @pytest.mark.parametrize("seed", range(3))
    def test_other_shapes(self, family: Family, seed: int) -> None:
        compare(family.model(), family.batch(prompts=1 + seed, group=1 + 3 * seed, longest=1 + 5 * seed, seed=seed))

    def test_completions_that_are_masked_out(self, family: Family) -> None:
        input_ids, attention_mask, keep, vision = family.batch()
        attention_mask[2, -keep:] = 0  # TRL masks truncated completions whole
        compare(family.model(), (input_ids, attention_mask, keep, vision))

    def test_bf16(self, family: Family) -> None:
        model, (input_ids, attention_mask, keep, vision) = family.model(), family.batch()
        exact, _ = stock(model, (input_ids, attention_mask, keep, vision))
        vision["pixel_values"] = vision["pixel_values"].to(torch.bfloat16)
        ours, _ = shared(model.to(torch.bfloat16), (input_ids, attention_mask, keep, vision))
        assert (ours.float() - exact).abs().max() < 0.1

    def test_a_second_batch_is_not_misled_by_the_first(self, family: Family) -> None:
        model = family.model()
        sampled_both_ways(family, model, prompts=1, group=2, seed=2)
        ours, theirs = sampled_both_ways(family, model, prompts=2, group=4, seed=1)
        assert ours.tolist() == theirs.tolist()

    def test_each_prompt_is_prefilled_once(self, family: Family) -> None:
        from transformers import GenerationConfig

        model = family.model().eval()
        ids, mask, vision = prompts_of(family.batch(prompts=2, group=4))
        seen: list[int] = []
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
        config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=True, pad_token_id=0)
        shared_generate(model, ids, mask, vision=vision, generation_config=config)
        # Two prompts without their last tokens, then a token a row and step.
        assert seen == [2 * (ids.size(1) - 1), 8, 8, 8]


def prompts_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """A batch without its completions."""
    ids, mask, keep, vision = batch
    cut = {name: value[:, :-keep] if name.endswith("token_type_ids") else value for name, value in vision.items()}
    return ids[:, :-keep], mask[:, :-keep], cut


def sampled_both_ways(family: Family, model: Any = None, **shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of shared and of plain generation, whose logits are compared here: a tiny random model's greedy choice
    notices little."""
    from transformers import GenerationConfig

    model = (model or family.model()).eval()
    ids, mask, vision = prompts_of(family.batch(**shape))
    assert mask.all() == (shape["prompts"] == 1)  # several prompts are of several lengths, padded on the left
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0, suppress_tokens=[model.config.image_token_id]
    )
    logits: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output[:, -1]))
    ours = shared_generate(model, ids, mask, vision=vision, generation_config=config)
    arguments = {name: value for name, value in vision.items() if name not in ("num_images", "num_tiles")}
    arguments |= image_counts(model, vision["num_images"])
    theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **arguments)
    hook.remove()
    del logits[0]  # of the shared prompts without their last token
    steps = len(logits) // 2
    torch.testing.assert_close(torch.stack(logits[:steps]), torch.stack(logits[steps:]), atol=1e-5, rtol=0)
    return ours, theirs


@pytest.mark.parametrize(
    ("prompt", "completion", "group", "width", "size"),
    [
        # 566 + 8 · 200 tokens beside a width of 256: one row costs 2165 · (1 + 2165 / 2048) = 4454, two cost
        # 2 · 1365 · (1 + 1365 / 2048) = 4550.
        (566, 200, 8, 256, 8),
        (566, 800, 8, 256, 2),  # four rows of 2165: 17,814; one of 6965: 30,652; eight of 1365: 18,199
        (566, 800, 8, 4096, 4),  # a wide model's matrices weigh more: two rows of 3765
        (2, 100, 8, 64, 1),  # next to nothing to share
        (50, 130, 1, 192, 1),
    ],
)
def test_groups_are_cut_where_attention_outweighs_the_prompt(
    prompt: int, completion: float, group: int, width: int, size: int
) -> None:
    assert best_size(prompt, completion, group, width) == size


def test_groups_are_cut_less_where_images_would_be_computed_again() -> None:
    # As above, each part with images like 2,000 tokens: four parts 17,814 + 8,000, two 21,374 + 4,000.
    assert best_size(566, 800, 8, 256, images=2000) == 4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"], indirect=True)
def test_images_cost_what_their_patches_meet_in_the_tower(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    from sifthinker.training import prefix

    asked: list[float] = []
    monkeypatch.setattr(prefix, "best_size", lambda *sizes: asked.append(sizes[-1]) or 1)
    model = family.model()
    shared(model, family.batch(prompts=1, group=2))
    count = {name: p.numel() for name, p in model.model.named_parameters()}
    tower = sum(size for name, size in count.items() if not name.startswith("language_model"))
    language = (
        sum(size for name, size in count.items() if name.startswith("language_model.layers.")) + model.lm_head.in_features
    )
    # Qwen: 80 × 60 and 60 × 90 pixels are 4 · 6 and 6 · 4 patches of 14. InternVL: four tiles of 56, so 4 · 4² patches.
    patches = 48 if family.name == "qwen2_5_vl" else 64
    assert asked == [pytest.approx(patches * tower / language)]


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_prompts_that_end_in_an_image_are_told_apart(family: Family) -> None:
    model = family.model()
    assert not ends_in_image(model, torch.tensor([3, 4]))
    assert ends_in_image(model, torch.tensor([3, model.config.image_token_id]))


@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_text_alone(family: Family) -> None:
    model, (input_ids, attention_mask, keep, _) = family.model(), family.batch()
    input_ids[input_ids == model.config.image_token_id] = 7
    compare(model, (input_ids, attention_mask, keep, {}))


@pytest.mark.parametrize("family", ["llava"], indirect=True)
def test_flex_attention_has_the_same_mask(family: Family) -> None:
    pytest.importorskip("torch.nn.attention.flex_attention")
    segments = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 1, 1, 2, 2, 2]])
    dense = block_mask(family.model(), segments)
    flexible = block_mask(family.model("flex_attention"), segments)
    for row in range(2):
        for query in range(6):
            for key in range(6):
                b, q, k = torch.tensor(row), torch.tensor(query), torch.tensor(key)
                assert bool(flexible.mask_mod(b, 0, q, k)) == bool(dense[row, 0, query, key])
    # By hand: the second completion's token sees the prompt and itself, not the first completion.
    assert dense[0, 0, 4].tolist() == [True, True, False, False, True, False]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"], indirect=True)
def test_flex_attention_gives_the_same_numbers(family: Family) -> None:
    batch = family.batch()
    expected, _ = stock(family.model(), batch)
    model = family.model()
    model.config.get_text_config()._attn_implementation = "flex_attention"  # past a check that refuses it for Qwen-VL
    # Without the compiler, which takes half a minute for the kernel; the mask is the same.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        found, _ = shared(model, batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen3_5", "linear attention, whose state would pass from one completion"),
        ("gemma3", "use a sliding window"),
        ("paligemma", "tokens of a prompt attend to each other in both directions"),
        ("lfm2_vl", "convolutions, which would mix"),
        ("mistral3", "use a sliding window"),  # transformers' default of its language model
    ],
)
def test_a_model_that_cannot_share_says_why(name: str, reason: str, real_model: Callable[[str], Path]) -> None:
    assert reason in str(why_not_shared(load_model(real_model(name))))


def test_a_change_of_a_model_that_shares_says_why_not(real_model: Callable[[str], Path]) -> None:
    def changed(**settings: Any) -> str:
        model = load_model(real_model("qwen2_5_vl"))
        for name, value in settings.items():
            setattr(model.config if name == "model_type" else model.config.get_text_config(), name, value)
        return str(why_not_shared(model))

    assert changed() == "None"
    assert "'unknown' was not tested, only glm4v, idefics3" in changed(model_type="unknown")
    assert "both directions (architecture 'gemma3')" in changed(model_type="gemma3")  # were all its layers full
    assert "sliding window" in changed(layer_types=["sliding_attention", "full_attention"])
    assert "are of the unknown kind 'other'" in changed(layer_types=["other", "full_attention"])
    assert "flash_attention_2" in changed(_attn_implementation="flash_attention_2")
