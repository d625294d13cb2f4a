"""Two steps of GRPO with completions logged to a tracker: `tracked_run.py MODEL DATA OUTPUT TRACKER [anyway]`.

`anyway` leaves out our refusal of a tracker, to see what it saves from.
"""

import json
import sys

from sifthinker.errors import ConfigError
from sifthinker.training import settings
from sifthinker.training.settings import TrainSettings
from sifthinker.training.stages import train

model, data, output, tracker, *anyway = sys.argv[1:]
if anyway:
    settings._tracker_faults = lambda training: iter(())
training = {
    "max_steps": 2, "num_generations": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "max_completion_length": 8, "save_strategy": "no", "report_to": tracker, "log_completions": True, "project": "sif",
}  # fmt: skip
error = None
try:
    train(TrainSettings(model=model, data=data, output=output, limit=2, training=training), "grpo")
except ConfigError as refused:
    error = str(refused)
except Exception as raised:
    if not anyway:
        raise
    error = f"{type(raised).__name__}: {raised}"
print(json.dumps({"error": error}))
