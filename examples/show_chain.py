"""Write one example of a dataset as a page: its chain, step by step, over the image and its depth.

python examples/show_chain.py runs/demo/chains world-train-0-nearer -o chain.html
"""

from __future__ import annotations

import argparse

from sifthinker.depth import DepthMap
from sifthinker.errors import RecordError
from sifthinker.images import load_image
from sifthinker.records import read_examples
from sifthinker.show.report import thought_page, write_page
from sifthinker.thinker import Thought


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="dataset folder or examples file")
    parser.add_argument("id", nargs="?", help="id of the example; the first by default")
    parser.add_argument("-o", "--output", default="chain.html")
    options = parser.parse_args()
    example = next((e for e in read_examples(options.dataset) if options.id in (None, e.id)), None)
    if example is None:
        raise SystemExit(str(RecordError(f"{options.dataset}: has no example {options.id!r}")))
    depth = None if example.depth is None else DepthMap.read(example.depth)
    thought = Thought(example.problem, load_image(example.images[0]), depth, example.chain)
    write_page(options.output, thought_page(thought, note=f"{example.id}, as the data engine built it"))
    print(options.output)


if __name__ == "__main__":
    main()
