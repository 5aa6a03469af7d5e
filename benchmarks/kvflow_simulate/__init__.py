"""`kvflow simulate`: the policies, compared without a GPU."""
