"""Where a toolkit keeps its libraries, and opening them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acl_binding._cdef import ffi
from acl_binding.errors import AclMissingError

HOME_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
# The newer name is the older library split in two; the older one opens both.
_RUNTIME = ("libascendcl.so", "libacl_rt.so")
_BASE = "libnnopbase.so"
_OPERATORS = ("libopapi_transformer.so", "libopapi_nn.so", "libopapi_math.so")
_ALL_OPERATORS = "libopapi.so"
# What the libraries of the CPU device are names of.
_CPU_DEVICE = "libascend_cpu.so"
_CUSTOM = Path("op_api/lib/libcust_opapi.so")
# Lazily, as a toolkit's libraries refer to more than a host has. Never unmapped: their threads live until the end.
_FLAGS = ffi.RTLD_LAZY | ffi.RTLD_NODELETE


@dataclass
class Opened:
    """Libraries in the order in which functions are looked up, and what could not be opened."""

    home: Path
    base: dict[Path, Any] = field(default_factory=dict)
    operators: dict[Path, Any] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)

    def add(self, to: dict[Path, Any], path: Path, scope: int = ffi.RTLD_LOCAL) -> bool:
        if not path.exists():
            self.failures[path] = "no such file"
            return False
        try:
            to[path] = ffi.dlopen(str(path), _FLAGS | scope)
        except OSError as error:
            self.failures[path] = str(error).partition(": ")[2] or str(error)
            return False
        return True

    @property
    def is_cpu_device(self) -> bool:
        """Whether the runtime is that of moe_native."""
        return any(has(library, "moe_aclnn_get_mode") for library in self.base.values())

    def describe(self) -> str:
        """Tell what was opened and what was not, a line each."""
        opened = [f"  {path.resolve()}: opened" for path in {**self.operators, **self.base}]
        return "\n".join(opened + [f"  {path}: {reason}" for path, reason in self.failures.items()])


def find_home(home: str | os.PathLike[str] | None) -> Path:
    """Return the toolkit's directory, from the argument or else from the environment."""
    if home is not None:
        return Path(home)
    for variable in HOME_VARIABLES:
        if value := os.environ.get(variable):
            return Path(value)
    raise AclMissingError(
        "open",
        f"no toolkit: neither home= nor {' nor '.join(HOME_VARIABLES)} is given. On a host with a card, source "
        "set_env.sh of CANN 8.1.RC1 or newer; for a CPU device, export ASCEND_HOME_PATH=$(moe-native ascend-home)",
    )


def _custom_libraries(home: Path, use_environment: bool) -> Iterator[Path]:
    """Yield the libraries of operators that somebody added to the toolkit, by precedence."""
    environment = os.environ if use_environment else {}
    for root in environment.get("ASCEND_CUSTOM_OPP_PATH", "").split(":"):
        if root:
            yield Path(root) / _CUSTOM
    vendors = Path(environment.get("ASCEND_OPP_PATH") or home / "opp") / "vendors"
    config = vendors / "config.ini"
    if config.is_file():
        for line in config.read_text().splitlines():
            if match := re.fullmatch(r"\s*load_priority\s*=(.*)", line):
                for vendor in match[1].split(","):
                    yield vendors / vendor.strip() / _CUSTOM


def open_libraries(home: str | os.PathLike[str] | None) -> Opened:
    """Open what there is of a toolkit; the runtime and the base of aclnn have to be there.

    Variables that name further operators belong to the toolkit of the environment: an explicit ``home`` ignores them.
    """
    found = Opened(find_home(home))
    directory = found.home / "lib64"
    # Operators that somebody added may be linked without the runtime that they call, so that a card's is there for all.
    # The CPU device keeps to itself: there may be a card's toolkit beside it.
    scope = ffi.RTLD_LOCAL if (directory / _CPU_DEVICE).exists() else ffi.RTLD_GLOBAL
    if not any(found.add(found.base, directory / name, scope) for name in _RUNTIME) or not found.add(
        found.base, directory / _BASE, scope
    ):
        raise AclMissingError(
            "open",
            f"{found.home} is not a toolkit that can be opened, needed CANN 8.1.RC1 or newer with one of "
            f"{' and '.join(_RUNTIME)}, and {_BASE}\n{found.describe()}",
        )
    # Operators of a card's kernels have no place on a CPU device.
    if not found.is_cpu_device:
        for path in _custom_libraries(found.home, home is None):
            found.add(found.operators, path)
    # The split libraries are newer than the one that holds everything.
    for name in _OPERATORS:
        found.add(found.operators, directory / name)
    found.add(found.operators, directory / _ALL_OPERATORS)
    return found


def has(library: Any, name: str) -> bool:
    """Whether a library has a function that the declarations know."""
    return lookup(library, name) is not None


def lookup(library: Any, name: str) -> Any | None:
    """Return a function of a library, None when it is not there."""
    try:
        return getattr(library, name)
    except ffi.error:
        return None
