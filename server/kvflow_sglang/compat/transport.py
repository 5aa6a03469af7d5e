"""How SGLang's processes talk to each other: as pickle, its default, or as msgpack."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

VARIABLE = "SGLANG_USE_PICKLE_IPC"
MSGPACK = {VARIABLE: "0"}
"""Nothing that is read can run anything: the default of a server that is asked for kvflow."""

READ_BY = "sglang.srt.managers.io_struct"


def prefer_msgpack(environment: MutableMapping[str, str]) -> bool:
    """Ask for msgpack in the environment of a server, unless it says what it wants.

    False, and nothing is changed, if SGLang has read it already: its processes must agree.
    """
    if VARIABLE not in environment and READ_BY in sys.modules:
        return False
    environment.setdefault(VARIABLE, MSGPACK[VARIABLE])
    return True
