"""Experiments of the paper, what they cost, and what larger ones would cost."""
