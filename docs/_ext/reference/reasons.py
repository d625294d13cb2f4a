"""The reason codes, from the tables of the code.

    ```{reason-codes} records teacher
    ```

lists the codes of these groups, without groups all of them, each group under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from reference.text import markdown, sentence
from sifthinker import chain, errors, records, structured
from sifthinker.engine import checks, teachers
from sifthinker.scoring import rewards


@dataclass(frozen=True)
class Group:
    """Reason codes that a user meets in one place."""

    title: str
    where: str
    codes: Mapping[str, str]
    advice: Mapping[str, str]


def groups() -> dict[str, Group]:
    """Every reason code that a user can meet, by the place where it is met."""
    return {
        "records": Group(
            "Records that are left out",
            "`code` in `rejects.jsonl`, and in the summary of `sif data build`.",
            records.REJECTS,
            {},
        ),
        "teacher": Group(
            "Replies of a teacher",
            "`code` in `rejects.jsonl`. The last reply of the teacher failed this check.",
            {f"teacher_{code}": words for code, words in teachers.CHECKS.items()},
            {f"teacher_{code}": words for code, words in teachers.ADVICE.items()},
        ),
        "findings": Group(
            "Findings in a dataset", "Printed by `sif data check`, and `code` in its JSON lines.", checks.FINDINGS, {}
        ),
        "chain": Group(
            "Chains that are not valid",
            "Printed by `sif rewards` for the format reward, and `problems` of an evaluation or a thought.",
            chain.REASONS,
            {},
        ),
        "rewards": Group(
            "Rewards below their maximum", "Printed by `sif rewards` for the other rewards.", rewards.REASONS, {}
        ),
        "replies": Group("Replies of a served model", "`faults` of an evaluation or a thought.", structured.FAULTS, {}),
        "server": Group(
            "Servers", "`EndpointError.code`, and the error of a question that was not answered.", errors.SERVER_CODES, {}
        ),
        "files": Group("Files that cannot be read", "`RecordError.code` in Python.", errors.FILE_CODES, {}),
    }


class ReasonCodes(SphinxDirective):
    """`{reason-codes}` with any number of groups."""

    optional_arguments = 100
    has_content = False

    def run(self) -> list[nodes.Node]:
        known = groups()
        names = self.arguments or list(known)
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise self.error(f"no group of reason codes is called {unknown[0]!r}; known are {', '.join(known)}")
        found: list[nodes.Node] = []
        for name in names:
            if not self.arguments:
                title = known[name].title
                found.append(nodes.rubric(title, title))
            found += self.parse_text_to_nodes(_listed(known[name]))
        return found


def _listed(group: Group) -> str:
    entries = [f"Where: {group.where}"]
    for code, words in group.codes.items():
        advice = f" {_capital(sentence(markdown(group.advice[code])))}" if code in group.advice else ""
        entries.append(f"`{code}`\n: {_capital(sentence(markdown(words)))}{advice}")
    return "\n\n".join(entries)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
