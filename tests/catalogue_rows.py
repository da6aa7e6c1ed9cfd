"""Rows of the small catalogue that tests of its searches share."""

N, D = 300, 10
