"""Measure the cost of the penalties.

python scripts/benchmark.py sweep=batch
"""

from ortho_lightning.experiments.benchmark import main

if __name__ == "__main__":
    main()
