"""Rewards of a plugin, loaded and called as ms-swift's GRPO trainer does: `swift_plugin.py PLUGIN COMPLETIONS COLUMNS`."""

import json
import sys
from types import SimpleNamespace

from swift.rewards import orms
from swift.utils import import_external_file

plugin, completions, columns = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
import_external_file(plugin)
rewards = {name: orms[name](args=SimpleNamespace()) for name in orms if name.startswith("sif_")}
print(json.dumps({name: reward(completions, **columns) for name, reward in rewards.items()}))
