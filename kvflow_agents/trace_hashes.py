"""A prompt as hashes that tell which prompts begin alike, and nothing else."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

# What English and code take with most tokenizers; a trace says that it is an estimate.
CHARS_PER_TOKEN = 4
BLOCK_TOKENS = 64
BLOCK_CHARS = BLOCK_TOKENS * CHARS_PER_TOKEN
# Integers that every reader of JSON holds exactly.
HASH_BITS = 53


@dataclass(frozen=True, slots=True)
class Salt:
    """Without it nobody can try out texts against hashes. Equal salts give equal hashes."""

    key: bytes

    @classmethod
    def of(cls, text: str | None) -> Salt:
        """That of a text; without one a random salt."""
        if not text:
            return cls(os.urandom(32))
        return cls(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest())

    def blocks(self, text: str) -> list[int]:
        """A hash for each block of characters, of all up to its end; the last may be partial."""
        hashes = []
        chain = b""
        for start in range(0, len(text), BLOCK_CHARS):
            block = text[start : start + BLOCK_CHARS].encode("utf-8", "surrogatepass")
            chain = hashlib.blake2b(chain + block, digest_size=16, key=self.key).digest()
            hashes.append(int.from_bytes(chain[:8]) >> (64 - HASH_BITS))
        return hashes

    def name(self, name: str) -> str:
        """A name that tells the same from others."""
        data = name.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=8, key=self.key).hexdigest()


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has, at least 1."""
    return max(1, -(-len(text) // CHARS_PER_TOKEN))
