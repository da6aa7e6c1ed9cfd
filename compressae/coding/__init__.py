"""Coding: rows of a table to codes, budgets shared out over rows, plans for a memory."""
