"""Check one training step of every classification model of torchvision.

python scripts/zoo.py
"""

from ortho_lightning.experiments.zoo import main

if __name__ == "__main__":
    main()
