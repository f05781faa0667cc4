"""Train once.

python scripts/train.py experiment=cifar10 regularizer=lsh data.root=PATH
"""

from ortho_lightning.experiments.train import main

if __name__ == "__main__":
    main()
