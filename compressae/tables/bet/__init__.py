"""BET, budgeted embedding tables (WSDM'24, arXiv 2310.14884): a search for the widths of rows.

``actions`` draws widths under a strict budget, ``predictor`` learns their fitness, and
``searching`` evaluates the promising ones.
"""
