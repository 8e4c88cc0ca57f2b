"""Mixture-of-Experts operators of Ascend NPUs, natively on the CPU, for NumPy arrays.

The functions carry the names and arguments of ``torch_npu``; arrays go in and come out. Shapes and values that do
not fit raise ``ValueError``, wrong dtypes and missing arguments ``TypeError``; the message names the argument, what
was seen and what is needed. Every function takes ``out=``.
"""

try:
    from moe_native import _core
except ImportError as error:
    raise ImportError(
        "moe_native is not built here: its compiled part moe_native._core is missing. In a checkout run "
        "`pip install .`, and start Python outside of it (or with `python -P`, or use the `moe-native` command)."
    ) from error

from moe_native.ascend import ascend_home as ascend_home
from moe_native.backend import get_backend as get_backend
from moe_native.backend import use_backend as use_backend
from moe_native.ffn import npu_ffn as npu_ffn
from moe_native.finalize import npu_moe_finalize_routing as npu_moe_finalize_routing
from moe_native.gating import npu_moe_compute_expert_tokens as npu_moe_compute_expert_tokens
from moe_native.gating import npu_moe_gating_top_k as npu_moe_gating_top_k
from moe_native.gating import npu_moe_gating_top_k_softmax as npu_moe_gating_top_k_softmax
from moe_native.gating import npu_moe_gating_top_k_softmax_v2 as npu_moe_gating_top_k_softmax_v2
from moe_native.grouped_matmul import npu_grouped_matmul_finalize_routing as npu_grouped_matmul_finalize_routing
from moe_native.grouped_matmul import npu_grouped_matmul_swiglu_quant as npu_grouped_matmul_swiglu_quant
from moe_native.info import Explanation as Explanation
from moe_native.info import Kernel as Kernel
from moe_native.info import explain as explain
from moe_native.info import show_config as show_config
from moe_native.init_routing import npu_moe_init_routing_v2 as npu_moe_init_routing_v2
from moe_native.layout import NzArray as NzArray
from moe_native.layout import NzLocation as NzLocation
from moe_native.layout import npu_format_cast as npu_format_cast
from moe_native.packed import PackedWeight as PackedWeight
from moe_native.packed import load_packed as load_packed
from moe_native.packed import pack as pack
from moe_native.permute import _npu_moe_token_unpermute_with_routing_map as _npu_moe_token_unpermute_with_routing_map
from moe_native.permute import npu_moe_token_permute_with_routing_map as npu_moe_token_permute_with_routing_map
from moe_native.permute import npu_moe_token_unpermute_with_routing_map as npu_moe_token_unpermute_with_routing_map
from moe_native.quant import npu_dynamic_quant as npu_dynamic_quant
from moe_native.quant import npu_swiglu as npu_swiglu
from moe_native.recording import record as record
from moe_native.recording import replay as replay
from moe_native.runtime import bf16_mode as bf16_mode
from moe_native.runtime import get_isa_limit as get_isa_limit
from moe_native.runtime import get_num_threads as get_num_threads
from moe_native.runtime import isa_limit as isa_limit
from moe_native.runtime import limits as limits
from moe_native.runtime import set_num_threads as set_num_threads

__version__ = _core.version()
