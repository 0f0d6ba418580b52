"""The Python of a task of one's own: which files it is, and loading it from copies of them."""

import importlib
import importlib.abc
import importlib.util
import linecache
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED = ("site-packages", "dist-packages")
_OURS = ("engine", "magic_tui", "__main__")


@dataclass(frozen=True)
class Copy:
    """A module's file, and the copy of it whose text is executed instead."""

    original: Path
    copy: Path


def load_module(place: str, copies: Mapping[str, Copy]) -> ModuleType:
    """An importable module, or a file of Python; modules with a copy are loaded from that.

    Raises:
        FileNotFoundError: if there is no such file.
        Exception: whatever the module raises.
    """
    _copies.serve(copies)
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path, name = Path(place), _module_name(place)
    spec = _copies.find_spec(name) or importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not (name in copies or path.is_file()):
        raise FileNotFoundError(f"there is no file {place}")
    module, before = importlib.util.module_from_spec(spec), set(sys.modules)
    # What stands beside it may be imported by it.
    sys.path.append(str(path.parent))
    try:
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        _copies.loaded |= code_files(place).keys() - before
    return module


def code_files(place: str) -> dict[str, Path]:
    """By module, the files that a task consists of, among what is loaded by now.

    They are its own file and those that were imported from beside it; of an installed package
    those of the package.
    """
    if place.endswith(".py"):
        own, folder = _module_name(place), Path(place).resolve().parent
        beside = {
            name: file
            for name, file in _loaded_files()
            if folder in file.parents
            and name.partition(".")[0] not in _OURS
            and not set(_INSTALLED).intersection(file.relative_to(folder).parts)
        }
        return {own: Path(place), **beside}
    package = place.partition(".")[0]
    return {name: file for name, file in _loaded_files() if name.partition(".")[0] == package}


def _module_name(place: str) -> str:
    return f"_task_{Path(place).stem}"


def _loaded_files() -> list[tuple[str, Path]]:
    files = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    strings = [(name, file) for name, file in files if isinstance(file, str)]
    # torch names files that do not exist, such as "_classes.py": they have no folder.
    return [(name, Path(file).resolve()) for name, file in strings if Path(file).is_absolute()]


class _Copies(importlib.abc.MetaPathFinder):
    """Finds modules in copies of their files; also those that are imported late, by a function."""

    def __init__(self) -> None:
        self._copies: dict[str, Copy] = {}
        self.loaded: set[str] = set()
        """Modules of the last task, which the next one has to load again."""

    def serve(self, copies: Mapping[str, Copy]) -> None:
        """Serve these from now on, and no others."""
        for name in {*self.loaded, *self._copies, *copies}:
            sys.modules.pop(name, None)
        self.loaded.clear()
        self._copies = dict(copies)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        copy = self._copies.get(fullname)
        if copy is None:
            return None
        is_package = copy.original.name == "__init__.py"
        spec = importlib.util.spec_from_loader(
            fullname, _CopyLoader(copy), origin=str(copy.original), is_package=is_package
        )
        if spec is not None:
            # The original's path stays in __file__: data may be read from beside it.
            spec.has_location = True
            if is_package:
                spec.submodule_search_locations = [str(copy.original.parent)]
        return spec


class _CopyLoader(importlib.abc.Loader):
    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def exec_module(self, module: ModuleType) -> None:
        data, original = self._copy.copy.read_bytes(), str(self._copy.original)
        text = importlib.util.decode_source(data)
        # Tracebacks and inspect show what was executed, not what the file says now.
        linecache.cache[original] = (len(text), None, text.splitlines(keepends=True), original)
        names: dict[str, Any] = module.__dict__
        exec(compile(data, original, "exec", dont_inherit=True), names)


_copies = _Copies()
