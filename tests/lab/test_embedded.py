"""The models that the package carries: whole, small, and as good as their cards say."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.embedded import EMBEDDED

pytest.importorskip("torch")


def thinker(name: str):
    from sifthinker.thinker import Thinker

    return Thinker.load(name, max_new_tokens=260)


def stated(name: str) -> dict:
    return json.loads((EMBEDDED[name].folder / "metrics.json").read_text())


@pytest.mark.parametrize("name", EMBEDDED)
class TestFiles:
    def test_it_is_small_and_holds_safetensors_alone(self, name: str) -> None:
        folder = EMBEDDED[name].folder
        assert sum(file.stat().st_size for file in folder.iterdir()) < 12 * 2**20
        assert [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pkl")] == []
        assert (folder / "model.safetensors").stat().st_size > 2**20

    def test_its_card_names_its_weights_and_numbers(self, name: str) -> None:
        folder = EMBEDDED[name].folder
        text = (folder / "README.md").read_text()
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in text
        for results in stated(name)["results"].values():
            for result in results.values():
                assert f"| {result['mean']:.3f} | {result['low']:.3f} – {result['high']:.3f} | {result['count']} |" in text

    def test_a_run_knows_which_weights_it_began_with(self, name: str) -> None:
        from sifthinker.fingerprint import model_fingerprint

        assert model_fingerprint(name) == model_fingerprint(EMBEDDED[name].folder) is not None

    def test_it_trains_in_single_precision(self, name: str) -> None:
        from sifthinker.models import load_model

        assert str(load_model(name).dtype) == "torch.float32"

    def test_its_tokenizer_is_the_one_this_version_builds(self, name: str) -> None:
        """Chains made by this version are short for it, and a newly pretrained nano speaks the same language."""
        from sifthinker.lab.nano import build_tokenizer
        from sifthinker.models import load_processor

        assert load_processor(name).tokenizer.get_vocab() == build_tokenizer().get_vocab()


def inside(result, expected: dict, slack: float) -> bool:
    """Whether a measured mean is no worse than the stated one, but for the slack that a smaller sample needs."""
    return bool(result.mean >= expected["mean"] - slack)


class TestSample:
    """A few questions: enough to see a broken checkpoint, tokenizer or image processor."""

    def test_the_base_finds_objects(self) -> None:
        from sifthinker.lab.benchmark import localise

        expected = stated("nano")["results"]["finds objects"]
        for name, result in localise(thinker("nano"), 9).items():
            assert inside(result, expected[name], 0.12), (name, result)

    def test_the_base_answers_above_chance(self) -> None:
        from sifthinker.lab.benchmark import evaluate

        expected = stated("nano")["results"]["answers directly"]["answer accuracy"]
        results, _ = evaluate(thinker("nano"), 108, direct=True, batch_size=54)
        # The standard error of a share over 108 questions is at most 0.05.
        assert inside(results["answer accuracy"], expected, 0.15)
        assert expected["low"] > 0.38  # guessing scores 0.379


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_the_stated_metrics_come_out_again(name: str) -> None:
    """Another machine rounds otherwise, which turns a token here and there."""
    from sifthinker.lab.benchmark import evaluate, localise

    body, model = stated(name), thinker(name)
    found = {"finds objects": localise(model, body["scenes"])}
    found["answers directly"] = evaluate(model, body["questions"], direct=True, batch_size=108)[0]
    assert {title: set(results) for title, results in found.items()} == {
        title: set(results) for title, results in body["results"].items()
    }
    for title, results in found.items():
        for metric, result in results.items():
            assert result.mean == pytest.approx(body["results"][title][metric]["mean"], abs=0.02), (title, metric)


class TestThink:
    """`sif think` with no model named."""

    def sif(self, *words: object):
        return CliRunner().invoke(main, [str(word) for word in words])

    def test_a_picture_of_the_world(self, tmp_path: Path) -> None:
        assert self.sif("world", "build", "-n", 1, "-o", tmp_path / "w").exit_code == 0
        record = json.loads((tmp_path / "w" / "records.jsonl").read_text())
        image = tmp_path / "w" / record["image"]
        result = self.sif("think", image, record["question"], "-o", tmp_path / "chain.png")
        assert result.exit_code == 0, result.output
        assert "no --model given: using nano, the embedded model" in result.stderr
        assert "warning" not in result.stderr
        assert result.stdout.startswith("answer: ")
        assert (tmp_path / "chain.png").stat().st_size > 1000

    def test_a_photograph(self, photo_folder: Path, tmp_path: Path) -> None:
        result = self.sif("think", photo_folder / "cat.png", "Where is the cat?", "-o", tmp_path / "p.html")
        assert result.exit_code == 0, result.output
        assert "warning" in result.stderr
        assert "--model Qwen/Qwen2.5-VL-7B-Instruct --direct" in result.stderr
        (photo_folder / "cat.depth.png").unlink()
        result = self.sif("think", photo_folder / "cat.png", "Where is the cat?", "-o", tmp_path / "p.html")
        assert result.exit_code == 0, result.output
        assert "RGB only" in result.stderr
