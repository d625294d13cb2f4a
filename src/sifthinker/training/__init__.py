"""Training on Examples: SFT warm-up, then GRPO-SIF, each a thin layer over TRL."""

from sifthinker.errors import need

need("training", "torch", "transformers", "accelerate", "trl", "peft", "datasets", "pyarrow")
