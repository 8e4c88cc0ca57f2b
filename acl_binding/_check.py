"""What a toolkit has of what this package declares."""

from dataclasses import dataclass
from pathlib import Path

from acl_binding import _discovery
from acl_binding._library import Library
from acl_binding._signatures import PHASE_1, Operator, declarations, operators, parse

# Types that a header may write in either way: the same word in the same register.
_SAME = {"aclTensor*": "const aclTensor*"}


@dataclass(frozen=True)
class OperatorReport:
    """An operator in a toolkit.

    Attributes
    ----------
    operator : Operator
        What this package declares.
    missing : tuple of str
        The functions that no library has.
    library : pathlib.Path or None
        Where they were found.
    signature : str
        What the toolkit's own header declares: ``"same"``; ``"variant"``, which is called in the same way;
        ``"different"``, which must not be called; ``"unknown"`` without a header.
    difference : str
        What differs.
    """

    operator: Operator
    missing: tuple[str, ...]
    library: Path | None
    signature: str
    difference: str

    @property
    def usable(self) -> bool:
        """Whether the operator can be called."""
        return not self.missing and self.signature != "different"

    def __str__(self) -> str:
        if self.missing:
            return f"{self.operator.name}: missing {', '.join(self.missing)}, needed {self.operator.needs}"
        note = f" ({self.difference})" if self.difference else ""
        return f"{self.operator.name}: {self.library}, signature {self.signature}{note}"


@dataclass(frozen=True)
class Report:
    """A toolkit as :func:`check` sees it; ``print`` shows it."""

    home: Path
    version: str
    libraries: str
    operators: tuple[OperatorReport, ...]

    @property
    def usable(self) -> bool:
        """Whether every operator can be called."""
        return all(report.usable for report in self.operators)

    def __str__(self) -> str:
        lines = [f"{self.home}: CANN {self.version or 'of an unknown version'}", self.libraries]
        return "\n".join([*lines, *map(str, self.operators)])


def _compare(ours: Operator, declaration: str | None) -> tuple[str, str]:
    if declaration is None:
        return "unknown", ""
    try:
        theirs = parse(ours.name, declaration)
    except ValueError as error:
        return "different", str(error)
    differences, variants = [], []
    if len(ours.parameters) != len(theirs.parameters):
        return "different", f"{len(theirs.parameters)} parameters, needed {len(ours.parameters)}"
    for index, (our, their) in enumerate(zip(ours.parameters, theirs.parameters, strict=True)):
        if _SAME.get(our.type, our.type) != _SAME.get(their.type, their.type):
            differences.append(f"parameter {index} {their.type} {their.name}, needed {our.type} {our.name}")
        elif our.type != their.type:
            variants.append(f"{their.name} is {their.type}")
        elif our.name.removesuffix("Optional").lower() != their.name.removesuffix("Optional").lower():
            variants.append(f"{our.name} is called {their.name}")
    if differences:
        return "different", "; ".join(differences)
    return ("variant" if variants else "same"), "; ".join(variants)


def check(lib: Library) -> Report:
    """Compare a toolkit with what this package declares, before the first call on one that is new.

    Functions are looked up; their parameters are compared with the headers of the toolkit where it has them, as a
    library does not tell them.

    Parameters
    ----------
    lib : Library
        The toolkit, from :func:`open`.

    Returns
    -------
    Report

    Examples
    --------
    >>> import acl_binding as acl
    >>> acl.check(acl.open()).usable
    True
    """
    declared: dict[str, str] = {}
    for header in sorted(lib.home.glob("include/aclnnop/**/*.h")):
        declared.update(declarations(header.read_text(errors="replace")))
    libraries = {**lib.libraries.operators, **lib.libraries.base}
    reports = []
    for operator in operators().values():
        names = (operator.name + PHASE_1, operator.name)
        found = {name: [path for path, library in libraries.items() if _discovery.has(library, name)] for name in names}
        both = [path for path in found[names[0]] if path in found[names[1]]]
        signature, difference = _compare(operator, declared.get(operator.name))
        missing = tuple(name for name in names if not found[name])
        reports.append(OperatorReport(operator, missing, both[0] if both else None, signature, difference))
    return Report(lib.home, lib.cann_version, lib.libraries.describe(), tuple(reports))
