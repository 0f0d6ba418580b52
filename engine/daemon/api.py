"""The engine's HTTP interface; its own description is at ``/v1/openapi.json``."""

from typing import Any

from fastapi import APIRouter, FastAPI

from engine.daemon import run_routes, stream_routes
from engine.daemon.http_errors import PROBLEMS, add_problem_handlers
from engine.daemon.limits import Limits
from engine.daemon.serving import Serving, TheServing
from engine.runs.api_schema import API_VERSION, EngineView

router = APIRouter(prefix="/v1/engine", tags=["engine"], responses=PROBLEMS)


@router.get("")
def view_engine(serving: TheServing) -> EngineView:
    """The engine and its machine."""
    return serving.fresh_view()


@router.post("/stop", status_code=202)
async def stop_engine(serving: TheServing) -> dict[str, Any]:
    """End the engine; its runs go on, and the next engine takes them up."""
    serving.stop()
    return {}


def make_app(serving: Serving) -> FastAPI:
    """The application that serves an engine."""
    app = FastAPI(
        title="magic-engine",
        version=str(API_VERSION),
        description="Exact training-data attribution: queue, watch and steer runs.",
        openapi_url="/v1/openapi.json",
        # Their pages load scripts from the network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # What the engine does is nobody else's business.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.serving = serving
    for routes in (router, stream_routes.router, run_routes.router, run_routes.folders):
        app.include_router(routes)
    add_problem_handlers(app)
    app.add_middleware(Limits)
    return app
