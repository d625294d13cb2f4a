"""lmms-eval integration: sifthinker models (`model`) and benchmark tasks (`tasks`). Only `model` imports lmms-eval."""
