"""What is said of labels while a network runs, and the union that settles it."""
