"""Broker: from Settings to the address that every client is given, and how its TLS certificate is checked.

kombu takes `rediss://` without options for "check nothing" (5.7), redis-py for "check all", and Flower reads neither
address nor query; so all of them are given the same options, and what a URL says in its query is moved there.
"""

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from kombu.utils.url import parse_url

from config.settings import Settings

_TLS_SCHEME = "rediss"
_TLS_OPTION = "ssl_"


def broker_address(settings: Settings) -> str:
    """The URL, password included, without TLS options in its query."""
    url = urlsplit(settings.broker_url.get_secret_value())
    kept = [(name, value) for name, value in parse_qsl(url.query) if not name.startswith(_TLS_OPTION)]
    return url._replace(query=urlencode(kept)).geturl()


def tls_options(settings: Settings) -> dict[str, Any]:
    """redis-py's and kombu's names for how the certificate is checked: always, but where the URL says otherwise."""
    url = settings.broker_url.get_secret_value()
    if urlsplit(url).scheme != _TLS_SCHEME:
        return {}
    own_ca = {"ssl_ca_certs": str(settings.broker_ca_file)} if settings.broker_ca_file else {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, **own_ca, **parse_url(url).get("ssl", {})}
