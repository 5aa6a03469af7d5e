"""What SGLang is told is a package of external models: then it imports its own only when asked for
one that is not here. That is a quarter of a server's start, in two processes.
"""
