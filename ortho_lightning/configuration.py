"""The package's configuration files, wherever it is installed."""

from __future__ import annotations

from pathlib import Path

from ortho_lightning.errors import ConfigurationError


def configuration_folder() -> Path:
    """Return the folder of the configuration: inside the package in a wheel, beside it in a checkout.

    Raises:
        FileNotFoundError: if there is none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"No configuration in {package / 'conf'} or {package.parent / 'conf'}: reinstall the package"
    )


def recipe_file(name: str) -> Path:
    """Return the file of a recipe of ``docs/adapters.md``, a callback for ``hydra.utils.instantiate``.

    Args:
        name: of the recipe, such as "olora".

    Raises:
        ConfigurationError: for a name that is no recipe, listing those there are.

    Example:
        >>> recipe_file("olora").name
        'olora.yaml'
    """
    folder = configuration_folder() / "recipe"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigurationError(f"recipe_file({name!r}): the recipes are {', '.join(names)}")
    return folder / f"{name}.yaml"
