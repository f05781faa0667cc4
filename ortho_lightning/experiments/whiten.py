"""Whitening from the command line: vectors in files, the STS experiment, retrieval and a benchmark of speed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Collection, Sequence

from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import command, conf_dir, plain_errors
from ortho_lightning.experiments.common.invocation import override_key

USAGE = """\
ortho-whiten: shorten and whiten vectors, such as embeddings

  ortho-whiten fit=VECTORS out=whitening.safetensors keep=0.95
      Choose the fewest components that keep 95% of the 10 nearest neighbours, measured on held-out vectors; no labels.
  ortho-whiten fit=VECTORS out=whitening.safetensors n_components=256 beta=0 gamma=0
      Fit with these hyper-parameters. Also: weights=FILE.npy shrinkage=ledoit-wolf eps=1e-6 accumulation=float32
  ortho-whiten apply=whitening.safetensors to=VECTORS out=small.npy
      Whiten vectors. The ending of out gives the kind of file.
  ortho-whiten merge=a.safetensors,b.safetensors out=whitening.safetensors
      Merge whitenings that were fitted on different vectors, as if fitted on all of them.
  ortho-whiten search=VECTORS out=FOLDER
      Recall for a grid of beta, gamma and k; no labels, nothing is fitted.

VECTORS is a .npy, .npz, .safetensors, .parquet, .arrow, .feather, .faiss or .index file, or a folder of such files; out
is then a folder. key=NAME names the array, tensor or column where a file has several. A fit or apply of a folder that
was stopped goes on where it was when it is run again, and several processes share its files:
  torchrun --nproc-per-node=4 -m ortho_lightning.experiments.whiten fit=FOLDER out=whitening.safetensors

Experiments:
  ortho-whiten experiment=stsb data.root=PATH     Spearman's correlation on the STS benchmark; retrieval=true,
                                                  compare=true: also against other methods
  ortho-whiten benchmark=true                     time and memory of a fit
  ortho-whiten --cfg job                          every option with its default (--hydra-help: Hydra's own)
"""

FILE_COMMANDS = ("fit", "apply", "merge", "search")
_PATHS = (*FILE_COMMANDS, "to", "out", "weights", "key")


def run(config: DictConfig, given: Collection[str] = ()) -> None:
    """Run the command whose option is given, or else the STS experiment.

    Args:
        config: of ``conf/whiten.yaml``.
        given: names of the options that the user gave, where a command depends on it.

    Raises:
        ConfigurationError: for several commands at once, or a value outside its range, before any work.
    """
    from ortho_lightning.experiments.embeddings.options import hyperparameters

    asked = [name for name in (*FILE_COMMANDS, "benchmark") if config[name]]
    if len(asked) > 1:
        raise ConfigurationError(f"{' and '.join(f'{name}={config[name]}' for name in asked)}: ask for one at a time")
    if config.to is not None and config.apply is None:
        raise ConfigurationError(f"to={config.to}: name the whitening too, apply=whitening.safetensors")
    hyperparameters(config)  # raises for a value outside its range
    _run(asked[0] if asked else "experiment", config, given)


def _run(command: str, config: DictConfig, given: Collection[str]) -> None:
    # imported when needed: a wrong path is told before scikit-learn or Lightning are loaded
    if command == "fit":
        from ortho_lightning.experiments.embeddings.fit import fit_files

        fit_files(config, given)
    elif command == "apply":
        from ortho_lightning.experiments.embeddings.apply import apply_to_files

        apply_to_files(config)
    elif command == "merge":
        from ortho_lightning.experiments.embeddings.merge import merge_files

        merge_files(config, given)
    elif command == "search":
        from ortho_lightning.experiments.embeddings.choose import search_files

        search_files(config)
    elif command == "benchmark":
        from ortho_lightning.experiments.embeddings.speed import benchmark_fit

        benchmark_fit(config)
    else:
        from ortho_lightning.experiments.embeddings.sts import run_experiment

        run_experiment(config)


def main() -> None:
    """Run ``ortho-whiten``."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return
    names = [override_key(argument) for argument in arguments if not argument.startswith("-")]
    if not any(argument.startswith("-") for argument in arguments):
        _end_with_a_line(_check_names, names)
        if set(names) & {*FILE_COMMANDS, "to"}:
            _end_with_a_line(_run_on_files, arguments)
            return
        _end_with_a_line(_check_command, names)
    command("whiten")(run)()


def _run_on_files(arguments: Sequence[str]) -> None:
    """Run on a configuration without a run, which would leave a folder of its own behind."""
    given = {override_key(argument) for argument in arguments}
    run(_composed([_quoted(argument) for argument in arguments]), given)


def _quoted(argument: str) -> str:
    """Take paths as they are: in Hydra's grammar commas, spaces and brackets have a meaning."""
    name, equals, value = argument.partition("=")
    if name not in _PATHS or value in ("", "null") or value[0] in "'\"":
        return argument
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}{equals}'{escaped}'"


def _composed(overrides: Sequence[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            return compose("whiten", list(overrides))
    except HydraException as error:
        raise ConfigurationError(str(error)) from None


def _check_names(names: Sequence[str]) -> None:
    """Reject an option that does not exist, also with the + that would add it, and be ignored."""
    known = _composed([])
    for name in names:
        place, parts = known, name.partition("@")[0].split(".")
        if parts[0] in ("hydra", "experiment"):
            continue
        for depth, part in enumerate(parts):
            options = [str(option) for option in place] if isinstance(place, DictConfig) else []
            if part not in options:
                close = difflib.get_close_matches(part, options, 1)
                before = ".".join([*parts[:depth], ""])
                meant = f"did you mean {before}{close[0]}=?" if close else f"there are: {', '.join(options)}"
                raise ConfigurationError(f"{name}: there is no such option; {meant}")
            if depth + 1 < len(parts):
                place = place[part]


def _check_command(names: Sequence[str]) -> None:
    if not {"benchmark", "experiment", "data", "data.root"} & set(names):
        raise ConfigurationError(
            f"{' '.join(names)}: name a command too: {', '.join(f'{name}=' for name in FILE_COMMANDS)}, benchmark=true "
            "or experiment=stsb (ortho-whiten --help)"
        )


def _end_with_a_line(task: Callable[[Sequence[str]], None], argument: Sequence[str]) -> None:
    plain_errors(task)(argument)


if __name__ == "__main__":
    main()
