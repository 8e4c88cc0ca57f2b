"""Finding a toolkit: what is opened in which order, and what is said about what is missing, broken or different."""

import os
import re
import shutil
import subprocess

import pytest

import acl_binding as acl
from acl_binding import _discovery
from acl_binding._signatures import operators

RUNTIME = """
static int initialised;
int aclInit(const char *path) { return initialised++ ? 100002 : 0; }
int aclFinalize(void) { return 0; }
const char *aclGetRecentErrMsg(void) { return 0; }
const char *aclrtGetSocName(void) { return "AscendStub"; }
int aclrtSetDevice(int device) { return 0; }
int aclrtResetDevice(int device) { return 0; }
int aclrtGetCurrentContext(void **context) { *context = &initialised; return 0; }
int aclrtSetCurrentContext(void *context) { return 0; }
int aclrtSynchronizeDevice(void) { return 0; }
int aclrtMalloc(void **memory, unsigned long size, int policy) { *memory = &initialised; return 0; }
int aclrtFree(void *memory) { return 0; }
"""
VERSION = """
int aclsysGetCANNVersion(int name, char *version) { version[0] = '9'; version[1] = 0; return 0; }
"""
BASE = """
void *aclCreateTensor(void) { static int tensor; return &tensor; }
int aclDestroyTensor(void *tensor) { return 0; }
"""


def phase_1(name, status):
    return f"int {name}GetWorkspaceSize(void) {{ return {status}; }}\n"


def both(name, status=0):
    return phase_1(name, status) + f"int {name}(void) {{ return 0; }}\n"


def library(path, source):
    """Compile a library that is really one of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc")
    assert compiler is not None
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), f"-Wl,-soname,{path.name}"]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.fixture
def toolkit(tmp_path):
    """A toolkit of the older kind, with one operator whose first phase returns 561003."""
    home = tmp_path / "toolkit"
    library(home / "lib64" / "libascendcl.so", RUNTIME + VERSION)
    library(home / "lib64" / "libnnopbase.so", BASE)
    library(home / "lib64" / "libopapi.so", both("aclnnSwiGlu", 561003) + phase_1("aclnnPermute", 0))
    return home


@pytest.fixture
def environment(monkeypatch):
    """No variable of a toolkit is set."""
    for name in list(os.environ):
        if name.startswith(("ASCEND_", "MOE_")):
            monkeypatch.delenv(name)
    return monkeypatch


def status_of_swiglu(lib):
    with lib.device() as device:
        x = device.empty((2, 4), "float32")
        with pytest.raises(acl.AclError) as caught:
            device.prepare("aclnnSwiGlu", x, -1, x)
    return caught.value.code


def test_no_toolkit(environment):
    """Nothing is guessed, and the CPU device least of all."""
    with pytest.raises(acl.AclMissingError) as caught:
        acl.open()
    message = str(caught.value)
    for part in ("home=", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "set_env.sh", "CANN 8.1.RC1", "moe-native"):
        assert part in message
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("variable", _discovery.HOME_VARIABLES)
def test_home_of_the_environment(environment, toolkit, variable):
    environment.setenv(variable, str(toolkit))
    lib = acl.open()
    assert lib.home == toolkit
    assert lib.cpu is None
    assert lib.cann_version == "9"
    assert lib.soc == "AscendStub"
    assert status_of_swiglu(lib) == 561003


def test_an_argument_wins_over_the_environment(environment, toolkit, acl_library):
    environment.setenv("ASCEND_HOME_PATH", str(toolkit))
    assert acl.open(acl_library.home) is acl_library


def test_initialised_by_others(environment, toolkit):
    lib = acl.open(toolkit)
    assert lib.c.aclInit(acl._cdef.ffi.NULL) == 0
    with lib.device():
        pass
    assert not lib._owns_initialisation


def test_a_home_that_is_none(environment, tmp_path):
    with pytest.raises(acl.AclMissingError) as caught:
        acl.open(tmp_path / "nowhere")
    message = str(caught.value)
    assert "nowhere is not a toolkit that can be opened, needed CANN 8.1.RC1 or newer" in message
    for name in ("libascendcl.so", "libacl_rt.so"):
        assert f"{tmp_path / 'nowhere' / 'lib64' / name}: no such file" in message


def test_a_broken_library_on_the_path(environment, toolkit):
    """The newer library is there, and no library; the older ones do."""
    (toolkit / "lib64" / "libopapi_transformer.so").write_bytes(b"\x7fELF, or not")
    lib = acl.open(toolkit)
    assert status_of_swiglu(lib) == 561003
    with lib.device() as device, pytest.raises(acl.AclMissingError) as caught:
        device.prepare("aclnnMoeComputeExpertTokens", None, 1, None)
    message = str(caught.value)
    assert re.search(r"libopapi_transformer\.so: .*(file too short|invalid ELF header)", message)
    assert f"{toolkit / 'lib64' / 'libopapi.so'}: opened" in message


def test_a_broken_runtime(environment, toolkit):
    (toolkit / "lib64" / "libascendcl.so").write_bytes(b"")
    with pytest.raises(
        acl.AclMissingError, match=r"libascendcl\.so: .*file too short(?s:.*)libacl_rt\.so: no such file"
    ):
        acl.open(toolkit)
    library(toolkit / "lib64" / "libacl_rt.so", RUNTIME)
    lib = acl.open(toolkit)
    assert lib.cann_version == ""
    assert status_of_swiglu(lib) == 561003


def test_without_the_base_of_aclnn(environment, toolkit):
    (toolkit / "lib64" / "libnnopbase.so").unlink()
    with pytest.raises(acl.AclMissingError, match=r"and libnnopbase\.so(?s:.*)libnnopbase\.so: no such file"):
        acl.open(toolkit)


def test_a_library_that_needs_another_one(environment, toolkit, tmp_path):
    library(tmp_path / "libhelper.so", "int helper(void) { return 0; }")
    command = ["cc", "-shared", "-o", str(toolkit / "lib64" / "libopapi_nn.so"), f"-L{tmp_path}"]
    subprocess.run([*command, "-Wl,--no-as-needed", "-lhelper"], check=True)
    assert "libopapi_nn.so: libhelper.so: cannot open shared object file" in str(acl.open(toolkit).libraries.describe())


def test_a_missing_operator(environment, toolkit):
    lib = acl.open(toolkit)
    with lib.device() as device:
        x = device.empty((2, 4), "float32")
        for name, arguments, version in [
            ("aclnnMoeComputeExpertTokens", [x, 1, x], "needed CANN 8.1.RC1 or newer"),
            ("aclnnNpuFormatCast", [x, x], "needed a CANN newer than 8.1.RC1"),
            ("aclnnPermute", [x, [0], x], "needed CANN 8.1.RC1 or newer"),  # half of it is there
        ]:
            with pytest.raises(acl.AclMissingError) as caught:
                device.prepare(name, *arguments)
            message = str(caught.value)
            assert message.startswith(f"{name} and {name}GetWorkspaceSize are in no library of {toolkit} (CANN 9), ")
            assert version in message
            for path in ("libascendcl.so", "libnnopbase.so", "libopapi.so"):
                assert f"  {toolkit / 'lib64' / path}: opened" in message
            assert f"  {toolkit / 'lib64' / 'libopapi_nn.so'}: no such file" in message
            assert (caught.value.call, caught.value.code) == (name, None)


def test_a_missing_function(environment, toolkit):
    lib = acl.open(toolkit)
    with lib.device() as device, pytest.raises(acl.AclMissingError, match=r"aclrtCreateStream is in no library of"):
        device.stream()


def test_newer_libraries_come_first(environment, toolkit):
    library(toolkit / "lib64" / "libopapi_math.so", both("aclnnSwiGlu", 561002))
    assert status_of_swiglu(acl.open(toolkit)) == 561002
    library(toolkit / "lib64" / "libopapi_transformer.so", phase_1("aclnnSwiGlu", 561001))  # one half does not count
    acl._library._libraries.clear()
    assert status_of_swiglu(acl.open(toolkit)) == 561002


def vendor(toolkit, name, status):
    library(toolkit / "opp" / "vendors" / name / "op_api" / "lib" / "libcust_opapi.so", both("aclnnSwiGlu", status))


def test_operators_of_vendors(environment, toolkit):
    vendor(toolkit, "first", 561101)
    vendor(toolkit, "second", 561102)
    (toolkit / "opp" / "vendors" / "config.ini").write_text("[x]\nload_priority=missing, second,first\n")
    lib = acl.open(toolkit)
    assert status_of_swiglu(lib) == 561102
    assert "vendors/missing/op_api/lib/libcust_opapi.so: no such file" in lib.libraries.describe()


def test_custom_operators_of_the_environment(environment, toolkit, tmp_path):
    vendor(toolkit, "first", 561101)
    custom = tmp_path / "custom"
    library(custom / "op_api" / "lib" / "libcust_opapi.so", both("aclnnSwiGlu", 561103))
    environment.setenv("ASCEND_CUSTOM_OPP_PATH", f"{tmp_path / 'nothing'}:{custom}:")
    # They belong to the toolkit of the environment, not to one that is asked for.
    assert status_of_swiglu(acl.open(toolkit)) == 561003
    acl._library._libraries.clear()
    environment.setenv("ASCEND_HOME_PATH", str(toolkit))
    assert status_of_swiglu(acl.open()) == 561103
    acl._library._libraries.clear()
    environment.delenv("ASCEND_CUSTOM_OPP_PATH")
    (toolkit / "opp" / "vendors" / "config.ini").write_text("load_priority=first")
    environment.setenv("ASCEND_OPP_PATH", str(toolkit / "opp"))
    assert status_of_swiglu(acl.open()) == 561101


def test_custom_operators_that_do_not_name_the_runtime(environment, toolkit, tmp_path):
    """They find it because it is open."""
    library(toolkit / "lib64" / "libascendcl.so", RUNTIME + "int status_of_runtime(void) { return 561107; }")
    name = "aclnnSwiGlu"
    source = f"int status_of_runtime(void);\nint {name}GetWorkspaceSize(void) {{ return status_of_runtime(); }}\n"
    library(tmp_path / "custom" / _discovery._CUSTOM, source + f"int {name}(void) {{ return 0; }}")
    environment.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path / "custom"))
    environment.setenv("ASCEND_HOME_PATH", str(toolkit))
    assert status_of_swiglu(acl.open()) == 561107


def test_the_cpu_device_takes_no_custom_operators(environment, acl_library, tmp_path):
    library(tmp_path / "op_api" / "lib" / "libcust_opapi.so", both("aclnnSwiGlu", 561103))
    environment.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path))
    environment.setenv("ASCEND_HOME_PATH", str(acl_library.home))
    assert "libcust_opapi" not in _discovery.open_libraries(None).describe()


def test_a_library_for_linking(environment, toolkit):
    """What lies in devlib returns 100039."""
    library(toolkit / "lib64" / "libascendcl.so", RUNTIME.replace("initialised++ ? 100002 : 0", "100039"))
    with pytest.raises(acl.AclRuntimeError, match="take devlib out of LD_LIBRARY_PATH") as caught:
        acl.open(toolkit).device().open()
    assert caught.value.name == "ACL_ERROR_COMPILING_STUB_MODE"


# --- The report ---


def test_report_of_the_cpu_device(acl_library):
    report = acl.check(acl_library)
    assert report.usable
    assert {entry.signature for entry in report.operators} == {"same"}
    assert len(report.operators) == len(operators()) == 30
    text = str(report)
    assert text.startswith(f"{acl_library.home}: CANN 8.1.RC1\n")
    assert f"aclnnSwiGlu: {acl_library.home}/lib64/libopapi_transformer.so, signature same" in text


HEADER = """
/* int64_t dim of another version */
ACLNN_API aclnnStatus aclnnSwiGluGetWorkspaceSize(const aclTensor *x, int64_t dim, {out} *out{more},
    uint64_t *workspaceSize, aclOpExecutor **executor);
"""


@pytest.mark.parametrize(
    ("header", "signature", "difference"),
    [
        (HEADER.format(out="const aclTensor", more=""), "same", ""),
        (HEADER.format(out="aclTensor", more=""), "variant", "out is aclTensor*"),
        (
            HEADER.format(out="const aclTensor", more="").replace("dim,", "axis,"),
            "variant",
            "dim is called axis",
        ),
        (
            HEADER.format(out="const aclTensor", more="").replace("int64_t dim,", "double dim,"),
            "different",
            "parameter 1 double dim, needed int64_t dim",
        ),
        (HEADER.format(out="const aclTensor", more=", bool fast"), "different", "4 parameters, needed 3"),
        ("aclnnStatus aclnnSwiGluGetWorkspaceSize(void);", "different", "'void' is no parameter with a name"),
        ("", "unknown", ""),
    ],
)
def test_report_of_signatures(environment, toolkit, header, signature, difference):
    """The header of the toolkit tells what its library was compiled from."""
    headers = toolkit / "include" / "aclnnop" / "level2"
    headers.mkdir(parents=True)
    (headers / "aclnn_swi_glu.h").write_text(header)
    (headers / "aclnn_strange.h").write_text("aclnnStatus aclnnStrangeGetWorkspaceSize(void);")
    report = acl.check(acl.open(toolkit))
    (entry,) = [entry for entry in report.operators if entry.operator.name == "aclnnSwiGlu"]
    assert (entry.signature, entry.difference) == (signature, difference)
    assert entry.usable == (signature != "different")
    assert entry.library == toolkit / "lib64" / "libopapi.so"
    assert not report.usable


def test_report_of_what_is_missing(environment, toolkit):
    report = acl.check(acl.open(toolkit))
    by_name = {entry.operator.name: entry for entry in report.operators}
    assert by_name["aclnnPermute"].missing == ("aclnnPermute",)
    assert by_name["aclnnFFN"].missing == ("aclnnFFNGetWorkspaceSize", "aclnnFFN")
    assert not by_name["aclnnFFN"].usable
    assert "aclnnPermute: missing aclnnPermute, needed CANN 8.1.RC1 or newer" in str(report)
    assert (
        "aclnnNpuFormatCast: missing aclnnNpuFormatCastGetWorkspaceSize, aclnnNpuFormatCast, needed a CANN newer"
        in str(report)
    )
