"""Our packages before modules of the same names: a person's own probe.py or `actors/` is not imported in place of ours.

Ray's workers look first in the driver's working directory, then beside its script, then in PYTHONPATH. Where one of these holds
such a name, the workers begin with `ours_first`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("actors", "cluster", "defense", "probe")
ROOT = Path(__file__).resolve().parents[2]
"""Where our packages lie on this machine."""


def find_ours_first() -> None:
    """Import our packages from where this one lies.

    Raises:
        ImportError: another module of such a name has been imported already; names its file.
    """
    for name in NAMES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and not _is_ours(file, name):
            raise ImportError(f"{file} was imported as `{name}`, which is a package of Safe-FedLLM; rename it")
    ours_first()()


def ours_first() -> Callable[[], None]:
    """What puts ours first in a process; a worker of Ray does it before it imports anything of ours.

    It travels to workers as code, not by name. So what it needs is defined in it.
    """
    root, names = str(ROOT), NAMES

    class OursFirst:
        """Finds our packages in their folder, whatever comes first in sys.path."""

        def __init__(self, place: str) -> None:
            self._place = place

        def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
            return PathFinder.find_spec(name, [self._place], target) if path is None and name in names else None

    def put_first() -> None:
        place = root
        if not all((Path(place) / name / "__init__.py").is_file() for name in names):  # another machine
            spec = importlib.util.find_spec("cluster")  # the driver's directories are not in sys.path yet
            if spec is None or spec.origin is None:
                return
            place = str(Path(spec.origin).parents[1])
        sys.meta_path.insert(0, OursFirst(place))  # pyright: ignore[reportArgumentType] - `find_spec` is all that is called

    return put_first


def in_the_way(folders: Sequence[str]) -> Path | None:
    """The first module that Python would import from these folders in place of one of ours; None: there is none."""
    importlib.invalidate_caches()
    absolute = [str(Path(folder).absolute()) for folder in folders]
    for name in NAMES:
        spec = PathFinder.find_spec(name, absolute)
        if spec is None:
            continue
        found = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), name)).resolve()
        if not _is_ours(str(found), name):
            return found.parent if found.name == "__init__.py" else found
    return None


def holds_a_copy(folder: Path) -> bool:
    """Whether the folder holds all our packages, as a checkout of the repository does."""
    return (folder / "cluster" / "cli.py").is_file() and all((folder / name / "__init__.py").is_file() for name in NAMES)


def first_folders() -> list[str]:
    """Where workers that this process is about to start look first: as `ray.init` tells them, and in PYTHONPATH."""
    script = str(Path(sys.argv[0]).resolve().parent)
    beside = [script] if script in sys.path else []
    return [os.curdir, *beside, *_further_folders()]


def folders_of(driver_paths: Sequence[str]) -> list[str]:
    """Where workers of a running Ray look first, whose driver gave them these paths: each goes before the others."""
    return [*reversed(driver_paths), *_further_folders()]


def _further_folders() -> list[str]:
    return [*(folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder), *sys.path]


def _is_ours(file: str, name: str) -> bool:
    return Path(file).resolve() == ROOT / name / "__init__.py"
