"""Training on Examples: an SFT warm-up, then GRPO-SIF. Both are thin layers over TRL."""

from sifthinker.errors import need

need("training", "torch", "transformers", "accelerate", "trl", "peft", "datasets", "pyarrow")
