# cython: language_level=3, boundscheck=False, wraparound=False
"""The layer between NumPy and the C core: arguments in, outputs allocated, status codes to exceptions.

One file per operator family in ``_cython/``, included at the end.
"""

include "_cython/runtime.pxi"
include "_cython/call.pxi"

include "_cython/ffn.pxi"
include "_cython/finalize.pxi"
include "_cython/format.pxi"
include "_cython/gating.pxi"
include "_cython/grouped_matmul.pxi"
include "_cython/info.pxi"
include "_cython/init_routing.pxi"
include "_cython/pack.pxi"
include "_cython/permute.pxi"
include "_cython/probe.pxi"
include "_cython/quant.pxi"
