"""Readers of data sets, synthetic scenes and the collator that makes the windows."""
