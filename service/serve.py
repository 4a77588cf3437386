"""The application on a socket, until a signal ends it."""

import gc
import logging
import os

import uvicorn

from service import logs
from service.app import create_app
from service.device import Driver
from service.life import Life, Server
from service.settings import Settings


def serve(settings: Settings, driver: Driver | None = None) -> None:
    """Serve until a signal comes, or the device fails.

    Args:
        settings: what the operator wants.
        driver: of the device to compute on; that of `settings.device` where None.
    """
    logs.set_up(settings.log_level)
    life = Life()
    app = create_app(settings, life, driver)
    gc.freeze()  # what lives as long as the process is not looked at again and again
    gc.set_threshold(10_000, 20, 20)
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    Server(config, life, settings.drain_delay_s, settings.drain_s).run()
    logging.shutdown()
    os._exit(
        life.exit_code
    )  # a call that is on the device still would keep its thread, and nobody waits for it
