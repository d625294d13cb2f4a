"""Settings: one object with three faces, and what is said of values that do not fit."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sifthinker.cli.flags import Command, click_options
from sifthinker.errors import ConfigError
from sifthinker.files import unknown_key
from sifthinker.settings import Flag, Settings


class Adapter(Settings):
    rank: PositiveInt = 8
    """Rank of the matrices."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target: str | tuple[str, ...] = "all"


class Job(Settings):
    RENAMED = {"timeout": "timeout_s"}
    GONE = {"depth_model": "say depth: MODEL"}

    model: Annotated[str, Flag("-m", "--model")]
    """What to start from."""
    data: str | None = None
    steps: PositiveInt | None = None
    """How many steps.

    More about them, which is not for the help.
    """
    rate: Annotated[PositiveFloat, Flag(default="1/3")] = 1 / 3
    timeout_s: Annotated[PositiveFloat, Flag("--timeout")] = 120.0
    sharing: Literal["auto", "off"] = "auto"
    saving: Literal["no", "steps", "epoch"] = "steps"
    holes: tuple[float, ...] = ()
    exclude: tuple[Path, ...] = ()
    freeze: tuple[str, ...] = ()
    columns: Mapping[str, str] = {}
    weights: Mapping[Literal["format", "answer"], NonNegativeFloat] = {}
    fresh: bool = False
    """Start over."""
    cache: bool = True
    adapter: Adapter | None = None
    second: Adapter = Adapter()
    parts: tuple[Adapter, ...] = ()
    extra: Mapping[str, Any] = {}


def job(**values: Any) -> Job:
    return Job.from_values({"model": "m", **values}, where="job.yaml")


def fault(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        job(**values)
    text = str(caught.value)
    assert text.startswith("job.yaml: ")
    return text.removeprefix("job.yaml: ")


class TestReading:
    def test_numbers_that_yaml_takes_for_text(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\nrate: 1e-5\nsteps: 1e2\nadapter: {dropout: 5e-2, rank: '16'}\nholes: [1e4, -1]\n")
        made = Job.from_yaml(path)
        assert (made.rate, made.steps, made.holes) == (1e-5, 100, (10000.0, -1.0))
        assert isinstance(made.steps, int)
        assert made.adapter == Adapter(rank=16, dropout=0.05)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (
                "r: [1\n",
                ":2, column 1: not YAML: expected ',' or ']', but got '<stream end>', while parsing a flow sequence",
            ),
            ("a: 1\n b: 2\n", ":2, column 3: not YAML: mapping values are not allowed here"),
            ("a: \x00\n", ": not YAML: unacceptable character #x0000: special characters are not allowed"),
        ],
    )
    def test_what_is_not_yaml_is_named_with_its_place(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "job.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            Job.from_yaml(tmp_path / "job.yaml")
        assert str(caught.value) == f"{tmp_path / 'job.yaml'}{words}"

    def test_names_that_yaml_takes_for_switches(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\nsharing: off\nsaving: no\ncache: off\n")
        made = Job.from_yaml(path)
        assert (made.sharing, made.saving, made.cache) == ("off", "no", False)

    def test_one_value_is_a_list_of_one(self) -> None:
        made = job(freeze="visual", holes=10000, exclude="a.txt", adapter={"target": "q"})
        assert (made.freeze, made.holes, made.exclude) == (("visual",), (10000.0,), (Path("a.txt"),))
        assert made.adapter is not None
        assert made.adapter.target == "q"  # which may be text itself

    def test_a_section_without_content_is_its_defaults(self) -> None:
        made = job(adapter=None, second=None, extra=None, weights=None)
        assert (made.adapter, made.second, made.extra, made.weights) == (None, Adapter(), {}, {})

    def test_what_is_passed_through_stays(self) -> None:
        extra = {"rate": "1e-5", "on": False, "nothing": None}
        assert job(extra=extra).extra == extra

    def test_paths_are_text_where_text_is_wanted(self) -> None:
        assert job(model=Path("a/b")).model == "a/b"

    def test_overrides_come_before_the_file_and_given_before_both(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\nsteps: 1\nrate: 2\nadapter:\n")
        made = Job.from_yaml(path, ["steps=2", "rate=3", "adapter.rank=4", "timeout-s=5"], given={"rate": 6.0})
        assert (made.steps, made.rate, made.timeout_s, made.adapter) == (2, 6.0, 5.0, Adapter(rank=4))

    def test_a_fault_of_what_is_given_names_the_option(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\nrate: fast\n")
        with pytest.raises(ConfigError) as caught:
            Job.from_yaml(path, ["steps=x"], given={"timeout_s": -1.0})
        assert sorted(str(caught.value).splitlines()) == [
            "  --timeout must be a positive number, got -1.0",
            f"  {path}: rate must be a positive number, got 'fast'",
            "  override steps must be a positive whole number, got 'x'",
            "3 faults",
        ]

    def test_an_override_of_text_is_text(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\n")
        made = Job.from_yaml(path, ["model=2024", "data=null"])
        assert (made.model, made.data) == ("2024", None)

    @pytest.mark.parametrize("override", ["steps", "=5"])
    def test_overrides_are_pairs(self, override: str) -> None:
        with pytest.raises(ConfigError, match="expected key=value"):
            Job.override({}, override)

    def test_an_old_key_is_read_and_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            assert job(timeout=5).timeout_s == 5
        assert caplog.messages == ["job.yaml: timeout has been renamed to timeout_s"]
        assert (
            fault(timeout=5, timeout_s=6) == "timeout has been renamed to timeout_s, and both are set. Keep only timeout_s"
        )


class TestFaults:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"model": ""}, "lacks model"),
            ({"steps": 0}, "steps must be a positive whole number, got 0"),
            ({"steps": True}, "steps must be a positive whole number, got True"),
            ({"steps": 1.5}, "steps must be a positive whole number, got 1.5"),
            ({"steps": "ten"}, "steps must be a positive whole number, got 'ten'"),
            ({"rate": float("nan")}, "rate must be a positive number, got nan"),
            ({"rate": ".inf"}, "rate must be a positive number, got '.inf'"),
            ({"rate": "inf"}, "rate must be a positive number, got 'inf'"),
            ({"rate": False}, "rate must be a positive number, got False"),
            ({"rate": None}, "rate has no value. Write one, or remove the key"),
            ({"fresh": 1}, "fresh must be true or false, got 1"),
            ({"fresh": "yes"}, "fresh must be true or false, got 'yes'"),
            ({"data": 2024}, "data must be text, got 2024"),
            ({"sharing": "of"}, "sharing must be auto or off, got 'of'"),
            ({"sharing": True}, "sharing must be auto or off, got True"),
            ({"saving": "never"}, "saving must be one of no, steps, epoch, got 'never'"),
            ({"freeze": 5}, "freeze must be a list of text, got 5"),
            ({"freeze": ["a", 5]}, "freeze[1] must be text, got 5"),
            ({"holes": "none"}, "holes must be a list of numbers, got 'none'"),
            ({"exclude": [5]}, "exclude[0] must be a path, got 5"),
            ({"columns": 5}, "columns must be keys and values, got 5"),
            ({"columns": {"a": 5}}, "columns.a must be text, got 5"),
            ({"weights": {"formt": 1}}, "weights: unknown key 'formt'; did you mean 'format'?"),
            ({"weights": {"format": -1}}, "weights.format must be a number, at least 0, got -1"),
            ({"adapter": 5}, "adapter must be keys and values, got 5"),
            ({"adapter": {"dropout": 1}}, "adapter.dropout must be a number, at least 0 and below 1, got 1"),
            ({"adapter": {"target": 5}}, "adapter.target must be text or a list of text, got 5"),
            ({"adapter": {"r": 5}}, "adapter: unknown key 'r'; known keys are dropout, rank, target"),
            ({"parts": [{"rank": 1}, {"rang": 1}]}, "parts[1]: unknown key 'rang'; did you mean 'rank'?"),
            ({"step": 5}, "unknown key 'step'; did you mean 'steps'?"),
            ({7: 5}, "unknown key 7"),
            ({"depth_model": 5}, "depth_model: say depth: MODEL"),
        ],
    )
    def test_where_got_wanted(self, values: dict[Any, Any], words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Job.from_values({"model": "m", **values}, where="job.yaml")
        assert str(caught.value).startswith(f"job.yaml: {words}")

    def test_all_at_once(self) -> None:
        assert fault(steps=0, adapter={"rank": 0, "rang": 1}, step=1).splitlines() == [
            "4 faults",
            "  steps must be a positive whole number, got 0",
            "  adapter.rank must be a positive whole number, got 0",
            "  adapter: unknown key 'rang'; did you mean 'rank'?",
            "  unknown key 'step'; did you mean 'steps'?",
        ]

    def test_a_long_value_is_cut(self) -> None:
        assert len(fault(steps="x" * 1000)) < 300

    def test_python_gets_the_same(self) -> None:
        with pytest.raises(ConfigError, match=r"^Job: adapter\.rank must be a positive whole number, got 0$"):
            Job(model="m", adapter={"rank": 0})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^Job: lacks model$"):
            Job()  # type: ignore[call-arg]

    def test_a_subclass_may_say_more(self) -> None:
        from pydantic import field_validator, model_validator

        class Server(Settings):
            url: str = "http://x"
            low: int = 0
            high: int = 1

            @field_validator("url")
            @classmethod
            def _address(cls, value: str) -> str:
                if not value.startswith("http"):
                    raise ValueError("must begin with http")
                return value

            @model_validator(mode="after")
            def _order(self) -> Server:
                if self.low > self.high:
                    raise ValueError("low is above high")
                return self

        with pytest.raises(ConfigError, match=r"^s: url must begin with http, got 'x'$"):
            Server.from_values({"url": "x"}, where="s")
        with pytest.raises(ConfigError, match=r"^s: low is above high$"):
            Server.from_values({"low": 5}, where="s")


class TestObjects:
    def test_they_are_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            job().steps = 5  # type: ignore[misc]

    def test_plain_values_come_back(self) -> None:
        made = job(adapter={"target": ["q", "v"]}, exclude=["a"], holes=[1], weights={"format": 1}, parts=[{}])
        stated = made.to_dict()
        assert stated["adapter"] == {"rank": 8, "dropout": 0.0, "target": ["q", "v"]}
        assert (stated["exclude"], stated["holes"], stated["parts"]) == (["a"], [1.0], [Adapter().to_dict()])
        assert Job.from_values(stated) == made

    def test_other_values_are_checked(self) -> None:
        made = job(steps=5)
        assert made.replace(rate=2.0) == job(steps=5, rate=2.0)
        with pytest.raises(ConfigError, match="steps must be"):
            made.replace(steps=0)

    def test_they_can_be_sent(self) -> None:
        assert pickle.loads(pickle.dumps(job(steps=5))) == job(steps=5)


def command(said: list[dict[str, Any]] | None = None, **options: Any) -> click.Command:
    @click.command(cls=Command, context_settings={"max_content_width": 110})
    @click_options(Job, **options)
    def run(given: dict[str, Any]) -> None:
        if said is not None:
            said.append(given)

    return run


class TestFlags:
    def test_only_what_was_given_and_it_makes_settings(self) -> None:
        said: list[dict[str, Any]] = []
        line = "-m x --timeout 5 --rate 5e-2 --holes 1 --holes 2 --exclude e --columns a=b,c=d --weights format=2"
        result = CliRunner().invoke(command(said), [*line.split(), "--fresh", "--no-cache"])
        assert result.exit_code == 0, result.output
        assert said == [
            {
                "model": "x",
                "timeout_s": 5.0,
                "rate": 0.05,
                "holes": (1.0, 2.0),
                "exclude": (Path("e"),),
                "columns": {"a": "b", "c": "d"},
                "weights": {"format": "2"},
                "fresh": True,
                "cache": False,
            }
        ]
        assert job(**said[0]).weights == {"format": 2.0}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--steps", "0"], "0 is not in the range x>=1"),
            (["--rate", "0"], "0.0 is not in the range x>0"),
            (["--sharing", "x"], "'x' is not one of 'auto', 'off'"),
            (["--columns", "a"], "expected FIELD=COLUMN,…, separated by commas, got 'a'"),
            (["--rank", "1"], "No such option"),
        ],
    )
    def test_kinds_and_bounds(self, words: list[str], message: str) -> None:
        result = CliRunner().invoke(command(), ["-m", "x", *words])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())

    def test_a_field_that_must_be_said(self) -> None:
        assert "Missing option '-m' / '--model'" in CliRunner().invoke(command(), []).output

    def test_the_help(self) -> None:
        groups = {"Start": ["model"], "Course": ["steps", "rate", "timeout_s", "sharing"], "": ["fresh", "columns"]}
        text = CliRunner().invoke(command(fields=groups), ["--help"]).output
        assert text.index("Options:") < text.index("Start:") < text.index("Course:")
        lines = {line.split("  ")[1]: " ".join(line.split()) for line in text.splitlines() if line.startswith("  -")}
        assert lines["-m, --model TEXT"] == "-m, --model TEXT What to start from. [required]"
        assert lines["--steps N"] == "--steps N How many steps. [at least 1]"
        assert lines["--rate NUMBER"].endswith("[default: 1/3; above 0]")
        assert lines["--timeout NUMBER"].endswith("[default: 120; above 0]")
        assert lines["--sharing [auto|off]"].endswith("[default: auto]")
        assert lines["--fresh"] == "--fresh Start over."
        assert lines["--columns FIELD=COLUMN,…"] == "--columns FIELD=COLUMN,…"
        assert "--holes" not in text

    def test_two_settings_of_one_command(self) -> None:
        @click.command()
        @click_options(Job, ["model"], into="job")
        @click_options(Adapter, into="adapter")
        def run(job: dict[str, Any], adapter: dict[str, Any]) -> None:
            click.echo(repr((job, adapter)))

        assert CliRunner().invoke(run, ["-m", "x", "--rank", "3"]).output == "({'model': 'x'}, {'rank': 3})\n"

    def test_a_field_that_there_is_not(self) -> None:
        with pytest.raises(KeyError, match="stepz"):
            command(fields=["stepz"])
        with pytest.raises(KeyError, match="cannot be a command-line option"):
            command(fields=["adapter"])


class TestWrongUse:
    def test_a_key_that_is_said_twice(self, tmp_path: Path) -> None:
        """YAML's own loader keeps the second value and says nothing; a merge may repeat keys, as its purpose is."""
        path = tmp_path / "job.yaml"
        path.write_text("model: m\nsteps: 3\nsecond: {rank: 1}\nsteps: 4\n")
        with pytest.raises(ConfigError, match=r"job\.yaml: steps is set in line 2 and again in line 4"):
            Job.from_yaml(path)
        path.write_text("model: m\nadapter: &a {rank: 1}\nsecond: {<<: *a, rank: 2}\n")
        assert Job.from_yaml(path).second == Adapter(rank=2)

    @pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("# nothing\n", "is empty"), ("- a\n", "got a list$")])
    def test_a_file_without_keys(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            Job.from_yaml(path)

    def test_one_text_for_the_overrides(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("model: m\n")
        with pytest.raises(ConfigError, match=r"list of key=value texts, got text 'data=x'. Write \['data=x'\]"):
            Job.from_yaml(path, "data=x")

    def test_settings_without_names(self) -> None:
        with pytest.raises(ConfigError, match=r"Job: expected keyword arguments, got 'm'. Write Job\(name=value\)"):
            Job("m")  # type: ignore[misc]

    def test_a_field_that_is_set_later(self) -> None:
        made = job()
        with pytest.raises(ConfigError, match=r"steps: .* \.replace\(steps=-4\)"):
            made.steps = -4  # type: ignore[misc]
        assert made.steps is None

    def test_something_else_than_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"expected Job, got dict. Write Job\.from_values"):
            Job.expect({"model": "m"})
        Job.expect(job())


def test_one_of_many_names() -> None:
    """31 names would be a wall; of like ones the first is suggested."""
    names = [*(f"field{number}" for number in range(30)), "rate"]
    assert unknown_key("zzz", names).count(",") == 2
    assert unknown_key("fielt1", ["fiela1", "fielb1"]) == "unknown key 'fielt1'; did you mean 'fiela1'?"
