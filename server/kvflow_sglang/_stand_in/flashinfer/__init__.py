"""Hides `flashinfer`, which a CPU cannot use, from SGLang, which guards its imports of it.

Importing the real one takes some 3 s in each of SGLang's three processes.
"""

raise ImportError("flashinfer is hidden by kvflow's CPU engine")
