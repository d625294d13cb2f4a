"""Score a completion with the four rewards of GRPO-SIF: python examples/score_completion.py"""

import numpy as np

from sifthinker import Chain, DepthMap, Reference, Region, Step, render_chain, score_completion

looking = Step((Region((0.0, 0.0, 1.0, 1.0), 0.5),), "A kitchen with shelves on the right.")
found = Step((Region((0.62, 0.11, 0.71, 0.24), 0.5),), "The mug on the shelf is blue.")
text = render_chain(Chain((looking, found), "blue"))
truth = Reference(answer="blue", boxes=[[0.62, 0.11, 0.71, 0.24]], depth=DepthMap(np.full((48, 64), 0.5)))
scores = score_completion(text, truth)
for name in ("format", "answer", "grounding", "depth"):
    print(name, getattr(scores, name).value)
