"""The command line: a table of commands, and nothing imported but the one that runs."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)  # whose errors name no file

COMMANDS = {
    "demo": ("neuropipe.demo.study", "simulate the demo study with its planted effects"),
    "doctor": ("neuropipe.doctor", "check machine, versions, config and data; say what to do about each problem"),
    "index": ("neuropipe.stages.index", "find the runs of a dataset and assign them to chunks"),
    "parcellate": ("neuropipe.stages.parcellate", "images or raw series to clean regional series, one chunk"),
    "volumes": ("neuropipe.stages.volumes", "maps of anatomy and slices to one grid and unit, one chunk"),
    "shard": ("neuropipe.stages.shard", "pack one chunk's series, maps or slices into tars"),
    "collect": ("neuropipe.stages.collect", "join the chunks of a dataset into one manifest and its quality tables"),
    "publish": ("neuropipe.stages.publish", "copy a dataset's shards to a store or folder, the manifest last"),
    "fetch": ("neuropipe.stages.fetch", "use shards that lie at a store or in another folder"),
    "qc": ("neuropipe.stages.qc", "the quality page of a dataset: every run, motion in connectivity, sites, outliers"),
    "hdf5": ("neuropipe.stages.hdf5", "write a dataset in the HDF5 layout of Brain-Semantoks"),
    "tars": ("neuropipe.stages.tars", "write a dataset as tars of learning-from-brains"),
    "events": ("neuropipe.stages.events", "find the events.tsv of each run of a dataset"),
    "clips": ("neuropipe.stages.clips", "label windows of the recordings by their events"),
    "split": ("neuropipe.stages.split", "freeze who is on which side, and audit it"),
    "pretrain": ("neuropipe.stages.pretrain", "train one recipe and seed on every fold that judges it"),
    "import": ("neuropipe.stages.import_weights", "take a released checkpoint over, with a report of every key"),
    "export": ("neuropipe.stages.export", "write a model in a layout that others load without this package"),
    "embed": ("neuropipe.stages.embed", "embed every person with the trained and the random network"),
    "probe": ("neuropipe.stages.probe", "linear readouts of frozen embeddings, one task"),
    "finetune": ("neuropipe.stages.finetune", "train a recipe's whole network for one task, all folds"),
    "baselines": ("neuropipe.stages.baselines", "majority, confounds, connectivity and random weights, one task"),
    "decode": ("neuropipe.stages.decode", "tell the labels of clips: baselines and frozen networks, one task"),
    "evaluate": ("neuropipe.stages.evaluate", "predictions to metrics with intervals, nulls and comparisons"),
    "openbhb": ("neuropipe.stages.openbhb", "score embeddings as the OpenBHB challenge does"),
    "semantoks-probe": ("neuropipe.stages.semantoks_probe", "probe a Brain-Semantoks as published, ten splits"),
    "report": ("neuropipe.stages.report", "the one HTML page"),
    "predict": ("neuropipe.stages.predict", "ask trained networks about new scans: a table and a page per person"),
    "atlas": ("neuropipe.stages.atlas", "list, fetch or show atlases"),
    "schema": ("neuropipe.stages.schema", "check or rewrite the JSON schemas of config, recipes and models"),
}


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="neuropipe",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="From brain-imaging derivatives to brain models that can be believed.",
        epilog=f"commands:\n{listing}\n\nneuropipe COMMAND --help tells more. The whole line: snakemake --cores all",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"neuropipe {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _run(name: str, arguments: list[str]) -> int:
    # Threads that wait by spinning bring a machine with more jobs than cores to a halt; read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = import_module(COMMANDS[name][0])
    parsed = vars(_command_parser(name, module).parse_args(arguments))
    debug = parsed.pop("debug")
    from neuropipe.errors import NeuropipeError

    try:
        result = module.run(**parsed)
    except NeuropipeError as error:
        if debug:
            raise
        _say(f"neuropipe {name}: {error}")
        return error.exit_code
    except OSError as error:  # a missing file, a folder that cannot be read, a disk that is full of something else
        if debug or (error.filename is None and error.errno not in DISK_ERRORS):
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        _say(f"neuropipe {name}: {where}{error.strerror}; check the path and its disk.")
        return NeuropipeError.exit_code
    for line in getattr(result, "lines", []):
        print(line)
    return getattr(result, "exit_code", 0)


def _say(line: str) -> None:
    """Print to standard error; where that is a log on a full disk, the exit code must do."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the user can mend it, 75 run it again, 1 a bug of ours."""
    parser = _parser()
    parsed = parser.parse_args(argv)
    if parsed.version:
        from neuropipe import __version__

        print(f"neuropipe {__version__}")
        return 0
    if parsed.command is None:
        parser.print_help()
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return _run(parsed.command, parsed.rest)


if __name__ == "__main__":
    sys.exit(main())
