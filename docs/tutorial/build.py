"""Build a dataset from records.jsonl and the thoughts in words.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from sifthinker import Attempt, BuildSettings, SourceSettings, Task, build

FOLDER = Path("docs/tutorial")


class HandWritten:
    """A teacher that reads its thoughts from a file."""

    name = "hand-written"
    words = json.loads((FOLDER / "words.json").read_text(encoding="utf-8"))

    async def reply(self, task: Task, earlier: Sequence[Attempt]) -> str:
        return json.dumps({"thoughts": self.words[task.record.id], "answer": task.record.answer})


settings = BuildSettings(
    sources=(SourceSettings(file="records.jsonl"),),
    folder=FOLDER,
    images=FOLDER,
    output=Path("runs/tutorial/chains"),
    depth="none",
    decimals=2,
    fresh=True,
)
counts = build(settings, teacher=HandWritten())
print(f"{counts.accepted} examples, {sum(counts.rejected.values())} records rejected")
