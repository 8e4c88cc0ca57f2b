"""The definition of every operator in NumPy, in float64 and int64: what the fast code is checked against.

Nothing in here uses the compiled core.
"""
