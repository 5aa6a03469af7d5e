"""Measures workflow-aware caching against stock SGLang: `kvflow bench`."""
