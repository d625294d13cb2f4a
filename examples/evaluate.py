"""Evaluate a model on a dataset: python examples/evaluate.py runs/demo/chains nano found.json"""

import sys

from sifthinker import EvalSettings, evaluate

if len(sys.argv) != 4:
    sys.exit(__doc__)
dataset, model, output = sys.argv[1:]
settings = EvalSettings(data=dataset, model=model, output=output, limit=20, max_new_tokens=64)
for name, result in evaluate(settings).results.items():
    print(f"{name}: {result.mean:.2f} [{result.low:.2f}, {result.high:.2f}] of {result.count}")
