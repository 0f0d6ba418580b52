"""The Python files of a user's own task, and importing them from copies."""

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
    """A module's file, and the copy that is executed in its source."""

    original: Path
    copy: Path


def load_module(source: str, copies: Mapping[str, Copy]) -> ModuleType:
    """Import a module by name or file; modules with a copy are loaded from the copy.

    Raises:
        FileNotFoundError: if there is no such file.
        Exception: anything that the module raises.
    """
    _copies.use(copies)
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path, name = Path(source), _module_name(source)
    spec = _copies.find_spec(name) or importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not (name in copies or path.is_file()):
        raise FileNotFoundError(f"there is no file {source}")
    module, before = importlib.util.module_from_spec(spec), set(sys.modules)
    # It may import modules from its own folder.
    sys.path.append(str(path.parent))
    try:
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        _copies.loaded |= code_files(source).keys() - before
    return module


def code_files(source: str) -> dict[str, Path]:
    """The imported files of a task, by module.

    For a file: itself and everything imported from its folder. For an installed module: the files
    of its package.
    """
    if source.endswith(".py"):
        own, folder = _module_name(source), Path(source).resolve().parent
        beside = {
            name: file
            for name, file in _loaded_files()
            if folder in file.parents
            and name.partition(".")[0] not in _OURS
            and not set(_INSTALLED).intersection(file.relative_to(folder).parts)
        }
        return {own: Path(source), **beside}
    package = source.partition(".")[0]
    return {name: file for name, file in _loaded_files() if name.partition(".")[0] == package}


def _module_name(source: str) -> str:
    return f"_task_{Path(source).stem}"


def _loaded_files() -> list[tuple[str, Path]]:
    files = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    strings = [(name, file) for name, file in files if isinstance(file, str)]
    # torch names files that do not exist, such as "_classes.py": they have no folder.
    return [(name, Path(file).resolve()) for name, file in strings if Path(file).is_absolute()]


class _Copies(importlib.abc.MetaPathFinder):
    """Import hook that loads modules from copies, also when imported later by a function."""

    def __init__(self) -> None:
        self._copies: dict[str, Copy] = {}
        self.loaded: set[str] = set()
        """Modules of the previous task, which the next one imports again."""

    def use(self, copies: Mapping[str, Copy]) -> None:
        """Use these copies from now on, and no others."""
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
            # __file__ stays the original path, because a task may read data next to it.
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
        # Tracebacks and inspect show the executed text, not the current file.
        linecache.cache[original] = (len(text), None, text.splitlines(keepends=True), original)
        names: dict[str, Any] = module.__dict__
        exec(compile(data, original, "exec", dont_inherit=True), names)


_copies = _Copies()
