"""`textseg demo`: a page on this machine, to try words on pictures, volumes and phantoms.

Modules that compute (opening, networks, session, drawing, markup, table) import no gradio; page and
server do. What visitors send lives in one temporary folder until it is read, and no path of the
server gives a file back.
"""

from textseg.demo.command import demo

__all__ = ["demo"]
