"""What is known of modules, of PyTorch, and of the process."""
