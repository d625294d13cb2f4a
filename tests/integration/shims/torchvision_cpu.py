"""Let torchvision from PyPI be imported beside a CPU build of torch; imported when Python starts.

Its compiled part needs CUDA's libraries and is not loaded, so the operators that it would define are unknown when its Python
part registers something for them. Here their schemas are defined before torchvision is imported. The transforms work; the
operators have no kernel, and fail when they are called.
"""

import sys
from importlib.abc import MetaPathFinder

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if not hasattr(torch.ops.torchvision, "nms"):
                library = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    library.define(f"{operator}{SCHEMA}")
                sys.modules[__name__].kept = library  # its definitions last as long as it does
        return


sys.meta_path.insert(0, _BeforeTorchvision())
