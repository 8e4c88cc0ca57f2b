"""Whether object files keep instruction sets apart.

    check_objects.py OBJDUMP OBJECT...

A file compiled for an instruction set, <family>_<isa>.cc, runs only after the processor was asked. So no other file may
hold instructions of its set, and nothing of it may run or be linked in elsewhere: it has no static initialisers, and no
symbols that the linker merges with those of other files (inline functions and templates with external linkage).
"""

import re
import subprocess
import sys
from pathlib import Path

X86 = ("avx2", "avx512", "avx512vnni", "avx512bf16")
ARM = ("neon", "dotprod", "i8mm")

# Instructions by the set that allows them. F16C's conversions (vcvtph2ps, vcvtps2ph) come with avx2; arithmetic on
# halves, matrix units and the rest belong to none of the sets.
X86_BY_SET = {
    "avx512vnni": re.compile(r"vpdp(bu|ws)sds?$"),
    "avx512bf16": re.compile(r"vdpbf16ps|vcvtne"),
    "none": re.compile(
        r"tile|tdp|vp4dp|v4f|vpdp|vpmadd52|vpmultishift|vpsh[lr]dv?|vpopcnt|vpcompress[bw]|vpexpand[bw]|vpshufbit"
        r"|vperm(b|i2b|t2b)$|v(?!cvt)\w+[ps]h$"
    ),
}
ARM_BY_SET = {
    "dotprod": re.compile(r"[su]dot$"),
    "i8mm": re.compile(r"(us|su)dot$|(s|u|us)mmla$"),
    "none": re.compile(r"bf\w*(dot|mmla|mlal|cvt)|fmlal|fmlsl|whilel|ptrue"),
}
LINE = re.compile(r"^\s*[0-9a-f]+:\t([0-9a-f ]+)\t(\S+)")
X86_PREFIXES = {"26", "2e", "36", "3e", "64", "65", "67"}


def isa_of(path: str) -> str:
    found = re.search(rf"_({'|'.join(X86 + ARM)})\.cc\.o(bj)?$", path)
    return found.group(1) if found else "baseline"


def output_of(objdump: str, option: str, path: str) -> str:
    return subprocess.run([objdump, option, path], check=True, capture_output=True, text=True).stdout


def instructions(objdump: str, path: str) -> list[tuple[str, str]]:
    """First byte behind prefixes, and mnemonic, of every instruction."""
    found = []
    for line in output_of(objdump, "-dw", path).splitlines():
        if matched := LINE.match(line):
            code = matched.group(1).split()
            first = next((byte for byte in code if byte not in X86_PREFIXES), "")
            found.append((first, matched.group(2)))
    return found


def foreign_instructions(objdump: str, path: str, isa: str, arm: bool) -> set[str]:
    order = ("baseline", *(ARM if arm else X86))
    level = order.index(isa)
    foreign = set()
    for first, mnemonic in instructions(objdump, path):
        # In 64-bit mode these bytes begin nothing but VEX and EVEX instructions.
        if not arm and ((first in ("c4", "c5") and level < 1) or (first == "62" and level < 2)):
            foreign.add(mnemonic)
        for needed, pattern in (ARM_BY_SET if arm else X86_BY_SET).items():
            if pattern.match(mnemonic):
                if needed == "none" or order.index(needed) > level:
                    foreign.add(mnemonic)
                break
    return foreign


def problems(objdump: str, path: str) -> list[str]:
    isa = isa_of(path)
    arm = "aarch64" in output_of(objdump, "-f", path)
    found = []
    if foreign := foreign_instructions(objdump, path, isa, arm):
        found.append(f"instructions that {isa} lacks: {', '.join(sorted(foreign))}")
    if isa == "baseline":
        return found
    if re.search(r"\s\.(init_array|ctors)", output_of(objdump, "-h", path)):
        found.append("static initialisers")
    for line in output_of(objdump, "-t", path).splitlines():
        # Flags are seven columns behind the address: w is weak, u is unique; *UND* is defined elsewhere.
        matched = re.match(r"^[0-9a-f]+ (.{7}) (\S+)\t\S+\s+(?:\.hidden )?(\S+)", line)
        if matched and set(matched.group(1)) & set("wu") and matched.group(2) != "*UND*":
            found.append(f"a symbol that the linker merges: {matched.group(3)}")
    return found


def main(objdump: str, *paths: str) -> int:
    found = [f"{Path(path).name}: {problem}" for path in paths for problem in problems(objdump, path)]
    print(
        "\n".join(found) or f"{len(paths)} files, {sum(isa_of(path) != 'baseline' for path in paths)} of them for a set"
    )
    return 1 if found or not paths else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
