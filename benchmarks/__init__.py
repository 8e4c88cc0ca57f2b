"""The benchmark behind ``moe-native bench``: operators against peers and against the limits of the machine.

Installed as ``moe_native.benchmarks``.
"""
