"""Errors of the HTTP interface: a status and one readable sentence."""

import errno
import json
import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.runs.api_schema import RUN_ID, Problem
from engine.runs.errors import (
    ConflictError,
    DiskFullError,
    ExitCode,
    MagicError,
    NotFoundError,
    UnreachableError,
    UsageError,
)

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in (
        (400, "The request is not valid HTTP, or its body cannot be read"),
        (404, "Not found"),
        (409, "Not possible in the present state"),
        (413, "The body is too large"),
        (422, "Something in the request is wrong"),
        (431, "The headers are too large"),
        (500, "The engine failed; see its log"),
        (503, "Too many connections"),
        (507, "A disk is full"),
    )
}
"""Every status of an error, for the OpenAPI document."""

_log = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[MagicError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (UsageError, 422),
    (UnreachableError, 503),
    (DiskFullError, 507),
)
_ABOUT_THE_PATH = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
}  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LONGEST_QUOTED = 60


def problem_response(
    status: int, message: str, exit_code: int, headers: dict[str, str] | None = None
) -> Response:
    """A problem as JSON; bytes that are not UTF-8 are replaced."""
    text = message.encode("utf-8", "replace").decode()
    body = json.dumps({"message": text, "exit_code": int(exit_code)})
    return Response(body, status, headers, media_type="application/json")


def problem_of(error: Exception) -> tuple[int, Problem]:
    """The status and the sentence of an error; an unexpected error reveals no details."""
    if isinstance(error, MagicError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return status, Problem(message=_plain(str(error)), exit_code=int(error.exit_code))
    if isinstance(error, OSError) and error.errno in _ABOUT_THE_PATH | _FULL:
        message = f"cannot use {error.filename}: {error.strerror}; check the path and its disk"
        status, code = (422, ExitCode.USAGE)
        if error.errno in _FULL:
            status, code = (507, ExitCode.RUN_FAILED)
        return status, Problem(message=_plain(message), exit_code=int(code))
    message = "the engine failed at this request; see its log"
    return 500, Problem(message=message, exit_code=int(ExitCode.RUN_FAILED))


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem."""
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(MagicError, _on_error)
    app.add_exception_handler(OSError, _on_error)
    app.add_exception_handler(Exception, _on_error)


def sentence_of(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as a sentence, with the number of further ones."""
    # An unknown key is usually a misspelt one, which causes the other errors.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    key = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        return f"the body is not valid JSON: {first['ctx']['error']} at character {key}"
    if not key:
        return "the body should be a JSON object; send one with Content-Type: application/json"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a known key; remove it{more}"
    if first["type"] == "missing":
        return f"{key} is missing; add it{more}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}{more}"
    if first["type"] == "string_pattern_mismatch":
        message = _meaning(first["ctx"]["pattern"])
    quoted = _quoted(first["input"])
    if message.startswith("Input should be "):
        return f"{key} should be {message.removeprefix('Input should be ')}, got {quoted}{more}"
    return f"{key}: {message}, got {quoted}{more}"


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    # The client program sets headers, not the user.
    status = 400 if any(e["loc"][0] == "header" for e in errors) else 422
    return problem_response(status, sentence_of(errors), ExitCode.USAGE)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers, path = dict(error.headers or {}), request.url.path[:200]
    message = str(error.detail)
    if error.status_code == 400:
        message = "the body cannot be read; send one JSON object"
    elif error.status_code == 404:
        message = f"there is nothing at {path}; /v1/openapi.json lists all paths"
    elif error.status_code == 405:
        headers["Allow"] = _methods(request)
        message = f"{request.method[:20]} is not possible at {path}; {headers['Allow']} is"
    return problem_response(error.status_code, message, ExitCode.USAGE, headers)


async def _on_error(_: Request, error: Exception) -> Response:
    status, problem = problem_of(error)
    if isinstance(error, OSError) and status == 500:
        # Unlike other unexpected errors, uvicorn does not log this one.
        _log.error("unexpected error", exc_info=error)
    return problem_response(status, problem.message, problem.exit_code)


def _methods(request: Request) -> str:
    """All methods at a path; the router reports those of its first match only."""
    paths = request.app.openapi()["paths"]
    here = request.url.path.split("/")
    for template, methods in paths.items():
        parts = template.split("/")
        if len(parts) == len(here) and all(
            part == given or part.startswith("{") for part, given in zip(parts, here, strict=True)
        ):
            return ", ".join(method.upper() for method in methods)
    return "GET"


def _meaning(pattern: str) -> str:
    if pattern == RUN_ID:
        return "Input should be a run id such as 20260131T120000-0a1b2c"
    if pattern.startswith("^/"):
        return "Input should be an absolute path"
    return f"Input should match {pattern}"


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_QUOTED else text[: _LONGEST_QUOTED - 1] + "…"


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
