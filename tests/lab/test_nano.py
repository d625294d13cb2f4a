from __future__ import annotations

import shutil
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


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_its_weights_have_the_names_of_published_checkpoints(nano: Path) -> None:
    """vLLM knows no others."""
    prefixes = {name.split(".layers.")[0] for name in tensors(nano) if ".layers." in name}
    assert prefixes == {"vision_tower.vision_model.encoder", "language_model.model"}
    others = ("vision_tower.vision_model.", "language_model.model.", "multi_modal_projector.")
    assert [name for name in tensors(nano) if not name.startswith(others)] == []


def unpublished(folder: Path, out: Path) -> Path:
    """A nano as it was saved before its weights had published names."""
    from safetensors.torch import save_file

    shutil.copytree(folder, out)
    weights = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in tensors(folder).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_one_saved_under_other_names_loads_and_is_packed_under_these(nano: Path, tmp_path: Path) -> None:
    from sifthinker.lab.nano import pack

    old = unpublished(nano, tmp_path / "old")
    before, after = load_model(nano).state_dict(), load_model(old).state_dict()
    assert all(before[name].equal(after[name]) for name in before)
    for source in (nano, old):
        pack(source, tmp_path / "packed")
        packed = tensors(tmp_path / "packed")
        assert packed.keys() == tensors(nano).keys()
        assert all(value.equal(tensors(nano)[name].bfloat16()) for name, value in packed.items())


def test_runs_from_the_shipped_model_under_its_old_names_go_on(tmp_path: Path) -> None:
    """Nothing but names has changed, so a run or an evaluation that was begun before is still the same one."""
    from sifthinker.embedded import EMBEDDED
    from sifthinker.fingerprint import model_fingerprint

    old = unpublished(EMBEDDED["nano"].folder, tmp_path / "old")
    assert model_fingerprint(old) == model_fingerprint("nano")


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
