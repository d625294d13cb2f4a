"""Settings of a build: a recipe, a command line and Python make the same dataset, and what does not add up is told."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from sifthinker import BuildSettings, ConfigError, Record, SourceSettings, build, build_async
from sifthinker.cli.main import main
from sifthinker.engine.estimators import GivenDepth, ModelDepth, NoDepth, make_depth
from sifthinker.engine.recipe import Left
from sifthinker.engine.settings import Expansion, TeacherSettings
from sifthinker.engine.teachers import Attempt, LocalTeacher, OpenAITeacher, Task, make_teacher
from sifthinker.files import write_jsonl
from sifthinker.records import read_examples

from ..small_data import write_records
from ..stand_in import explain, serve

PARTS = ("examples.jsonl", "rejects.jsonl", "manifest.json")


class Teacher:
    """Says the same of every focus, and counts how often it is asked."""

    name = "of the test"

    def __init__(self) -> None:
        self.asked = 0

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        return json.dumps({"thoughts": ["I look there."] * len(task.focuses), "answer": task.record.answer})


def row(number: int, **change: Any) -> dict[str, Any]:
    return {
        "id": f"r{number}", "image": f"{number}.png", "question": f"What is {number}?", "answer": "cat",
        "boxes": [[0.1, 0.1, 0.5, 0.5]], **change,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`photos/0.png` to `photos/3.png`, and `records.jsonl` about them."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    write_jsonl(tmp_path / "records.jsonl", [row(number) for number in range(4)])
    return tmp_path


def sif(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def url() -> Iterator[str]:
    """Of a teacher that explains anything."""
    with serve(explain) as (url, _):
        yield url


class TestThreeFaces:
    def test_yaml_command_line_and_python_make_the_same_dataset(self, tmp_path: Path, url: str) -> None:
        world = write_records(tmp_path / "w", 9).parent
        (world / "list.txt").write_text("nothing.png\n")
        recipe = {
            "base_url": url,
            "model": "vlm",
            "decimals": 2,
            "distractor": 1,
            "seed": 3,
            "cap": 8,
            "exclude": "list.txt",
        }
        stated = {**recipe, "sources": [{"file": "records.jsonl", "limit": 9, "boxes": "strict"}]}
        (world / "recipe.yaml").write_text(yaml.safe_dump(stated))
        words = (
            f"--base-url {url} --model vlm --decimals 2 --distractor 1 --seed 3 --cap 8 --limit 9 --boxes strict --exclude"
        )
        file = world / "records.jsonl"
        assert sif("data", "build", world / "recipe.yaml", "-o", tmp_path / "yaml").exit_code == 0
        assert sif("data", "build", file, "-o", tmp_path / "flags", *words.split(), world / "list.txt").exit_code == 0
        settings = BuildSettings(
            sources=(SourceSettings(file=str(file), limit=9, boxes="strict"),),
            output=tmp_path / "python",
            base_url=url,
            model="vlm",
            decimals=2,
            distractor=1,
            seed=3,
            cap=8,
            exclude=(world / "list.txt",),
        )
        assert build(settings).accepted == 8
        for name in (*PARTS, "exclude_unmatched.txt"):
            assert len({(tmp_path / face / name).read_bytes() for face in ("yaml", "flags", "python")}) == 1, name

    def test_what_the_recipe_and_the_command_exclude_stays_out(self, tmp_path: Path, url: str) -> None:
        write_records(tmp_path, 4)
        images = [json.loads(line)["image"] for line in (tmp_path / "records.jsonl").read_text().splitlines()]
        (tmp_path / "one.txt").write_text(f"{images[1]}\n")
        (tmp_path / "two.txt").write_text(f"{images[2]}\n")
        (tmp_path / "r.yaml").write_text(f"sources: [records.jsonl]\nbase_url: {url}\nmodel: vlm\nexclude: one.txt\n")
        result = sif("data", "build", tmp_path / "r.yaml", "-o", tmp_path / "out", "--exclude", tmp_path / "two.txt")
        assert result.exit_code == 3, result.output
        assert "2 × excluded" in result.stderr

    def test_plain_values_come_back(self, folder: Path) -> None:
        settings = BuildSettings(
            sources=("a.jsonl", {"file": "b.csv", "columns": {"id": "x"}}), output="out", depth_hole=-1, exclude="x"
        )  # type: ignore[arg-type]
        assert [source.file for source in settings.sources] == ["a.jsonl", "b.csv"]
        assert BuildSettings.from_values(json.loads(json.dumps(settings.to_dict()))) == settings

    def test_paths_of_a_recipe_start_at_its_folder(self, folder: Path) -> None:
        (folder / "r.yaml").write_text("sources: [records.jsonl]\nimages: photos\nexclude: [a, /b]\noutput: out\n")
        settings = BuildSettings.from_yaml(folder / "r.yaml")
        assert (settings.folder, settings.images, settings.output) == (folder, folder / "photos", folder / "out")
        assert settings.exclude == (folder / "a", Path("/b"))
        given = BuildSettings.from_yaml(folder / "r.yaml", given={"images": Path("here"), "output": Path("there")})
        assert (given.images, given.output) == (Path("here"), Path("there"))  # where the command is given

    @pytest.mark.parametrize(
        ("values", "root"),
        [
            ({"sources": ["a/b.jsonl"]}, "f/a"),
            ({"sources": ["a/b.jsonl", "c/d.jsonl"]}, "f"),
            ({"sources": ["a/b.jsonl"], "images": "i"}, "i"),
        ],
    )
    def test_where_images_are(self, values: dict, root: str) -> None:
        assert BuildSettings.from_values({"folder": "f", "output": "o", **values}).image_root == Path(root)

    def test_an_old_key(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        (folder / "r.yaml").write_text("sources: [records.jsonl]\ntimeout: 5\n")
        with caplog.at_level(logging.WARNING):
            assert BuildSettings.from_yaml(folder / "r.yaml", given={"output": "o"}).timeout_s == 5
        assert "timeout has been renamed to timeout_s" in caplog.text

    def test_the_help_is_grouped_and_fits(self) -> None:
        text = CliRunner().invoke(main, ["data", "build", "--help"], terminal_width=110).output
        for heading in ("Options:", "Depth:", "Focus paths:", "Teacher:", "Execution:", "Reading FILE"):
            assert f"\n{heading}" in text
        assert "--timeout NUMBER" in text
        for section in text.split("\n\n"):
            assert len(section.splitlines()) < 30

    def test_what_older_versions_built_goes_on(self, folder: Path) -> None:
        """The manifest of version 0.1 for these settings, but for versions and hashes."""
        (folder / "r.yaml").write_text(
            "images: photos\ndepth: none\ncap: 3\ndistractor: 0\ndepth_hole: 10000\ntimeout: 50\n"
            "sources:\n  - {file: records.jsonl, datasets: custom, without: [x], limit: 8}\n"
        )
        settings = BuildSettings.from_yaml(folder / "r.yaml", given={"output": folder / "out"})
        build(settings, teacher=Teacher())
        manifest = json.loads((folder / "out" / "manifest.json").read_text())
        inputs = manifest.pop("inputs")
        assert list(inputs) == ["records.jsonl"]
        assert {key: value for key, value in manifest.items() if key not in ("sifthinker", "prompt_version")} == {
            "images": str(folder / "photos"),
            "seed": 0,
            "expansion": {"alpha": 1 / 3, "jitter": 0.2, "distractor": 0.0, "decimals": 3, "margin": None},
            "depth": "none",
            "teacher": "of the test",
            "depth_encoding": "auto",
            "depth_near": None,
            "depth_hole": [10000.0],
            "sources": [
                {
                    "file": "records.jsonl", "images": ".", "format": "auto", "box_space": "unit", "box_form": "xyxy",
                    "boxes": "clip", "datasets": ["custom"], "without": ["x"], "limit": 8,
                }
            ],
            "cap": 3,
            "exclude": None,
            "counts": {"accepted": 3, "clipped": 0, "corrected": 0, "rejected": {}},
        }  # fmt: skip


class TestFaults:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (
                {"budget": 1},
                "budget needs teacher openai and a price, got teacher openai, prompt_price 0 and completion_price 0",
            ),
            ({"budget": 1, "teacher": "local", "prompt_price": 1}, "budget needs teacher openai"),
            ({"engine": "ray", "rpm": 5}, "rpm with engine ray needs workers"),
            ({"alpha": 0.9}, "alpha 0.9 with jitter 0.2 moves a side past the border"),
            ({"depth_near": "hi"}, "depth_near must be low or high, got 'hi'"),
            ({"sources": [{"file": "a", "format": "xml"}]}, r"sources\[0\]\.format must be one of auto, jsonl, table"),
            ({"sources": 5}, "sources must be a list of keys and values, got 5"),
            ({"teachr": "x"}, "unknown key 'teachr'; did you mean 'teacher'"),
        ],
    )
    def test_they_are_told(self, values: dict, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            BuildSettings.from_values({"output": "o", **values})

    def test_what_there_is_to_build_from(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="nothing to build from"):
            build(BuildSettings(output=folder / "out"))
        with pytest.raises(ConfigError, match="got both sources and records"):
            build(BuildSettings.from_values({"output": folder / "out", "sources": ["a"]}), records=[])
        with pytest.raises(ConfigError, match="Set --images FOLDER"):
            build(BuildSettings.from_values({"output": folder / "out", "sources": ["hf://a/b:train"]}))
        assert not (folder / "out").exists()

    def test_options_of_a_file_do_not_go_with_a_recipe(self, folder: Path) -> None:
        (folder / "r.yaml").write_text("sources: [records.jsonl]\n")
        result = sif("data", "build", folder / "r.yaml", "-o", folder / "out", "--limit", 5)
        assert (result.exit_code, "--limit applies only to a single file" in result.stderr) == (2, True)


class TestSources:
    def test_one_is_a_list_of_one(self, folder: Path) -> None:
        (folder / "r.yaml").write_text("sources: records.jsonl\noutput: out\n")
        for made in (
            BuildSettings.from_yaml(folder / "r.yaml"),
            BuildSettings(sources=[Path("records.jsonl")], output="out"),
            BuildSettings(sources=Path("records.jsonl"), output="out"),
            BuildSettings(sources={"file": "records.jsonl"}, output="out"),
        ):
            assert made.sources == (SourceSettings(file="records.jsonl"),)

    def test_a_mistyped_teacher(self, folder: Path) -> None:
        settings = BuildSettings(sources=["records.jsonl"], folder=folder, output=folder / "out", teacher="opena")
        with pytest.raises(ConfigError, match=r"unknown teacher 'opena'\. Did you mean 'openai'"):
            build(settings)

    def test_a_dict_is_no_settings(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"expected BuildSettings, got dict. Write BuildSettings\.from_values"):
            build({"output": folder / "out"})


class TestRecords:
    def test_plain_ones_and_records(self, folder: Path) -> None:
        settings = BuildSettings(images=folder / "photos", output=folder / "out", depth="none")
        rows = [row(0), Record(**{**row(1), "boxes": ((0.1, 0.1, 0.5, 0.5),)}), row(2, boxes=[[0.2, 0.2, 0.1, 0.1]]), row(0)]
        left = Left()
        counts = build(settings, records=iter(rows), teacher=Teacher(), left=left)
        assert (counts.accepted, dict(counts.rejected)) == (2, {"degenerate_box": 1, "duplicate_id": 1})
        assert (left.expected, left.whole) == (4, True)
        assert [example.id for example in read_examples(folder / "out")] == ["r0", "r1"]
        rejects = [json.loads(line) for line in (folder / "out" / "rejects.jsonl").read_text().splitlines()]
        assert [reject["source"] for reject in rejects] == ["records:3", "records:4"]

    def test_they_make_what_a_file_of_them_makes(self, folder: Path) -> None:
        values = {"images": folder / "photos", "depth": "none", "cap": 3, "exclude": folder / "list.txt"}
        (folder / "list.txt").write_text("2.png\n")
        stated = BuildSettings.from_values({**values, "output": folder / "a", "sources": [str(folder / "records.jsonl")]})
        build(stated, teacher=Teacher())
        build(
            BuildSettings.from_values({**values, "output": folder / "b"}),
            records=[row(n) for n in range(4)],
            teacher=Teacher(),
        )
        by_file, by_hand = ((folder / name / "examples.jsonl").read_text() for name in ("a", "b"))
        assert len(by_hand.splitlines()) == 2  # three of the four are kept, and one of these is on the list
        assert by_file.replace("records.jsonl:", "records:") == by_hand  # but for where each stands

    def test_other_records_are_another_build(self, folder: Path) -> None:
        settings = BuildSettings(images=folder / "photos", output=folder / "out", depth="none")
        teacher = Teacher()
        build(settings, records=[row(0)], teacher=teacher)
        asked = teacher.asked
        assert build(settings, records=[row(0)], teacher=teacher).accepted == 1
        assert teacher.asked == asked  # nothing twice
        with pytest.raises(ConfigError, match="inputs"):
            build(settings, records=[row(1)], teacher=teacher)
        assert build(settings.replace(fresh=True), records=[row(1)], teacher=teacher).accepted == 1

    def test_in_a_running_loop(self, folder: Path) -> None:
        settings = BuildSettings(images=folder / "photos", output=folder / "out", depth="none")
        seen: list[int] = []

        async def both() -> tuple[int, int]:
            counts = await build_async(
                settings, records=[row(0)], teacher=Teacher(), progress=lambda counts: seen.append(counts.done)
            )
            again = build(settings.replace(output=folder / "b"), records=[row(0)], teacher=Teacher())
            return counts.accepted, again.accepted

        assert asyncio.run(both()) == (1, 1)
        assert seen[-1] == 1
        with pytest.raises(ConfigError, match="Call build"):
            asyncio.run(build_async(settings.replace(engine="ray"), records=[row(0)], teacher=Teacher()))


class TestNames:
    def test_teachers(self) -> None:
        made = make_teacher(TeacherSettings(model="m", max_tokens=5))
        assert isinstance(made, OpenAITeacher)
        assert made.name == "openai:m"
        local = make_teacher(TeacherSettings(teacher="local", model="m"))
        assert isinstance(local, LocalTeacher)
        with pytest.raises(ConfigError, match=r"unknown teacher 'nobody'\. Use one of openai, local"):
            make_teacher(TeacherSettings(teacher="nobody"))
        for name in ("openai", "local"):
            with pytest.raises(ConfigError, match=rf"teacher {name} needs a model\. Set --model NAME"):
                make_teacher(TeacherSettings(teacher=name))

    def test_each_of_rays_processes_keeps_to_its_share(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from sifthinker.engine import build as module

        asked: list[TeacherSettings] = []

        def remember(settings: TeacherSettings) -> Teacher:
            asked.append(settings)
            raise ConfigError("enough")

        monkeypatch.setattr(module, "make_teacher", remember)
        settings = BuildSettings(output=folder / "out", images=folder, engine="ray", rpm=60, workers=4)
        with pytest.raises(ConfigError, match="enough"):
            build(settings, records=[row(0)])
        assert asked[0].rpm == 15

    def test_depth_sources(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        made = [make_depth(BuildSettings(output=tmp_path, depth=name)) for name in ("none", "given", str(tmp_path))]
        assert [type(source) for source in made] == [NoDepth, GivenDepth, ModelDepth]

    def test_the_expansion_alone(self) -> None:
        settings = BuildSettings(output=Path("o"), alpha=0.25, decimals=2)
        assert settings.expansion == Expansion(alpha=0.25, decimals=2)
