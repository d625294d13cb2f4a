"""lmms-eval: our models in its tasks (`model`), our benchmarks as its tasks (`tasks`). Only `model` imports it."""
