"""Settings -> Flower, served until it is told to stop: a login before everything, no secret in `ps`.

Not started as `celery flower`: that takes FLOWER_… variables and a flowerconfig.py of the working directory,
which may undo the login, and leaves /metrics and /healthcheck open to everybody.
"""

import base64
import binascii
import hmac
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from flower.app import Flower
from flower.options import default_options
from flower.urls import settings as page_settings
from flower.views.tasks import TASK_COLUMNS
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest
from tornado.web import RequestHandler

from config.clients import make_celery
from config.errors import PixelherdError, UnavailableError
from config.flowerconfig import STYLE, flower_options, with_login
from config.settings import Settings, read_settings

STYLE_PATH = "/static/css/flower.css"


class LockedFlower(Flower):  # type: ignore[misc]  # Flower brings no types
    """Flower that answers nothing, /metrics and static files included, to a request without the login."""

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> HTTPMessageDelegate:
        """Tornado's place where a request is given to a page."""
        found: HTTPMessageDelegate
        if not self._may_enter(request.headers.get("Authorization", "")):
            found = self.get_handler_delegate(request, LoginNeeded)
        elif request.path == STYLE_PATH:
            found = self.get_handler_delegate(request, Style)
        else:
            found = super().find_handler(request, **more)
        return found

    def _may_enter(self, header: str) -> bool:
        scheme, _, coded = header.partition(" ")
        try:
            given = base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError):
            return False
        logins = [login.encode() for login in self.options.basic_auth]
        return scheme.lower() == "basic" and any(hmac.compare_digest(given, login) for login in logins)


class LoginNeeded(RequestHandler):
    """Answers 401, so that a browser asks for the login."""

    def prepare(self) -> None:
        self.set_status(401)
        self.set_header("WWW-Authenticate", 'Basic realm="pixelherd Flower", charset="UTF-8"')
        self.finish("Login needed: PIXELHERD_FLOWER_USER and PIXELHERD_FLOWER_PASSWORD.\n")


class Style(RequestHandler):
    """Flower's own style, and ours behind it."""

    def get(self) -> None:
        """Both as one file."""
        self.set_header("Content-Type", "text/css")
        self.finish((Path(page_settings["static_path"]) / "css" / "flower.css").read_text(encoding="utf-8") + STYLE)


def serve_flower(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; SettingsError where it would be open to others without a password."""
    for name, value in flower_options(settings).items():
        setattr(default_options, name, value)
    TASK_COLUMNS["kwargs"] = "Chunk"
    server = LockedFlower(capp=make_celery(settings), options=default_options, **page_settings)
    try:
        server.start_http_server()
    except OSError as error:
        raise UnavailableError(
            f"Flower cannot listen on {settings.flower_address}:{settings.flower_port} ({error.strerror}): "
            "set PIXELHERD_FLOWER_PORT"
        ) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.io_loop.add_callback_from_signal(server.stop))
    server.start()


def main() -> None:
    """Serve with the settings of the environment: what a local stack starts."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # a line for each file of each page
    try:
        serve_flower(with_login(read_settings()))
    except PixelherdError as error:
        sys.exit(f"flower: {error}")


if __name__ == "__main__":
    main()
