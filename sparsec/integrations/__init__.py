"""Where models come from and where they are called: PyTorch's modules, `torch.compile`, transformers' classes."""
