"""The paper's figures and tables, measured anew; `catalog.py` lists them."""
