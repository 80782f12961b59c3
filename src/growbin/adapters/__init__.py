"""One folder or module for each outside system; none knows another.

A class that implements a port is opened with `async with X.open(...)`, which takes plain keyword arguments,
and raises our errors in place of its vendor's. A `checkup` is what `growbin doctor` measures of its system.
"""
