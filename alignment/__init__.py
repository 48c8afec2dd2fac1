"""The PyTorch twin, ours compared with it, and the export to `.pth`."""
