"""Whole frames scored: metrics, methods by name, tables, benchmark submissions."""
