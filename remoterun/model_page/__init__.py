"""The page in which a model writes: `examples/lstm-browser`, ml5.js and p5 from npm, and one model. `ui` serves it.

models.py       which files make a model that ml5.js can load, and where one is
libraries.py    the page itself; ml5.js, p5 and its typeface, which npm installs once, saved in the home
"""

from remoterun.model_page.libraries import libraries
from remoterun.model_page.models import PageModel, find, local_model, refresh
