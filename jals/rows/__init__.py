"""The row engine: a side ready to be solved for, the walk over it, its normal equations, what solves them."""
