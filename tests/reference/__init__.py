"""What the tests compare with: plain autograd, plain hooks, one loop for each method, and nothing of funattr.

`passes` runs a model with a look at a site; `loops` has the methods, one node, baseline or group at a time, for a whole batch;
`alone` asks them of one example after another; `lifted` is DeepLIFT, kernel by kernel.
"""

from .loops import Asked, gauss, looped, path_at_site, path_in_input, slopes_by_hand, value_and_gradient
from .passes import Leaves, as_tuple, leaves, logits, pick

__all__ = [
    "Asked",
    "Leaves",
    "as_tuple",
    "gauss",
    "leaves",
    "logits",
    "looped",
    "path_at_site",
    "path_in_input",
    "pick",
    "slopes_by_hand",
    "value_and_gradient",
]
