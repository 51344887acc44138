"""Data sets, their readers, synthetic scenes, and the collator that cuts windows."""
