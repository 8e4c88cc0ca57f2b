"""Make acl_binding/_cdef.py of the declarations in acl_binding/cdef: python generate_cdef.py DIRECTORY OUTPUT."""

import sys
from pathlib import Path

from cffi import FFI

directory, output = Path(sys.argv[1]), sys.argv[2]
ffi = FFI()
for name in ("types.h", "functions.h"):
    ffi.cdef((directory / name).read_text())
ffi.set_source("acl_binding._cdef", None)
ffi.emit_python_code(output)
