"""Solving rows: one side's data, the loop over its slabs, its normal equations, and their solution."""
