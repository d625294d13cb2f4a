"""Loading, asking, freezing and merging models, with a tiny random one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.errors import ModelError
from sifthinker.models import (
    complete,
    freeze,
    load_for_inference,
    load_model,
    load_processor,
    merge_adapter,
    model_source,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

IMAGE = Image.new("RGB", (40, 30), (200, 60, 60))
MATRIX = r".*language_model.*layers\.0\.mlp\.down_proj"


@pytest.fixture(scope="module")
def loaded(tiny_vlm: Path) -> tuple[Any, Any]:
    return load_for_inference(tiny_vlm, device="cpu")


@contextmanager
def wanting(model: Any, wanted: Callable[[int], int | None]) -> Iterator[None]:
    """Let a model want nothing but one token: (number of the step from 0) → the token, or None for its own mind."""
    step = -1

    def changed(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal step
        step += 1
        token = wanted(step)
        return logits if token is None else logits.index_fill(-1, torch.tensor([token]), 1e4)

    hook = model.lm_head.register_forward_hook(changed)
    try:
        yield
    finally:
        hook.remove()


def asked(*questions: str) -> tuple[list[Any], list[list[Image.Image]]]:
    """Conversations about one image each."""
    talks = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in questions]
    return talks, [[IMAGE]] * len(questions)


class TestComplete:
    def test_an_end_is_told_and_counted(self, loaded: tuple[Any, Any]) -> None:
        model, processor = loaded
        end, (word,) = processor.tokenizer.eos_token_id, processor.tokenizer(" red")["input_ids"]
        with wanting(model, lambda step: end if step == 2 else word):
            (found,) = complete(model, processor, *asked("What?"), max_new_tokens=9)
        # Two words and the end.
        assert (found.text, found.ended, found.new_tokens) == ("red red", True, 3)

    def test_running_out_of_tokens_is_no_end(self, loaded: tuple[Any, Any]) -> None:
        model, processor = loaded
        (word,) = processor.tokenizer(" red")["input_ids"]
        with wanting(model, lambda step: word):
            (found,) = complete(model, processor, *asked("What?"), max_new_tokens=4)
        assert (found.text, found.ended, found.new_tokens) == ("red red red red", False, 4)

    def test_prompts_are_counted_without_their_padding(self, loaded: tuple[Any, Any]) -> None:
        model, processor = loaded
        long, short = "Which of all the red objects is nearer to the camera?", "What?"
        together = complete(model, processor, *asked(long, short), max_new_tokens=2)
        alone = [complete(model, processor, *asked(text), max_new_tokens=2)[0] for text in (long, short)]
        assert [found.prompt_tokens for found in together] == [found.prompt_tokens for found in alone]
        assert together[0].prompt_tokens > together[1].prompt_tokens > 16  # an image is 16

    def test_it_is_greedy_unless_told_otherwise(self, loaded: tuple[Any, Any]) -> None:
        model, processor = loaded

        def said(**sampling: Any) -> list[str]:
            return [complete(model, processor, *asked("What?"), max_new_tokens=12, **sampling)[0].text for _ in range(4)]

        model.generation_config.do_sample, model.generation_config.temperature = True, 9.0
        try:
            assert len(set(said())) == 1
            assert len(set(said(do_sample=True))) > 1
        finally:
            model.generation_config.do_sample, model.generation_config.temperature = False, 1.0

    def test_a_models_own_placeholders_are_never_written(
        self, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, processor = loaded
        written: list[torch.Tensor] = []
        generate = model.generate
        monkeypatch.setattr(model, "generate", lambda **given: written.append(generate(**given)) or written[-1])
        with wanting(model, lambda step: model.config.image_token_id):
            (found,) = complete(model, processor, *asked("What?"), max_new_tokens=5)
        assert model.config.image_token_id not in written[0][0, found.prompt_tokens :]

    def test_pixels_are_of_the_models_kind(self, tiny_vlm: Path) -> None:
        model, processor = load_for_inference(tiny_vlm, device="cpu", dtype="bfloat16")
        seen = []
        model.model.vision_tower.register_forward_pre_hook(
            lambda module, given, named: seen.append(named.get("pixel_values", given[0] if given else None).dtype),
            with_kwargs=True,
        )
        complete(model, processor, *asked("What?"), max_new_tokens=2)
        assert seen == [torch.bfloat16]


class TestLoading:
    def test_weights_are_safetensors_alone(self, tiny_vlm: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_vlm, tmp_path / "model")
        torch.save(load_model(tiny_vlm).state_dict(), tmp_path / "model" / "pytorch_model.bin")
        assert load_model(tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="cannot load the model"):
            load_model(tmp_path / "model")

    def test_a_language_model_has_no_processor_for_images(self, tiny_vlm: Path, tmp_path: Path) -> None:
        load_processor(tiny_vlm).tokenizer.save_pretrained(tmp_path)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        del settings["processor_class"]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(ModelError, match="got one without a processor for images and text"):
            load_processor(tmp_path)

    def test_prompts_are_padded_on_the_left_whatever_a_tokenizer_was_saved_with(
        self, tiny_vlm: Path, tmp_path: Path
    ) -> None:
        processor = load_processor(tiny_vlm)
        processor.tokenizer.padding_side = "right"
        processor.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_bytes((tiny_vlm / "config.json").read_bytes())
        assert load_processor(tmp_path).tokenizer.padding_side == "left"

    def test_a_family_that_cannot_be_used_is_refused_before_its_weights_are_read(
        self, real_model: Callable[[str], Path], tmp_path: Path
    ) -> None:
        shutil.copytree(real_model("paligemma"), tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"model: PaliGemma has no chat template.*Use a model of another family"):
            load_for_inference(tmp_path / "model")

    def test_a_model_without_chat_template_is_refused(self, real_model: Callable[[str], Path], tmp_path: Path) -> None:
        shutil.copytree(real_model("gemma3"), tmp_path / "model")
        (tmp_path / "model" / "chat_template.jinja").unlink()
        with pytest.raises(ModelError, match=r"no chat template.*Put chat_template\.jinja into the model folder"):
            load_processor(tmp_path / "model")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("runs/sft", "no such model folder"),
            ("./sft/last", "no such model folder"),
            ("/none/model", "no such model folder"),
            ("~/none", "no such model folder"),
            ("a/b/c", "no such model folder"),
            ("model", "no such model folder"),
            ("empty", "config.json is missing"),
            ("file.bin", "no such model folder"),
        ],
    )
    def test_what_is_no_model_is_not_looked_for_on_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "file.bin").write_bytes(b"")
        with pytest.raises(ModelError, match=words):
            model_source(name)

    def test_names_of_the_hub_are_left_as_they_are(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert model_source("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_part_to_freeze_is_a_whole_name(tiny_vlm: Path) -> None:
    model = load_model(tiny_vlm)
    with pytest.raises(ModelError, match="no parameter has 'vision' in its path"):
        freeze(model, ("vision",))
    frozen = freeze(model, ("vision_tower",))
    assert frozen == sorted(name for name, _ in model.named_parameters() if "vision_tower" in name.split("."))
    assert all(parameter.requires_grad != (name in frozen) for name, parameter in model.named_parameters())


def learn(model: Any, processor: Any) -> None:
    """Give a model's parameters the gradients of one text about one image."""
    (talk,), images = asked("What?")
    prompt = processor.apply_chat_template(talk, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=images, return_tensors="pt")
    model(**inputs, labels=inputs["input_ids"]).loss.backward()


@pytest.mark.parametrize(
    ("family", "layer", "used"),
    [("llava", -1, 3), ("llava", -2, 2), ("llava", 1, 1), ("llava", [-3, -2], 2), ("llava_next", -2, 2), ("internvl", -1, 2),
     ("internvl", -2, 1), ("llava_onevision", -1, 2), ("gemma3", None, 2)],
)  # fmt: skip
def test_just_what_no_loss_can_reach_is_frozen_unasked(
    family: str, layer: Any, used: int, real_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """With two or three layers in the tower, those after the chosen one learn nothing, nor does the norm at its end."""
    shutil.copytree(real_model(family), tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    if layer is not None:
        settings["vision_feature_layer"] = layer
        # The projector takes the layers side by side.
        ignore = {"ignore_mismatched_sizes": True} if isinstance(layer, list) else {}
        (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    model = load_model(tmp_path / "model", **(ignore if layer is not None else {}))
    frozen = freeze(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    learn(model, load_processor(real_model(family)))
    without = sorted(
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    )
    assert without == frozen
    layers = {int(found[1]) for name in frozen if (found := re.search(r"vision_tower.*layers?\.(\d+)\.", name))}
    depth = settings["vision_config"]["num_hidden_layers"]
    assert layers == set(range(used, depth))


def test_a_pooling_head_is_frozen(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(real_model("gemma3"), tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    settings["vision_config"]["vision_use_head"] = True
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    frozen = freeze(load_model(tmp_path / "model"))
    assert frozen
    assert all("vision_tower.head." in name for name in frozen)


class TestMerging:
    @pytest.fixture
    def adapter(self, tiny_vlm: Path, tmp_path: Path) -> Path:
        """An adapter that adds 1 to one matrix, whose base is no longer where it was."""
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(load_model(tiny_vlm), peft.LoraConfig(r=1, lora_alpha=1, target_modules=MATRIX))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.ones_(parameter)
        folder = tmp_path / "adapter"
        model.save_pretrained(folder)
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "./gone"}))
        return folder

    def test_into_another_base(self, tiny_vlm: Path, adapter: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="gone: no such model folder"):
            merge_adapter(adapter, tmp_path / "none")
        merge_adapter(adapter, tmp_path / "merged", base=str(tiny_vlm))
        before, after = (dict(load_model(folder).named_parameters()) for folder in (tiny_vlm, tmp_path / "merged"))
        (moved,) = (name for name in before if not torch.equal(before[name], after[name]))
        assert moved.endswith("layers.0.mlp.down_proj.weight")
        torch.testing.assert_close(after[moved], before[moved] + 1)

    def test_its_own_processor_is_kept(self, tiny_vlm: Path, adapter: Path, tmp_path: Path) -> None:
        processor = load_processor(tiny_vlm)
        processor.chat_template = "changed"
        processor.save_pretrained(adapter)
        merge_adapter(adapter, tmp_path / "merged", base=str(tiny_vlm))
        assert load_processor(tmp_path / "merged").chat_template == "changed"

    def test_half_an_adapter(self, adapter: Path, tmp_path: Path) -> None:
        (adapter / "adapter_model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
            merge_adapter(adapter, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
