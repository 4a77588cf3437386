"""The application on a socket, until a signal ends it."""

import uvicorn

from service import logs
from service.app import create_app
from service.life import Life, Server
from service.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    logs.set_up(settings.log_level)
    life = Life()
    config = uvicorn.Config(
        create_app(settings, life),
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )
    Server(config, life, settings.drain_delay_s).run()
