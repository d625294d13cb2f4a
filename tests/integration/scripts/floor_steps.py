"""One step of SFT and of GRPO-SIF: `floor_steps.py MODEL DATA OUTPUT`; prints what each logged."""

import json
import sys
from pathlib import Path

from sifthinker import TrainSettings, train

model, data, output = sys.argv[1:]
both = {"max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
fields = {"sft": both, "grpo": {**both, "num_generations": 2, "max_completion_length": 8}}
logged = {}
for stage, training in fields.items():
    run = Path(output) / stage
    train(TrainSettings(model=model, data=data, output=str(run), limit=2, training=training), stage)
    logged[stage] = [sorted(json.loads(line)) for line in (run / "history.jsonl").read_text().splitlines()]
    assert (run / "model.safetensors").is_file()
print(json.dumps(logged))
