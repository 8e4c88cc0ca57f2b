"""The two-phase aclnn interface from Python, on a card or on the CPU device.

NumPy arrays become tensors of a device, operators run on them by their C names, and statuses become exceptions. The
toolkit is the one of ``ASCEND_HOME_PATH``; on a machine without a card, moe_native's CPU device takes its place.
"""

try:
    from acl_binding import _cdef as _cdef
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "acl_binding._cdef is not there: this is the source tree. It is made when the package is installed; run "
        "python with -P, or pytest with --import-mode=importlib, to import what is installed",
        name=error.name,
    ) from error

from acl_binding._call import Call
from acl_binding._check import OperatorReport, Report, check
from acl_binding._cpu import CpuDevice
from acl_binding._device import Device
from acl_binding._library import Library, open
from acl_binding._signatures import Operator, Parameter, operators
from acl_binding._stream import Event, Stream
from acl_binding._tensor import Buffer, Tensor
from acl_binding.errors import (
    AclError,
    AclInnerError,
    AclInvalidArgumentError,
    AclMissingError,
    AclNullArgumentError,
    AclRuntimeError,
)

__all__ = [
    "AclError",
    "AclInnerError",
    "AclInvalidArgumentError",
    "AclMissingError",
    "AclNullArgumentError",
    "AclRuntimeError",
    "Buffer",
    "Call",
    "CpuDevice",
    "Device",
    "Event",
    "Library",
    "Operator",
    "OperatorReport",
    "Parameter",
    "Report",
    "Stream",
    "Tensor",
    "check",
    "open",
    "operators",
]
