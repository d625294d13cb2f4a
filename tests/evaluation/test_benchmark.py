"""The numbers of a benchmark's table: means of groups, statistics that are no means, and their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from sifthinker.evaluation.benchmark import Benchmark, Estimate, Headline, Statistic, mean_of
from sifthinker.evaluation.metrics import Result, Row
from sifthinker.evaluation.questions import Question


def rows(values: Iterable[float | None], family: str = "") -> list[Row]:
    return [
        Row(str(number), "", "", family, {}, "?", ("yes",), (), (), "", None, "", values={"right": value})
        for number, value in enumerate(values)
    ]


def nothing(*_: object, **__: object) -> list[Question]:
    return []


def numbers(headline: Headline, of: Sequence[Row]) -> dict[str, tuple[float, int]]:
    found = Benchmark("own", "Own", "ours", "", ("test",), nothing, (headline,)).numbers(of)
    return {name: (number.strict.mean, number.strict.count) for name, number in found.items()}


def test_groups_count_alike() -> None:
    # 1/4 of four, and 1 of one: the mean of all five is 2/5.
    of = rows([1, 0, 0, 0], "a") + rows([1], "b")
    assert numbers(Headline("all", "", mean_of("right")), of) == {"all": (0.4, 5)}
    assert numbers(Headline("both", "", mean_of("right", by=lambda row: row.family)), of) == {"both": (0.625, 5)}
    assert numbers(Headline("a", "", mean_of("right", lambda row: row.family == "a")), of) == {"a": (0.25, 4)}


def test_what_no_row_has_is_left_out() -> None:
    assert numbers(Headline("all", "", mean_of("right")), rows([None])) == {}
    assert numbers(Headline("all", "", mean_of("wrong")), rows([1])) == {}
    failed = Row("1", "", "", "", {}, "?", (), (), (), "", None, "", values={"right": 1.0}, error="no image")
    assert numbers(Headline("all", "", mean_of("right")), [failed]) == {}


def greatest(of: Sequence[Row]) -> Estimate | None:
    values = np.array([row.values["right"] for row in of])
    return Estimate(len(values), lambda times: float(values[times > 0].max()))


def greatest_share(of: Sequence[Row]) -> Estimate | None:
    found = greatest(of)
    return found and replace(found, biased=True)


def test_a_statistic_is_worked_out_of_all_and_of_what_is_drawn() -> None:
    headline = Headline("most", "", mean_of("right"), mean_of("right"), "", greatest, lambda of: None)
    found = Benchmark("own", "Own", "ours", "", ("test",), nothing, (headline,)).numbers(rows([0, 1, 2, 3]))["most"]
    assert (found.strict.mean, found.strict.count) == (3, 4)
    assert found.lenient is None
    # Of four drawn out of four, the greatest is 3, 2, 1, 0 in 175, 65, 15 and 1 of 256 cases: 1 is its 2.5th percentile.
    assert (found.strict.low, found.strict.high) == (1, 3)


def test_a_biased_share_has_the_standard_deviation_of_its_draws_about_it() -> None:
    headline = Headline("most", "", mean_of("right"), statistic=greatest_share)
    own = Benchmark("own", "Own", "ours", "", ("test",), nothing, (headline,))
    found = own.numbers(rows([0, 0.2, 0.4, 0.6]))["most"].strict
    # A fifth of the numbers above.
    values, cases = np.array([0.6, 0.4, 0.2, 0]), np.array([175, 65, 15, 1]) / 256
    spread = 1.96 * np.sqrt(cases @ values**2 - (cases @ values) ** 2)
    assert found.high - 0.6 == pytest.approx(spread, rel=0.2)
    assert 0.6 - found.low == pytest.approx(found.high - 0.6)
    # As far as shares go: 0.9 and 0.1, the standard deviation of whose greatest is 0.35.
    found = own.numbers(rows([0.1, 0.9]))["most"].strict
    assert (found.low < 0.4, found.high) == (True, 1)


def test_a_number_that_lacks_a_part_is_left_out() -> None:
    def family(row: Row) -> str:
        return row.family

    a, b = rows([1, 0], "a"), [replace(row, id="b") for row in rows([1], "b")]
    by_group = Headline("both", "", mean_of("right", by=family), needs=frozenset("ab"))
    overall = Headline("all", "", mean_of("right"), needs=frozenset("ab"), parts=family)
    for headline, mean in ((by_group, 0.75), (overall, 2 / 3)):
        assert numbers(headline, a + b) == {headline.name: (pytest.approx(mean), 3)}
        assert numbers(headline, a) == {}
        assert numbers(headline, a + [replace(row, values={}) for row in b]) == {}
        own = Benchmark("own", "Own", "ours", "", ("test",), nothing, (headline,))
        assert own.left_out(a + b) == []
        assert own.left_out(a) == [
            f"not in the table: {headline.name}, because no question of b has a value",
            "2 of 2 questions do not count in any number of the table. The first is '0'. Each value comes from a question",
        ]


def total(of: Sequence[Row]) -> Estimate | None:
    values = np.array([row.values["right"] for row in of])
    return Estimate(len(values), lambda times: float(values @ times))


def test_a_statistic_that_never_varies_has_no_interval_and_none_is_below_zero() -> None:
    def of(statistic: Statistic, values: Iterable[float]) -> Result:
        headline = Headline("most", "", mean_of("right"), statistic=statistic)
        return Benchmark("own", "Own", "ours", "", ("test",), nothing, (headline,)).numbers(rows(values))["most"].strict

    always = of(greatest, [2, 2])
    assert (always.low, always.mean, always.high) == (2, 2, 2)
    # One of four is 1: its sum is a count of four draws with a chance of a quarter.
    once = of(total, [0, 0, 0, 1])
    # It is 0 in 81 of 256 cases, and 3 or less in 255.
    assert (once.low, once.high) == (0, 3)
