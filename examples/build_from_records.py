"""Build chains from a list of records: python examples/build_from_records.py PHOTOS OUTPUT MODEL

PHOTOS is a folder that contains cat.jpg. MODEL is the vision-language model that writes the explanations, for example
Qwen/Qwen2.5-VL-7B-Instruct.
"""

import sys

from sifthinker import BuildSettings, build

if len(sys.argv) != 4:
    sys.exit(__doc__)
photos, output, model = sys.argv[1:]
row = {"id": "1", "image": "cat.jpg", "question": "What sits here?", "answer": "a cat", "boxes": [[0.1, 0.2, 0.6, 0.9]]}
settings = BuildSettings(images=photos, output=output, depth="none", teacher="local", model=model)
counts = build(settings, records=[row])
print(f"{counts.accepted} accepted, {dict(counts.rejected)} rejected")
