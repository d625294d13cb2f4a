from __future__ import annotations

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sifthinker.chain import check_chain, parse_chain
from sifthinker.depth import DepthMap
from sifthinker.engine.build import FIRST_FAILURES, OUTAGES_IN_A_ROW, Engine
from sifthinker.engine.checks import check_dataset
from sifthinker.engine.estimators import DepthSource, GivenDepth, NoDepth
from sifthinker.engine.folder import Counts
from sifthinker.engine.settings import Expansion
from sifthinker.engine.teachers import Attempt, Task
from sifthinker.errors import ConfigError, EndpointError, RecordError
from sifthinker.records import Record, Reject, read_examples
from sifthinker.scoring.trl import depth_reward


class Plain:
    """A teacher that always passes, after a moment that differs from record to record."""

    name = "plain"

    def __init__(self, fail_after: int | None = None) -> None:
        self.calls = 0
        self.fail_after = fail_after

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        await asyncio.sleep(0.001 * (hash(task.record.id) % 3))
        return json.dumps({"thoughts": ["I look here."] * len(task.focuses), "answer": task.record.answer})


class Wrong(Plain):
    name = "wrong"

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        return "no"


class Fixed:
    """A source of one depth map."""

    name = "fixed"

    def __init__(self, depth: DepthMap) -> None:
        self._depth = depth

    def read(self, record: Record, root: Path, image: Image.Image) -> DepthMap:
        return self._depth


def records(count: int, image: str = "cat.png") -> Iterator[Record | Reject]:
    for number in range(count):
        yield Record(
            id=f"r{number}",
            image=image,
            question="What is it?",
            answer="cat",
            boxes=((0.1 + number / 1000, 0.2, 0.5, 0.6),),
            source=f"f:{number}",
        )


def engine(root: Path, teacher: Plain | None = None, depth: DepthSource | None = None, **options: object) -> Engine:
    return Engine(root, depth or GivenDepth(), teacher or Plain(), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestExamples:
    def test_an_example_is_complete_and_exact(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        counts = engine(photo_folder).build(lambda: records(3), out)
        assert counts == Counts(accepted=3)
        examples = list(read_examples(out))
        assert [example.id for example in examples] == ["r0", "r1", "r2"]
        truth = DepthMap.read(photo_folder / "cat.depth.png")
        for example in examples:
            assert check_chain(example.chain) == []
            chain = parse_chain(example.chain)
            assert tuple(region.box for region in chain.steps[-1].regions) == example.boxes
            for step in chain.steps:
                for region in step.regions:
                    assert region.depth == pytest.approx(float(truth.mean([region.box])[0]), abs=0.0006)
            assert chain.answer == example.answer
            assert Image.open(example.images[0]).mode == "RGB"
            assert Image.open(example.images[1]).mode == "L"
            np.testing.assert_array_equal(DepthMap.read(example.depth).values, truth.values)
            assert "What is it?" in example.prompt
            assert example.provenance["teacher"] == "plain"

    def test_two_depth_files_of_one_image_stay_two(self, photo_folder: Path, tmp_path: Path) -> None:
        DepthMap(np.full((20, 40), 0.8)).write(photo_folder / "other.png")
        first = next(records(1))
        second = Record(**{**{name: getattr(first, name) for name in Record.__slots__}, "id": "r1", "depth": "other.png"})
        engine(photo_folder).build(lambda: iter([first, second]), tmp_path / "out")
        a, b = read_examples(tmp_path / "out")
        assert a.images[0] == b.images[0]
        assert a.depth != b.depth
        assert a.images[1] != b.images[1]
        assert DepthMap.read(b.depth).values[0, 0] == pytest.approx(0.8, abs=1e-4)

    def test_nearest_depths_are_stated_as_the_reward_counts_them(self, photo_folder: Path, tmp_path: Path) -> None:
        DepthMap(np.zeros((20, 40))).write(photo_folder / "cat.depth.png")
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        (example,) = read_examples(tmp_path / "out")
        assert '"depth":0.004' in example.chain
        assert depth_reward([example.chain], [example.depth]) == [1]

    @pytest.mark.parametrize(
        ("true", "decimals", "stated"),
        [
            (0.013, 2, "0.013"),  # 0.01 is 23 % off
            (0.013, 3, "0.013"),
            (0.0102, 2, "0.01"),  # 2 % off
            (0.5, 2, "0.50"),
            (0.004, 2, "0.004"),
        ],
    )
    def test_depths_are_stated_as_exactly_as_the_reward_asks(
        self, photo_folder: Path, tmp_path: Path, true: float, decimals: int, stated: str
    ) -> None:
        DepthMap(np.full((20, 40), true)).write(photo_folder / "cat.depth.png")
        built = engine(photo_folder, expansion=Expansion(decimals=decimals))
        built.build(lambda: records(1), tmp_path / "out")
        (example,) = read_examples(tmp_path / "out")
        assert f'"depth":{stated}}}' in example.chain
        assert depth_reward([example.chain], [example.depth]) == [1]
        assert all(len(side.split(".")[1]) == decimals for side in re.findall(r"[\[,](\d\.\d+)", example.chain))

    @given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3]), st.sampled_from(["floats", "levels", "holes"]))
    @settings(max_examples=60)
    def test_gold_chains_earn_the_depth_reward_or_are_rejected(self, seed: int, decimals: int, form: str) -> None:
        draw = np.random.default_rng(seed)
        shape = tuple(draw.integers(1, 40, 2))
        # Most maps have much that is near: that is where decimals are too coarse.
        values = draw.random(shape) ** draw.choice([1, 4, 16]) * draw.choice([1, 0.1, 0.01])
        if form == "levels":
            depth = DepthMap.from_levels((values * 255).astype(np.uint8))
        else:
            depth = DepthMap(values, draw.random(shape) < 0.7 if form == "holes" else None)
        left, top = draw.uniform(0, 0.9, 2)
        box = (left, top, *draw.uniform((left + 0.01, top + 0.01), 1))
        record = Record("r", "i.png", "What is it?", "cat", (box,), source="f:1")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            Image.new("RGB", (shape[1], shape[0])).save(root / "i.png")
            settings = Expansion(decimals=decimals)
            result = asyncio.run(
                engine(root, depth=Fixed(depth), expansion=settings, seed=seed).example(record, root / "out")
            )
            if isinstance(result, Reject):
                assert result.code in ("depth_too_near", "depth_hole", "bad_chain")
            else:
                assert check_chain(result.chain) == []
                assert depth_reward([result.chain], [str(root / "out" / result.depth)]) == [1]

    def test_columns_keep_their_types_in_files_of_many_megabytes(self, photo_folder: Path, tmp_path: Path) -> None:
        """Readers infer types from the first block; a list that is empty all through it would have none."""
        datasets = pytest.importorskip("datasets")
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        (row,) = map(json.loads, (tmp_path / "out" / "examples.jsonl").read_text().splitlines())
        noted = {**row, "choices": "a\nb", "provenance": {**row["provenance"], "notes": "clipped"}}
        with open(tmp_path / "many.jsonl", "w") as stream:
            for _ in range(11_000_000 // len(json.dumps(row)) + 1):
                stream.write(json.dumps(row) + "\n")
            stream.write(json.dumps(noted) + "\n")
        opened = datasets.load_dataset("json", data_files=str(tmp_path / "many.jsonl"), cache_dir=str(tmp_path / "cache"))
        assert opened["train"][-1]["choices"] == "a\nb"

    def test_it_opens_with_datasets(self, photo_folder: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        engine(photo_folder).build(lambda: records(3), tmp_path / "out")
        opened = datasets.load_dataset(
            "json", data_files=str(tmp_path / "out" / "examples.jsonl"), cache_dir=str(tmp_path / "cache")
        )["train"]
        assert opened.num_rows == 3
        assert opened[0]["messages"][1]["role"] == "assistant"
        assert opened[0]["boxes"] == [[0.1, 0.2, 0.5, 0.6]]

    def test_rgb_only(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder, depth=NoDepth()).build(lambda: records(1), tmp_path / "out")
        (example,) = read_examples(tmp_path / "out")
        assert (example.depth, len(example.images)) == (None, 1)
        assert check_chain(example.chain, with_depth=False) == []
        assert "depth" not in example.prompt

    @pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
    def test_training_sees_the_picture_that_the_teacher_saw(self, tmp_path: Path, form: str) -> None:
        datasets = pytest.importorskip("datasets")
        picture = Image.new("RGBA", (40, 20))  # transparent, stored as black, with a black bar
        picture.paste((0, 0, 0, 255), (20, 0, 40, 20))
        picture.save(tmp_path / "cat.png", form, **({"lossless": True} if form == "WEBP" else {}))
        seen = []

        class Sees(Plain):
            async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
                seen.append(task.load_image())
                return await super().reply(task, earlier)

        assert engine(tmp_path, Sees(), depth=NoDepth()).build(lambda: records(1), tmp_path / "out").accepted == 1
        (example,) = read_examples(tmp_path / "out")
        rows = datasets.Dataset.from_dict({"image": list(example.images)}).cast_column("image", datasets.Image())
        for image in (*seen, rows[0]["image"].convert("RGB")):
            assert image.mode == "RGB"
            assert np.asarray(image)[10, [5, 35]].tolist() == [[255] * 3, [0] * 3]
        assert list(check_dataset(tmp_path / "out")) == []

    def test_images_that_must_be_turned_are_written_anew(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (20, 40)).save(tmp_path / "cat.png", exif=exif)
        DepthMap(np.full((20, 40), 0.5)).write(tmp_path / "cat.depth.png")
        engine(tmp_path).build(lambda: records(1), tmp_path / "out")
        (example,) = read_examples(tmp_path / "out")
        assert Image.open(example.images[0]).size == (40, 20)
        assert Image.open(example.images[0]).getexif().get(0x0112, 1) == 1


class TestRejects:
    @pytest.mark.parametrize(
        ("spoil", "code"),
        [
            (lambda root: (root / "cat.png").unlink(), "missing_image"),
            (lambda root: (root / "cat.png").write_bytes((root / "cat.png").read_bytes()[:60]), "broken_image"),
            (lambda root: (root / "cat.depth.png").unlink(), "bad_depth"),
            (lambda root: DepthMap(np.zeros((5, 5))).write(root / "cat.depth.png"), "bad_depth"),
            (lambda root: _npy(root, np.full((20, 40), np.nan)), "bad_depth"),
            (lambda root: DepthMap(np.ones((20, 40)), np.zeros((20, 40))).write(root / "cat.depth.png"), "depth_hole"),
        ],
    )
    def test_files_that_cannot_be_used(self, photo_folder: Path, tmp_path: Path, spoil: object, code: str) -> None:
        spoil(photo_folder)
        counts = engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        assert (counts.accepted, dict(counts.rejected)) == (0, {code: 1})
        (row,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
        assert (row["code"], row["id"]) == (code, "r0")
        assert row["source"] == "f:0"
        assert "f:0" not in row["reason"]

    def test_a_path_that_leaves_the_folder(self, photo_folder: Path, tmp_path: Path) -> None:
        counts = engine(photo_folder).build(lambda: records(1, "../cat.png"), tmp_path / "out")
        assert dict(counts.rejected) == {"path_outside_root": 1}

    def test_an_image_of_another_shape_than_its_record_says(self, photo_folder: Path, tmp_path: Path) -> None:
        record = Record(
            id="r", image="cat.png", question="q", answer="a", boxes=((0, 0, 1, 1),), size=(400, 300), source="f:1"
        )
        assert dict(engine(photo_folder).build(lambda: iter([record]), tmp_path / "out").rejected) == {"size_mismatch": 1}

    def test_what_the_teacher_fails_at_is_kept_with_every_attempt(self, photo_folder: Path, tmp_path: Path) -> None:
        counts = engine(photo_folder, Wrong()).build(lambda: records(2), tmp_path / "out")
        assert dict(counts.rejected) == {"teacher_not_json": 2}
        row = json.loads((tmp_path / "out" / "rejects.jsonl").read_text().splitlines()[0])
        assert [attempt["reply"] for attempt in row["attempts"]] == ["no"] * 3

    @pytest.mark.parametrize("image", ["a\u0000b.png", "x" * 300 + ".png", "loop.png"])
    def test_names_that_no_file_can_have(self, photo_folder: Path, tmp_path: Path, image: str) -> None:
        (photo_folder / "loop.png").symlink_to("loop.png")
        counts = engine(photo_folder).build(lambda: records(1, image), tmp_path / "out")
        assert counts.accepted == 0
        assert counts.rejected.total() == 1
        assert set(counts.rejected) <= {"bad_path", "missing_image"}

    def test_the_sources_rejects_pass_through(self, photo_folder: Path, tmp_path: Path) -> None:
        reject = Reject("f:9", "", "not_json", "f:9: not JSON")
        counts = engine(photo_folder).build(lambda: iter([reject, *records(1)]), tmp_path / "out")
        assert (counts.accepted, dict(counts.rejected)) == (1, {"not_json": 1})


def _npy(root: Path, values: np.ndarray) -> None:
    (root / "cat.depth.png").unlink()
    np.save(root / "cat.depth.npy", values)


class TestResuming:
    def test_an_interrupted_build_ends_the_same(self, photo_folder: Path, tmp_path: Path) -> None:
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        engine(photo_folder).build(lambda: records(20), whole)
        with pytest.raises(KeyboardInterrupt):
            engine(photo_folder, Plain(fail_after=7), concurrency=2).build(lambda: records(20), broken)
        assert (broken / "journal.jsonl").is_file()
        # A killed process may leave half a line.
        with open(broken / "journal.jsonl", "ab") as stream:
            stream.write(b'[19,"example",false,{"id":"r1')
        teacher = Plain()
        counts = engine(photo_folder, teacher).build(lambda: records(20), broken)
        assert counts.accepted == 20
        assert teacher.calls < 20
        assert contents(broken) == contents(whole)

    def test_a_second_build_stays_out_of_the_folder(self, photo_folder: Path, tmp_path: Path) -> None:
        def meanwhile(counts: Counts) -> None:
            if counts.done == 2:
                with pytest.raises(ConfigError, match="another build is running"):
                    engine(photo_folder).build(lambda: records(4), tmp_path / "out")

        assert engine(photo_folder).build(lambda: records(4), tmp_path / "out", progress=meanwhile).accepted == 4

    def test_only_our_own_leavings_are_swept_away(self, photo_folder: Path, tmp_path: Path) -> None:
        images = tmp_path / "out" / "images"
        images.mkdir(parents=True)
        (tmp_path / "out" / ".env.template").write_text("mine")
        (images / ".sif-abcdefgh-x.png").write_text("half of it")
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        assert (tmp_path / "out" / ".env.template").is_file()
        assert [path.name for path in images.iterdir() if path.name.startswith(".")] == []

    def test_a_journal_that_outlived_its_build_is_removed(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        (tmp_path / "out" / "journal.jsonl").write_text("{}")
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        assert not (tmp_path / "out" / "journal.jsonl").exists()

    def test_concurrency_does_not_change_the_result(self, photo_folder: Path, tmp_path: Path) -> None:
        for concurrency in (1, 16):
            engine(photo_folder, concurrency=concurrency).build(lambda: records(20), tmp_path / str(concurrency))
        assert contents(tmp_path / "1") == contents(tmp_path / "16")

    def test_a_finished_build_is_not_repeated(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder).build(lambda: records(2), tmp_path / "out")
        teacher = Plain()
        assert engine(photo_folder, teacher).build(lambda: records(2), tmp_path / "out").accepted == 2
        assert teacher.calls == 0

    def test_an_outage_is_not_final(self, photo_folder: Path, tmp_path: Path) -> None:
        class Down(Plain):
            async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
                if task.record.id in ("r1", "r2"):
                    raise EndpointError("down", "connection", 3)
                return await super().reply(task, earlier)

        counts = engine(photo_folder, Down()).build(lambda: records(4), tmp_path / "out")
        assert (counts.accepted, dict(counts.rejected)) == (2, {"teacher_endpoint": 2})
        teacher = Plain()
        counts = engine(photo_folder, teacher).build(lambda: records(4), tmp_path / "out")
        assert (counts.accepted, teacher.calls) == (4, 2)
        engine(photo_folder).build(lambda: records(4), tmp_path / "whole")
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_a_build_in_a_running_loop(self, photo_folder: Path, tmp_path: Path) -> None:
        """As notebooks have it; and beside other work of the same loop, whose own threads stay as they are."""

        async def cell() -> int:
            loop, ticks = asyncio.get_running_loop(), 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.001)
                    ticks += 1

            engine(photo_folder).build(lambda: records(5), tmp_path / "sync")
            ticking = asyncio.create_task(tick())
            counts = await engine(photo_folder).build_async(lambda: records(5), tmp_path / "async")
            ticking.cancel()
            assert counts == Counts(accepted=5)
            assert loop._default_executor is None
            again = await engine(photo_folder, Plain(fail_after=0)).build_async(lambda: records(5), tmp_path / "async")
            assert again == Counts(accepted=5)
            return ticks

        assert asyncio.run(cell()) > 0
        assert contents(tmp_path / "sync") == contents(tmp_path / "async")

    def test_a_build_that_stops_leaves_no_work_in_the_loop(self, photo_folder: Path, tmp_path: Path) -> None:
        class Slow(Plain):
            async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
                self.calls += 1
                if self.calls == 4:
                    raise EndpointError("no credit", "status_402", 1, "setup")
                try:
                    await asyncio.sleep(600)
                finally:
                    await asyncio.sleep(0.01)
                raise AssertionError

        async def cell() -> int:
            with pytest.raises(EndpointError, match="no credit"):
                await engine(photo_folder, Slow(), concurrency=4).build_async(lambda: records(20), tmp_path / "out")
            return len(asyncio.all_tasks())

        assert asyncio.run(cell()) == 1

    def test_an_interruption_in_a_running_loop_loses_nothing(self, photo_folder: Path, tmp_path: Path) -> None:
        async def cell() -> None:
            with pytest.raises(KeyboardInterrupt):
                engine(photo_folder, Plain(fail_after=7), concurrency=2).build(lambda: records(20), tmp_path / "out")

        asyncio.run(cell())
        teacher = Plain()
        assert engine(photo_folder, teacher).build(lambda: records(20), tmp_path / "out").accepted == 20
        assert teacher.calls < 20

    def test_fresh_deletes_nothing_of_others(self, photo_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "mine" / "images").mkdir(parents=True)
        (tmp_path / "mine" / "images" / "holiday.jpg").write_text("x")
        for fresh in (False, True):
            with pytest.raises(ConfigError, match=r"holiday\.jpg is not from a sifthinker build"):
                engine(photo_folder).build(lambda: records(1), tmp_path / "mine", fresh=fresh)
        (tmp_path / "mine" / "manifest.json").write_text('{"name": "a web app"}')
        for fresh in (False, True):
            with pytest.raises(ConfigError, match=r"manifest\.json is not from a sifthinker build"):
                engine(photo_folder).build(lambda: records(1), tmp_path / "mine", fresh=fresh)
        assert (tmp_path / "mine" / "images" / "holiday.jpg").is_file()
        shop = tmp_path / "shop"
        for name in ("images", "photos"):
            (shop / name).mkdir(parents=True)
            for file in photo_folder.glob("cat*"):
                shutil.copy(file, shop / name)
        for root, out in ((photo_folder, photo_folder), (shop / "images", shop)):
            with pytest.raises(ConfigError, match="image folder"):
                engine(root).build(lambda: records(1), out, fresh=True)
            assert (root / "cat.png").is_file()
        assert engine(shop / "photos").build(lambda: list(records(2)), tmp_path / "beside").accepted == 2

    def test_fresh_keeps_what_was_put_beside_our_images(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        (tmp_path / "out" / "images" / "notes.txt").write_text("mine")
        engine(photo_folder, depth=NoDepth()).build(lambda: records(1), tmp_path / "out", fresh=True)
        assert (tmp_path / "out" / "images" / "notes.txt").is_file()
        assert not list((tmp_path / "out").glob("depth*"))

    def test_fresh_does_not_take_a_folder_from_a_build_at_work(self, photo_folder: Path, tmp_path: Path) -> None:
        def meanwhile(counts: Counts) -> None:
            if counts.done == 2:
                with pytest.raises(ConfigError, match="another build is running"):
                    engine(photo_folder, seed=5).build(lambda: records(4), tmp_path / "out", fresh=True)

        assert engine(photo_folder).build(lambda: records(4), tmp_path / "out", progress=meanwhile).accepted == 4
        assert len(list(read_examples(tmp_path / "out"))) == 4

    def test_a_source_that_cannot_be_read_costs_nothing(self, photo_folder: Path, tmp_path: Path) -> None:
        def broken() -> Iterator[Record | Reject]:
            raise RecordError("nothing there")
            yield

        with pytest.raises(RecordError):
            engine(photo_folder).build(broken, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        engine(photo_folder).build(lambda: records(2), tmp_path / "out")
        before = contents(tmp_path / "out")
        with pytest.raises(RecordError):
            engine(photo_folder).build(broken, tmp_path / "out", fresh=True)
        assert contents(tmp_path / "out") == before

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("manifest.json", '{"sifthinker": "0"}'),
            ("manifest.json", '{"sifthinker": "0'),
            ("journal.jsonl", '{"sifthinker": rubbish\n'),
        ],
    )
    def test_broken_state_is_named(self, photo_folder: Path, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / name).write_text(content)
        with pytest.raises(ConfigError, match="--fresh"):
            engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        assert engine(photo_folder).build(lambda: records(1), tmp_path / "out", fresh=True).accepted == 1

    def test_a_finished_build_that_lost_a_file_is_not_finished(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder).build(lambda: records(1), tmp_path / "out")
        (tmp_path / "out" / "examples.jsonl").unlink()
        with pytest.raises(ConfigError, match=r"examples\.jsonl or rejects\.jsonl is missing"):
            engine(photo_folder).build(lambda: records(1), tmp_path / "out")

    def test_other_settings_are_refused(self, photo_folder: Path, tmp_path: Path) -> None:
        engine(photo_folder).build(lambda: records(2), tmp_path / "out", inputs={"f": "1"})
        with pytest.raises(ConfigError, match=r"seed was 0, now 1.*--fresh"):
            engine(photo_folder, seed=1).build(lambda: records(2), tmp_path / "out", inputs={"f": "1"})
        with pytest.raises(ConfigError, match="inputs was"):
            engine(photo_folder).build(lambda: records(2), tmp_path / "out", inputs={"f": "2"})
        counts = engine(photo_folder, seed=1).build(lambda: records(1), tmp_path / "out", fresh=True)
        assert counts.accepted == 1

    def test_an_unfinished_build_with_other_settings_is_refused_too(self, photo_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            engine(photo_folder, Plain(fail_after=3)).build(lambda: records(20), tmp_path / "out")
        with pytest.raises(ConfigError, match="seed was 0, now 1"):
            engine(photo_folder, seed=1).build(lambda: records(20), tmp_path / "out")


class Server(Plain):
    """A teacher whose server answers some records and fails at others."""

    name = "server"

    def __init__(self, fails: object, kind: str = "outage") -> None:
        super().__init__()
        self.fails = fails
        self.kind = kind

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        said = await super().reply(task, earlier)
        if self.fails(int(task.record.id[1:])):
            raise EndpointError("the server's words", "status_400", 1, self.kind)
        return said


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


class TestServersThatFail:
    def test_a_wrong_setup_stops_at_once_and_keeps_what_is_finished(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        teacher = Server(lambda number: number >= 6, "setup")
        with pytest.raises(EndpointError, match=r"the server's words\. 6 records are finished.*same command to resume"):
            engine(photo_folder, teacher, concurrency=1).build(lambda: records(200), out)
        assert teacher.calls == 7
        assert ids(out / "examples.jsonl") == [f"r{number}" for number in range(6)]
        counts = engine(photo_folder, Server(lambda number: False)).build(lambda: records(200), out)
        assert counts == Counts(accepted=200)

    def test_a_folder_in_which_nothing_was_done_stays_free(self, photo_folder: Path, tmp_path: Path) -> None:
        """The model's name was wrong; the right one is another setting."""
        with pytest.raises(EndpointError, match=r"the server's words$"):
            engine(photo_folder, Server(lambda number: True, "setup")).build(lambda: records(3), tmp_path / "out")
        assert engine(photo_folder).build(lambda: records(3), tmp_path / "out").accepted == 3

    def test_what_a_teacher_failed_at_is_kept_too(self, photo_folder: Path, tmp_path: Path) -> None:
        """It was paid for, also where its server counts no tokens."""

        class Both(Server):
            async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
                said = await super().reply(task, earlier)
                return said if task.record.id != "r0" else "no"

        with pytest.raises(EndpointError, match="1 records are finished"):
            engine(photo_folder, Both(lambda number: number > 0, "setup"), concurrency=1).build(
                lambda: records(3), tmp_path / "out"
            )
        assert "teacher_not_json" in (tmp_path / "out" / "rejects.jsonl").read_text()

    def test_a_refused_record_is_settled(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        teacher = Server(lambda number: number % 4 == 0, "request")
        counts = engine(photo_folder, teacher).build(lambda: records(60), out)
        assert (counts.accepted, dict(counts.rejected)) == (45, {"teacher_refused_request": 15})
        assert "the server's words" in (out / "rejects.jsonl").read_text()
        assert not (out / "journal.jsonl").exists()
        again = Plain()
        again.name = "server"
        engine(photo_folder, again).build(lambda: records(60), out)
        assert again.calls == 0

    @pytest.mark.parametrize("kind", ["request", "outage"])
    def test_a_server_that_answers_none_of_the_first_stops_the_build(
        self, photo_folder: Path, tmp_path: Path, kind: str
    ) -> None:
        teacher = Server(lambda number: True, kind)
        with pytest.raises(EndpointError, match=f"none of the first {FIRST_FAILURES} records.*f:.*the server's words"):
            engine(photo_folder, teacher, concurrency=1).build(lambda: records(200), tmp_path / "out")
        assert teacher.calls == FIRST_FAILURES
        # None of them is settled: when the cause is gone, the same build tries them all.
        assert (
            engine(photo_folder, Server(lambda number: False)).build(lambda: records(200), tmp_path / "out").accepted == 200
        )

    def test_refusals_before_the_first_answer_are_settled_by_it(self, photo_folder: Path, tmp_path: Path) -> None:
        counts = engine(photo_folder, Server(lambda number: number < FIRST_FAILURES - 1, "request"), concurrency=1).build(
            lambda: records(20), tmp_path / "out"
        )
        assert (counts.accepted, counts.rejected.total()) == (20 - FIRST_FAILURES + 1, FIRST_FAILURES - 1)

    def test_refusals_of_a_short_source_are_settled_by_its_end(self, photo_folder: Path, tmp_path: Path) -> None:
        counts = engine(photo_folder, Server(lambda number: True, "request")).build(lambda: records(3), tmp_path / "out")
        assert dict(counts.rejected) == {"teacher_refused_request": 3}

    def test_a_server_that_went_down_stops_the_build(self, photo_folder: Path, tmp_path: Path) -> None:
        teacher = Server(lambda number: number >= 10)
        with pytest.raises(EndpointError, match=rf"for {OUTAGES_IN_A_ROW} records in a row\..* 10 records are"):
            engine(photo_folder, teacher, concurrency=1).build(lambda: records(300), tmp_path / "out")
        assert teacher.calls == 10 + OUTAGES_IN_A_ROW
        counts = engine(photo_folder, Server(lambda number: False)).build(lambda: records(300), tmp_path / "out")
        assert counts == Counts(accepted=300)

    def test_outages_between_answers_are_borne(self, photo_folder: Path, tmp_path: Path) -> None:
        teacher = Server(lambda number: number % 10 > 0)
        counts = engine(photo_folder, teacher, concurrency=1).build(lambda: records(200), tmp_path / "out")
        assert (counts.accepted, counts.rejected["teacher_endpoint"]) == (20, 180)


class TestFoldersOfWhichNothingCame:
    def test_are_free_for_other_settings(self, photo_folder: Path, tmp_path: Path) -> None:
        """Every record is rejected for its depth, before the teacher is asked; the remedy is a build without depth."""
        out = tmp_path / "out"
        Image.new("RGB", (8, 8)).save(photo_folder / "bare.png")
        lost = engine(photo_folder).build(lambda: records(2, "bare.png"), out)
        assert (lost.accepted, lost.done) == (0, 2)
        found = engine(photo_folder, depth=NoDepth()).build(lambda: records(2, "bare.png"), out)
        assert found == Counts(accepted=2)
        assert (out / "rejects.jsonl").read_text() == ""

    def test_but_not_where_the_teacher_replied(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        lost = engine(photo_folder, Wrong()).build(lambda: records(1), out)
        assert lost.accepted == 0
        with pytest.raises(ConfigError, match="other settings"):
            engine(photo_folder, depth=NoDepth()).build(lambda: records(1), out)

    def test_nor_while_a_build_is_under_way(self, photo_folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        Image.new("RGB", (8, 8)).save(photo_folder / "bare.png")
        engine(photo_folder).build(lambda: records(1, "bare.png"), out)
        manifest = json.loads((out / "manifest.json").read_text())
        header = {key: value for key, value in manifest.items() if key != "counts"}
        (out / "journal.jsonl").write_text(json.dumps(header) + "\n")
        with pytest.raises(ConfigError, match="other settings"):
            engine(photo_folder, depth=NoDepth()).build(lambda: records(1), out)
