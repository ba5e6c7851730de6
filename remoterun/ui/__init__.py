"""The page of runs, and the page in which a model writes: what answers a browser on 127.0.0.1. Imported on use only.

server.py       one port of this machine, for those who have its whole address; what every answer has
models.py       the page of `open`: its own files, its libraries, and models, each file by its exact name
page.py         the page of runs: its files, what it reads, what its buttons do
answers.py      answers that are made on threads; files of runs, which nobody trusts
rows.py         a run as the page's list has it, and all that is known of one
hub.py          what pages show, brought up to date as long as one does
stream.py       the one stream of events of each page
static/         the page itself: HTML, CSS and JavaScript modules, as the browser gets them
"""
