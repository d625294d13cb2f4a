"""Score a completion as verl does: `python examples/verl_rewards.py`.

In the config of verl (0.9), set reward.custom_reward_function.path to pkg://sifthinker.scoring.verl and
reward.custom_reward_function.name to compute_score. In each row, `reward_model.ground_truth` contains answer and boxes, and
optionally depth and choices.
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
