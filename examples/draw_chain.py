"""Draw the first chain of a dataset as a PNG: python examples/draw_chain.py runs/demo/chains chain.png"""

import sys

from sifthinker import DepthMap, Thought, read_examples, write_thought
from sifthinker.images import load_image

if len(sys.argv) != 3:
    sys.exit(__doc__)
dataset, picture = sys.argv[1:]
example = next(iter(read_examples(dataset)))
depth = None if example.depth is None else DepthMap.read(example.depth)
write_thought(picture, Thought(example.problem, load_image(example.images[0]), depth, example.chain, frame=example.frame))
