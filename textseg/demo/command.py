"""The function of `textseg demo`; it imports torch and gradio only when called."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from textseg.errors import UserError
from textseg.runs.calibration import Temperature, Threshold


def demo(
    *,
    ckpt_path: str | list[str],
    model: str | None = None,
    image_size: int | list[int] | None = None,
    device: str = "auto",
    threshold: Threshold = 0.5,
    temperature: Temperature = 1.0,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_volumes: Callable[..., Any] | None = None,
    draw_phantom: Callable[[int], Any] | None = None,
) -> None:
    """Open a page on this machine, to try words on an image, a volume or a phantom.

    It shows mask, probability and area for one expression or two, and the network's maps for a
    word. Ctrl+C ends it. It asks no other machine for anything. What is sent to it is deleted once
    it is read, and at the end; it has no password. For research, not a medical device.

    Args:
        ckpt_path: a checkpoint that `textseg fit` wrote, such as
            runs/<config>/<time>/checkpoints/best.ckpt, or the folder of textseg export or
            textseg card; or several, [A,B], to choose from on the page, beside their mean. The
            window of volumes is that of the first one's training.
        model: class of a network of your own, such as my_package.MyNet, whose module is imported;
            the suite's own are known.
        image_size: side of the network's square input, or [height, width]; by default that of the
            config.yaml in the checkpoint's run.
        device: auto, cpu, cuda, cuda:1, mps and so on.
        threshold: probability above which a pixel is outlined; best takes the one that textseg
            calibrate found on the validation rows of the run.
        temperature: what logits are divided by before they become probabilities; fitted takes what
            textseg calibrate found. At threshold 0.5 it moves no mask.
        host: address that the page listens on; with any but 127.0.0.1 whoever reaches this machine
            can use it.
        port: of the address; 0 takes a free one, which is said.
        open_volumes: opens volumes; the command line gives datamodules.volumes.opened.Volumes.
        draw_phantom: draws phantoms; the command line gives that of RefHL-Seg.

    Raises:
        UserError: the package gradio is missing, a checkpoint cannot be used, or the page cannot
            listen on host and port.
    """
    if find_spec("gradio") is None:
        raise UserError("the package gradio is not installed", 'pip install "textseg[demo]"')

    from textseg.demo.networks import Networks
    from textseg.demo.opening import Opener
    from textseg.demo.server import listening_socket, serve, temporary_uploads
    from textseg.demo.session import Sessions
    from textseg.limits import LIMITS
    from textseg.segment.network import load

    for limit in LIMITS:
        _ = limit.most  # a setting that is no number is said before anybody comes
    paths = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path
    with listening_socket(host, port) as socket, temporary_uploads() as folder:
        settings: dict[str, Any] = {"image_size": image_size, "device": device}
        settings |= {"threshold": threshold, "temperature": temperature}
        networks = Networks(paths, partial(load, model=model, **settings))
        opener = Opener(open_volumes, draw_phantom, paths[0], folder)

        from textseg.demo.page import application

        serve(application(networks, opener, Sessions()), socket, host)
