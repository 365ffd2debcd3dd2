"""What must be known of ``nn.Module`` and of PyTorch; nothing of channels."""
