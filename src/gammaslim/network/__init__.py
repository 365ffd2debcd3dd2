"""What must be known of ``nn.Module`` and of PyTorch; nothing of channels."""

from gammaslim.network.calling import (
    call_arguments,
    copied,
    describe,
    doubled,
    map_tensors,
    output_tensors,
)
from gammaslim.network.fake_tensors import FakeMemo, fake_copy, paused_collector, quiet_fake_tensors
from gammaslim.network.input_index import select_inputs, selected_places
from gammaslim.network.layers import constant_dim, is_batch, is_heard, is_plain, window_of
from gammaslim.network.modules import (
    BATCH_NORM,
    CONVOLUTION,
    NORM_BASE,
    SEED,
    ModeFlag,
    check_fresh,
    every_path,
    first_paths,
    named_aliases,
    named_tensors,
    on_meta,
    preserved_attributes,
    preserved_random_state,
    training_mode,
    unwrap,
)
from gammaslim.network.process import PROCESS
from gammaslim.network.sharding import Mesh, is_sharded, local, local_indices, whole
from gammaslim.network.source_lines import caller_of, packages_of, user_line

__all__ = [
    "BATCH_NORM",
    "CONVOLUTION",
    "NORM_BASE",
    "PROCESS",
    "SEED",
    "FakeMemo",
    "Mesh",
    "ModeFlag",
    "call_arguments",
    "caller_of",
    "check_fresh",
    "constant_dim",
    "copied",
    "describe",
    "doubled",
    "every_path",
    "fake_copy",
    "first_paths",
    "is_batch",
    "is_heard",
    "is_plain",
    "is_sharded",
    "local",
    "local_indices",
    "map_tensors",
    "named_aliases",
    "named_tensors",
    "on_meta",
    "output_tensors",
    "packages_of",
    "paused_collector",
    "preserved_attributes",
    "preserved_random_state",
    "quiet_fake_tensors",
    "select_inputs",
    "selected_places",
    "training_mode",
    "unwrap",
    "user_line",
    "whole",
    "window_of",
]
