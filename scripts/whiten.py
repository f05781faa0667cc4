"""Whiten embeddings.

python scripts/whiten.py experiment=stsb data.root=PATH
"""

from ortho_lightning.experiments.whiten import main

if __name__ == "__main__":
    main()
