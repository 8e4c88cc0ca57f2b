"""Mixture-of-Experts operators of Ascend NPUs, natively on the CPU, for NumPy arrays."""
