"""The names that torch gives the arguments of operations: a caller may use them, and the rules know positions."""

from __future__ import annotations

from typing import Any

#: How torch names the arguments of the operations in the table, where they are not just `input`: callers may use the names.
_ORDERS = {
    "input other": """
        mul multiply div divide true_divide maximum minimum fmax fmin atan2 arctan2 hypot logaddexp logaddexp2 xlogy
        remainder fmod floor_divide matmul inner vdot kron cross max min
    """,
    "input exponent": "pow float_power",
    "input mat2": "mm bmm",
    "input vec": "mv",
    "input tensor": "dot",
    "input vec2": "outer ger",
    "a b dims": "tensordot",
    "x y": "vecdot",
    "input mat1 mat2": "addmm",
    "input batch1 batch2": "baddbmm addbmm",
    "input mat vec": "addmv",
    "input vec1 vec2": "addr",
    "input tensor1 tensor2": "addcmul addcdiv",
    "input end weight": "lerp",
    "input min max": "clamp clip",
    "input1 input2 weight bias": "bilinear",
    "x1 x2": "cosine_similarity pairwise_distance cdist",
    "condition input other": "where",
    "query key value": "scaled_dot_product_attention",
    "input target": "mse_loss binary_cross_entropy_with_logits",
    "input normalized_shape weight bias": "layer_norm",
    "input normalized_shape weight": "rms_norm",
    "input num_groups weight bias": "group_norm",
}
#: operation -> the names of its arguments, in order.
NAMED = {name: order.split() for order, names in _ORDERS.items() for name in names.split()}
ALONE = ["input"]


def placed(names: list[str], args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The call with its leading arguments by position, also those that it gives by name."""
    found, rest = list(args), dict(kwargs)
    if not found and names[0] not in rest:  # the others' names for what comes first
        names = [next(name for name in ("input", "self", "x", "A") if name in rest), *names[1:]]
    for name in names[len(found) :]:
        if name not in rest:
            break
        found.append(rest.pop(name))
    return tuple(found), rest
