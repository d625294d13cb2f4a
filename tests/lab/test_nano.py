from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.models import freeze, load_model, load_processor
from sifthinker.prompts import user_prompt
from sifthinker.records import read_examples

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def processor(nano: Path) -> object:
    return load_processor(nano)


def test_it_loads_like_any_other_model(nano: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert type(AutoProcessor.from_pretrained(nano)).__name__ == "LlavaProcessor"
    assert type(AutoModelForImageTextToText.from_pretrained(nano)).__name__ == "LlavaForConditionalGeneration"
    assert sorted(path.name for path in nano.glob("*.safetensors")) == ["model.safetensors"]


def test_the_tokenizer_undoes_itself_on_chains_and_on_anything(processor: object, world_chains: Path) -> None:
    tokenizer = processor.tokenizer
    texts = [example.chain for example in read_examples(world_chains)]
    texts += ["Fallen leaves — ünïcode 漢字 \t\n <area>[{", "0.123 1.00 12.5 0.999", user_prompt("Why?", with_depth=False)]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_syntax_and_prompt_are_single_tokens(processor: object) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("0.37") == ["0.37"]
    assert tokenizer.tokenize('</text>\n<area>[{"bbox_2d":[0.10,0.20') == [
        "</text>\n<area>",
        '[{"bbox_2d":[',
        "0.10",
        ",",
        "0.20",
    ]
    assert len(tokenizer.tokenize(user_prompt("Which?"))) <= 5
    for word in (" red", " cylinder", " camera", " nearer"):
        assert len(tokenizer.tokenize(word)) == 1


def test_the_tokenizer_is_the_same_every_time(processor: object) -> None:
    from sifthinker.lab.nano import build_tokenizer

    assert build_tokenizer().get_vocab() == processor.tokenizer.get_vocab()


def test_weights_follow_the_seed(processor: object) -> None:
    from sifthinker.lab.nano import build_model

    shape = {"width": 32, "vision_layers": 1, "text_layers": 1}
    first, again, other = (build_model(processor, seed=seed, **shape) for seed in (0, 0, 1))
    weights = [model.get_input_embeddings().weight for model in (first, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_two_images_are_thirty_two_tokens(processor: object) -> None:
    from PIL import Image

    image = Image.new("RGB", (100, 80))
    inputs = processor(text=["<image><image>?"], images=[[image, image.convert("L")]], return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 32


def test_freeze_names_what_is_not_there(nano: Path) -> None:
    from sifthinker.errors import ModelError

    model = load_model(nano)
    frozen = freeze(model, ("vision_tower",))
    assert any("patch_embedding" in name for name in frozen)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "vision_tower" in name)
    with pytest.raises(ModelError, match="visual"):
        freeze(model, ("visual",))
