"""Stands in for examples/models/core/qwen/convert_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
from trtllm_programs import convert

sys.exit(convert(sys.argv[1:]))
