"""The page in which a model writes, on this machine: `examples/lstm-browser`, ml5.js and p5 from npm, and one model.

models.py       which files make a model that ml5.js can load, and where one is
libraries.py    the page itself; ml5.js, p5 and its typeface, which npm installs once, saved in the home
server.py       what answers on 127.0.0.1, to those who have its address: those files, and nothing else
"""

from remoterun.model_page.libraries import libraries
from remoterun.model_page.models import PageModel, find, local_model, refresh
from remoterun.model_page.server import Page

__all__ = ["Page", "PageModel", "find", "libraries", "local_model", "refresh"]
