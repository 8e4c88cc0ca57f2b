"""Make a C++ file that compiles only while acl_binding/cdef says what the headers say.

python generate_drift_check.py DIRECTORY OUTPUT. The functions are listed with their addresses, which is an error where
there is none of the name, and declared once more, which is one where a type differs. Constants, sizes and offsets
are compared with what cffi makes of the declarations.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

directory, output = Path(sys.argv[1]), Path(sys.argv[2])
types, functions = (directory / "types.h").read_text(), (directory / "functions.h").read_text()
ffi = FFI()
ffi.cdef(types + functions)

names = re.findall(r"(\w+)\([^()]*\);", functions)
lines = ["#include <cstddef>", '#include "every_header.h"', '#include "functions.h"']
lines += ["extern const named_function acl_binding_functions[];", "const named_function acl_binding_functions[] = {"]
lines += [f'    {{"{name}", reinterpret_cast<any_function>(&{name})}},' for name in names]
lines += ["    {nullptr, nullptr}};", 'extern "C" {', functions, "}"]
lines += [f"static_assert({name} == {value});" for name, value in re.findall(r"#define (\w+) (\w+)", types)]
for name in ffi.list_types()[0]:
    ctype = ffi.typeof(name)
    if ctype.kind == "struct" and ctype.fields is None:
        continue  # opaque
    lines.append(f"static_assert(sizeof({name}) == {ffi.sizeof(ctype)});")
    if ctype.kind == "enum":
        lines += [f"static_assert({enumerator} == {value});" for value, enumerator in sorted(ctype.elements.items())]
    elif ctype.kind == "struct":
        for field, description in ctype.fields:
            lines.append(f"static_assert(offsetof({name}, {field}) == {description.offset});")
            lines.append(f"static_assert(sizeof({name}::{field}) == {ffi.sizeof(description.type)});")
output.write_text("\n".join(lines) + "\n")
