"""The paper's figures and tables, measured; `catalog.py` lists them."""
