"""Pictures of masks, predictions and attention, drawn with numpy and PIL.

overlay.py      image, truth, prediction and where they agree
explanation.py  the image and a network's maps as heat over it
sheet.py        the layout: panels, paragraphs, legends
"""
