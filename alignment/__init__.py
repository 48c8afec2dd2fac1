"""The PyTorch twin, ours compared with it, and the exports to `.pth` and ONNX."""
