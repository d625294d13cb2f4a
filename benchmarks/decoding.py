"""Generation speed of our cache, which grows in place, compared with transformers' own cache.

    python benchmarks/decoding.py                        # nano, 64 rows, single precision with autocast, as in GRPO
    python benchmarks/decoding.py --dtype bfloat16       # as in thinking and evaluation
    python benchmarks/decoding.py --rows 8

Both sides alternate in one run. Every chain has the same number of tokens. Ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from sifthinker.decoding import growing_cache
from sifthinker.lab.questions import sample_questions, scene_of
from sifthinker.models import load_for_inference
from sifthinker.prompts import user_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=140)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model, processor = load_for_inference("nano", device="cpu", dtype=options.dtype)
    question = next(iter(sample_questions(1)))
    image, depth, _ = scene_of(question).reference
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": user_prompt(question.text)}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        text=[prompt] * options.rows,
        images=[[image, depth.view()]] * options.rows,
        return_tensors="pt",
        add_special_tokens=False,
    )
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)

    def seconds(*, grows: bool) -> float:
        cache = growing_cache(model) if grows else None
        started = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "float32"):
            model.generate(
                **inputs, past_key_values=cache, do_sample=True, max_new_tokens=options.tokens, min_new_tokens=options.tokens
            )
        return time.perf_counter() - started

    rounds = [[seconds(grows=grows) for grows in (False, True)] for _ in range(options.rounds + 1)][
        1:
    ]  # without the warm-up
    ratio = statistics.median(theirs / ours for theirs, ours in rounds)
    print(f"{options.rows} rows, {options.dtype}: our cache is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
