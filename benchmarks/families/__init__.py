"""One small model of many families, with random weights: the rows of docs/compatibility.md."""

from benchmarks.families._candidate import Candidate, Library
from benchmarks.families._libraries import libraries

__all__ = ["Candidate", "Library", "libraries"]
