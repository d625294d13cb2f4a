"""Numbers that can be published: complete, without paths of this machine, and in a card that keeps what it said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.errors import ConfigError
from sifthinker.evaluation.benchmark import Benchmark, Headline, Unit, mean_of
from sifthinker.evaluation.card import card_section, numbers, write_card
from sifthinker.evaluation.questions import Question, read_questions
from sifthinker.evaluation.run import Evaluation, evaluate
from sifthinker.evaluation.settings import EvalSettings

pytest.importorskip("huggingface_hub")


def _toy(name: str = "toy") -> Benchmark:
    def read(*_: object, **__: object) -> list[Question]:
        return []

    def shouted(rows: object) -> list[Unit]:
        return [Unit("", 1.0, ("q0",)), Unit("", 1.0, ("q1",))]

    headline = Headline("Overall", "accuracy", mean_of("answer accuracy"), shouted, "every answer | counts")
    return Benchmark(name, "Toy <b>bench</b>", "us", "", ("test",), read, (headline,))  # type: ignore[arg-type]


@pytest.fixture
def asked(photo_folder: Path) -> Path:
    """Two questions about one photo, and completions: one of them right."""
    rows = [{"id": f"q{n}", "image": "cat.png", "question": "?" * (n + 1), "answer": "cat"} for n in range(2)]
    path = photo_folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [{"id": "q0", "completion": "cat"}, {"id": "q1", "completion": "dog"}]
    (photo_folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    return path


def _evaluated(asked: Path, output: Path, benchmark: Benchmark | None = None) -> Evaluation:
    settings = EvalSettings(
        data=str(asked), completions=str(asked.parent / "said.jsonl"), protocol="direct", output=str(output)
    )
    evaluate(settings, questions=read_questions(asked), benchmark=benchmark)
    return Evaluation.read(output)  # as it is read by whoever publishes it


def test_numbers_name_what_was_measured_and_no_place(asked: Path, tmp_path: Path) -> None:
    found = numbers(_evaluated(asked, tmp_path / "e.json"))
    accuracy = found["metrics"]["answer accuracy"]
    assert (accuracy["mean"], accuracy["count"]) == (0.5, 2)  # one of two
    assert (found["model"], found["data"], found["questions"], found["not_asked"]) == ("said.jsonl", "questions.jsonl", 2, 0)
    assert len(found["settings"]["questions"]) == len(found["settings"]["completions_sha256"]) == 64
    assert found["settings"]["protocol"] == "direct"
    assert str(tmp_path) not in json.dumps(found)
    assert str(asked.parent) not in json.dumps(found)


def test_a_benchmark_states_both_numbers(asked: Path, tmp_path: Path) -> None:
    evaluation = _evaluated(asked, tmp_path / "e.json", _toy())
    assert (evaluation.table["Overall"].strict.mean, evaluation.table["Overall"].lenient.mean) == (0.5, 1.0)  # type: ignore[union-attr]
    section = card_section([evaluation])
    assert "| Overall | 0.500 (" in section
    assert "1.000 (1.000 to 1.000), 2 |" in section
    assert "<b>" not in section  # a title of data is no HTML of the card
    assert r"every answer \| counts" in section  # nor a column of its table


def test_a_card_keeps_what_it_said(asked: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: apache-2.0\ntags:\n- mine\n---\n# My model\n\nWords of mine.\n")
    first = _evaluated(asked, tmp_path / "first.json", _toy())
    for _ in range(2):  # a second call replaces the section and adds nothing
        write_card(card, [first])
    text = card.read_text()
    assert text.count("## Evaluation with sifthinker") == 1
    assert "Words of mine." in text
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["tags"]) == ("apache-2.0", ["mine"])
    (entry,) = head["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "Toy <b>bench</b>", "type": "toy"}
    assert [(metric["name"], metric["value"]) for metric in result["metrics"]] == [("Overall, strict (direct)", 0.5)]
    # Another evaluation joins it.
    write_card(card, [_evaluated(asked, tmp_path / "second.json")])
    (entry,) = yaml.safe_load(card.read_text().split("---")[1])["model-index"]
    assert [result["dataset"]["name"] for result in entry["results"]] == ["Toy <b>bench</b>", "questions.jsonl"]
    # In the section too, which says what model-index says.
    assert [line for line in card.read_text().splitlines() if line.startswith("###")] == [
        r"### Toy \<b\>bench\</b\>", "### questions.jsonl",
    ]  # fmt: skip
    assert card.read_text().count("## Evaluation with sifthinker") == 1
    again = card.read_text()
    write_card(card, [first])
    assert card.read_text() == again


def _of(evaluation: Evaluation, **settings: object) -> Evaluation:
    """The same numbers under other settings."""
    return replace(evaluation, settings={**evaluation.settings, **settings})


def _by(evaluation: Evaluation, model: str, **settings: object) -> Evaluation:
    return _of(evaluation, completions=None, model=model, **settings)


def test_a_card_is_of_one_model(asked: Path, tmp_path: Path) -> None:
    plain, toy = _evaluated(asked, tmp_path / "plain.json"), _evaluated(asked, tmp_path / "toy.json", _toy())
    card = tmp_path / "README.md"
    for one, other, said in (
        (_by(toy, "stand"), _by(plain, "m/a"), "toy and plain have different models, 'stand' and 'm/a'"),
        (_by(toy, "m", weights="a" * 64), _by(plain, "m", weights="b" * 64), "'m' with other weights"),
        (toy, _of(plain, completions="other.jsonl"), "If both are of one model, set its name"),
    ):
        with pytest.raises(ConfigError, match=said):
            write_card(card, [one, other], names=["toy", "plain"])
        assert not card.exists()
    # Weights tell, whatever the folder is called; of files of completions the user does.
    write_card(card, [_by(toy, "runs/m", weights="a" * 64), _by(plain, "elsewhere", weights="a" * 64)])
    write_card(tmp_path / "said.md", [toy, _of(plain, completions="other.jsonl")], model="mine")
    assert "name: mine" in (tmp_path / "said.md").read_text()
    # Nor does a second call write another model's numbers beside what it keeps.
    kept = card.read_text()
    with pytest.raises(ConfigError, match=r"the card has results of another model, .*; the new results belong to stand"):
        write_card(card, [_by(toy, "stand")])
    assert card.read_text() == kept
    write_card(card, [_by(toy, "stand"), _by(plain, "stand")])  # which replace all


def test_names_do_not_depend_on_the_current_folder(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card written again elsewhere replaces its results, and adds none."""
    monkeypatch.chdir(tmp_path)
    plain = _evaluated(asked, tmp_path / "plain.json")
    local = _by(plain, "runs/sft", weights="a" * 64, data="data/q.jsonl")
    hub = _by(plain, "owner/model", weights=None, data="owner/set")
    saved = _of(plain, completions="runs/said.jsonl")
    before = [(numbers(one)["model"], numbers(one)["data"], card_section([one])) for one in (local, hub, saved)]
    assert [one[:2] for one in before] == [
        ("sft", "q.jsonl"), ("owner/model", "owner/set"), ("said.jsonl", "questions.jsonl"),
    ]  # fmt: skip
    for folder in ("runs/sft", "owner/model", "owner/set", "data/q.jsonl", "runs/said.jsonl"):
        (tmp_path / folder).mkdir(parents=True)
    assert [(numbers(one)["model"], numbers(one)["data"], card_section([one])) for one in (local, hub, saved)] == before
    for path in ("/home/me/sft", "./sft", "../runs/sft", "~/sft", r"C:\\runs\\sft", "a/b/sft/"):
        assert numbers(_by(plain, path, weights=None))["model"] == "sft"


def test_an_evaluation_file_writes_no_html_into_a_card(asked: Path, tmp_path: Path) -> None:
    bad = "--> <script>x</script>"
    toy = _by(_evaluated(asked, tmp_path / "toy.json", _toy()), "m")
    for name in ("weights", "questions", "completions_sha256", "protocol", "sifthinker", "limit", "split", "data", "model"):
        section = card_section([_of(toy, **{name: f"chain {bad}"})])
        assert "> <script" not in section.replace(r"\>", ""), name
        assert section.count("-->") == 4, name  # the marks of the section and of its one part
    assert "protocol unknown" in card_section([_of(toy, protocol=bad)])
    whole = card_section([_of(toy, weights="a" * 64, protocol="structured")])
    assert f"weights `{'a' * 12}`" in whole
    assert "protocol structured" in whole


def test_the_same_twice_is_refused_and_other_ways_of_asking_are_not(asked: Path, tmp_path: Path) -> None:
    toy = _by(_evaluated(asked, tmp_path / "toy.json", _toy()), "m")
    card = tmp_path / "README.md"
    with pytest.raises(
        ConfigError, match=r"a\.json and b\.json have the same questions, .*toy-b-bench-b-direct.; leave one out"
    ):
        write_card(card, [toy, toy], names=["a.json", "b.json"])
    ways = [toy, _of(toy, protocol="chain"), _of(toy, protocol="chain", rgb_only=True), _of(toy, split="testA")]
    for one in ways:
        write_card(card, [one])
    (entry,) = yaml.safe_load(card.read_text().split("---")[1])["model-index"]
    found = [(one["dataset"].get("split"), metric["name"]) for one in entry["results"] for metric in one["metrics"]]
    assert found == [
        (None, "Overall, strict (direct)"),
        (None, "Overall, strict (chain)"),
        (None, "Overall, strict (chain, RGB only)"),
        ("testA", "Overall, strict (direct)"),
    ]
    assert card.read_text().count("### Toy") == 4


def test_line_ends_and_results_of_others_stay(asked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = tmp_path / "README.md"
    theirs = [
        {
            "task": {"type": "x"},
            "dataset": {"name": "Toy <b>bench</b>", "type": "toy"},
            "metrics": [{"type": "a", "value": 1}],
        }
    ]
    head = yaml.safe_dump({"license": "mit", "model-index": [{"name": "theirs", "results": theirs}]})
    card.write_bytes(f"---\n{head}---\n# Mine\n".replace("\n", "\r\n").encode())
    write_card(card, [_evaluated(asked, tmp_path / "toy.json", _toy())])
    raw = card.read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n") > 10
    (entry,) = yaml.safe_load(raw.decode().split("---")[1])["model-index"]
    assert entry["name"] == "theirs"
    assert [metric["value"] for one in entry["results"] for metric in one["metrics"]] == [1, 0.5]
    with caplog.at_level("WARNING"):
        write_card(tmp_path / "new.md", [_evaluated(asked, tmp_path / "toy.json", _toy())])
        (tmp_path / "bare.md").write_text("# Bare\n")
        write_card(tmp_path / "bare.md", [_evaluated(asked, tmp_path / "toy.json", _toy())])
    assert caplog.messages == []
    assert "# Bare" in (tmp_path / "bare.md").read_text()
    several = yaml.safe_dump({"model-index": [{"name": "a", "results": []}, {"name": "b", "results": []}]})
    card.write_text(f"---\n{several}---\n# Two\n")
    with pytest.raises(ConfigError, match="expected one model in its model-index, got a, b"):
        write_card(card, [_evaluated(asked, tmp_path / "toy.json", _toy())])


def test_a_card_with_a_broken_head_is_refused(asked: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: [\n---\n# My model\n")
    with pytest.raises(ConfigError, match="cannot read the metadata block at the top"):
        write_card(card, [_evaluated(asked, tmp_path / "e.json")])
    assert card.read_text().startswith("---\nlicense: [")


def test_the_command(asked: Path, tmp_path: Path) -> None:
    _evaluated(asked, tmp_path / "e.json", _toy())
    run = CliRunner().invoke(main, ["eval", "card", str(tmp_path / "e.json")])
    assert run.exit_code == 0, run.output
    assert "| Overall | 0.500" in run.stdout
    made = [str(tmp_path / "README.md"), str(tmp_path / "numbers.json")]
    run = CliRunner().invoke(main, ["eval", "card", str(tmp_path / "e.json"), "-o", made[0], "--numbers", made[1]])
    assert run.stdout.split() == made
    (one,) = json.loads(Path(made[1]).read_text())
    assert one["table"]["Overall"]["strict"]["mean"] == 0.5
    run = CliRunner().invoke(main, ["eval", "card", str(asked)])
    assert run.exit_code == 2
    assert "not JSON" in run.stderr or "not an evaluation" in run.stderr


def test_estimated_depth_is_another_way_of_asking_and_names_no_folder(asked: Path, tmp_path: Path) -> None:
    plain = _evaluated(asked, tmp_path / "e.json")
    named = {**plain.settings, "depth": "/home/me/depth-anything-small"}
    estimated = Evaluation(named, plain.rows, benchmark=plain.benchmark)
    assert numbers(estimated)["settings"]["depth"] == "depth-anything-small"
    section = card_section([plain, estimated])  # neither replaces the other
    assert section.count("### questions") == 2
    assert "depth estimated by depth-anything-small" in section
    assert "/home/me" not in section
