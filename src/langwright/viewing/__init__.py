"""Floor 1: what can be looked at: reports, charts and attention as self-contained HTML and SVG, and terminal pictures.

No page loads anything from a network, none needs JavaScript, and text from outside is always escaped.
"""
