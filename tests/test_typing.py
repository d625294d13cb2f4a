"""The types reach the people who use the package: mypy sees them in a program of theirs, lazy names and all."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import annotated_types
import numpy as np
import PIL
import pydantic
import pydantic_core
import pytest
import typing_extensions
import typing_inspection

import sifthinker

ROOT = Path(sifthinker.__file__).parent

RIGHT = """
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from PIL import Image

    import sifthinker
    from sifthinker import (
        AnswerReward, Attempt, BoxError, BuildSettings, Chain, ChainError, ConfigError, DepthError, DepthMap,
        DepthSource, Endpoint, EndpointError, Engine, EvalSettings, Evaluation, Example, Expansion, Focus,
        Frame, GivenDepth, GroundingReward, ImageError, Ledger, LocalTeacher, LocalThinker, MissingExtraError,
        ModelDepth, ModelError, ModelJudge, NoDepth, OpenAITeacher, Problem, Question, Reading, Record,
        RecordError, Reference, Region, Reject, Resizer, Result, Score, Scores, ServedThinker, SIFError,
        SourceSettings, Step, Task, Teacher, Thinker, ThinkSettings, Thought, TrainSettings, Verdict, answer_reward,
        build, build_async, check_chain, check_dataset, compare, convert, depth_reward, evaluate,
        evaluate_async, evaluate_benchmark, expand, find_answer, find_regions, format_reward,
        grounding_reward, hierarchical_iou, judge, load_image, open_thinker, paired_iou, parse_chain,
        read_benchmark, read_completion, read_examples, read_questions, read_source, render_chain,
        score_completion, set_iou, smart_resize, think, think_many, thought_to_json, to_coco, to_detections,
        to_label_studio, train, user_prompt, write_thought,
    )

    Reward = Callable[..., list[float | None]]  # TRL's


    def read(path: Path) -> tuple[list[Record], list[str]]:
        records: list[Record] = []
        reasons: list[str] = []
        for item in read_source(path, images=path.parent, format="jsonl", outside="strict"):
            if isinstance(item, Reject):
                reasons.append(f"{item.code}: {item.reason}")
            else:
                records.append(item)
        return records, reasons


    def score(text: str) -> float:
        depth = DepthMap(np.full((4, 4), 0.5))
        scores: Scores = score_completion(text, Reference("cat", [[0.1, 0.2, 0.6, 0.8]], depth))
        value: float | None = scores.grounding.value
        return 0.0 if value is None else value


    def look(image: Image.Image, model: str) -> str | None:
        thinker = Thinker.load(model, max_new_tokens=100)
        thought: Thought = thinker.think(image, "What is it?", DepthMap(np.zeros((2, 2))))
        return thought.answer


    rewards: list[Reward] = [format_reward, AnswerReward(), grounding_reward, depth_reward]
    given = format_reward([[{"role": "assistant", "content": "a"}]], depth=[None])
    first: float | None = given[0]

    record = Record(id="a", image="a.png", question="What?", answer="cat", boxes=((0.1, 0.2, 0.6, 0.8),))
    path = expand(record, seed=0, settings=Expansion(decimals=2))
    kinds: list[str] = [focus.kind for focus in path]
    chain = Chain((Step((Region((0.1, 0.2, 0.6, 0.8), 0.5),), "I see it."),), "cat")
    written: str = render_chain(chain)
    means: list[float] = [float(mean) for mean in DepthMap(np.zeros((2, 2))).mean([[0, 0, 1, 1]])]
    depth_source = GivenDepth(near="high")
    problems: list[str] = [example.chain for example in read_examples("dataset")]
    version: str = sifthinker.__version__
    engine: type[Engine] = sifthinker.Engine

    settings = BuildSettings(
        sources=(SourceSettings(file="cats.jsonl", limit=3),), images=Path("photos"), output=Path("chains"), model="m",
        depth="none", alpha=0.5,
    )


    class Scripted:
        name = "scripted"

        async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
            return f"{task.record.answer} {len(task.focuses)} {[attempt.reply for attempt in earlier]}"


    teachers: list[Teacher] = [
        OpenAITeacher(Endpoint("http://localhost:8000/v1", "m")), LocalTeacher("a/model"), Scripted()
    ]
    depths = "depth-anything/Depth-Anything-V2-Small-hf"
    sources: list[DepthSource] = [NoDepth(), GivenDepth("grey8", "high"), ModelDepth(depths)]
    plain = BuildSettings(sources=["cats.jsonl", {"file": "dogs.jsonl"}], images="photos", output="chains", exclude="old")
    folders: tuple[Path, Path | None, tuple[Path, ...]] = (plain.output, plain.images, plain.exclude)
    files: list[str] = [source.file for source in plain.sources]
    page: Path | None = ThinkSettings(model="nano", output="thought.html").output
    run = TrainSettings(model="nano", data="chains", output="run", training={"max_steps": 3})
    asked = EvalSettings(data="chains", model="run", output="found.json")
    thinking = ThinkSettings(model="run", max_new_tokens=64)


    def everything() -> Path:
        accepted: int = build(settings, teacher=teachers[0], depth=sources[0]).accepted
        folder: Path = train(run, "sft")
        found: Evaluation = evaluate(asked, progress=lambda done, total: None)
        result: Result = found.results["answer accuracy"]
        mean: float = result.mean + accepted
        other = compare(found, folder / "found.json")
        difference: float = other.results["final HIoU"].difference.mean
        questions: list[Question] = list(read_questions("chains"))
        faults: list[str] = [finding.message for finding in check_dataset("chains")]
        first: Example = next(iter(read_examples("chains")))
        write_thought("chain.png", Thought(first.problem, load_image(first.images[0]), None, first.chain), note=str(mean))
        print(think(thinking, "cat.jpg", "What?").answer)
        print(difference, questions, faults, thinking.max_new_tokens)
        return folder


    async def served() -> int:
        found: Evaluation = await evaluate_async(asked)
        return (await build_async(settings)).accepted + found.errors


    def asked_elsewhere() -> list[dict[str, object]]:
        thinker: Thinker = ServedThinker(Endpoint("http://localhost:8000/v1", "m"), max_pixels=262144)
        local: LocalThinker = Thinker.load("a/model")
        growing = [thought.answer for thought in open_thinker(thinking).stream(load_image("cat.jpg"), "What?")]
        thought = thinker.think(load_image("cat.jpg"), "What?", protocol="structured", coordinates="per_mille")
        questions: list[Question] = read_benchmark("cv-bench", "CV-Bench", limit=10)
        strict: float = evaluate_benchmark("cv-bench", asked, questions=questions).table["2D"].strict.mean
        evaluation, gone = think_many(thinking, questions, "thoughts.jsonl", data="CV-Bench")
        print(growing, strict, gone, evaluation.errors, local.think_all([(thought.image, "What?", None)]))
        print(to_detections(thought), to_coco([thought]), to_label_studio([thought]))
        return [thought_to_json(thought)]


    def texts(text: str) -> list[str]:
        reading: Reading = read_completion(text, with_depth=False)
        problems: list[Problem] = check_chain(text)
        chain: Chain = parse_chain(text)
        areas: list[tuple[Region, ...]] = find_regions(text)
        frame: Frame = Resizer.of_model("a/model").frame((640, 480))
        areas += find_regions(render_chain(chain, frame=frame), frame=frame)
        verdict: Verdict = judge(find_answer(text) or "", "cat")
        focuses: tuple[Focus, ...] = expand(record, seed=1)
        width, height = smart_resize((640, 480))
        unit = convert([[0, 0, 10, 10]], source="pixel", target="unit", size=(width, height))
        overlaps: list[float] = [f(unit, unit) for f in (set_iou, paired_iou, hierarchical_iou)]
        score: Score = score_completion(text, Reference("cat", unit)).format
        ledger = Ledger({"a": 0.5})
        graded: list[list[float | None]] = [
            AnswerReward(ledger, ModelJudge(Endpoint("http://localhost:8000/v1", "m")))([text], ["a"], ["cat"]),
            GroundingReward(correction="group")([text], [unit], id=["a"]),
            answer_reward([text], ["cat"]),
        ]
        print(reading.answer, chain.answer, areas, verdict.score, focuses, overlaps, score.value, graded)
        return [problem.code for problem in problems] + [user_prompt("What?", with_depth=False)]


    errors: tuple[type[SIFError], ...] = (
        BoxError, ChainError, ConfigError, DepthError, EndpointError, ImageError, MissingExtraError, ModelError, RecordError,
    )

    try:
        score("x")
    except (ConfigError, RecordError) as error:
        print(error)
    except MissingExtraError as error:
        print(error.name)
    except SIFError:
        raise
"""

# Each line with the code of the error that it is; a line without one is right.
WRONG = """
    import numpy as np

    from sifthinker import BuildSettings, DepthMap, Record, Reference, Thinker, score_completion
    from sifthinker import Nonsense  # attr-defined
    import sifthinker

    sifthinker.nonsense  # attr-defined
    score_completion(5, Reference("cat", []))  # arg-type
    score_completion("x")  # call-arg
    answer: int = score_completion("x", Reference("cat", [])).answer  # assignment
    Record(id="a", image="a", question=7, answer="b", boxes=())  # arg-type
    depth = DepthMap(np.zeros((2, 2)))
    depth.nonsense  # attr-defined
    settings = BuildSettings(output="chains", images="photos")
    BuildSettings(output=3)  # arg-type
    BuildSettings(outptu="chains", output="chains")  # call-arg
    settings.output = "others"  # misc
    Thinker.load("nano").think("cat.png", "What?")  # arg-type
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds this package as users have it, with NumPy and Pillow beside it: the types of
    torch and the like, which take mypy a minute, are not part of what is promised."""
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = (path for path in folder.rglob("site-packages") if path.is_dir() and not path.is_symlink())
    for package in (sifthinker, np, PIL, pydantic, pydantic_core, annotated_types, typing_inspection):
        (packages / package.__name__).symlink_to(Path(package.__file__).parent, target_is_directory=True)
    (packages / "typing_extensions.py").symlink_to(typing_extensions.__file__)
    return next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())


def faults(python: Path, folder: Path, program: str) -> list[tuple[int, str]]:
    """(line, code of the error) of everything that `mypy --strict` finds wrong with a program."""
    (folder / "program.py").write_text(textwrap.dedent(program).lstrip())
    (folder / "mypy.ini").write_text("[mypy]\n")  # this project's settings are not the user's
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "--no-pretty", "program.py"],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line.split(":", 2) for line in done.stdout.splitlines() if ": error: " in line]
    assert {path for path, _, _ in lines} <= {"program.py"}, done.stdout
    return [(int(number), rest.rpartition("[")[2].rstrip("]")) for _, number, rest in lines]


def test_the_right_program_uses_every_public_name() -> None:
    names = {node.id for node in ast.walk(ast.parse(textwrap.dedent(RIGHT))) if isinstance(node, ast.Name)}
    assert set(sifthinker.__all__) - {"__version__"} <= names


def test_a_right_program_has_no_fault(python: Path, tmp_path: Path) -> None:
    assert faults(python, tmp_path, RIGHT) == []


def test_a_wrong_program_has_each_of_its_faults(python: Path, tmp_path: Path) -> None:
    lines = textwrap.dedent(WRONG).lstrip().splitlines()
    expected = [(number, line.partition("  # ")[2]) for number, line in enumerate(lines, 1) if "  # " in line]
    assert len(expected) == 11
    assert sorted(faults(python, tmp_path, WRONG)) == expected


def test_lazy_names_and_those_that_type_checkers_see_are_the_same() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.asname or alias.name: node.module.removeprefix("sifthinker.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }
    assert seen == sifthinker._HOME
    (stated,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    listed = ast.literal_eval(stated)  # written out, as type checkers want it
    assert len(listed) == len(set(listed))
    assert set(listed) == {"__version__", *sifthinker._HOME}


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()
