"""How the page looks: fonts of the reader's system, light and dark as the reader has set."""

from __future__ import annotations

from textseg.demo.drawing import COLORS, heat_gradient

_FIRST, _SECOND = (f"rgb{color}" for color in COLORS)

CSS = f"""
:root {{ --first: {_FIRST}; --second: {_SECOND}; --heat: {heat_gradient()}; }}
.gradio-container, .gradio-container * {{
  font-family: system-ui, "Segoe UI", Roboto, Arial, sans-serif;
}}
.gradio-container {{ max-width: 1320px !important; margin: 0 auto !important; }}
.gradio-container h1 {{ font-size: 1.5rem; margin: 0; }}
.gradio-container h2 {{ font-size: 1.1rem; margin: 0 0 .25rem; }}
.gradio-container h3 {{ font-size: 1rem; margin: 0 0 .5rem; }}
.gradio-container h4 {{ font-size: .95rem; margin: 0; overflow-wrap: anywhere; }}
.gradio-container p {{ margin: .15rem 0; }}
.gradio-container {{ --faint: #555a66; --layout-gap: .75rem; }}
.gradio-container .dark, .dark .gradio-container, .gradio-container.dark {{ --faint: #b4b8c2; }}
.gradio-container .html-container {{ padding: 0 !important; }}
footer {{ display: none !important; }}
.head {{ display: flex; flex-wrap: wrap; gap: .4rem 1.25rem; align-items: baseline; }}
.head p {{ color: var(--faint); }}
.caution {{
  background: #fff4dc; color: #4a3200; border-left: 4px solid #d99400;
  padding: .5rem .75rem; margin-top: .5rem; border-radius: 4px;
}}
.dark .caution {{ background: #362a10; color: #ffe9b8; }}
.refusal {{
  background: #fdecea; color: #7a1010; border-left: 4px solid #c62828;
  padding: .6rem .8rem; border-radius: 4px; overflow-wrap: anywhere;
}}
.refusal strong, .refusal span {{ display: block; color: inherit; }}
.dark .refusal {{ background: #3a1414; color: #ffd9d6; }}
.status, .empty, .note {{ color: var(--faint); font-size: .9rem; }}
.status, .note {{ overflow-wrap: anywhere; }}
.empty {{
  border: 2px dashed var(--border-color-primary); border-radius: 8px;
  padding: 3rem 1rem; text-align: center;
}}
.panels {{ display: grid; gap: 1rem; align-items: start; }}
.panels.three {{ grid-template-columns: repeat(3, minmax(0, 1fr)); }}
.panels.maps {{ grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); margin: .5rem 0; }}
.panels figure {{ margin: 0; min-width: 0; }}
.panels img {{ display: block; width: 100%; height: auto; border-radius: 4px; background: #000; }}
.panels figcaption {{ font-size: .9rem; margin-bottom: .3rem; overflow-wrap: anywhere; }}
.panels.three figcaption {{ min-height: 2.9em; }}
.panels .of-0 {{ border-top: 4px solid var(--first); padding-top: .3rem; }}
.panels .of-1 {{ border-top: 4px solid var(--second); padding-top: .3rem; }}
.panels.three > figure:not(.of-0, .of-1) {{
  border-top: 4px solid transparent; padding-top: .3rem;
}}
.scale {{ display: flex; align-items: center; gap: .5rem; font-size: .85rem; }}
.scale .bar {{
  flex: 1; max-width: 16rem; height: .7rem; border-radius: 3px;
  background: linear-gradient(90deg, var(--heat));
}}
.findings {{
  background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 8px; padding: .9rem 1rem; min-width: 0; margin-top: .3rem;
}}
.findings .found {{ padding-left: .7rem; margin-bottom: .8rem; border-top: none !important; }}
.findings .of-0 {{ border-left: 4px solid var(--first); }}
.findings .of-1 {{ border-left: 4px solid var(--second); }}
.findings .found p {{ font-size: .9rem; overflow-wrap: anywhere; }}
.links {{ display: flex; flex-wrap: wrap; gap: .5rem; }}
.links a {{
  border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .35rem .7rem;
  text-decoration: none; color: var(--body-text-color);
  background: var(--button-secondary-background-fill);
}}
.links a:hover {{ border-color: currentColor; }}
.gradio-container :focus-visible {{ outline: 3px solid #2f7de1 !important; outline-offset: 2px; }}
@media (max-width: 760px) {{
  .panels.three figcaption {{ min-height: 0; }}
  .panels.three {{ grid-template-columns: minmax(0, 1fr); }}
  .panels.maps {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }}
}}
"""
