"""The names that options choose between: said once, for the code that acts on them and for the settings that offer them.

Only what settings and heavy modules share stands here, so that a command line can offer it without loading numpy.
"""

from __future__ import annotations

from typing import Literal

# Coordinates of boxes as data has them; `boxes.convert` brings them to unit xyxy.
Space = Literal["unit", "pixel", "per_mille", "resized", "padded_square"]
# Of these, the ones that a model's text may be in; see `coordinates.Frame`.
Coordinates = Literal["unit", "per_mille", "resized"]
# Boxes of a table: two corners, or a corner and a size.
BoxForm = Literal["xyxy", "xywh"]
# What is done with boxes past the image's border.
OutsideBoxes = Literal["clip", "strict"]
# Forms of files that hold records; see `engine.sources`.
SourceFormat = Literal["auto", "jsonl", "table", "viscot", "viscot-conversation", "refcoco", "coco", "tallyqa"]

# What the numbers in a depth file are, and which end of them is near; see `DepthMap.read`.
Encoding = Literal["auto", "sif", "grey8", "spectral", "npy", "metres", "millimetres", "inverse"]
Near = Literal["low", "high"]

# Whose form a finished dataset is exported in; see `engine.exports`.
ExportForm = Literal["trl", "llamafactory", "verl", "swift", "hf", "coco", "label-studio"]

# Whose form the thoughts of an evaluation are exported in; see `results`.
ThoughtForm = Literal["jsonl", "coco", "label-studio"]

# The rewards of GRPO-SIF, in the order in which they are shown.
RewardName = Literal["format", "answer", "grounding", "depth"]
# Of a box-level IoU; see `boxes.paired_iou`.
Denominator = Literal["max", "min"]
# What the grounding reward pays for correcting the focus; see `rewards.score_grounding`.
Correction = Literal["own", "group", "off"]

# Of a model's weights: a torch dtype's name, or the checkpoint's own.
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]

# How a model is asked about an image; see `thinker.Thinker.think_all`.
ThinkProtocol = Literal["direct", "chain", "structured"]
# How images are sent to a server: exactly, or smaller.
ImageFormat = Literal["png", "jpeg"]
