from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.endpoint import Endpoint
from sifthinker.scoring.judge import Claim, ModelJudge

from ..stand_in import serve


class TestModelJudge:
    """Free text goes to a served model; closed questions never do."""

    def questions(self) -> list[Claim]:
        return [
            Claim("What is it?", "a dark feline", "black cat"),  # no rule decides
            Claim("What is it?", "black cat", "black cat"),
            Claim("Is it?", "yes", "no"),
            Claim("What is it?", "a dark feline", "black cat"),  # again: asked once
        ]

    def test_only_what_rules_leave_open_is_asked(self, tmp_path: Path) -> None:
        with serve(lambda request, number: "0.8") as (url, requests):
            judge = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            scores = [verdict.score for verdict in judge.judge_all(self.questions())]
            assert scores == [0.8, 1, 0, 0.8]
            assert len(requests) == 1
            assert "dark feline" in requests[0]["messages"][1]["content"]
            again = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            assert [verdict.score for verdict in again.judge_all(self.questions())] == scores
            assert len(requests) == 1
        assert (judge.counts.rules, judge.counts.model, again.counts.cached) == (2, 1, 1)

    @pytest.mark.parametrize("said", ["I cannot say", "", "7", "between 0 and 1", (500, {}, ""), (200, {}, "<html>")])
    def test_failure_is_no_verdict_and_not_kept(self, tmp_path: Path, said: object) -> None:
        with serve(lambda request, number: said) as (url, _):
            judge = ModelJudge(Endpoint(url, "j", max_retries=1, backoff_s=0.01), cache=tmp_path)
            assert judge.judge_all(self.questions()[:1]) == [None]
        assert judge.counts.failed == 1
        assert not list(tmp_path.rglob("*.json"))

    @pytest.mark.parametrize(("said", "score"), [("1", 1), ("0", 0), ("Score: 0.5.", 0.5), ("1.0", 1)])
    def test_what_counts_as_a_score(self, said: str, score: float) -> None:
        with serve(lambda request, number: said) as (url, _):
            (verdict,) = ModelJudge(Endpoint(url, "j")).judge_all(self.questions()[:1])
        assert verdict.score == score

    def test_a_broken_cache_is_asked_anew(self, tmp_path: Path) -> None:
        with serve(lambda request, number: "1") as (url, requests):
            judge = ModelJudge(Endpoint(url, "j"), cache=tmp_path)
            judge.judge_all(self.questions()[:1])
            (file,) = tmp_path.rglob("*.json")
            file.write_text("rubbish")
            judge.judge_all(self.questions()[:1])
            assert len(requests) == 2
