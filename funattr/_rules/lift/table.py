"""THE table: operation -> DeepLIFT rule, by the names that torch gives its operations, in every spelling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spelled import SWITCHED, Entry, by_function, counterpart, functions, name_in_torch, opened, spelled
from .attention import attention
from .compound import COMPOUND, prelu, taken_apart
from .linear import bilinear, bilinear_layer, convolution, einsum, grouped_product, inverse, linear, matrix_product, solve
from .norms import NORMS
from .rows import extremum, indexed, logsumexp, masked_fill, max_pool, softmax, where
from .secants import (
    EXACT,
    RELATIVE,
    SMOOTH,
    Rule,
    binary,
    clamp,
    power,
    product,
    quotient,
    reciprocal,
    swapped_quotient,
    unary,
)

#: What torch calls its operations, by what they are: the one list, for DeepLIFT's rules and for those of `flow`.
NAMES: dict[str, list[str]] = {
    group: names.split()
    for group, names in {
        "exact": """
            relu relu6 leaky_relu hardtanh hardsigmoid abs absolute threshold rrelu hardshrink softshrink prelu sign sgn
            round floor ceil trunc fix frac nan_to_num deg2rad fake_quantize_per_tensor_affine
            fake_quantize_per_channel_affine
        """,
        "smooth": """
            sigmoid expit tanh gelu silu mish hardswish elu celu selu softplus softsign logsigmoid log_sigmoid exp expm1 exp2
            erf erfc sin cos tan arcsin arccos arctan asin acos atan sinh cosh asinh arcsinh acosh arccosh atanh arctanh
            tanhshrink sinc
        """,
        "relative": "log log2 log10 log1p sqrt square logit erfinv lgamma gammaln digamma psi",
        "reciprocal": "rsqrt reciprocal",
        "clamp": "clamp clamp_min clamp_max clip",
        "power": "pow __pow__",
        "exponential": "__rpow__",
        "indexed": """
            __getitem__ __setitem__ gather index_select take take_along_dim scatter scatter_add index_add index_put index_copy
            index_fill masked_select masked_scatter repeat_interleave
        """,
        "product": "mul multiply __mul__ __rmul__",
        "quotient": "div divide true_divide __truediv__ __div__",
        "swapped quotient": "__rdiv__ __rtruediv__",
        "extreme": "maximum minimum fmax fmin",
        "step": "remainder fmod __mod__ floor_divide __floordiv__",
        "curved": "atan2 arctan2 hypot logaddexp logaddexp2",
        "curved, relative": "xlogy",
        "matrix product": "matmul mm bmm spmm dsmm __matmul__",
        "bilinear": "mv dot vdot inner outer ger kron tensordot vecdot cross linalg_vecdot linalg_cross",
        # what F.grouped_mm calls, and torch before 2.10 has alone: experts of a mixture
        "grouped product": "_grouped_mm",
        "convolution": " ".join(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)),
        "solve": "solve linalg_solve solve_triangular linalg_solve_triangular",
        "inverse": "inv linalg_inv inverse",
        "chosen": "topk sort msort kthvalue median nanmedian mode cummax cummin aminmax quantile nanquantile",
    }.items()
}

_OF_GROUPS: dict[str, Rule] = {
    "exact": unary(EXACT),
    "smooth": unary(SMOOTH),
    "relative": unary(RELATIVE),
    "reciprocal": reciprocal,
    "clamp": clamp,
    "power": power,
    "exponential": binary(SMOOTH),
    "indexed": indexed,  # linear in what is chosen by their indices
    "product": product,
    "quotient": quotient,
    "swapped quotient": swapped_quotient,
    "extreme": binary(EXACT),
    "step": binary(EXACT),
    "curved": binary(SMOOTH),
    "curved, relative": binary(RELATIVE),
    "matrix product": matrix_product,
    "bilinear": bilinear,
    "grouped product": grouped_product,
    "convolution": convolution,
    "solve": solve,
    "inverse": inverse,
}

#: name -> rule. A name stands for the function, the method, the operator and their in-place versions.
RULES: dict[str, Rule] = {
    **{name: rule for group, rule in _OF_GROUPS.items() for name in NAMES[group]},
    "linear": linear,
    "bilinear": bilinear_layer,
    "prelu": prelu,
    "einsum": einsum,
    "masked_fill": masked_fill,
    "softmax": softmax(False),
    "log_softmax": softmax(True),
    "logsumexp": logsumexp,
    "where": where,
    "max": extremum(1, False),
    "min": extremum(-1, False),
    "amax": extremum(1, True),
    "amin": extremum(-1, True),
    **NORMS,
    **{name: taken_apart(body) for name, body in COMPOUND.items()},
    "scaled_dot_product_attention": attention,
    **{f"max_pool{n}d": max_pool(n, False) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": max_pool(n, True) for n in (1, 2, 3)},
    **{f"max_pool{n}d_with_indices": max_pool(n, False, True) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d_with_indices": max_pool(n, True, True) for n in (1, 2, 3)},
}

#: Linear in what varies, or without a floating-point result: left alone, and never tested.
_LINEAR = """
    add add_ sub subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ neg negative positive __neg__ sum
    mean nansum cumsum diff view view_as reshape reshape_as flatten unflatten ravel squeeze unsqueeze expand expand_as
    permute transpose t swapaxes swapdims movedim moveaxis adjoint contiguous clone detach requires_grad_ to type
    type_as float double half bfloat16 cpu cuda cat concat concatenate stack hstack vstack dstack split split_with_sizes
    chunk tensor_split unbind unfold fold im2col col2im narrow select copy_ fill_ zero_ roll flip fliplr flipud rot90 repeat
    tile broadcast_to broadcast_tensors meshgrid tril
    triu diag diagonal diag_embed trace pad dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    feature_alpha_dropout native_dropout avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle embedding embedding_bag one_hot nll_loss
    nll_loss2d nll_loss_nd
    zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor size
    dim stride numel item tolist shape is_floating_point is_complex eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__
    __ge__ isnan isinf isfinite argmax argmin argsort any all equal allclose data_ptr get_device is_contiguous
    storage_offset nonzero bool long int byte short logical_not logical_and logical_or bitwise_not __and__ __or__
    __invert__ __len__ __iter__ __bool__ __float__ __int__ __index__ __hash__ __repr__ __format__ ndimension nelement
    untyped_storage element_size is_same_size fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn real imag view_as_real
    view_as_complex complex conj resolve_conj numpy empty zeros ones full arange linspace tensor as_tensor scalar_tensor randn
    rand randint bernoulli normal is_tensor result_type promote_types finfo can_cast squeeze_ unsqueeze_ is_pinned
    pin_memory share_memory_ is_shared is_inference unsafe_chunk unsafe_split constant_pad_nd count_nonzero isin
    bincount searchsorted bucketize unique unique_consecutive backward register_hook retain_grad
    hfft ihfft fftshift ifftshift atleast_1d atleast_2d atleast_3d column_stack row_stack hsplit vsplit dsplit block_diag
    slice_scatter diagonal_scatter as_strided narrow_copy resolve_neg affine_grid_generator
    nanmean sum_to_size select_scatter as_strided_scatter hfft2 ihfft2 hfftn ihfftn to_dense to_sparse to_sparse_coo
    to_sparse_csr to_sparse_csc coalesce sparse_coo_tensor _sparse_sum
    slice alias lift_fresh lift_fresh_copy _to_copy _unsafe_view sym_size _assert_tensor_metadata mT mH numpy_T matrix_H
"""
#: The same without a rule, names that say "in place" first: of a function that has two, the other holds.
_LEFT: dict[str, Any] = dict.fromkeys(sorted(_LINEAR.split(), key=lambda name: not name.endswith("_")))
#: By the names that exported operations have.
NAMED = {**_LEFT, **RULES}

#: Operations of one argument with an autograd.Function of torch's own: of these the rules leave nothing but slopes.
_UNARY = [*NAMES["exact"], *NAMES["smooth"]]
ELEMENTWISE = [*_UNARY, *NAMES["relative"], *NAMES["reciprocal"], "softmax", "log_softmax"]

_found: dict[Any, Entry] = {
    **by_function(RULES),
    Tensor.where: Entry(
        lambda lift, _, x, condition, y: where(lift, torch.where, condition, x, y),
        Tensor.where,
        False,
        ["input", "condition", "other"],
        "Tensor.where",
    ),
    # Of the same name as torch.norm, but with an order it is of matrices.
    torch.linalg.norm: Entry(RULES["linalg_norm"], torch.linalg.norm, False, ["input"], "linalg_norm"),
    # Dynamo cannot call this one from inside a mode.
    Tensor.unflatten: Entry(
        lambda lift, unflatten, x, *args, **kwargs: unflatten(x, *args, **kwargs),
        torch.unflatten,
        False,
        ["input"],
        "Tensor.unflatten",
    ),
}
_linear = {func: entry for func, entry in by_function(_LEFT).items() if func not in _found}

#: Python functions that have a rule as a whole; into the others the mode looks. (Not into these, because Dynamo shows a
#: mode F.silu, and not the function of the same name that it calls.)
_whole = {
    F.interpolate,
    F.layer_norm,
    *(getattr(F, f"adaptive_avg_pool{n}d") for n in (1, 2, 3)),  # with a symbolic size Dynamo cannot trace their bodies
    *(f for f in _found if "max_pool" in getattr(f, "__name__", "")),
    *(getattr(F, n, None) for n in ["glu", "mse_loss", "cross_entropy", *_UNARY]),
}
#: F.relu calls torch.relu or torch.relu_, F.multi_head_attention_forward much more.
OPENED = {**opened(torch.functional, {*_found, *_linear}), **opened(F, _whole)}
#: function -> its rule, and how that calls it.
ENTRIES = {func: entry for func, entry in _found.items() if func not in OPENED}
LINEAR = {func: entry for func, entry in _linear.items() if func not in OPENED}
#: Dynamo takes no table that has them, and no sparse tensors.
SPARSE = {
    torch.sparse.mm: Entry(matrix_product, torch.sparse.mm, False, ["mat1", "mat2"], "mm"),
    torch.sparse.addmm: Entry(RULES["addmm"], torch.sparse.addmm, False, ["mat", "mat1", "mat2"], "addmm"),
}
#: Functions without a rule of the table, which may be given one by their name.
BARE = {**{func: Entry(None, func, False, ["input"], func.__name__) for func in OPENED}, **LINEAR}
#: The same numbers in another shape.
SHAPES = functions("""
    view view_as reshape flatten unflatten squeeze unsqueeze expand expand_as permute transpose movedim broadcast_to clone
    contiguous to type type_as float double half bfloat16
""")
#: The same, some of them several times, or with zeros beside.
SPREAD = SHAPES | functions("repeat tile diag diag_embed")
#: Left alone at once.
PLAIN = set(LINEAR) - set(SWITCHED) - {Tensor.backward}
#: Left alone at once where their second argument is a parameter.
WEIGHED = {func for name in ("linear", *NAMES["convolution"]) for func, _, in_place in spelled(name) if not in_place}


def is_chosen(func: Any) -> bool:
    """Whether an operation gives some of its numbers, or one between two: under the rules of `flow` winners take all."""
    return name_in_torch(counterpart(func)) in NAMES["chosen"]
