#!/usr/bin/env bash
# The first hour of a new user: from a PyTorch model to an artifact, what can be asked of it, and what wrong uses answer.
# Needs `sparsec` and a Python with PyTorch (`pip install '.[models]'`); works in a folder of its own, given or temporary.
set -euo pipefail
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
cd "$folder"
export COLUMNS=80

# Shows a command, runs it, and checks its exit code: expect CODE COMMAND...
expect() {
    local wanted=$1 code=0
    shift
    printf '\n$ %s\n' "$*"
    "$@" 2>&1 || code=$?
    [ "$code" = "$wanted" ] || { echo "exit code $code where $wanted was expected"; exit 1; }
}

cat > export.py <<'PYTHON'
import warnings

import torch
from torch.nn.utils import prune

warnings.simplefilter("ignore")
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, 2, padding=1), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(1024, 256), torch.nn.ReLU(),
    torch.nn.Linear(256, 10)).eval()
for layer in model:
    if hasattr(layer, "weight"):
        prune.l1_unstructured(layer, "weight", 0.9)
        prune.remove(layer, "weight")
torch.onnx.export(model, (torch.randn(2, 3, 32, 32),), "model.onnx", input_names=["image"], output_names=["scores"],
                  dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}}, dynamo=False)
PYTHON

echo "== from PyTorch to an artifact"
expect 0 python export.py
expect 0 sparsec inspect model.onnx
expect 0 sparsec explain model.onnx --shape image:1,3,32,32
expect 0 sparsec compile model.onnx --shape image:1,3,32,32
expect 0 sparsec verify model.sparsec
expect 0 sparsec inspect model.sparsec
expect 0 sparsec run model.sparsec -o scores.npz

echo
echo "== how fast, alone and in batches"
expect 0 sparsec bench model.onnx --batch 1 --seconds 1
expect 0 sparsec bench model.onnx --batch 8 --seconds 1
expect 0 sparsec bench model.onnx --batch 1 --profile

echo
echo "== a smaller model for any engine"
expect 0 sparsec strip model.onnx -o small.onnx

echo
echo "== wrong uses"
head -c 1000 model.onnx > short.onnx
head -c 5000 model.sparsec > short.sparsec
echo hello > text.npz
expect 2 sparsec compile nothing.onnx
expect 1 sparsec compile short.onnx
expect 1 sparsec inspect short.sparsec
expect 2 sparsec compile model.onnx --precision fp16
expect 2 sparsec compile model.onnx --target gpu
expect 2 sparsec compile model.onnx --max-eror 0.1
expect 2 sparsec compile model.onnx --shape image:1,4,32,32
expect 2 sparsec compile model.onnx --shape picture:1,3,32,32
expect 2 sparsec compile model.onnx -o nowhere/model.sparsec
expect 2 sparsec run model.sparsec -i text.npz -o scores.npz
expect 1 sparsec explain model.sparsec
expect 1 sparsec verify model.onnx
expect 2 sparsec bench model.sparsec --batch 8
echo
echo "all as expected"
