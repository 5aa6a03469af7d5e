"""Every name of SGLang 0.5.23 that is private or may move.

No other module of the server imports SGLang. What is overridden, called or hooked stands in `names`
and `hooks`, and `self_check` sees that all of it is there before a server starts.
"""
