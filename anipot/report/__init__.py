"""HTML pages, tables and figures made of plain data.

A page loads nothing: styles, figures, the 3-D viewer and its structures are in it, and its content
security policy forbids the browser to ask for anything else.
"""
