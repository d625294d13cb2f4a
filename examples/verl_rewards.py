"""Score a completion as verl would: `python examples/verl_rewards.py`.

In verl's config (0.9), reward.custom_reward_function.path is pkg://sifthinker.scoring.verl and its name is compute_score.
Each row's `reward_model.ground_truth` holds answer, boxes, and perhaps depth and choices.
"""

from __future__ import annotations

from sifthinker.scoring.verl import compute_score

COMPLETION = """<think>
<area>[{"bbox_2d":[0.000,0.000,1.000,1.000]}]</area>
<text>A kitchen with shelves on the right.</text>
<area>[{"bbox_2d":[0.620,0.110,0.710,0.240]}]</area>
<text>The mug on the shelf is blue.</text>
</think>
<answer>
blue
</answer>"""

if __name__ == "__main__":
    truth = {"answer": "blue", "boxes": [[0.62, 0.11, 0.71, 0.24]]}
    for name, value in compute_score("kitchen", COMPLETION, truth).items():
        print(f"{name}: {value:g}")
