"""Train several arms and compare them.

python scripts/compare.py experiment=shapes
"""

from ortho_lightning.experiments.compare import main

if __name__ == "__main__":
    main()
