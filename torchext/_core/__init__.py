"""What every family rests on; imports PyTorch alone."""
