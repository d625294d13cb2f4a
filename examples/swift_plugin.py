"""ms-swift plugin with the four rewards of GRPO-SIF.

swift rlhf --rlhf_type grpo --external_plugins examples/swift_plugin.py \\
    --reward_funcs sif_format sif_answer sif_grounding sif_depth …

Loaded by ms-swift 4.6.0 and called as its GRPO trainer calls rewards: tests/integration, `-m integration`.
"""

from swift.rewards import ORM, orms

from sifthinker.scoring.swift import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding

for name, reward in {"format": SwiftFormat, "answer": SwiftAnswer, "grounding": SwiftGrounding, "depth": SwiftDepth}.items():
    orms[f"sif_{name}"] = type(reward.__name__, (reward, ORM), {})
