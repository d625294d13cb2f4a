"""Training on Examples: SFT warm-up, then GRPO-SIF, each a thin layer over TRL."""
