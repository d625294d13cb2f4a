"""Train a model on chains: python examples/train.py nano runs/demo/chains runs/sft"""

import sys

from sifthinker import TrainSettings, train

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, chains, output = sys.argv[1:]
settings = TrainSettings(
    model=model,
    data=chains,
    output=output,
    training={"max_steps": 3, "learning_rate": 1e-3, "per_device_train_batch_size": 4},
)
print(train(settings, "sft"))
