"""Names for options, defined once for the settings and for the code that uses them.

This module contains only names shared by settings and heavy modules, so the command line can list them without loading
numpy.
"""

from __future__ import annotations

from typing import Literal

# Box coordinates in data; `boxes.convert` converts them to unit xyxy.
Space = Literal["unit", "pixel", "per_mille", "resized", "padded_square"]
# The subset that texts of models can use; see `coordinates.Frame`.
Coordinates = Literal["unit", "per_mille", "resized"]
# Box format in a table: two corners, or corner and size.
BoxForm = Literal["xyxy", "xywh"]
# What to do with boxes that extend past the image border.
OutsideBoxes = Literal["clip", "strict"]
# Formats of record files; see `engine.sources`.
SourceFormat = Literal["auto", "jsonl", "table", "viscot", "viscot-conversation", "refcoco", "coco", "tallyqa"]

# Meaning of the numbers in a depth file, and which end of them is near; see `DepthMap.read`.
Encoding = Literal["auto", "sif", "grey8", "spectral", "npy", "metres", "millimetres", "inverse"]
Near = Literal["low", "high"]

# Export formats of a finished dataset; see `engine.exports`.
ExportForm = Literal["trl", "llamafactory", "verl", "swift", "hf", "coco", "label-studio"]

# Export formats of the thoughts of an evaluation; see `results`.
ThoughtForm = Literal["jsonl", "coco", "label-studio"]

# Rewards of GRPO-SIF, in display order.
RewardName = Literal["format", "answer", "grounding", "depth"]
# Denominator of the box-level IoU; see `boxes.paired_iou`.
Denominator = Literal["max", "min"]
# How the grounding reward rewards a corrected focus; see `rewards.score_grounding`.
Correction = Literal["own", "group", "off"]

# Data type of a model's weights: the name of a torch dtype, or `auto` for that of the checkpoint.
Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]

# How to ask a model about an image; see `thinker.Thinker.think_all`.
ThinkProtocol = Literal["direct", "chain", "structured"]
# Image format for requests to a server: exact or smaller.
ImageFormat = Literal["png", "jpeg"]
