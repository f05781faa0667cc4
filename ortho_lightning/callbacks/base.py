"""Base class of the callbacks: a Callback of ``pytorch_lightning``, of ``lightning.pytorch``, or of both.

The two names are separate packages with separate ``Callback`` classes, and each checks for its own: a Trainer that is
given one callback instead of a list, and LightningCLI. Importing the package that a program does not use takes time and
renames the logger of Lightning's messages. So this package imports neither. A module that defines a ``Callback`` is
looked up where it is loaded, and where it is loaded later, its class joins the bases of :class:`LightningCallback` at
that moment, before anyone can check for it:

- a program that uses one package gets subclasses of its ``Callback``, in any order of imports;
- a program that uses both gets subclasses of both;
- a program that uses neither, for the formulas only, imports neither.

The moment is known from a finder in :data:`sys.meta_path` for exactly these two modules: it finds them as Python does,
and adds to their execution. Where another finder provides them (in a frozen program, say), they are looked up again
when a callback is created.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ortho_lightning.errors import ConfigurationError

_MODULES = ("pytorch_lightning.callbacks.callback", "lightning.pytorch.callbacks.callback")

if TYPE_CHECKING:
    from pytorch_lightning import Callback as _Root
else:

    class _Root:
        """Base beside ``object``: the bases of a class whose only base is ``object`` cannot change."""


class LightningCallback(_Root):
    """Callback of every package of Lightning that is loaded.

    Its keys of states are those that Lightning generates. Lightning rejects two callbacks of one key when the Trainer
    is created, and its message names ``state_key``, which no user of a callback gives. :meth:`setup` rejects them
    instead, and names what to give. So Lightning must not see that ``state_dict`` is overridden: it looks at a wrapped
    function first, and :func:`_join_loaded` wraps its own. A Lightning that looks elsewhere gives its own message.
    """

    name: str

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Create a callback of all packages that are loaded by now."""
        _join_loaded()
        return super().__new__(cls)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Reject another callback of the same kind and name.

        Raises:
            ConfigurationError: naming it.
        """
        others = [each for each in trainer.callbacks if each is not self and isinstance(each, LightningCallback)]
        taken = {key for other in others for key in other._keys()}
        for key, named in self._keys().items():
            if key in taken:
                raise ConfigurationError(
                    f"two callbacks that log and are saved as {key}: give one of them another name, as in "
                    f"{type(named).__name__}(..., name={named.name + '2'!r})"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the callback."""
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {}

    def _keys(self) -> dict[str, LightningCallback]:
        """Return whose name makes a key, by the keys of the callback and of those that it owns."""
        return {self.state_key: self}

    def _generate_state_key(self, **kwargs: Any) -> str:
        # as Lightning does, which need not be loaded
        return f"{type(self).__qualname__}{kwargs!r}"


def _join_loaded() -> None:
    """Make the callbacks subclasses of each ``Callback`` that is loaded."""
    loaded = [getattr(sys.modules.get(name), "Callback", None) for name in _MODULES]
    bases = (_Root, *(base for base in loaded if base is not None))
    if LightningCallback.__bases__ != bases:
        LightningCallback.__bases__ = bases
        wrapper: Any = LightningCallback.state_dict
        wrapper.__wrapped__ = bases[-1].state_dict


class _JoinOnImport(MetaPathFinder):
    """Finder of the two modules that calls :func:`_join_loaded` after one of them has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _MODULES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        run = loader.exec_module

        def run_and_join(module: ModuleType) -> None:
            run(module)
            _join_loaded()

        loader.exec_module = run_and_join
        return spec


_join_loaded()
sys.meta_path.insert(0, _JoinOnImport())
