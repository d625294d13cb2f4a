"""Packed groups against TRL's own padded batch: the same log-probabilities, entropies and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from trl import GRPOTrainer  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from sifthinker.training.prefix import best_size, ends_in_image, shared_log_probs, why_not_shared  # noqa: E402

from .tiny import FAMILIES, IMAGE, tiny_batch, tiny_model  # noqa: E402


def stock(model: Any, batch: tuple, batch_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's own computation, unbound from its trainer."""
    input_ids, attention_mask, keep, vision = batch
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    compute = (
        GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
    )  # without TRL's profiling, which needs a whole trainer
    log_probs, entropies, _ = compute(
        trainer, model, input_ids, attention_mask, keep, batch_size=batch_size, compute_entropy=True, **vision
    )
    mask = attention_mask[:, -keep:]
    return log_probs * mask, entropies * mask


def shared(model: Any, batch: tuple, batch_size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    input_ids, attention_mask, keep, vision = batch
    return shared_log_probs(model, input_ids, attention_mask, keep, vision=vision, batch_size=batch_size)


def with_head(model: Any) -> Any:
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def gradients(model: Any, log_probs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of a loss in which every token has its own weight, as advantages give it."""
    model.zero_grad()
    weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
    (log_probs * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare(model: Any, batch: tuple, batch_size: int | None = None) -> None:
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


@pytest.mark.parametrize("family", FAMILIES)
class TestEquivalence:
    def test_full_training(self, family: str) -> None:
        compare(with_head(tiny_model(family)), tiny_batch(family))

    def test_adapters(self, family: str) -> None:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(tiny_model(family), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at first: then the adapters would do nothing and half the gradients vanish
                torch.nn.init.normal_(parameter, std=0.1)
        add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy"))
        compare(model, tiny_batch(family))

    def test_eager_attention(self, family: str) -> None:
        compare(with_head(tiny_model(family, attention="eager")), tiny_batch(family))

    def test_gradient_checkpointing(self, family: str) -> None:
        model = with_head(tiny_model(family))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        compare(model, tiny_batch(family))

    def test_a_frozen_vision_tower(self, family: str) -> None:
        model = with_head(tiny_model(family))
        for name, parameter in model.named_parameters():
            if "vision_tower" in name or "visual" in name:
                parameter.requires_grad_(False)
        compare(model, tiny_batch(family))

    @pytest.mark.parametrize("batch_size", [1, 3, 4, 5])
    def test_sub_groups(self, family: str, batch_size: int) -> None:
        compare(with_head(tiny_model(family)), tiny_batch(family), batch_size)

    @pytest.mark.parametrize("seed", range(3))
    def test_other_shapes(self, family: str, seed: int) -> None:
        batch = tiny_batch(family, prompts=1 + seed, group=1 + 3 * seed, longest=1 + 5 * seed, seed=seed)
        compare(with_head(tiny_model(family, seed=seed)), batch)

    def test_completions_that_are_masked_out(self, family: str) -> None:
        input_ids, attention_mask, keep, vision = tiny_batch(family)
        attention_mask[2, -keep:] = 0  # TRL masks truncated completions whole
        compare(with_head(tiny_model(family)), (input_ids, attention_mask, keep, vision))

    def test_bf16(self, family: str) -> None:
        model = with_head(tiny_model(family))
        exact, _ = stock(model, tiny_batch(family))
        half = model.to(torch.bfloat16)
        input_ids, attention_mask, keep, vision = tiny_batch(family)
        vision["pixel_values"] = vision["pixel_values"].to(torch.bfloat16)
        ours, _ = shared(half, (input_ids, attention_mask, keep, vision))
        assert (ours.float() - exact).abs().max() < 0.1

    def test_the_prompt_is_computed_once_for_each_group(self, family: str) -> None:
        model = with_head(tiny_model(family))
        batch = tiny_batch(family, prompts=2, group=4)
        seen: list[int] = []
        embeddings = model.get_input_embeddings()
        hook = embeddings.register_forward_hook(lambda module, inputs, output: seen.append(int((inputs[0] == IMAGE).sum())))
        shared(model, batch)
        packed = sum(seen)
        seen.clear()
        stock(model, batch)
        hook.remove()
        assert sum(seen) == 4 * packed


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


def test_the_same_words_about_other_images_are_not_shared() -> None:
    model = with_head(tiny_model("llava"))
    input_ids, attention_mask, keep, vision = tiny_batch("llava", prompts=1, group=4)
    vision["pixel_values"][4:] = torch.randn_like(vision["pixel_values"][4:])  # rows 2 and 3
    vision["pixel_values"][6:] = vision["pixel_values"][4:6]
    compare(model, (input_ids, attention_mask, keep, vision))


def test_prompts_that_end_in_an_image_are_told_apart() -> None:
    model = tiny_model("qwen2_5_vl")
    assert not ends_in_image(model, torch.tensor([3, 4]))
    assert ends_in_image(model, torch.tensor([3, IMAGE]))


def test_text_alone() -> None:
    input_ids, attention_mask, keep, _ = tiny_batch("qwen2_5_vl")
    input_ids[input_ids == IMAGE] = 7
    compare(with_head(tiny_model("qwen2_5_vl")), (input_ids, attention_mask, keep, {}))


def test_flex_attention_has_the_same_mask() -> None:
    pytest.importorskip("torch.nn.attention.flex_attention")
    from sifthinker.training.prefix import block_mask

    segments = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 1, 1, 2, 2, 2]])
    dense = block_mask(tiny_model("llava"), segments)
    flexible = block_mask(tiny_model("llava", attention="flex_attention"), segments)
    for row in range(2):
        for query in range(6):
            for key in range(6):
                b, q, k = torch.tensor(row), torch.tensor(query), torch.tensor(key)
                assert bool(flexible.mask_mod(b, 0, q, k)) == bool(dense[row, 0, query, key])
    # By hand: the second completion's token sees the prompt and itself, not the first completion.
    assert dense[0, 0, 4].tolist() == [True, True, False, False, True, False]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_flex_attention_gives_the_same_numbers(family: str) -> None:
    expected, _ = stock(with_head(tiny_model(family)), tiny_batch(family))
    model = tiny_model(family)
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with torch.no_grad():
        found, _ = shared(with_head(model), tiny_batch(family))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_what_cannot_be_shared_says_why() -> None:
    model = tiny_model("llava")
    assert why_not_shared(model) is None
    model.config.model_type = "gemma3"
    assert "gemma3" in why_not_shared(model)
    windowed = tiny_model("qwen2_5_vl")
    windowed.config.get_text_config().layer_types = ["sliding_attention", "full_attention"]
    assert "sliding" in why_not_shared(windowed)
    flash = tiny_model("qwen2_5_vl")
    flash.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in why_not_shared(flash)


@pytest.mark.parametrize("family", FAMILIES)
class TestGeneration:
    def both(self, family: str, **batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of shared and of plain generation, whose logits are compared here: a tiny random model's greedy choice
        notices little."""
        from transformers import GenerationConfig

        from sifthinker.training.prefix import shared_generate

        model = tiny_model(family).eval()
        input_ids, attention_mask, keep, vision = tiny_batch(family, **batch)
        ids, mask = input_ids[:, :-keep], attention_mask[:, :-keep]
        assert mask.all() == (batch["prompts"] == 1)  # several prompts are of several lengths, padded on the left
        if "mm_token_type_ids" in vision:
            vision["mm_token_type_ids"] = vision["mm_token_type_ids"][:, :-keep]
        config = GenerationConfig(
            max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0, suppress_tokens=[IMAGE]
        )
        logits: list[torch.Tensor] = []
        model.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output[:, -1]))
        ours = shared_generate(model, ids, mask, vision=vision, generation_config=config)
        arguments = {name: value for name, value in vision.items() if name != "num_images"}
        theirs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **arguments)
        steps = len(logits) // 2
        torch.testing.assert_close(torch.stack(logits[:steps]), torch.stack(logits[steps:]), atol=1e-5, rtol=0)
        return ours, theirs

    def test_greedy_completions_are_those_of_a_padded_batch(self, family: str) -> None:
        ours, theirs = self.both(family, prompts=3, group=3)
        assert ours.tolist() == theirs.tolist()

    def test_a_second_batch_is_not_misled_by_the_first(self, family: str) -> None:
        self.both(family, prompts=1, group=2, seed=5)
        ours, theirs = self.both(family, prompts=2, group=4, seed=6)
        assert ours.tolist() == theirs.tolist()

    def test_each_prompt_is_prefilled_once(self, family: str) -> None:
        from transformers import GenerationConfig

        from sifthinker.training.prefix import shared_generate

        model = tiny_model(family).eval()
        input_ids, attention_mask, keep, vision = tiny_batch(family, prompts=2, group=4)
        if "mm_token_type_ids" in vision:
            vision["mm_token_type_ids"] = vision["mm_token_type_ids"][:, :-keep]
        seen: list[int] = []
        embeddings = model.get_input_embeddings()
        embeddings.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
        config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=True, pad_token_id=0)
        shared_generate(model, input_ids[:, :-keep], attention_mask[:, :-keep], vision=vision, generation_config=config)
        # Two prompts without their last tokens, then a token a row and step.
        assert seen == [2 * (input_ids.size(1) - keep - 1), 8, 8, 8]
