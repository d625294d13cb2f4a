"""A prompt whose image tokens are written out already, given to vLLM with its images, as TRL's colocated vLLM is given it.

MODEL → {"sent": tokens of the prompt, "read": tokens that vLLM makes of it, "usual": tokens that it makes of the prompt with
one token an image}
"""

import json
import os
import sys

# A cache of 1 GiB, no statistics sent, and nothing of vLLM's on stdout after our last line.
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

from PIL import Image
from transformers import AutoProcessor
from vllm import LLM, SamplingParams


def main(model: str) -> None:
    processor = AutoProcessor.from_pretrained(model)
    images = [Image.new("RGB", (56, 84), (200, 120, 40)), Image.new("RGB", (56, 56), (90, 90, 90))]
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is nearer?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expanded = processor(text=[prompt], images=[images])["input_ids"][0]
    llm = LLM(model, dtype="float32", max_model_len=512, max_num_seqs=2, enforce_eager=True)

    def read(ids: list[int]) -> int:
        given = {"prompt_token_ids": list(map(int, ids)), "multi_modal_data": {"image": images}}
        (output,) = llm.generate([given], SamplingParams(max_tokens=1, temperature=0), use_tqdm=False)
        return len(output.prompt_token_ids)

    found = {"sent": len(expanded), "usual": read(processor.tokenizer(prompt)["input_ids"])}
    try:
        found["read"] = read(expanded)
    except Exception as error:  # noqa: BLE001 - whatever it says is what came out
        found["read"] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
