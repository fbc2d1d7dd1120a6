"""Private torch names, all of them, each with the reason it is needed; and what older versions call otherwise.

Seen to work on torch 2.0.1, 2.4.1, 2.13.0 and 2.14.1; what a version lacks is said where it is made up for. Everything else in
the package uses documented names only.
"""

# Grad levels entered by hand: torch.func.grad wants its input before the call, but the leaf of an
# attribution is only met inside the model, in the same forward pass.
from torch._C._functorch import _unwrap_for_grad as unwrap_for_grad

# All that Dynamo knows of torch.func.grad, vjp and the like.
from torch._functorch.eager_transforms import _autograd_grad as gradient_inside

# For autograd.Functions that hold at one grad level, unknown to those below: without it torch.func refuses them.
from torch._functorch.utils import enable_single_level_autograd_function as at_one_level

# What fwAD.make_dual, torch.func.jvp and the like call: all that a function mode is told of them.
from torch._VF import _make_dual as dual_made

# The one pytree registry that model libraries (transformers' ModelOutput) register their outputs with.
from torch.utils._pytree import TreeSpec, tree_flatten

from .graphs import copy_saved, edge_of, slopes_at
from .interrupted import interruption, must_rise, put_back
from .shown import (
    can_defer,
    deferred,
    depth_traced,
    fixed,
    indexing_shown,
    keep_checks_whole,
    kept_whole,
    shadowing,
    show_allowed_to_modes,
    show_assignment_to_modes,
    show_parts_to_modes,
    show_to_modes,
)
from .tensors import (
    Memory,
    Writes,
    alone_in_memory,
    base_of,
    forward_class,
    grad_levels_in_vmap,
    grad_of_sum,
    is_dressed,
    is_newer,
    is_older,
    is_plain,
    is_view,
    nodes_before,
    nodes_so_far,
    nothing_below,
    once_only,
    saved_as,
    scripted_names,
    slope_of_one,
    swap_tensors,
    times_written,
    tree_unflatten,
    views,
)
from .traces import (
    any_batch,
    as_written,
    autograd_function,
    backward_decompositions,
    beside_traces,
    compile_lock,
    compiled_from,
    constant,
    fake_batch,
    forward_mode,
    is_registered,
    made_by_func,
    may_be_compiled,
    modes_around,
    observed_by_dispatch_mode,
    of_dynamo,
    quiet,
    told_already,
    tracing,
    unlogged,
    visible,
    without_tangents,
    writes,
)
from .transforms import (
    Late,
    Surroundings,
    as_recorded,
    below_vmap,
    current_grad_level,
    depth,
    enter,
    grad_level,
    is_mapped,
    is_wrapped,
    make_leaf,
    mapped_below,
    mapped_without,
    no_vmap_inside,
    numbers,
    only_vmap_runs,
    operation_spaces,
    out_of_levels,
    plain_data,
    recorded,
    saved_tensors_hooked,
    says_it_writes,
    says_what_it_writes,
    surroundings,
    transforms_active,
    vmap_runs,
    vmapped_over,
    without_modes,
    without_transforms,
    written_over,
)
