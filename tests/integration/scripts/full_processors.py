"""transformers' processors with torchvision, applied to images and a chat; and ours, which is to be the same there.

JOB.json: {"out": folder, "images": [paths], "prompt": text, "max_pixels": number, "models": {name: folder}}
→ {name: {"processor": class, "videos": class of its video processor or null, "ours": whether load_processor gave the same}}
Arrays go to out/NAME.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoProcessor

from sifthinker.models import load_processor


def arrays(processor, job):
    content = [*({"type": "image"} for _ in job["images"]), {"type": "text", "text": job["prompt"]}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.open(path).convert("RGB") for path in job["images"]]
    inputs = processor(text=[prompt], images=[images], return_tensors="np")
    return {name: np.asarray(value) for name, value in inputs.items()}


def main(file):
    job, found = json.loads(Path(file).read_text()), {}
    for name, folder in job["models"].items():
        bounds = {} if job["max_pixels"] is None else {"max_pixels": job["max_pixels"]}
        full, ours = AutoProcessor.from_pretrained(folder, **bounds), load_processor(folder, max_pixels=job["max_pixels"])
        made, same = arrays(full, job), arrays(ours, job)
        np.savez(Path(job["out"]) / f"{name}.npz", **made)
        videos = getattr(full, "video_processor", None)
        found[name] = {
            "processor": type(full).__name__,
            "videos": None if videos is None else type(videos).__name__,
            "ours": made.keys() == same.keys() and all(np.array_equal(made[key], same[key]) for key in made),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
