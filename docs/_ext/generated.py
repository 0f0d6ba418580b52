"""Reference pages from the code: a line ``% generated: NAME`` becomes what NAME generates.

Every generator returns Markdown. Nothing generated is written to the source tree, so that no page
can be older than the code.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
_LINE = re.compile(r"^% generated: (\w+)$", re.MULTILINE)


# --- docstrings -----------------------------------------------------------------------------------


@cache
def field_docstrings(cls: type) -> dict[str, str]:
    """The docstrings under the fields or members of a class, by name; bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.split(".")[0] in ("engine", "magic_tui"):
            docs |= _docstrings_in(base)
    return docs


def _docstrings_in(cls: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        value = getattr(following, "value", None)
        text = value.value if isinstance(value, ast.Constant) else None
        if isinstance(targets[0], ast.Name) and isinstance(text, str):
            docs[targets[0].id] = " ".join(text.split())
    return docs


def markdown(text: str) -> str:
    """A docstring's reStructuredText as Markdown: literals and roles become code."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return markdown(" ".join(text.split())).replace("|", "\\|")


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the command line -----------------------------------------------------------------------------


def commands() -> list[tuple[str, Any]]:
    """Every verb with its full name, as click commands, in the order of ``magic --help``."""
    import typer

    from magic_tui.cli.verbs import app

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
            return
        for child, of_child in children.items():
            yield from walk(f"{name} {child}", of_child)

    return list(walk("magic", typer.main.get_command(app)))


def parameters(command: Any) -> list[Any]:
    """The arguments and options of a verb, without ``--help``."""
    return [each for each in command.params if each.name != "help" and not each.hidden]


def cli() -> str:
    """Every verb with its help, arguments and options."""
    return "\n\n".join(_verb(name, command) for name, command in commands())


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in parameters(command) if p.param_type_name == "argument"]
    options = [p for p in parameters(command) if p.param_type_name == "option"]
    usage = " ".join(
        [name, *(_usage(each) for each in arguments), *(["[OPTIONS]"] if options else [])]
    )
    parts = [f"## {name}", f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    if arguments:
        rows = [
            (f"`{each.metavar or each.name.upper()}`", cell(each.help or "")) for each in arguments
        ]
        parts.append(table(("argument", "meaning"), rows))
    if options:
        rows = [(_names(each), _default(each), cell(each.help or "")) for each in options]
        parts.append(table(("option", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _usage(argument: Any) -> str:
    metavar = argument.metavar or argument.name.upper()
    repeated = "…" if argument.nargs == -1 else ""
    return f"{metavar}{repeated}" if argument.required else f"[{metavar}]{repeated}"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    return f"{names} `{option.metavar or option.name.upper()}`"


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if value is None or value == () or value == [] or callable(value) or option.is_flag:
        return ""
    if type(value).__name__ in ("Sentinel", "_Unset"):
        return ""
    value = value.value if isinstance(value, Enum) else value
    return f"`{value}`"


def _paragraphs(text: str) -> str:
    """Help text: paragraphs that end with their own line breaks."""
    return markdown(inspect.cleandoc(text.replace("\b", "")))


# --- the config -----------------------------------------------------------------------------------


def config_keys(
    section: type[BaseModel] | None = None, prefix: str = ""
) -> Iterator[tuple[str, Any, type[BaseModel]]]:
    """Every key of a config by dotted name, with its pydantic field and its section."""
    from engine.runs.config import RunConfig

    section = section or RunConfig
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}", field, section
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from config_keys(inner, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = [annotation, *getattr(annotation, "__args__", ())]
    sections = (o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return next(sections, None)


def config() -> str:
    """A table of keys for every section of the config."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    texts: dict[str, str] = {}
    for key, field, section in config_keys():
        prefix, _, name = key.rpartition(".")
        inner = _section_of(field.annotation)
        meaning = cell(field_docstrings(section).get(name, ""))
        anchor = f"{prefix}.{name}".strip(".")
        kind = f"[section](#{anchor.replace('.', '-')})" if inner else _type(field)
        groups.setdefault(prefix, []).append((f"`{name}`", kind, _field_default(field), meaning))
        texts.setdefault(prefix, section.__doc__ or "")
    parts = []
    for prefix, rows in groups.items():
        title = f"({prefix.replace('.', '-')})=\n## {prefix}" if prefix else "## Top level"
        parts += [
            title,
            _paragraphs(texts[prefix]),
            table(("key", "type", "default", "meaning"), rows),
        ]
    return "\n\n".join(parts)


def _field_default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(field: Any) -> str:
    text = _type_text(field.annotation)
    bounds = [_bound(each) for each in field.metadata]
    return cell(", ".join(filter(None, [text, *bounds])))


_PLAIN = {
    **{"str": "text", "int": "integer", "float": "number", "bool": "true or false"},
    "Any": "any JSON value",
}


def _type_text(annotation: Any) -> str:
    import types
    import typing

    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        inner = [_type_text(arguments[0]), *(_bound(each) for each in annotation.__metadata__)]
        return " ".join(filter(None, inner))
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_text(each) for each in arguments)
    if origin is Sequence:
        return f"list of {_type_text(arguments[0])}"
    if origin is tuple:
        several = [each for each in arguments if each is not Ellipsis]
        if Ellipsis in arguments:
            return f"list of {_type_text(several[0])}"
        return f"list of {len(several)} {_type_text(several[0])}s"
    if origin is dict:
        return "mapping of names to values"
    return _PLAIN.get(getattr(annotation, "__name__", ""), str(annotation))


def _bound(constraint: Any) -> str:
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    inner = getattr(constraint, "metadata", [])
    own = [
        f"{sign} {getattr(constraint, name):g}" for name, sign in signs if hasattr(constraint, name)
    ]
    return " ".join(filter(None, [*own, *map(_bound, inner)]))


# --- events ---------------------------------------------------------------------------------------


def events() -> str:
    """Every kind of event with its fields."""
    from engine.runs.events import SCHEMA

    return "\n\n".join(_event_class(kind.value, cls) for kind, cls in SCHEMA.items())


def _event_class(kind: str, cls: type) -> str:
    docs = field_docstrings(cls)
    rows = [
        (f"`{name}`", cell(_type_text(annotation)), cell(docs.get(name, "")))
        for name, annotation in inspect.get_annotations(cls).items()
    ]
    return "\n\n".join(
        (f"## {kind}", _paragraphs(cls.__doc__ or ""), table(("field", "type", "meaning"), rows))
    )


# --- HTTP -----------------------------------------------------------------------------------------


def http() -> str:
    """Every request of the HTTP interface, and the fields of its bodies."""
    document = openapi()
    parts = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method, path, operation))
    parts.append("## Bodies")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(_schema(name, schema))
    return "\n\n".join(parts)


def openapi() -> dict[str, Any]:
    """The document that an engine serves at ``/v1/openapi.json``."""
    from engine.daemon.routes import make_app

    return dict(make_app(None).openapi())  # type: ignore[arg-type]


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"## {method.upper()} {path}", _paragraphs(operation.get("description", ""))]
    rows = [
        (f"`{each['name']}`", each["in"], "yes" if each.get("required") else "no")
        for each in operation.get("parameters", [])
    ]
    if rows:
        parts.append(table(("parameter", "in", "required"), rows))
    body = operation.get("requestBody")
    if body:
        parts.append(f"Body: {_reference(body['content'])}.")
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            parts.append(f"Answer {status}: {_reference(response.get('content', {}))}.")
    return "\n\n".join(parts)


def _reference(content: dict[str, Any]) -> str:
    for kind, media in content.items():
        schema = media.get("schema", {})
        reference = schema.get("$ref", "").rpartition("/")[2]
        return f"[{reference}](#{reference.lower()})" if reference else f"`{kind}`"
    return "empty"


def _schema(name: str, schema: dict[str, Any]) -> str:
    parts = [f"### {name}", _paragraphs(schema.get("description", ""))]
    docs = _model_docstrings(name)
    required = schema.get("required", [])
    rows = [
        (
            f"`{field}`",
            _schema_type(of_field),
            "yes" if field in required else "no",
            cell(docs.get(field, "")),
        )
        for field, of_field in schema.get("properties", {}).items()
    ]
    if rows:
        parts.append(table(("field", "type", "required", "meaning"), rows))
    return "\n\n".join(parts)


def _model_docstrings(name: str) -> dict[str, str]:
    for module in list(sys.modules.values()):
        if module is not None and getattr(module, "__name__", "").startswith("engine."):
            cls = vars(module).get(name)
            if isinstance(cls, type) and issubclass(cls, BaseModel):
                return field_docstrings(cls)
    return {}


def _schema_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_schema_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_schema_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


# --- small tables ---------------------------------------------------------------------------------


def exit_codes() -> str:
    """Every exit code of the command line."""
    from engine.runs.errors import ExitCode

    docs = field_docstrings(ExitCode)
    rows = [(f"`{code.value}`", cell(docs.get(code.name, ""))) for code in ExitCode]
    return table(("code", "meaning"), rows)


def environment() -> str:
    """Every environment variable of magic."""
    from engine.runs.environment import VARIABLES

    rows = [(f"`{v.name}`", cell(v.default), cell(v.meaning), cell(v.read_by)) for v in VARIABLES]
    return table(("variable", "default", "meaning", "read by"), rows)


def python() -> str:
    """The public names of the package ``engine``, by autodoc."""
    import engine

    parts = []
    for name in engine.__all__:
        value = getattr(engine, name)
        kind = "autoclass" if isinstance(value, type) else "autofunction"
        members = "\n   :members:" if kind == "autoclass" else ""
        parts.append(f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: engine.{name}{members}\n```")
    return "\n\n".join(parts)


def phases() -> str:
    """The phases of a job, as events name them."""
    from engine.runs.events import Phase

    docs = field_docstrings(Phase)
    return table(("phase", "meaning"), [(f"`{p.value}`", cell(docs[p.name])) for p in Phase])


def words() -> str:
    """The word list of the house style."""
    sys.path.insert(0, str(ROOT / "tools"))
    from check_words import read_terms

    return table(
        ("do not use", "use"), [(cell(term.avoid), cell(term.use)) for term in read_terms()]
    )


GENERATORS: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        *(cli, config, events, phases, http, exit_codes, environment, python),
        words,
    )
}


def generate(app: Any, name: str, source: list[str]) -> None:
    """Replace the ``% generated:`` lines of a page that Sphinx has read."""
    source[0] = _LINE.sub(lambda match: GENERATORS[match[1]](), source[0])


def escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Shapes such as ``(query, *weights)`` in docstrings are no emphasis."""
    lines[:] = [re.sub(r"(?<=[(, ])\*(?=\w[\w ]*\))", r"\\*", line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", generate)
    app.connect("autodoc-process-docstring", escape)
    return {"parallel_read_safe": True}
