"""How sure a number is: permutation tests, intervals, the limit, severity of corruptions."""
