"""The package as it is installed: what it imports and brings along; its declarations against the headers."""

import ast
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cffi
import pytest

import acl_binding

ROOT = Path(__file__).parents[1]
PACKAGE = Path(acl_binding.__file__).parent
CDEF = PACKAGE / "cdef"
HEADERS = [
    path.relative_to(ROOT / "include").as_posix()
    for folder in ("acl", "aclnn", "aclnnop")
    for path in sorted((ROOT / "include" / folder).rglob("*.h"))
]
# What torch_npu looks up, the older names of the address setters, a debugger's function, a callback of C.
NOT_DECLARED = re.compile(
    r"\w*(HugeMem|PTA|Cached|CacheThreadLocal)\w*|AclSet\w+|aclDumpOpTensors|moe_aclnn_(set_(callback|soc)|clear_findings)"
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_nothing_of_moe_native_is_imported():
    for path in PACKAGE.rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "moe_native"], path
    program = "import sys, acl_binding; print([n for n in sys.modules if n.startswith(('moe_native', 'torch'))])"
    done = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("folder", ["acl_binding", "moe_native", "tests", "examples", "cmake", "benchmarks"])
def test_no_ctypes(folder):
    """Addresses of arrays come from cffi; array.ctypes would import the other one."""
    for path in [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.py[xi]")]:
        if path.suffix == ".py":
            assert not [name for name in imports(path) if name.split(".")[0] == "ctypes"], path
        if path != Path(__file__):
            assert not re.search(r"\.ctypes\b|\bimport ctypes", path.read_text()), path


def test_dependencies():
    assert any(requirement.startswith("cffi") for requirement in metadata.requires("moe_native"))
    (plugin,) = metadata.entry_points(group="pytest11", name="acl_binding")
    assert plugin.value == "acl_binding.pytest_plugin"
    assert (PACKAGE / "py.typed").exists()


def test_everything_public_is_documented():
    for name in acl_binding.__all__:
        assert getattr(acl_binding, name).__doc__, name


# --- Declarations ---


def test_what_is_not_declared():
    """Everything that the device exports, but for what nobody calls from Python."""
    declared = set(re.findall(r"(\w+)\([^()]*\);", (CDEF / "functions.h").read_text()))
    exported = set((ROOT / "src" / "aclnn" / "exports.txt").read_text().split())
    assert declared < exported
    left_out = exported - declared
    assert {name for name in left_out if not NOT_DECLARED.fullmatch(name)} == set()


def test_enumerators_of_the_headers_are_declared():
    """An enumerator that a header gains is missed here."""
    ffi = cffi.FFI()
    ffi.cdef((CDEF / "types.h").read_text())
    declared = {enumerator for name in ffi.list_types()[0] if (ctype := ffi.typeof(name)).kind == "enum"
                for enumerator in ctype.relements}  # fmt: skip
    text = "".join((ROOT / "include" / name).read_text() for name in HEADERS)
    # The deprecated status of events, and how serious a finding is, which only C sees.
    unused = {"ACL_EVENT_STATUS_COMPLETE", "ACL_EVENT_STATUS_NOT_READY", "ACL_EVENT_STATUS_RESERVED"}
    unused |= {"MOE_ACLNN_WARNING", "MOE_ACLNN_MISTAKE", "MOE_ACLNN_ERROR"}
    assert (
        set(re.findall(r"\b((?:ACL|MOE)_\w+) = -?\w+[,\s]", re.sub(r"static const int.*|constexpr.*", "", text)))
        - unused
        == declared
    )


def compiles(tmp_path, functions, types):
    """Whether the check that the C++ tests contain accepts the declarations."""
    cdef = tmp_path / "cdef"
    cdef.mkdir()
    (cdef / "functions.h").write_text(functions)
    (cdef / "types.h").write_text(types)
    (tmp_path / "every_header.h").write_text("".join(f'#include "{name}"\n' for name in HEADERS))
    generator = ROOT / "cmake" / "generate_drift_check.py"
    subprocess.run([sys.executable, "-P", str(generator), str(cdef), str(tmp_path / "drift.cc")], check=True)
    compiler = shutil.which("c++")
    assert compiler is not None
    include = [tmp_path, ROOT / "tests" / "aclnn", *(ROOT / "include" / folder for folder in ("", "aclnn", "aclnnop"))]
    command = [compiler, "-std=c++17", "-fsyntax-only", *(f"-I{path}" for path in include), str(tmp_path / "drift.cc")]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0, done.stderr


DRIFTS = {
    "a width": ("functions", "float sharedInputWeight", "double sharedInputWeight"),
    "a wider integer": ("functions", "int32_t deviceId", "int64_t deviceId"),
    "a pointer": ("functions", "uint64_t* refCount", "uint32_t* refCount"),
    "an enumeration": ("functions", "aclrtMemcpyKind kind", "aclrtMemMallocPolicy kind"),
    "a parameter more": ("functions", "int32_t deviceId)", "int32_t deviceId, bool force)"),
    "a result": ("functions", "size_t aclDataTypeSize", "int aclDataTypeSize"),
    "a name": ("functions", "aclrtMalloc(", "aclrtMallocate("),
    "a number": ("types", "ACL_BF16 = 27", "ACL_BF16 = 28"),
    "a status": ("types", "ACL_ERROR_RT_CONTEXT_NULL 107002", "ACL_ERROR_RT_CONTEXT_NULL 107003"),
    "an order": (
        "types",
        "uint32_t id;\n    aclrtMemLocationType type;",
        "aclrtMemLocationType type;\n    uint32_t id;",
    ),
    "a size": ("types", "uint32_t rsv[4]", "uint32_t rsv[5]"),
    "a typedef": ("types", "typedef uint16_t aclFloat16", "typedef uint32_t aclFloat16"),
}


def test_declarations_as_they_are(tmp_path):
    assert compiles(tmp_path, (CDEF / "functions.h").read_text(), (CDEF / "types.h").read_text()) == (True, "")


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_caught(tmp_path, drift):
    name, old, new = DRIFTS[drift]
    texts = {key: (CDEF / f"{key}.h").read_text() for key in ("functions", "types")}
    assert old in texts[name]
    texts[name] = texts[name].replace(old, new)
    accepted, message = compiles(tmp_path, **texts)
    assert not accepted
    assert "error" in message
