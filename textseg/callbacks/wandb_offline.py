"""Whether W&B can be reached, and what a run does where it cannot."""

from __future__ import annotations

import netrc
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lightning.pytorch.utilities import rank_zero_info

CLOUD = "api.wandb.ai"  # where keys of W&B's own cloud are kept, whatever its host is called now
CREDENTIALS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def fall_back_to_offline(logger: Any) -> None:
    """Set a configured WandbLogger, not yet built, to offline where W&B cannot be reached.

    Args:
        logger: its class_path and init_args; changed in place.
    """
    reason = wandb_unreachable_reason()
    if reason:
        disabled = os.environ.get("WANDB_MODE") == "disabled"
        logger.init_args.offline = not disabled
        rank_zero_info(f"W&B {'is off' if disabled else 'runs offline'}: {reason}")


def wandb_unreachable_reason() -> str:
    """Why W&B cannot be reached from here; "" if it can be.

    Nobody is asked for a key, and a server that does not answer is given up after 3 s.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE={mode}"
    import wandb  # takes seconds, and most runs have no W&B logger

    default = wandb.Settings().base_url
    url = os.environ.get("WANDB_BASE_URL") or default
    server = urlsplit(url)
    hosts = [server.netloc, server.hostname or "", *([CLOUD] if url == default else [])]
    if not any(os.environ.get(name) for name in CREDENTIALS) and not _in_netrc(hosts):
        return "no API key (wandb login sets one)"
    # Behind a proxy only the proxy is asked directly; its scheme may be left out.
    proxy = "" if proxy_bypass(server.hostname or "") else getproxies().get(server.scheme, "")
    target = proxy or url
    reached = urlsplit(target if "://" in target else f"http://{target}")
    port = reached.port or (443 if reached.scheme == "https" else 80)
    try:
        socket.create_connection((reached.hostname or "", port), timeout=3).close()
    except OSError as error:
        return f"{reached.hostname} cannot be reached ({error})"
    return ""


def _in_netrc(hosts: Sequence[str]) -> bool:
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)
