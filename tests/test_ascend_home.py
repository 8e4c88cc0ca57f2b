"""The directory for ASCEND_HOME_PATH: headers, library names, one device behind all of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cffi
import pytest

import moe_native

ROOT = Path(__file__).parents[1]
HOME = moe_native.ascend_home()
LIBRARIES = ["ascendcl", "acl_rt", "nnopbase", "opapi", "opapi_math", "opapi_nn", "opapi_transformer", "ascend_cpu"]
CDEF = """
void *aclCreateTensor(const int64_t *, uint64_t, int, const int64_t *, int64_t, int, const int64_t *, uint64_t, void *);
int32_t aclDestroyTensor(const void *);
int32_t aclGetDataType(const void *, int *);
int aclrtGetVersion(int32_t *, int32_t *, int32_t *);
uint64_t moe_aclnn_count_findings(const char *);
"""
ACL_BF16, ACL_FORMAT_ND = 27, 2


def files(root, pattern):
    return {path.relative_to(root) for path in root.rglob(pattern)}


def test_headers():
    """All of the interface's headers are installed, and none of the C API's."""
    installed = files(HOME / "include", "*.h")
    source = {path for path in files(ROOT / "include", "*.h") if path.parts[0] != "moe_native"}
    assert installed == source
    assert len(installed) > 40


def test_libraries():
    assert files(HOME / "lib64", "*") == {Path(f"lib{name}.so") for name in LIBRARIES}
    for path in (HOME / "lib64").iterdir():
        assert path.is_file()
        assert not path.is_symlink()  # a wheel would make copies of links, and copies would be devices of their own


def test_one_device_behind_all_names():
    """A tensor made through one library is known to the others, and gone for all once destroyed."""
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    libraries = [ffi.dlopen(str(HOME / "lib64" / f"lib{name}.so"), ffi.RTLD_NOW) for name in LIBRARIES]
    dtype = ffi.new("int *")
    findings = libraries[0].moe_aclnn_count_findings(ffi.NULL)
    for maker in libraries:
        number = ffi.new("int32_t[3]")
        assert maker.aclrtGetVersion(number, number + 1, number + 2) == 0  # the body for the link returns 100039
        for user in libraries:
            shape = ffi.new("int64_t[]", [2, 3])
            tensor = maker.aclCreateTensor(shape, 2, ACL_BF16, ffi.NULL, 0, ACL_FORMAT_ND, shape, 2, ffi.NULL)
            assert user.aclGetDataType(tensor, dtype) == 0
            assert dtype[0] == ACL_BF16
            assert user.moe_aclnn_count_findings(ffi.NULL) == findings
            assert user.aclDestroyTensor(tensor) == 0


PROGRAM = """
#include <stdio.h>
#include "acl/acl.h"
#include "aclnnop/aclnn_swi_glu.h"
int main(void) {
    void* data = NULL;
    const int64_t shape[2] = {2, 4}, half[2] = {2, 2};
    uint64_t size = 0;
    aclOpExecutor* executor = NULL;
    if (aclInit(NULL) != 0 || aclrtSetDevice(0) != 0) return 1;
    if (aclrtMalloc(&data, 32, ACL_MEM_MALLOC_HUGE_FIRST) != 0) return 2;
    aclTensor* x = aclCreateTensor(shape, 2, ACL_FLOAT, NULL, 0, ACL_FORMAT_ND, shape, 2, data);
    aclTensor* y = aclCreateTensor(half, 2, ACL_FLOAT, NULL, 0, ACL_FORMAT_ND, half, 2, data);
    if (x == NULL || y == NULL) return 3;
    printf("%d\\n", (int)aclnnSwiGluGetWorkspaceSize(x, 0, NULL, &size, &executor));
    return 0;
}
"""


@pytest.mark.parametrize(
    "libraries",
    [
        ["opapi", "ascendcl", "nnopbase"],
        ["opapi", "opapi_transformer", "ascendcl", "nnopbase"],
        ["opapi_math", "opapi_transformer", "ascendcl", "nnopbase"],
        ["acl_rt", "nnopbase", "opapi_nn"],
    ],
)
def test_link_lines(tmp_path, libraries):
    """A program links with the documented lines and finds the libraries by LD_LIBRARY_PATH alone."""
    compiler = shutil.which("cc")
    assert compiler is not None
    source, program = tmp_path / "program.c", tmp_path / "program"
    source.write_text(PROGRAM)
    include = [f"-I{HOME / 'include' / folder}" for folder in ("", "aclnn", "aclnnop")]
    link = [f"-L{HOME / 'lib64'}", *(f"-l{library}" for library in libraries)]
    subprocess.run([compiler, "-std=c99", "-Wall", "-Werror", *include, source, "-o", program, *link], check=True)
    done = subprocess.run(
        [program],
        env={**os.environ, "LD_LIBRARY_PATH": str(HOME / "lib64")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "161001\n"


def test_command():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "moe_native", "ascend-home"], check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == HOME


def test_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(moe_native.ascend._core, "__file__", str(tmp_path / "_core.so"))
    with pytest.raises(FileNotFoundError, match="ascend is not there"):
        moe_native.ascend_home()
