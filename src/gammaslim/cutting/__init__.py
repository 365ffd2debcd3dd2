"""A plan applied, proven, folded, or taken back."""
