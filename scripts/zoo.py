"""Check one training step of the models of torchvision, of timm's families and of transformers.

python scripts/zoo.py
python scripts/zoo.py timm transformers/llama --output zoo.md
"""

from ortho_lightning.experiments.zoo import main

if __name__ == "__main__":
    main()
