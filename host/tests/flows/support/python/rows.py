"""Reads CSV from standard input as Python's csv does, and writes its rows as JSON."""

import csv
import io
import json
import sys

text = io.TextIOWrapper(sys.stdin.buffer, "utf-8", newline="")
json.dump(list(csv.DictReader(text, strict=True)), sys.stdout)
