"""Plugin for ms-swift with the four rewards of GRPO-SIF.

sif data export DATASET --to swift -o OUT
swift rlhf --rlhf_type grpo --dataset OUT/train.jsonl --external_plugins examples/swift_plugin.py \\
    --reward_funcs sif_format sif_answer sif_grounding sif_depth …

Tested with ms-swift 4.6.0. To run the test: `make test-integrations ONLY=swift`.
"""

from swift.rewards import ORM, orms

from sifthinker.scoring.swift import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding

for name, reward in {"format": SwiftFormat, "answer": SwiftAnswer, "grounding": SwiftGrounding, "depth": SwiftDepth}.items():
    orms[f"sif_{name}"] = type(reward.__name__, (reward, ORM), {})
