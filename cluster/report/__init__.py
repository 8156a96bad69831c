"""The report of one run or several: a page that opens without a network, or Markdown.

`reading.py` reads run directories, `verdict.py` and `histories.py` say in words what is there, each file of `charts/` describes
one chart, and `page.py` puts them together with the files of `page/`.
"""
