"""Encode tables to codes, allot byte budgets to rows, plan codes for a memory size."""
