"""Who trains beside whom: each side a process of its own, in an environment of its own.

`lap.py` and the file of each side must run without anything of the project's environment but NumPy.
"""
