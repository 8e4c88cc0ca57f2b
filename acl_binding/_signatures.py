"""The operators and their parameters, as the declarations in cdef/functions.h tell them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import SupportsIndex

PHASE_1 = "GetWorkspaceSize"
# The parameters that every phase 1 ends with.
_RESULTS = (("uint64_t*", "workspaceSize"), ("aclOpExecutor**", "executor"))
# Not const, and inputs all the same: phase 1 changes how the tensor is described.
_DESCRIBED_ANEW = {"x2", "mmWeightRef"}
# What CANN 8.1.RC1 has already; the others came later.
_IN_8_1 = {
    "ConvertWeightToINT4Pack",
    "DynamicQuant",
    "DynamicQuantV2",
    "FFN",
    "FFNV2",
    "FFNV3",
    "GroupedMatmulFinalizeRoutingWeightNz",
    "GroupedMatmulSwigluQuant",
    "MoeComputeExpertTokens",
    "MoeFinalizeRouting",
    "MoeFinalizeRoutingV2",
    "MoeGatingTopKSoftmax",
    "MoeGatingTopKSoftmaxV2",
    "MoeInitRouting",
    "MoeInitRoutingQuant",
    "MoeInitRoutingQuantV2",
    "MoeInitRoutingV2",
    "Permute",
    "SwiGlu",
    "TransMatmulWeight",
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of phase 1: its name in C and its type, without spaces around the stars."""

    name: str
    type: str

    @cached_property
    def python_name(self) -> str:
        """The name in snake case.

        Examples
        --------
        >>> from acl_binding._signatures import Parameter
        >>> Parameter("expandedXOut", "const aclTensor*").python_name
        'expanded_x_out'
        """
        return re.sub(r"(?=[A-Z])", "_", self.name).lower()

    @cached_property
    def is_optional(self) -> bool:
        return self.name.endswith("Optional")

    @cached_property
    def short_name(self) -> str:
        """The name without the suffix ``_optional``."""
        return self.python_name.removesuffix("_optional")

    @cached_property
    def is_tensor(self) -> bool:
        return self.type in ("const aclTensor*", "aclTensor*")

    @cached_property
    def is_output(self) -> bool:
        """Whether the operator writes the tensor."""
        if self.type == "aclTensor*":
            return self.name not in _DESCRIBED_ANEW
        return self.is_tensor and re.fullmatch(r"(?:\w*Out|out|y)(?:Optional)?", self.name) is not None


@dataclass(frozen=True)
class Operator:
    """An operator of the two-phase interface."""

    name: str
    parameters: tuple[Parameter, ...]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{p.type} {p.short_name}' for p in self.parameters)})"

    @property
    def needs(self) -> str:
        """The CANN versions that have the operator."""
        return "CANN 8.1.RC1 or newer" if self.name.removeprefix("aclnn") in _IN_8_1 else "a CANN newer than 8.1.RC1"

    def position(self, which: int | str, outputs: bool) -> tuple[int, Parameter]:
        """Return the index among the inputs, or among the outputs, that ``aclSetInputTensorAddr`` takes.

        Examples
        --------
        >>> from acl_binding._signatures import operators
        >>> operators()["aclnnSwiGlu"].position("out", True)
        (0, Parameter(name='out', type='const aclTensor*'))
        """
        kind = "output" if outputs else "input"
        candidates = [p for p in self.parameters if p.is_tensor and p.is_output == outputs]
        if isinstance(which, str):
            for index, parameter in enumerate(candidates):
                if which in (parameter.python_name, parameter.short_name):
                    return index, parameter
        elif isinstance(which, SupportsIndex) and 0 <= which < len(candidates):
            return which, candidates[which]
        names = ", ".join(p.short_name for p in candidates)
        raise LookupError(f"{self.name}: {which!r} is no {kind}, needed one of {names}")


def declarations(text: str) -> dict[str, str]:
    """Return the parameters of every phase 1 in C text, by the name of phase 2.

    Examples
    --------
    >>> from acl_binding._signatures import declarations
    >>> declarations("API aclnnStatus aclnnXGetWorkspaceSize(const aclTensor *x, ...); aclError aclInit(void);")
    {'aclnnX': 'const aclTensor *x, ...'}
    """
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    return dict(re.findall(rf"aclnnStatus\s+(aclnn\w+){PHASE_1}\s*\(([^)]*)\)\s*;", text))


def parse(name: str, declaration: str) -> Operator:
    """Return an operator from the parameters of its phase 1; raise a ValueError if it is none.

    Examples
    --------
    >>> from acl_binding._signatures import parse
    >>> print(parse("aclnnX", "const aclTensor *x, bool yOut, uint64_t *workspaceSize, aclOpExecutor **executor"))
    aclnnX(const aclTensor* x, bool y_out)
    """
    parameters = []
    for words in declaration.split(","):
        match = re.fullmatch(r"(.*\W)(\w+)", " ".join(words.split()))
        if match is None:
            raise ValueError(f"{words.strip()!r} is no parameter with a name")
        parameters.append(Parameter(match[2], re.sub(r"\s*\*\s*", "*", match[1]).strip()))
    if tuple((p.type, p.name) for p in parameters[-2:]) != _RESULTS:
        raise ValueError("the last parameters are not workspaceSize and executor")
    return Operator(name, tuple(parameters[:-2]))


_OPERATORS = MappingProxyType(
    {
        name: parse(name, declaration)
        for name, declaration in declarations((Path(__file__).parent / "cdef" / "functions.h").read_text()).items()
    }
)


def operators() -> Mapping[str, Operator]:
    """Return every operator that :meth:`Device.prepare` knows, by its C name.

    Examples
    --------
    >>> import acl_binding as acl
    >>> print(acl.operators()["aclnnSwiGlu"])
    aclnnSwiGlu(const aclTensor* x, int64_t dim, const aclTensor* out)
    """
    return _OPERATORS
