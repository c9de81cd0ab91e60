"""What the figures in the README are measured with, peers included."""
