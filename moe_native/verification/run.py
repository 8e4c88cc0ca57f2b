"""The cases computed twice: by the core and by a device."""

import os
from collections.abc import Iterator

from acl_binding import AclError
from moe_native.backend import open_backend, use_backend
from moe_native.verification.calls import call_whole
from moe_native.verification.cases import cases
from moe_native.verification.measures import Outcome, compare


def verify(home: str | os.PathLike[str] | None = None, op: str | None = None, device: int = 0) -> Iterator[Outcome]:
    """Compute every case by the core and by a device, and compare.

    A card has to be as near as the tests of its operators ask for, see :mod:`moe_native.verification.measures`; the
    CPU device has to return the same bits.

    Parameters
    ----------
    home : path, optional
        The toolkit; by default the one that ``acl_binding.open`` finds.
    op : str, optional
        One operator; by default all.
    device : int
        Number of the device.

    Yields
    ------
    Outcome
        Of one case, in the order of :func:`moe_native.verification.cases.cases`.

    Raises
    ------
    acl_binding.AclError
        No toolkit or device.

    Examples
    --------
    >>> import moe_native
    >>> from moe_native.verification.run import verify
    >>> all(outcome.ok for outcome in verify(moe_native.ascend_home(), "npu_swiglu"))
    True
    """
    exact = open_backend("acl", home, device).is_cpu
    for case in cases(op):
        arguments = case.arguments()
        with use_backend("cpu"):
            needed = call_whole(case.op, arguments)
        try:
            with use_backend("acl", home, device):
                seen = call_whole(case.op, arguments)
        except AclError as error:
            yield Outcome(case.op, case.label, (), f"{type(error).__name__}: {error}")
            continue
        measures = compare(case.op, arguments, needed, list(seen.values()), exact)
        yield Outcome(case.op, case.label, measures)
