"""Compiled code that depends on the hooks of the modules in it."""

from __future__ import annotations

import torch


class HookGuards:
    """Makes compiled code depend on the hooks of the modules in it, while any holder wants it.

    torch leaves hooks out of what compiled code depends on (``skip_nnmodule_hook_guards``), and modules of one class
    share their code: without this, code that was compiled for a module without hooks, or for another module, would run
    for a penalized one, and its penalty would be lost. What was compiled before has no such guards and is forgotten.
    """

    _OPTION = "skip_nnmodule_hook_guards"
    _holders = 0
    _before = False

    @classmethod
    def hold(cls) -> None:
        """Guard hooks from now on."""
        import torch._dynamo  # here: its import takes a second, and only compiled models need it

        cls._holders += 1
        if cls._holders > 1 or not hasattr(torch._dynamo.config, cls._OPTION):
            return
        cls._before = getattr(torch._dynamo.config, cls._OPTION)
        if cls._before:
            torch.compiler.reset()
            setattr(torch._dynamo.config, cls._OPTION, False)

    @classmethod
    def release(cls) -> None:
        """Leave what is compiled later as it would be; what was compiled keeps its guards."""
        cls._holders -= 1
        if not cls._holders and cls._before:
            setattr(torch._dynamo.config, cls._OPTION, True)
