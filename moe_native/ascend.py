"""Where an installation keeps the CPU device."""

from pathlib import Path

from moe_native import _core


def ascend_home() -> Path:
    """Return the directory to be given as ``ASCEND_HOME_PATH`` to programs that use the aclnn interface.

    It is laid out like a toolkit: ``include/`` has the acl and aclnn headers, ``lib64/`` the libraries
    ``libascendcl.so``, ``libnnopbase.so``, ``libopapi.so`` and those of newer toolkits, with a CPU device behind them.

    Raises
    ------
    FileNotFoundError
        If moe_native was installed without it.

    Examples
    --------
    >>> import moe_native
    >>> (moe_native.ascend_home() / "lib64" / "libascendcl.so").exists()
    True
    """
    # Beside the extension module: an editable install keeps that apart from the sources.
    home = Path(_core.__file__).parent / "ascend"
    if not home.is_dir():
        raise FileNotFoundError(f"{home} is not there: this installation was made without the CPU device")
    return home
