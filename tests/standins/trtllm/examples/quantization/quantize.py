"""Stands in for examples/quantization/quantize.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from trtllm_programs import quantize

sys.exit(quantize(sys.argv[1:]))
