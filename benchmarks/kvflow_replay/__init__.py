"""`kvflow replay`: recorded traffic under other policies."""
