"""ms-swift plugin with the four rewards of GRPO-SIF.

swift rlhf --rlhf_type grpo --external_plugins examples/swift_plugin.py \
    --reward_funcs sif_format sif_answer sif_grounding sif_depth …

ms-swift has not been run by this project; the classes it registers are tested alone.
"""

from swift.plugin import orms

from sifthinker.adapters import SwiftAnswer, SwiftDepth, SwiftFormat, SwiftGrounding

orms["sif_format"] = SwiftFormat
orms["sif_answer"] = SwiftAnswer
orms["sif_grounding"] = SwiftGrounding
orms["sif_depth"] = SwiftDepth
