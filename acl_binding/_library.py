"""A toolkit: its libraries, its functions, and its devices."""

import atexit
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from acl_binding import _discovery
from acl_binding._cdef import ffi
from acl_binding._cpu import CpuDevice
from acl_binding._device import Device
from acl_binding._signatures import PHASE_1, Operator
from acl_binding.errors import AclMissingError, error_of

_REPEAT_INITIALIZE: int = ffi.integer_const("ACL_ERROR_REPEAT_INITIALIZE")


class Functions:
    """The C functions by name, found when they are first used.

    They take and return what cffi makes of C types, and check nothing: a way past the rest of this package.
    """

    def __init__(self, libraries: _discovery.Opened) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        libraries = self._libraries
        for library in (*libraries.base.values(), *libraries.operators.values()):
            if (function := _discovery.lookup(library, name)) is not None:
                setattr(self, name, function)
                return function
        raise AclMissingError(
            name, f"{name} is in no library of {libraries.home}, needed CANN 8.1.RC1 or newer\n{libraries.describe()}"
        )


class Library:
    """A toolkit whose libraries are open. :func:`open` makes one.

    Attributes
    ----------
    home : pathlib.Path
        The directory of the toolkit.
    c : Functions
        The C functions themselves, for what this package does not wrap.
    cpu : CpuDevice or None
        The controls of a CPU device; None for a card.

    Examples
    --------
    >>> import acl_binding as acl
    >>> lib = acl.open()
    >>> lib.cann_version
    '8.1.RC1'
    >>> lib.soc
    'Ascend910B1'
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.libraries = _discovery.open_libraries(home)
        self.home = self.libraries.home
        self.c = Functions(self.libraries)
        self.cpu = CpuDevice(self) if self.libraries.is_cpu_device else None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._initialised = False
        self._owns_initialisation = False
        self._devices: list[Device] = []
        self._phases: dict[str, tuple[Any, Any]] = {}

    # --- Calls: the one place where statuses become exceptions --------------------------------------------------------

    def invoke(self, name: str, *arguments: Any) -> None:
        """Call a C function that returns a status, and raise it unless it is 0."""
        self.check(name, getattr(self.c, name)(*arguments))

    def check(self, name: str, status: int) -> None:
        """Raise the status of a C function unless it is 0. The text of the error is this thread's."""
        if status != 0:
            raise error_of(name, status, self._take_message())

    def made(self, name: str, handle: Any) -> Any:
        """Return what a C function made, raise when it is null."""
        if handle == ffi.NULL:
            raise error_of(name, None, self._take_message())
        return handle

    def _take_message(self) -> str:
        text = self.c.aclGetRecentErrMsg()
        return "" if text == ffi.NULL else ffi.string(text).decode(errors="replace").strip()

    def phases(self, operator: Operator) -> tuple[Any, Any]:
        """Return the two functions of an operator, from the first library that has both."""
        name = operator.name
        if name not in self._phases:
            libraries = self.libraries
            for library in (*libraries.operators.values(), *libraries.base.values()):
                first, second = _discovery.lookup(library, name + PHASE_1), _discovery.lookup(library, name)
                if first is not None and second is not None:
                    self._phases[name] = first, second
                    break
            else:
                raise AclMissingError(
                    name,
                    f"{name} and {name}{PHASE_1} are in no library of {self.home} (CANN {self.cann_version or '?'}), "
                    f"needed {operator.needs}\n{libraries.describe()}",
                )
        return self._phases[name]

    # --- About the toolkit --------------------------------------------------------------------------------------------

    @property
    def version(self) -> tuple[int, int, int]:
        """The version of the acl interface."""
        parts = ffi.new("int32_t[3]")
        self.invoke("aclrtGetVersion", parts, parts + 1, parts + 2)
        return parts[0], parts[1], parts[2]

    @property
    def cann_version(self) -> str:
        """The version of CANN, empty when the toolkit does not tell."""
        version = ffi.new("aclCANNPackageVersion *")
        try:
            self.invoke("aclsysGetCANNVersion", ffi.integer_const("ACL_PKG_NAME_CANN"), version)
        except AclMissingError:
            return ""
        text: str = ffi.string(version.version).decode(errors="replace")
        return text

    @property
    def soc(self) -> str:
        """The name of the chip, empty when there is none."""
        name = self.c.aclrtGetSocName()
        return "" if name == ffi.NULL else ffi.string(name).decode()

    @property
    def device_count(self) -> int:
        self.initialise()
        count = ffi.new("uint32_t *")
        self.invoke("aclrtGetDeviceCount", count)
        return int(count[0])

    # --- Start and end ------------------------------------------------------------------------------------------------

    def initialise(self) -> None:
        """Call ``aclInit`` once. It may have been called by others, whose it then is to finalise."""
        with self._lock:
            if self._initialised:
                return
            status = self.c.aclInit(ffi.NULL)
            if status == _REPEAT_INITIALIZE:
                self._take_message()
            else:
                self.check("aclInit", status)
                self._owns_initialisation = True
            self._initialised = True
            atexit.register(self._finalise)

    def add_device(self, device: Device) -> None:
        """Note a device that is open, to be closed at the end of the process."""
        self._devices.append(device)

    def remove_device(self, device: Device) -> None:
        self._devices.remove(device)

    def _finalise(self) -> None:
        # A forked child has no device.
        if os.getpid() != self._pid:
            return
        with ExitStack() as last_first:
            if self._owns_initialisation:
                last_first.callback(self.invoke, "aclFinalize")
            for device in self._devices:
                last_first.callback(device.close)

    def device(self, number: int = 0) -> Device:
        """Return a device, to be used in a ``with`` statement, or to be opened and closed.

        Examples
        --------
        >>> import numpy as np
        >>> import acl_binding as acl
        >>> with acl.open().device(0) as device:
        ...     device.tensor(np.arange(3)).numpy()
        array([0, 1, 2])
        """
        return Device(self, number)

    def __repr__(self) -> str:
        return f"Library({str(self.home)!r})"


_libraries: dict[Path, Library] = {}
_lock = threading.Lock()


def open(home: str | os.PathLike[str] | None = None) -> Library:
    """Open a toolkit. A process has one of each: opening it again returns the same.

    Parameters
    ----------
    home : path, optional
        The directory of the toolkit. Otherwise ``ASCEND_HOME_PATH`` or ``ASCEND_TOOLKIT_HOME`` names it, which
        ``set_env.sh`` of CANN sets; ``export ASCEND_HOME_PATH=$(moe-native ascend-home)`` makes it the CPU device.

    Raises
    ------
    AclMissingError
        If there is none, or if it cannot be opened; tells which files were tried and why they failed.

    Examples
    --------
    >>> import acl_binding as acl
    >>> acl.open() is acl.open()
    True
    """
    with _lock:
        key = _discovery.find_home(home).resolve()
        if key not in _libraries:
            _libraries[key] = Library(home)
        return _libraries[key]
