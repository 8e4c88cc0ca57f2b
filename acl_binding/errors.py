"""Statuses as exceptions."""

import re
from pathlib import Path

_ACLNN_NAMES = {
    161001: "PARAM_NULLPTR",
    161002: "PARAM_INVALID",
    361001: "RUNTIME_ERROR",
    561000: "INNER",
    561001: "INNER_INFERSHAPE_ERROR",
    561002: "INNER_TILING_ERROR",
    561003: "INNER_FIND_KERNEL_ERROR",
    561101: "INNER_CREATE_EXECUTOR",
    561102: "INNER_NOT_TRANS_EXECUTOR",
    561103: "INNER_NULLPTR",
    561104: "INNER_WRONG_ATTR_INFO_SIZE",
    561105: "INNER_KEY_CONFLICT",
    561106: "INNER_INVALID_IMPL_MODE",
    561107: "INNER_OPP_PATH_NOT_FOUND",
    561108: "INNER_LOAD_JSON_FAILED",
    561109: "INNER_JSON_VALUE_NOT_FOUND",
    561110: "INNER_JSON_FORMAT_INVALID",
    561111: "INNER_JSON_DTYPE_INVALID",
    561112: "INNER_OPP_KERNEL_PKG_NOT_FOUND",
    561113: "INNER_OP_FILE_INVALID",
    561114: "INNER_ATTR_NUM_OUT_OF_BOUND",
    561115: "INNER_ATTR_LEN_NOT_ENOUGH",
    561116: "INNER_INPUT_NUM_IN_JSON_TOO_LARGE",
    561117: "INNER_INPUT_JSON_IS_NULL",
    561118: "INNER_STATIC_WORKSPACE_INVALID",
    561119: "INNER_STATIC_BLOCK_DIM_INVALID",
}
# What a client can do about it is not in the text of the library.
_HINTS = {
    100039: "a library for linking was opened in place of the real one: take devlib out of LD_LIBRARY_PATH",
    107002: "no device is open on this thread",
    561107: "ASCEND_OPP_PATH is not set: source set_env.sh of the toolkit",
    561112: "the package with the kernels of this chip is not installed",
}


def _names() -> dict[int, str]:
    text = (Path(__file__).parent / "cdef" / "types.h").read_text()
    found = re.findall(r"#define (ACL_ERROR_\w+) (\d+)", text)
    return {int(code): name for name, code in found} | {
        code: f"ACLNN_ERR_{name}" for code, name in _ACLNN_NAMES.items()
    }


_NAMES = _names()


class AclError(Exception):
    """A call of the acl or aclnn interface failed.

    Attributes
    ----------
    call : str
        The C function that failed.
    code : int or None
        Its status; None where it has none, such as a null in place of a tensor.
    name : str
        What the headers call the status.
    message : str
        The text of ``aclGetRecentErrMsg``, empty when the library left none.

    Examples
    --------
    >>> import acl_binding as acl
    >>> error = acl.AclError("aclrtMalloc", 207001, "size: needed at most 65536 bytes")
    >>> error.name
    'ACL_ERROR_RT_MEMORY_ALLOCATION'
    >>> print(error)
    aclrtMalloc returned 207001 (ACL_ERROR_RT_MEMORY_ALLOCATION): size: needed at most 65536 bytes
    """

    def __init__(self, call: str, code: int | None, message: str) -> None:
        super().__init__(call, code, message)
        self.call = call
        self.code = code
        self.message = message

    @property
    def name(self) -> str:
        return "" if self.code is None else _NAMES.get(self.code, "")

    def __str__(self) -> str:
        status = "null" if self.code is None else f"{self.code} ({self.name or 'a status that no header names'})"
        hint = _HINTS.get(self.code or 0)
        return ": ".join(part for part in (f"{self.call} returned {status}", hint, self.message) if part)


class AclNullArgumentError(AclError):
    """161001: a required argument is null."""


class AclInvalidArgumentError(AclError, ValueError):
    """161002: a data type, format, rank, shape or value is not allowed."""


class AclRuntimeError(AclError, RuntimeError):
    """The runtime, the device or a resource: every status that does not come from an operator's arguments."""


class AclInnerError(AclError):
    """561xxx: inside of an operator; shapes and attributes (561002), no kernel (561003)."""


class AclMissingError(AclError, LookupError):
    """A library or a function is not there; the message tells what was looked for, and where."""

    def __init__(self, call: str, message: str) -> None:
        super().__init__(call, None, message)
        self.args = (call, message)

    def __str__(self) -> str:
        return self.message


def error_of(call: str, code: int | None, message: str) -> AclError:
    """Make the exception for a status.

    Examples
    --------
    >>> from acl_binding.errors import error_of
    >>> isinstance(error_of("aclnnSwiGlu", 161002, ""), ValueError)
    True
    """
    if code == 161001:
        return AclNullArgumentError(call, code, message)
    if code == 161002:
        return AclInvalidArgumentError(call, code, message)
    if code is not None and code // 1000 == 561:
        return AclInnerError(call, code, message)
    return AclRuntimeError(call, code, message)
